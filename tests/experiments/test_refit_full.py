"""A champion refitted on all events: the whole path once, then each thing that must stop it, and the gate after it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from small_pipeline import inside

from config import params
from config.command import UserError
from config.paths import EXPERIMENTS, SPLIT
from experiments import audit, gate, refit_full
from experiments.gating import judgment, preconditions
from experiments.gating.evidence import opponent
from experiments.gating.judgment import Question
from experiments.gating.preconditions import Checkout
from experiments.gating.report_page import page
from experiments.lineage import ancestry, downstream
from experiments.lineage.downstream import Origin
from experiments.retraining import refit_checks
from experiments.serving_skew import report as skew_record
from features import feature_files
from serving.deployment import gate_report, model_versions, registry
from serving.deployment.registry import Target
from serving.deployment.status import overview

pytestmark = pytest.mark.slow

DATASET, BASELINE, PARENT, CHILD = "demo", "1", "2", "3"


@pytest.fixture(scope="module")
def refitted(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A platform whose gate has promoted a two-tower (2) over the first champion (1), and its refit (3)."""
    folder = tmp_path_factory.mktemp("refitted")
    shutil.copytree(pipeline, folder, dirs_exist_ok=True)
    with inside(folder):
        reports = gate.run(params.load("params.yaml"), "two_tower")
        assert [report["verdict"] for report in reports] == ["PROMOTE", "PROMOTE"]
        assert refit_full.main([]) == 0
        yield folder


@pytest.fixture
def settings(refitted: Path) -> params.Params:
    return params.load("params.yaml")


@pytest.fixture
def parent_serves(refitted: Path) -> Iterator[None]:
    """For one test the way back was taken."""
    registry.rollback(DATASET)
    yield
    registry.rollback(DATASET)


def manifest_of(version: str) -> dict:
    return model_versions.stored_manifest(registry.find(DATASET, version))


def test_the_refit_is_the_parents_recipe_on_all_events_and_serves_under_its_report(refitted: Path) -> None:
    target, parent, child = registry.serving_target(DATASET), manifest_of(PARENT), manifest_of(CHILD)
    end = json.loads((SPLIT / "manifest.json").read_text())["end_us"]
    own = ("run_id", "files", "fit_until", "fit_until_us", "refit_of")

    assert target.version.version == CHILD
    assert child["fit_until_us"] == end + 1 > parent["fit_until_us"]
    assert {key: child[key] for key in child if key not in own} == {
        key: parent[key] for key in parent if key not in own
    }
    assert child["refit_of"] == {"version": PARENT, "artifact": registry.find(DATASET, PARENT).artifact}
    under = target.report["under"]
    assert (under["version"], under["report"]) == (PARENT, gate_report.digest(registry.find(DATASET, PARENT)))
    assert model_versions.client().get_model_version(DATASET, CHILD).tags["refit_of"] == PARENT


def test_its_report_states_how_far_it_lists_as_its_parent_does(refitted: Path) -> None:
    report = registry.serving_target(DATASET).report
    told, shown = report["evidence"]["agreement"], page(report)

    assert (told["requests"], told["bar"]) == (1000, 0.3)
    assert 0.5 < told["overlap"] < 1, "more events, so other lists, and the same recipe, so not many"
    assert "Lists as its parent does" in shown
    assert f"mean overlap@10 {told['overlap']:.3f}, over 1,000 recent requests" in shown
    assert "comparisons" not in report["evidence"], "nobody asks a window that it has seen"


def test_trace_impact_and_status_name_the_refit_and_its_parent(refitted: Path) -> None:
    parts = {part.name: part for part in ancestry.parts_of(registry.find(DATASET, CHILD))}
    rows = downstream.versions_part(Origin(DATASET, manifest_of(CHILD)["dataset_hash"])).rows
    newest = Origin(DATASET, manifest_of(CHILD)["dataset_hash"], manifest_of(CHILD)["fit_until_us"] - 1)

    assert parts["parent"].facts["version"] == PARENT
    assert parts["parent"].facts["verdict"] == "PROMOTE"
    assert f"refit of version {PARENT}" in parts["gate report"].facts["reason"]
    assert {row["version"]: row["refit of"] for row in rows} == {BASELINE: None, PARENT: None, CHILD: PARENT}
    assert [row["version"] for row in downstream.versions_part(newest).rows] == [CHILD]
    assert [row["name"] for row in downstream.runs_part(newest).rows] == ["two_tower · full"]
    assert f"registry  champion    {CHILD}, a refit of {PARENT}" in overview(DATASET)
    assert "parent" not in {part.name for part in ancestry.parts_of(registry.find(DATASET, PARENT))}


def test_the_gate_judges_a_candidate_against_the_parent_where_the_refit_has_seen_the_window(
    settings: params.Params, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate.main(["--model", "item_knn"]) == 0
    report = json.loads(Path("out/experiments/gate.json").read_text())

    assert (report["verdict"], report["against_version"]) == ("REJECT", PARENT)
    assert f"gate: version {CHILD}, which serves, was fitted on the window" in capsys.readouterr().out
    assert f"Version {CHILD}, which serves, was fitted on the window" in page(report)
    assert registry.serving_target(DATASET).version.version == CHILD


def test_the_parent_asked_again_does_not_take_the_place_of_its_refit(settings: params.Params) -> None:
    (report,) = gate.run(settings, "two_tower")

    assert report["again"]
    assert report["version"] == PARENT
    assert registry.serving_target(DATASET).version.version == CHILD


def test_on_events_that_it_has_not_seen_the_refit_itself_is_the_champion(refitted: Path) -> None:
    features, candidate = feature_files.load("out/features/test"), registry.find(DATASET, BASELINE)
    later = replace(features, description=features.description | {"cut_us": manifest_of(CHILD)["fit_until_us"]})

    assert opponent(DATASET, candidate, features)[0].version.version == PARENT
    assert opponent(DATASET, candidate, later)[0].version.version == CHILD


def asked(settings: params.Params, candidate: str, champion: str, features: str, **changes: object) -> Question:
    found = [registry.find(DATASET, version) for version in (candidate, champion)]
    clean = {"clean": True, "audited": "a", "checks": []}
    code = Checkout("tested", None, None)
    question = Question(settings, feature_files.load(f"out/features/{features}"), "ours", *found, "theirs", None, code, clean,
                        False, time.time_ns() // 1000)  # fmt: skip
    return replace(question, **changes)


def test_a_refit_is_not_scored_on_a_window_that_it_was_fitted_on(settings: params.Params) -> None:
    for candidate, champion, who in ((BASELINE, CHILD, "champion"), (CHILD, BASELINE, "candidate")):
        report = judgment.judge(asked(settings, candidate, champion, "test"))

        assert report["verdict"] == "INSUFFICIENT_DATA"
        assert report["reason"].startswith(f"refused: the whole window overlaps what the {who} was fitted on")


def test_what_is_no_refit_of_its_parent_is_rejected(settings: params.Params) -> None:
    report = refit_checks.judge(asked(settings, BASELINE, PARENT, "full"), {})

    assert report["verdict"] == "REJECT"
    assert report["reason"].startswith("it is no refit of its parent: its label is ease, its parent's two_tower")


def test_a_refit_whose_lists_agree_too_little_is_rejected(settings: params.Params) -> None:
    strict = settings.retrain.model_copy(update={"refit_overlap": 0.99})
    asks = asked(settings.model_copy(update={"retrain": strict}), CHILD, PARENT, "full")
    report = refit_checks.judge(asks, {})

    assert report["verdict"] == "REJECT"
    assert (
        "of its parent's 10 items on 1,000 recent requests; at least 0.99 (retrain.refit_overlap)" in report["reason"]
    )
    assert '<td class="bad">' in page(report | {"version": CHILD})


def test_a_refit_that_costs_too_much_is_rejected(settings: params.Params) -> None:
    small = settings.gate.budgets.model_copy(update={"size_mb": 0.01})
    policy = settings.gate.model_copy(update={"budgets": small})
    report = refit_checks.judge(asked(settings.model_copy(update={"gate": policy}), CHILD, PARENT, "full"), {})

    assert (report["verdict"], report["reason"][:11]) == ("REJECT", "over budget")


def test_a_refit_that_does_not_answer_as_at_export_is_rejected(
    settings: params.Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preconditions, "golden_fault", lambda one: "0" if one.manifest.get("refit_of") else None)
    report = refit_checks.judge(asked(settings, CHILD, PARENT, "full"), {})

    assert report["reason"] == "the candidate does not answer as at export: 0"


def test_features_of_all_events_that_were_not_fitted_on_them_are_found(settings: params.Params) -> None:
    path = Path("out/features/full/vocabulary.json")
    honest = path.read_text()
    try:
        assert audit.of_full(settings)["clean"]
        ids = json.loads(honest)
        path.write_text(json.dumps(ids[::-1]))
        assert any("order is not that of popularity" in line for line in audit.failures(audit.of_full(settings)))
    finally:
        path.write_text(honest)


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    before = len(registry.registered(DATASET))
    assert refit_full.main([]) == 2
    assert len(registry.registered(DATASET)) == before, "it was fitted"
    return capsys.readouterr().err


@pytest.mark.usefixtures("parent_serves")
def test_other_code_refits_nothing(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_COMMIT", "later")
    assert "a refit of demo 2 cannot be made here: its code commit is later, its parent's tested; check" in refused(
        capsys
    )

    monkeypatch.setenv("TIDEGATE_COMMIT", "tested+changes")
    assert "refused: the code is not committed" in refused(capsys)


@pytest.mark.usefixtures("parent_serves")
def test_another_version_of_the_data_set_refits_nothing(capsys) -> None:
    path = SPLIT / "manifest.json"
    honest = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(honest) | {"dataset_hash": "newer"}))
        assert "its data set version is newer, its parent's" in refused(capsys)
    finally:
        path.write_text(honest)


@pytest.mark.usefixtures("parent_serves")
def test_data_that_leak_refit_nothing(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"what": "an event after the cut", "rows": 3, "examples": [], "fails": True}
    checks = [{"check": "future", "cut": "full", "findings": [found]}]
    monkeypatch.setattr(audit, "of_full", lambda _: {"clean": False, "checks": checks})

    assert "refused: the leakage audit fails: future (full): an event after the cut: 3 rows" in refused(capsys)


@pytest.mark.usefixtures("parent_serves")
def test_features_that_are_served_otherwise_than_they_are_fitted_refit_nothing(capsys) -> None:
    groups = {"history": {"compared": 200, "match_rate": 0.1, "low": 0.06, "high": 0.15}}
    told = {"dataset": DATASET, "dataset_hash": "d", "date": "2026-11-26", "answers": 200, "groups": groups}
    skew_record.write(told, "")
    try:
        assert "refused: what is served does not read what the data set tells: history 10.0%" in refused(capsys)
    finally:
        (EXPERIMENTS / "skew.json").unlink()


@pytest.mark.usefixtures("parent_serves")
def test_a_parent_that_states_no_seed_is_not_refitted(settings: params.Params, monkeypatch: pytest.MonkeyPatch) -> None:
    target, stated = registry.serving_target(DATASET), manifest_of(PARENT)
    monkeypatch.setattr(model_versions, "stored_manifest", lambda _: stated | {"seed": None})

    with pytest.raises(UserError, match="demo 2 does not state its seed"):
        refit_full.refit(target, feature_files.load("out/features/full"), settings)


def test_a_champion_by_override_is_not_refitted(refitted: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    loud = Target(registry.find(DATASET, PARENT), {"verdict": "OVERRIDE"})
    monkeypatch.setattr(registry, "serving_target", lambda _: loud)

    assert "demo 2 is champion by an override: only what passed is refitted" in refused(capsys)


def test_a_refit_is_made_once(refitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refit_full.main([]) == 0
    assert capsys.readouterr().out == "refit_full: nothing to do: demo 3, the champion, is a refit of 2\n"
