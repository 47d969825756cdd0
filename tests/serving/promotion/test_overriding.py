"""An override serves without the gate's word: with a reason, signed, and told everywhere until a promotion ends it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from experiments.gating import report_page
from serving import deploy
from serving.deployment import registry
from serving.deployment.alias_changes import name_of
from serving.deployment.model_versions import client
from serving.deployment.registry import CHAMPION, PREVIOUS, RegistryError
from serving.deployment.status import overview
from serving.settings import ServerSettings

pytestmark = pytest.mark.slow  # each test takes little, all of them many seconds

PROMOTED = {"verdict": "PROMOTE", "reason": "better by 5%"}
REASON = "the champion shows nothing at all"


@pytest.fixture
def overridden(two) -> tuple[str, str]:
    """Champion 2 by override, previous 1 by promotion."""
    registry.promote("tiny", two[0], PROMOTED)
    registry.override("tiny", two[1], REASON)
    return two


def previous() -> str | None:
    version = registry.aliased("tiny", PREVIOUS)
    return version.version if version else None


@pytest.mark.parametrize("reason", ["", "  ", "broken", "fire drill"])
def test_without_a_reason_nothing_is_overridden(two, reason: str) -> None:
    with pytest.raises(RegistryError, match="an override needs one of at least 3 words"):
        registry.override("tiny", two[0], reason)
    assert registry.aliased("tiny", CHAMPION) is None


def test_what_an_override_made_champion_serves_and_says_so(overridden) -> None:
    target = registry.serving_target("tiny")
    assert (target.version.version, target.report["verdict"], previous()) == ("2", "OVERRIDE", "1")
    assert REASON in target.report["reason"]
    loud = registry.standing_override("tiny")
    assert loud is not None
    assert (loud["version"], loud["reason"]) == ("2", REASON)
    assert loud["line"].startswith("tiny 2 is champion without the gate's word, until the next promotion: ")
    assert len(loud["line"].splitlines()) == 1
    entry = client().get_model_version("tiny", "2")
    assert entry.description.startswith("a model: OVERRIDE: by ")
    assert REASON in entry.description
    assert entry.tags["gate_verdict"] == "OVERRIDE"
    assert any("ATTENTION   OVERRIDE: " in line and REASON in line for line in overview("tiny"))


def test_an_override_is_signed(overridden) -> None:
    tag = name_of(2)
    envelope = json.loads(client().get_registered_model("tiny").tags[tag])
    envelope["signed"]["reason"] = "all is as it should be"
    client().set_registered_model_tag("tiny", tag, json.dumps(envelope))
    with pytest.raises(RegistryError, match="changed after it was signed"):
        registry.serving_target("tiny")


def test_a_move_by_hand_is_no_override(overridden) -> None:
    registry.promote("tiny", "1", PROMOTED)
    client().set_registered_model_alias("tiny", CHAMPION, "2")
    with pytest.raises(RegistryError, match="it says 2, the last signed move says 1"):
        registry.serving_target("tiny")


def test_an_artifact_exchanged_after_the_override_is_refused(overridden, artifacts, registry_folder: Path) -> None:
    digest = registry.serving_target("tiny").version.artifact
    (stored,) = registry_folder.rglob(f"artifact-{digest[:12]}")
    shutil.rmtree(stored)
    shutil.copytree(artifacts[1], stored)
    with pytest.raises(RegistryError, match="tiny 2: its override is of another artifact"):
        registry.serving_target("tiny")
    with pytest.raises(RegistryError, match="tiny 2: its artifact is not the one that was registered"):
        registry.override("tiny", "2", REASON + " still")


def test_every_later_report_tells_of_it_until_a_promotion_ends_it(overridden) -> None:
    report = PROMOTED | {
        "dataset": "tiny",
        "label": "ease",
        "policy": {},
        "evidence": {},
        "primary": None,
        "date": "now",
    }
    loud = registry.standing_override("tiny")
    assert loud is not None
    assert REASON in report_page.page(report | {"overrides": [loud["line"]]})
    assert REASON not in report_page.page(report | {"overrides": []})
    assert "OVERRIDE: a model was made the champion by an override" in report_page.page(
        registry.serving_target("tiny").report
    )
    registry.note_verdict("tiny", "2", {"verdict": "HOLD", "reason": "too close to call"})
    assert REASON in client().get_model_version("tiny", "2").description

    registry.promote("tiny", "2", PROMOTED)  # the gate says yes in the end
    assert registry.standing_override("tiny") is None
    assert registry.serving_target("tiny").report["verdict"] == "PROMOTE"
    assert REASON not in client().get_model_version("tiny", "2").description
    assert not [line for line in overview("tiny") if "ATTENTION" in line]
    assert previous() == "1"


def test_the_gate_judges_what_an_override_made_champion_against_the_champion_before(overridden) -> None:
    first, second = (registry.find("tiny", version) for version in overridden)
    assert registry.opponent("tiny", second).version == first
    assert registry.opponent("tiny", first).version == second
    registry.promote("tiny", "2", PROMOTED)
    assert registry.opponent("tiny", second).version == second


def test_what_an_override_alone_made_champion_is_no_way_back(overridden) -> None:
    assert registry.rollback("tiny").version.version == "1"
    assert registry.standing_override("tiny") is None
    assert previous() is None
    with pytest.raises(RegistryError, match="tiny has no previous"):
        registry.rollback("tiny")


def test_a_promotion_keeps_the_last_champion_that_passed_for_the_way_back(overridden, tmp_path: Path) -> None:
    import tiny_artifact

    third = registry.create_version("tiny", tiny_artifact.write(tmp_path / "third", 7))
    registry.promote("tiny", third, PROMOTED)
    assert previous() == "1"


def test_an_override_goes_on_where_nothing_was_ever_signed(two) -> None:
    client().set_registered_model_alias("tiny", CHAMPION, two[0])
    registry.override("tiny", two[0], REASON)
    assert registry.serving_target("tiny").version.version == two[0]


def test_an_override_goes_on_where_the_record_was_forged(overridden) -> None:
    client().set_registered_model_tag("tiny", name_of(2), "{}")
    with pytest.raises(RegistryError, match="carries no signature; where no key of yours is missing, an override"):
        registry.promote("tiny", "1", PROMOTED)
    registry.override("tiny", "1", REASON)
    assert registry.serving_target("tiny").version.version == "1"


def test_an_override_makes_no_second_key_where_the_first_is_missing(overridden, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("TIDEGATE_GATE_KEY")
    monkeypatch.setenv("TIDEGATE_GATE_KEY_FILE", str(tmp_path / "gate"))
    with pytest.raises(RegistryError, match="there is no key at") as error:
        registry.override("tiny", "1", REASON)
    assert "an override" not in str(error.value)
    assert not (tmp_path / "gate").exists()


@pytest.mark.parametrize(
    "arguments", [["--override", "1"], ["--reason", REASON], ["--override", "1", "--reason", "broken"]]
)
def test_the_command_line_wants_version_and_reason(two, arguments: list[str], capsys) -> None:
    assert deploy.main(["--dataset", "tiny", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--reason" in line
    assert registry.aliased("tiny", CHAMPION) is None


def test_the_command_line_deploys_what_it_overrides(two, tmp_path: Path, monkeypatch, capsys) -> None:
    deployed: list[str] = []
    monkeypatch.setattr(
        deploy.environment, "load", lambda: ServerSettings(server_home=tmp_path / "home", state=tmp_path / "state")
    )

    def noted(dataset: str, *_: object) -> str:
        deployed.append(registry.serving_target(dataset).version.version)
        return f"{deployed[-1]}.0"

    monkeypatch.setattr(deploy, "deploy", noted)
    assert deploy.main(["--dataset", "tiny", "--override", two[1], "--reason", REASON]) == 0
    assert deployed == [two[1]]
    assert deploy.main(["--dataset", "tiny", "--status"]) == 0
    assert REASON in capsys.readouterr().out
