"""A refit serves under its parent's gate report, and only for as long as that holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.deployment import alias_changes, gate_report, registry
from serving.deployment.gate_report import SIGNATURE_TAG
from serving.deployment.model_versions import client
from serving.deployment.registry import PREVIOUS, RegistryError
from serving.deployment.status import overview
from training.models.artifact import MANIFEST

pytestmark = pytest.mark.slow  # each test takes little, all of them many seconds

PASSED = {"verdict": "PROMOTE", "reason": "better by 5%", "policy": {}, "date": "2026-11-26T00:00:00Z"}
REFIT = {"verdict": "PROMOTE", "reason": "refit of version 1", "policy": {}, "date": "2026-11-27T00:00:00Z"}


def register(folder: Path, artifact: Path, name: str, **states: object) -> str:
    """A version whose manifest states more than the artifact's own."""
    shutil.copytree(artifact, folder / name)
    manifest = json.loads((folder / name / MANIFEST).read_text())
    (folder / name / MANIFEST).write_text(json.dumps(manifest | {"named": name} | states))
    return registry.create_version("tiny", folder / name)


def under(parent: str) -> dict[str, str]:
    version = registry.find("tiny", parent)
    return {"version": parent, "artifact": version.artifact, "report": gate_report.digest(version)}


def refit_of(parent: str) -> dict[str, str]:
    return {"version": parent, "artifact": registry.find("tiny", parent).artifact}


@pytest.fixture
def parent(two) -> str:
    """The champion's version."""
    registry.promote("tiny", two[0], PASSED)
    return two[0]


@pytest.fixture
def make(registry_folder: Path, artifacts: dict[int, Path]) -> Callable[..., str]:
    return lambda name, **states: register(registry_folder, artifacts[2], name, **states)


@pytest.fixture
def child(parent: str, make) -> str:
    """A refit of the champion that has become champion itself."""
    version = make("child", refit_of=refit_of(parent))
    registry.promote("tiny", version, REFIT | {"under": under(parent)})
    return version


def refused(said: str) -> None:
    with pytest.raises(RegistryError, match=said):
        registry.serving_target("tiny")


def test_a_refit_serves_and_its_parent_is_the_way_back(parent: str, child: str) -> None:
    assert registry.serving_target("tiny").report["under"]["version"] == parent
    assert registry.serving_target("tiny", PREVIOUS).version.version == parent
    assert f"registry  champion    {child}, a refit of {parent}" in overview("tiny")

    assert registry.rollback("tiny").version.version == parent
    told = overview("tiny")
    assert {f"registry  champion    {parent}", f"registry  previous    {child}, a refit of {parent}"} <= set(told)
    assert registry.rollback("tiny").version.version == child


def test_a_version_that_is_no_refit_of_it_does_not_serve_under_a_parent(parent: str, make) -> None:
    for name, states in (("stranger", {}), ("anothers", {"refit_of": {"version": parent, "artifact": "another"}})):
        version = make(name, **states)
        with pytest.raises(
            RegistryError, match=f"tiny {version}: its gate report rests on version 1, of which it is no"
        ):
            registry.promote("tiny", version, REFIT | {"under": under(parent)})
    assert registry.serving_target("tiny").version.version == parent, "no alias moved"


def test_a_parent_that_was_never_promoted_lets_nothing_serve(parent: str, two, make) -> None:
    other = registry.find("tiny", two[1])
    stated = {"dataset": "tiny", "version": other.version, "artifact": other.artifact}
    gate_report.keep(other, PASSED | stated, None)  # signed, and nobody moved an alias by it
    version = make("child", refit_of=refit_of(other.version))

    with pytest.raises(RegistryError, match="its parent, version 2, was never promoted by the gate"):
        registry.promote("tiny", version, REFIT | {"under": under(other.version)})


def test_an_override_does_not_make_a_parent(parent: str, two, make) -> None:
    other = registry.find("tiny", two[1])
    gate_report.keep(other, PASSED | {"dataset": "tiny", "version": "2", "artifact": other.artifact}, None)
    registry.override("tiny", other.version, "the champion shows nothing at all")
    version = make("child", refit_of=refit_of(other.version))

    with pytest.raises(RegistryError, match="its parent, version 2, was never promoted by the gate"):
        registry.promote("tiny", version, REFIT | {"under": under(other.version)})


def test_a_refit_of_a_refit_is_refused(child: str, make) -> None:
    version = make("grandchild", refit_of=refit_of(child))

    with pytest.raises(RegistryError, match="its parent, version 3, is a refit itself"):
        registry.promote("tiny", version, REFIT | {"under": under(child)})


def test_another_champion_is_not_replaced_by_the_refit_of_the_one_before(parent: str, two, make) -> None:
    version = make("child", refit_of=refit_of(parent))
    registry.promote("tiny", two[1], PASSED)

    with pytest.raises(RegistryError, match="tiny 3: champion is 2 by now, not its parent"):
        registry.promote("tiny", version, REFIT | {"under": under(parent)})


def test_a_refit_falls_with_a_parents_report_that_was_changed(parent: str, child: str, registry_folder: Path) -> None:
    (path,) = registry_folder.rglob(f"gate-v{parent}/*/report.json")
    path.write_text(path.read_text().replace("better by 5%", "better by 50%"))

    refused("its parent, version 1, may not serve: tiny 1: its gate report was changed after the gate signed it")


def test_a_refit_falls_with_a_parents_report_that_says_something_else_by_now(parent: str, child: str) -> None:
    version = registry.find("tiny", parent)
    stated = {"dataset": "tiny", "version": parent, "artifact": version.artifact}
    gate_report.keep(version, PASSED | stated | {"reason": "better still"}, None)
    refused("its parent, version 1, has another gate report than the one that it was refitted under")

    gate_report.keep(version, PASSED | stated | {"verdict": "HOLD"}, None)
    refused("its parent, version 1, may not serve: tiny 1: its gate report says HOLD, not PROMOTE")


def test_a_refit_falls_with_the_key_that_signed_its_parents_report(parent: str, child: str) -> None:
    client().delete_model_version_tag("tiny", parent, SIGNATURE_TAG)

    refused("its parent, version 1, may not serve: tiny 1: its gate report is not signed")


def test_a_refit_whose_report_hides_its_parent_is_refused(child: str, registry_folder: Path) -> None:
    (path,) = registry_folder.rglob(f"gate-v{child}/*/report.json")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "under"}))

    refused("tiny 3: its gate report was changed after the gate signed it")


def test_only_a_promotion_counts_as_one(parent: str, child: str) -> None:
    registry.rollback("tiny")
    record = alias_changes.read("tiny")

    assert record.promoted(parent)
    assert record.promoted(child)
    assert not record.promoted("2")
