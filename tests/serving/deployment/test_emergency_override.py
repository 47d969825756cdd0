"""An override serves without the gate's approval: signed, with a reason, and shown everywhere until a promotion ends it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from experiments.gating import report_page
from serving import deploy, signing_keys
from serving.deployment import promotion, reconcile, registry
from serving.deployment.decisions import entry_tag
from serving.deployment.reconcile import Deployment
from serving.deployment.registry import CHAMPION, PREVIOUS, RegistryError, registry_client
from serving.deployment.status import registry_lines
from serving.settings import ServerSettings

pytestmark = pytest.mark.slow  # each test takes little, all of them many seconds

PROMOTED = {"verdict": "PROMOTE", "reason": "better by 5%"}
REASON = "the champion shows nothing at all"


@pytest.fixture
def overridden(two) -> tuple[str, str]:
    """Champion 2 by override, previous 1 by promotion."""
    promotion.promote("tiny", two[0], PROMOTED)
    promotion.override("tiny", two[1], REASON)
    return two


def previous() -> str | None:
    version = registry.version_by_alias("tiny", PREVIOUS)
    return version.version if version else None


@pytest.mark.parametrize("reason", ["", "  ", "broken", "fire drill"])
def test_an_override_without_a_reason_is_refused(two, reason: str) -> None:
    with pytest.raises(RegistryError, match="an override needs one of at least 3 words"):
        promotion.override("tiny", two[0], reason)
    assert registry.version_by_alias("tiny", CHAMPION) is None


def test_a_champion_by_override_serves_and_is_marked(overridden) -> None:
    target = promotion.serving_target("tiny")
    assert (target.version.version, target.report["verdict"], previous()) == ("2", "OVERRIDE", "1")
    assert REASON in target.report["reason"]
    override = promotion.standing_override("tiny")
    assert override is not None
    assert (override.champion, override.reason) == ("2", REASON)
    line = promotion.describe_override(override)
    assert line.startswith("tiny 2 is champion without the gate's approval, until the next promotion: ")
    assert len(line.splitlines()) == 1
    entry = registry_client().get_model_version("tiny", "2")
    assert entry.description.startswith("a model: OVERRIDE: by ")
    assert REASON in entry.description
    assert entry.tags["gate_verdict"] == "OVERRIDE"
    assert any("ATTENTION   OVERRIDE: " in line and REASON in line for line in registry_lines("tiny"))


def test_an_override_is_signed(overridden) -> None:
    tag = entry_tag(2)
    envelope = json.loads(registry_client().get_registered_model("tiny").tags[tag])
    envelope["signed"]["reason"] = "nothing is wrong"
    registry_client().set_registered_model_tag("tiny", tag, json.dumps(envelope))
    with pytest.raises(RegistryError, match="changed after it was signed"):
        promotion.serving_target("tiny")


def test_a_change_by_hand_is_no_override(overridden) -> None:
    promotion.promote("tiny", "1", PROMOTED)
    registry_client().set_registered_model_alias("tiny", CHAMPION, "2")
    with pytest.raises(RegistryError, match="it names 2, the last signed decision names 1"):
        promotion.serving_target("tiny")


def test_an_artifact_that_was_exchanged_after_the_override_is_refused(
    overridden, artifacts, registry_folder: Path
) -> None:
    digest = promotion.serving_target("tiny").version.artifact
    (stored,) = registry_folder.rglob(f"artifact-{digest[:12]}")
    shutil.rmtree(stored)
    shutil.copytree(artifacts[1], stored)
    with pytest.raises(RegistryError, match="tiny 2: its override is of another artifact"):
        promotion.serving_target("tiny")
    with pytest.raises(RegistryError, match="tiny 2: its artifact is not the one that was registered"):
        promotion.override("tiny", "2", REASON + " still")


def test_every_later_report_shows_an_override_until_a_promotion_ends_it(overridden) -> None:
    report = PROMOTED | {"dataset": "tiny", "label": "ease", "policy": {}, "evidence": {}, "date": "now"}
    override = promotion.standing_override("tiny")
    assert override is not None
    assert REASON in report_page.page(report | {"overrides": [promotion.describe_override(override)]})
    assert REASON not in report_page.page(report | {"overrides": []})
    assert "OVERRIDE: a model was made the champion by an override" in report_page.page(
        promotion.serving_target("tiny").report
    )
    promotion.record_verdict("tiny", "2", {"verdict": "HOLD", "reason": "too close to call"})
    assert REASON in registry_client().get_model_version("tiny", "2").description

    promotion.promote("tiny", "2", PROMOTED)  # the gate says yes in the end
    assert promotion.standing_override("tiny") is None
    assert promotion.serving_target("tiny").report["verdict"] == "PROMOTE"
    assert REASON not in registry_client().get_model_version("tiny", "2").description
    assert not [line for line in registry_lines("tiny") if "ATTENTION" in line]
    assert previous() == "1"


def test_the_gate_judges_a_champion_by_override_against_the_champion_before(overridden) -> None:
    first, second = (registry.find_version("tiny", version) for version in overridden)
    assert promotion.champion_to_beat("tiny", second).version == first
    assert promotion.champion_to_beat("tiny", first).version == second
    promotion.promote("tiny", "2", PROMOTED)
    assert promotion.champion_to_beat("tiny", second).version == second


def test_a_champion_by_override_only_does_not_become_previous(overridden) -> None:
    assert promotion.roll_back_aliases("tiny").version.version == "1"
    assert promotion.standing_override("tiny") is None
    assert previous() is None
    with pytest.raises(RegistryError, match="tiny has no previous"):
        promotion.roll_back_aliases("tiny")


def test_a_promotion_keeps_the_last_champion_that_passed_the_gate_as_previous(overridden, tmp_path: Path) -> None:
    import tiny_artifact

    third = registry.register_version("tiny", tiny_artifact.write(tmp_path / "third", 7))
    promotion.promote("tiny", third, PROMOTED)
    assert previous() == "1"


def test_an_override_works_if_nothing_was_ever_signed(two) -> None:
    registry_client().set_registered_model_alias("tiny", CHAMPION, two[0])
    promotion.override("tiny", two[0], REASON)
    assert promotion.serving_target("tiny").version.version == two[0]


def test_an_override_works_if_the_record_was_tampered_with(overridden) -> None:
    registry_client().set_registered_model_tag("tiny", entry_tag(2), "{}")
    with pytest.raises(RegistryError, match="carries no signature; if no key is missing here, only an override"):
        promotion.promote("tiny", "1", PROMOTED)
    promotion.override("tiny", "1", REASON)
    assert promotion.serving_target("tiny").version.version == "1"


def lose_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_STATE", str(tmp_path / "state"))
    for role in ("GATE", "OPERATOR"):
        monkeypatch.delenv(f"TIDEGATE_{role}_KEY")


def test_an_override_creates_no_second_key_if_the_first_is_missing(overridden, tmp_path: Path, monkeypatch) -> None:
    lose_keys(tmp_path, monkeypatch)
    with pytest.raises(RegistryError, match="there is no operator key at"):
        promotion.override("tiny", "1", REASON)
    assert not list(tmp_path.rglob("*.pem"))


def test_no_signature_makes_a_second_key_if_the_first_is_missing_and_a_new_one_is_made_by_command(
    overridden, artifacts, tmp_path: Path, monkeypatch, capsys
) -> None:
    lose_keys(tmp_path, monkeypatch)
    other = registry.register_version("other", artifacts[1])  # of a dataset for which nothing was signed yet
    for dataset, version in (("tiny", "1"), ("other", other)):
        with pytest.raises(
            RegistryError, match=r"there (is no gate key|are no trusted keys) at .*from a backup.*signing_keys create"
        ):
            promotion.promote(dataset, version, PROMOTED)
    assert not list(tmp_path.rglob("*.pem"))

    assert signing_keys.main(["create"]) == 0
    with pytest.raises(RegistryError, match="was signed by the key"):
        promotion.serving_target("tiny")
    promotion.override("tiny", "1", REASON)
    assert promotion.serving_target("tiny").version.version == "1"


@pytest.mark.parametrize(
    "arguments", [["--override", "1"], ["--reason", REASON], ["--override", "1", "--reason", "broken"]]
)
def test_the_command_line_requires_version_and_reason(two, arguments: list[str], capsys) -> None:
    assert deploy.main(["--dataset", "tiny", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--reason" in line
    assert registry.version_by_alias("tiny", CHAMPION) is None


def test_the_command_line_deploys_the_version_of_an_override(two, tmp_path: Path, monkeypatch, capsys) -> None:
    deployed: list[str] = []
    monkeypatch.setattr(
        deploy.environment, "load", lambda: ServerSettings(server_home=tmp_path / "home", state=tmp_path / "state")
    )

    def record(dataset: str, *_: object, **__: object) -> Deployment:
        deployed.append(promotion.serving_target(dataset).version.version)
        return Deployment(f"{deployed[-1]}.0", None, 3)

    monkeypatch.setattr(reconcile, "deploy", record)
    assert deploy.main(["--dataset", "tiny", "--override", two[1], "--reason", REASON]) == 0
    assert deployed == [two[1]]
    assert deploy.main(["--dataset", "tiny", "--status"]) == 0
    assert REASON in capsys.readouterr().out
