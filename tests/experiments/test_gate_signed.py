"""The gate starts anew where nothing was signed, stops where an alias was moved by hand, and tells of an override."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_pipeline import inside

from config import params
from experiments import gate
from serving.deployment import registry
from serving.deployment.model_versions import client
from serving.deployment.registry import CHAMPION, RegistryError

pytestmark = pytest.mark.slow

# These tests allow uncommitted code: whether this clone's is, is nothing that they ask.
REASON = "the champion shows nothing at all"


@pytest.fixture
def settings(pipeline: Path, tmp_path: Path):
    """Those of a copy of the products, in which the test works."""
    shutil.copytree(pipeline, tmp_path, dirs_exist_ok=True)
    with inside(tmp_path):
        yield params.load(tmp_path / "params.yaml")


def test_a_champion_from_before_moves_were_signed_is_judged_anew(settings: params.Params) -> None:
    version = gate.register(settings.dataset, "two_tower")
    client().set_registered_model_alias(settings.dataset, CHAMPION, version)
    reports = gate.run(settings, "two_tower", override=True)
    assert [report["verdict"] for report in reports] == ["PROMOTE", "PROMOTE"]
    assert registry.serving_target(settings.dataset).version.version == version


def test_the_gate_judges_nothing_while_an_alias_stands_that_was_moved_by_hand(settings: params.Params) -> None:
    gate.run(settings, "two_tower", override=True)
    client().delete_registered_model_alias(settings.dataset, CHAMPION)
    with pytest.raises(RegistryError, match="champion was moved by hand: it says nothing, the last signed move says"):
        gate.run(settings, "two_tower", override=True)


def test_every_report_tells_of_an_override_until_a_promotion_ends_it(settings: params.Params, capsys) -> None:
    label = gate.chosen(settings, False)
    assert label is not None
    other = next(each for each in settings.train.models if each not in (label, "two_tower"))
    gate.first_champion(settings, label, override=True)
    registry.override(settings.dataset, gate.register(settings.dataset, other), REASON)

    assert (
        gate.main(["--model", other, "--allow-uncommitted"]) == 0
    )  # against the champion before, since it is champion itself
    told = capsys.readouterr().out
    assert f"gate: OVERRIDE: {settings.dataset} " in told
    assert REASON in told
    assert REASON in Path("out/experiments/gate.html").read_text()

    (report,) = gate.run(settings, "two_tower", override=True)
    assert report["verdict"] == "PROMOTE", report["reason"]
    assert [text for text in report["overrides"] if REASON in text], "it stood while the gate judged"
    (report,) = gate.run(settings, "two_tower", override=True)
    assert report["again"]
    assert not [text for text in report["overrides"] if REASON in text]
