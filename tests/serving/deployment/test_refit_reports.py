"""A refit serves under its parent's gate report, as long as that report is valid."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.deployment import decisions, promotion, registry
from serving.deployment.promotion import SIGNATURE_TAG
from serving.deployment.registry import PREVIOUS, RegistryError, registry_client
from serving.deployment.status import registry_lines
from training.models.artifact import MANIFEST

pytestmark = pytest.mark.slow  # each test takes little, all of them many seconds

PASSED = {"verdict": "PROMOTE", "reason": "better by 5%", "policy": {}, "date": "2026-11-26T00:00:00Z"}
REFIT = {"verdict": "PROMOTE", "reason": "refit of version 1", "policy": {}, "date": "2026-11-27T00:00:00Z"}


def register(folder: Path, artifact: Path, name: str, **states: object) -> str:
    """A version whose manifest has these fields beside the artifact's own."""
    shutil.copytree(artifact, folder / name)
    manifest = json.loads((folder / name / MANIFEST).read_text(encoding="utf-8"))
    (folder / name / MANIFEST).write_text(json.dumps(manifest | {"named": name} | states), encoding="utf-8")
    return registry.register_version("tiny", folder / name)


def under(parent: str) -> dict[str, str]:
    version = registry.find_version("tiny", parent)
    return {"version": parent, "artifact": version.artifact, "report": promotion.report_digest(version)}


def refit_of(parent: str) -> dict[str, str]:
    return {"version": parent, "artifact": registry.find_version("tiny", parent).artifact}


@pytest.fixture
def parent(two) -> str:
    """The champion's version."""
    promotion.promote("tiny", two[0], PASSED)
    return two[0]


@pytest.fixture
def make(registry_folder: Path, artifacts: dict[int, Path]) -> Callable[..., str]:
    return lambda name, **states: register(registry_folder, artifacts[2], name, **states)


@pytest.fixture
def child(parent: str, make) -> str:
    """A refit of the champion that has become champion itself."""
    version = make("child", refit_of=refit_of(parent))
    promotion.promote("tiny", version, REFIT | {"under": under(parent)})
    return version


def assert_refused(message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        promotion.serving_target("tiny")


def test_a_refit_serves_and_its_parent_is_previous(parent: str, child: str) -> None:
    assert promotion.serving_target("tiny").report["under"]["version"] == parent
    assert promotion.serving_target("tiny", PREVIOUS).version.version == parent
    assert f"registry  champion    {child}, a refit of {parent}" in registry_lines("tiny")

    assert promotion.roll_back_aliases("tiny").version.version == parent
    lines = registry_lines("tiny")
    assert {f"registry  champion    {parent}", f"registry  previous    {child}, a refit of {parent}"} <= set(lines)
    assert promotion.roll_back_aliases("tiny").version.version == child


def test_a_version_that_is_no_refit_of_the_parent_is_refused(parent: str, make) -> None:
    for name, states in (("stranger", {}), ("anothers", {"refit_of": {"version": parent, "artifact": "another"}})):
        version = make(name, **states)
        with pytest.raises(
            RegistryError, match=f"tiny {version}: its gate report names version 1, of which it is no refit"
        ):
            promotion.promote("tiny", version, REFIT | {"under": under(parent)})
    assert promotion.serving_target("tiny").version.version == parent, "no alias changed"


def test_a_parent_that_was_never_promoted_lets_nothing_serve(parent: str, two, make) -> None:
    other = registry.find_version("tiny", two[1])
    stated = {"dataset": "tiny", "version": other.version, "artifact": other.artifact}
    promotion.store_report(other, PASSED | stated, None)  # signed, but no alias was changed
    version = make("child", refit_of=refit_of(other.version))

    with pytest.raises(RegistryError, match="its parent, version 2, was never promoted by the gate"):
        promotion.promote("tiny", version, REFIT | {"under": under(other.version)})


def test_a_champion_by_override_is_no_parent(parent: str, two, make) -> None:
    other = registry.find_version("tiny", two[1])
    promotion.store_report(other, PASSED | {"dataset": "tiny", "version": "2", "artifact": other.artifact}, None)
    promotion.override("tiny", other.version, "the champion shows nothing at all")
    version = make("child", refit_of=refit_of(other.version))

    with pytest.raises(RegistryError, match="its parent, version 2, was never promoted by the gate"):
        promotion.promote("tiny", version, REFIT | {"under": under(other.version)})


def test_a_refit_of_a_refit_is_refused(child: str, make) -> None:
    version = make("grandchild", refit_of=refit_of(child))

    with pytest.raises(RegistryError, match="its parent, version 3, is a refit itself"):
        promotion.promote("tiny", version, REFIT | {"under": under(child)})


def test_the_refit_of_a_former_champion_does_not_replace_the_champion(parent: str, two, make) -> None:
    version = make("child", refit_of=refit_of(parent))
    promotion.promote("tiny", two[1], PASSED)

    with pytest.raises(RegistryError, match="tiny 3: the champion is now 2, not its parent"):
        promotion.promote("tiny", version, REFIT | {"under": under(parent)})


def test_a_refit_is_refused_if_its_parents_report_was_changed(parent: str, child: str, registry_folder: Path) -> None:
    (path,) = registry_folder.rglob(f"gate-v{parent}/*/report.json")
    path.write_text(path.read_text(encoding="utf-8").replace("better by 5%", "better by 50%"), encoding="utf-8")

    assert_refused("its parent, version 1, may not serve: tiny 1: its gate report was changed after the gate signed it")


def test_a_refit_is_refused_if_its_parent_has_a_newer_report(parent: str, child: str) -> None:
    version = registry.find_version("tiny", parent)
    stated = {"dataset": "tiny", "version": parent, "artifact": version.artifact}
    promotion.store_report(version, PASSED | stated | {"reason": "better still"}, None)
    assert_refused("its parent, version 1, has another gate report than at the time of the refit")

    promotion.store_report(version, PASSED | stated | {"verdict": "HOLD"}, None)
    assert_refused("its parent, version 1, may not serve: tiny 1: its gate report says HOLD, not PROMOTE")


def test_a_refit_is_refused_if_its_parents_report_is_not_signed(parent: str, child: str) -> None:
    registry_client().delete_model_version_tag("tiny", parent, SIGNATURE_TAG)

    assert_refused("its parent, version 1, may not serve: tiny 1: its gate report is not signed")


def test_a_refit_whose_report_hides_its_parent_is_refused(child: str, registry_folder: Path) -> None:
    (path,) = registry_folder.rglob(f"gate-v{child}/*/report.json")
    path.write_text(
        json.dumps(
            {key: value for key, value in json.loads(path.read_text(encoding="utf-8")).items() if key != "under"}
        ),
        encoding="utf-8",
    )

    assert_refused("tiny 3: its gate report was changed after the gate signed it")


def test_only_a_promotion_counts_as_one(parent: str, child: str) -> None:
    promotion.roll_back_aliases("tiny")
    record = decisions.read_log("tiny")

    assert record.was_promoted(parent)
    assert record.was_promoted(child)
    assert not record.was_promoted("2")
