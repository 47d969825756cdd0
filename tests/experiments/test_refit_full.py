"""A refit: what it shares with its parent, what it must pass, and what stops it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_features import START, checkerboard, recipe, train_settings
from small_pipeline import inside

from config import params
from config.paths import ROOT, SPLIT
from data.columns import DAY
from experiments import gate, impact, refit_full, retrain, trace
from experiments.gating import judgment, preconditions
from experiments.gating.evidence import find_opponent
from experiments.gating.judgment import GateCase
from experiments.gating.preconditions import CodeState
from experiments.gating.report_page import page
from experiments.impact import Origin
from experiments.leakage import report as leakage_report
from experiments.lineage import skew_report
from experiments.orchestration import steps
from experiments.refit_full import newest_cases, overlap
from features import feature_files
from serving.deployment import promotion, registry
from serving.deployment.promotion import ServingTarget
from serving.deployment.status import registry_lines
from training import provenance
from training.fitting import fit


def test_overlap_is_the_share_of_the_parents_list() -> None:
    theirs = np.array([[1, 2, 3, 4], [1, 2, -1, -1], [-1, -1, -1, -1]])
    ours = np.array([[4, 3, 9, 8], [2, 7, -1, -1], [1, 2, 3, 4]])

    np.testing.assert_array_equal(overlap(theirs, ours), [2 / 4, 1 / 2])


def test_the_newest_cases_see_nothing_of_their_own_time() -> None:
    features = checkerboard(cut="full")
    cases = newest_cases(features, 50)
    newest = np.sort(features.log.times)[-50]

    assert len(cases) == 50
    assert (cases.time >= newest).all()
    assert (features.log.times[np.maximum(cases.end - 1, 0)] < cases.time).all()
    assert len(newest_cases(features, 10**6)) == len(features.log.times), "of fewer, all"


@pytest.mark.parametrize(
    ("requests", "share", "decided"), [(9, 0.3, "PROMOTE"), (9, 0.29, "REJECT"), (0, 1.0, "REJECT")]
)
def test_a_refit_with_other_lists_is_rejected(requests: int, share: float, decided: str) -> None:
    case = SimpleNamespace(champion=SimpleNamespace(version="2"), features=SimpleNamespace(cut_us=START))
    decision = refit_full.decide_by_agreement(case, {"requests": requests, "overlap": share, "bar": 0.3})

    assert decision.verdict == decided
    if decided == "REJECT":
        assert (
            f"share {share:.3f} of its parent's 10 items on {requests} recent requests; at least 0.3 is required"
            in decision.reason
        )


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("two_tower", "hybrid")]


@pytest.mark.parametrize("name", ["ease", *SLOW])
def test_a_refit_repeats_the_configuration_and_searches_nothing(name: str) -> None:
    settings = train_settings()
    configuration = recipe(
        name, **({"parts": {"two_tower": recipe("two_tower"), "ease": recipe("ease")}} if name == "hybrid" else {})
    )
    found = fit(configuration, checkerboard(), settings, 0).hyperparameters
    features = checkerboard(cut="full")
    full = replace(features, description=features.description | {"cut_us": START + 40 * DAY})
    result = fit(found, full, settings, 0)

    assert result.hyperparameters == found
    assert result.validation == {}
    if name == "two_tower":
        events = int((full.past.items != 0).sum())
        assert result.curves[-1]["step"] == round(found["best_steps"] * events / found["train_events"])


PROMOTED, HELD = {"verdict": "PROMOTE"}, {"verdict": "HOLD"}


@pytest.mark.parametrize(
    ("refit", "report", "no_deploy", "ran"),
    [
        ("gated", PROMOTED, False, ["fill the online store", "deploy"]),
        ("full", HELD, False, ["fill the online store", "deploy"]),
        ("full", PROMOTED, False, ["fill the online store", "deploy", "refit on all events", "deploy"]),
        ("full", PROMOTED, True, ["refit on all events"]),
    ],
)
def test_retraining_refits_what_was_promoted_if_params_ask_for_it(
    refit: str, report: dict, no_deploy: bool, ran: list[str], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out/experiments").mkdir(parents=True)
    (tmp_path / "out/experiments/gate.json").write_text(json.dumps(report), encoding="utf-8")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert "  refit: gated" in text
    (tmp_path / "params.yaml").write_text(text.replace("  refit: gated", f"  refit: {refit}"), encoding="utf-8")
    steps_run: list[str] = []
    monkeypatch.setattr(steps, "step", lambda title, *_: steps_run.append(title))

    retrain.serve(tmp_path, "shop", {}, no_deploy)

    assert steps_run == ran


DATASET, BASELINE, PARENT, CHILD = "demo", "1", "2", "3"


@pytest.fixture(scope="module")
def refitted(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A platform whose gate has promoted a two-tower (2) over the first champion (1), and its refit (3)."""
    folder = tmp_path_factory.mktemp("refitted")
    shutil.copytree(pipeline, folder, dirs_exist_ok=True)
    with inside(folder):
        reports = judgment.run(params.load("params.yaml"), "two_tower")
        assert [report["verdict"] for report in reports] == ["PROMOTE", "PROMOTE"]
        assert refit_full.main([]) == 0
        yield folder


@pytest.fixture
def settings(refitted: Path) -> params.Params:
    return params.load("params.yaml")


@pytest.fixture
def parent_serves(refitted: Path) -> Iterator[None]:
    """For one test the way back was taken."""
    promotion.roll_back_aliases(DATASET)
    yield
    promotion.roll_back_aliases(DATASET)


def manifest_of(version: str) -> dict:
    return registry.read_manifest(registry.find_version(DATASET, version))


@pytest.mark.slow
def test_the_refit_has_the_parents_configuration_and_serves_under_its_report(refitted: Path) -> None:
    target, parent, child = promotion.serving_target(DATASET), manifest_of(PARENT), manifest_of(CHILD)
    end = json.loads((SPLIT / "manifest.json").read_text(encoding="utf-8"))["end_us"]
    own = ("run_id", "files", "fit_until", "fit_until_us", "refit_of")

    assert target.version.version == CHILD
    assert child["fit_until_us"] == end + 1 > parent["fit_until_us"]
    assert {key: child[key] for key in child if key not in own} == {
        key: parent[key] for key in parent if key not in own
    }
    assert child["refit_of"] == {"version": PARENT, "artifact": registry.find_version(DATASET, PARENT).artifact}
    under = target.report["under"]
    assert (under["version"], under["report"]) == (
        PARENT,
        promotion.report_digest(registry.find_version(DATASET, PARENT)),
    )
    assert registry.registry_client().get_model_version(DATASET, CHILD).tags["refit_of"] == PARENT


@pytest.mark.slow
def test_its_report_states_the_agreement_with_its_parent(refitted: Path) -> None:
    report = promotion.serving_target(DATASET).report
    agreement, shown = report["evidence"]["agreement"], page(report)

    assert (agreement["requests"], agreement["bar"]) == (1000, 0.3)
    assert 0.5 < agreement["overlap"] < 1, "more events, so other lists, and the same configuration, so not many"
    assert "Lists agree with the parent&#x27;s" in shown
    assert f"mean overlap@10 {agreement['overlap']:.3f}, over 1,000 recent requests" in shown
    assert "comparisons" not in report["evidence"], "no comparison on a window that it was fitted on"


@pytest.mark.slow
def test_trace_impact_and_status_name_the_refit_and_its_parent(refitted: Path) -> None:
    parts = {part.name: part for part in trace.version_parts(registry.find_version(DATASET, CHILD))}
    rows = impact.versions_part(Origin(DATASET, manifest_of(CHILD)["dataset_hash"])).rows
    newest = Origin(DATASET, manifest_of(CHILD)["dataset_hash"], manifest_of(CHILD)["fit_until_us"] - 1)

    assert parts["parent"].facts["version"] == PARENT
    assert parts["parent"].facts["verdict"] == "PROMOTE"
    assert f"refit of version {PARENT}" in parts["gate report"].facts["reason"]
    assert {row["version"]: row["refit of"] for row in rows} == {BASELINE: None, PARENT: None, CHILD: PARENT}
    assert [row["version"] for row in impact.versions_part(newest).rows] == [CHILD]
    assert [row["name"] for row in impact.runs_part(newest).rows] == ["two_tower · full"]
    assert f"registry  champion    {CHILD}, a refit of {PARENT}" in registry_lines(DATASET)
    assert "parent" not in {part.name for part in trace.version_parts(registry.find_version(DATASET, PARENT))}


@pytest.mark.slow
def test_the_parent_is_the_champion_where_the_refit_has_seen_the_holdout(
    settings: params.Params, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate.main(["--model", "item_knn"]) == 0
    report = json.loads(Path("out/experiments/gate.json").read_text(encoding="utf-8"))

    assert (report["verdict"], report["against_version"]) == ("REJECT", PARENT)
    assert f"version {CHILD}, which serves, was fitted on the holdout" in capsys.readouterr().out
    assert f"Version {CHILD}, which serves, was fitted on the holdout" in page(report)
    assert promotion.serving_target(DATASET).version.version == CHILD


@pytest.mark.slow
def test_judging_the_parent_again_does_not_replace_its_refit(settings: params.Params) -> None:
    (report,) = judgment.run(settings, "two_tower")

    assert report["decided_before"]
    assert report["version"] == PARENT
    assert promotion.serving_target(DATASET).version.version == CHILD


@pytest.mark.slow
def test_on_newer_events_the_refit_itself_is_the_champion(refitted: Path) -> None:
    features, candidate = feature_files.load_features("out/features/test"), registry.find_version(DATASET, BASELINE)
    later = replace(features, description=features.description | {"cut_us": manifest_of(CHILD)["fit_until_us"]})

    assert find_opponent(DATASET, candidate, features)[0].version.version == PARENT
    assert find_opponent(DATASET, candidate, later)[0].version.version == CHILD


def make_case(settings: params.Params, candidate: str, champion: str, features: str, **changes: object) -> GateCase:
    found = [registry.find_version(DATASET, version) for version in (candidate, champion)]
    clean = {"clean": True, "audited": "a", "checks": []}
    code = CodeState("tested", None, None)
    case = GateCase(settings, feature_files.load_features(f"out/features/{features}"), "ours", *found, "theirs", None, code, clean,
                        False, time.time_ns() // 1000)  # fmt: skip
    return replace(case, **changes)


@pytest.mark.slow
def test_a_refit_is_not_scored_on_events_that_it_was_fitted_on(settings: params.Params) -> None:
    for candidate, champion, who in ((BASELINE, CHILD, "champion"), (CHILD, BASELINE, "candidate")):
        report = judgment.judge(make_case(settings, candidate, champion, "test"))

        assert report["verdict"] == "INSUFFICIENT_DATA"
        assert report["reason"].startswith(f"refused: the {who} was fitted on all known events, until ")


@pytest.mark.slow
def test_a_refit_whose_lists_agree_too_little_is_rejected(settings: params.Params) -> None:
    strict = settings.retrain.model_copy(update={"refit_overlap": 0.99})
    case = make_case(settings.model_copy(update={"retrain": strict}), CHILD, PARENT, "full")
    report = refit_full.judge_refit(case)

    assert report["verdict"] == "REJECT"
    assert (
        "of its parent's 10 items on 1,000 recent requests; at least 0.99 is required (retrain.refit_overlap)"
        in report["reason"]
    )
    assert '<span class="bad">' in page(report | {"version": CHILD})


@pytest.mark.slow
def test_a_refit_that_costs_too_much_is_rejected(settings: params.Params) -> None:
    small = settings.gate.budgets.model_copy(update={"size_mb": 0.01})
    policy = settings.gate.model_copy(update={"budgets": small})
    report = refit_full.judge_refit(make_case(settings.model_copy(update={"gate": policy}), CHILD, PARENT, "full"))

    assert (report["verdict"], report["reason"][:11]) == ("REJECT", "over budget")


@pytest.mark.slow
def test_a_refit_that_does_not_answer_as_at_export_is_rejected(
    settings: params.Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preconditions, "golden_difference", lambda one: "0" if one.manifest.get("refit_of") else None)
    report = refit_full.judge_refit(make_case(settings, CHILD, PARENT, "full"))

    assert report["reason"] == "the candidate does not answer as at export: 0"


@pytest.mark.slow
def test_features_of_all_events_that_were_not_fitted_on_them_are_found(settings: params.Params) -> None:
    path = Path("out/features/full/vocabulary.json")
    original = path.read_text(encoding="utf-8")
    try:
        assert leakage_report.audit_full(settings)["clean"]
        ids = json.loads(original)
        path.write_text(json.dumps(ids[::-1]), encoding="utf-8")
        assert any(
            "not ordered by popularity" in line for line in leakage_report.failures(leakage_report.audit_full(settings))
        )
    finally:
        path.write_text(original, encoding="utf-8")


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    before = len(registry.list_versions(DATASET))
    assert refit_full.main([]) == 2
    assert len(registry.list_versions(DATASET)) == before, "it was fitted"
    return capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("parent_serves")
def test_other_code_refuses_a_refit(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "checkout", lambda: ("later", []))
    assert "demo 2 cannot be refitted here: its code commit is later, its parent's tested; check" in refused(capsys)

    monkeypatch.setattr(provenance, "checkout", lambda: ("tested", ["params.yaml"]))
    assert "refused: the code has uncommitted changes" in refused(capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("parent_serves")
def test_another_dataset_version_refuses_a_refit(capsys) -> None:
    path = SPLIT / "manifest.json"
    original = path.read_text(encoding="utf-8")
    try:
        path.write_text(json.dumps(json.loads(original) | {"dataset_hash": "newer"}), encoding="utf-8")
        assert "its dataset version is newer, its parent's" in refused(capsys)
    finally:
        path.write_text(original, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("parent_serves")
def test_a_leak_refuses_a_refit(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"what": "an event after the cut", "rows": 3, "examples": [], "fails": True}
    checks = [{"check": "future", "cut": "full", "findings": [found]}]
    monkeypatch.setattr(leakage_report, "audit_full", lambda _: {"clean": False, "checks": checks})

    assert "refused: the leakage audit fails: future (full): an event after the cut: 3 rows" in refused(capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("parent_serves")
def test_skew_refuses_a_refit(capsys) -> None:
    groups = {"history": {"compared": 200, "match_rate": 0.1, "low": 0.06, "high": 0.15}}
    record = {"dataset": DATASET, "dataset_hash": "d", "date": "2026-11-26", "answers": 200, "groups": groups}
    skew_report.REPORT.write_text(json.dumps(record), encoding="utf-8")
    try:
        assert "refused: serving reads other features than the dataset holds: history 10.0%" in refused(capsys)
    finally:
        skew_report.REPORT.unlink()


@pytest.mark.slow
@pytest.mark.usefixtures("parent_serves")
def test_other_settings_refuse_a_refit(settings: params.Params, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = registry.find_version(DATASET, PARENT)
    assert refit_full.differences_from(parent, settings) == []

    other = settings.model_copy(update={"ingest": settings.ingest.model_copy(update={"repeats": "other"})})
    (line,) = refit_full.differences_from(parent, other)
    assert line.startswith("its rule for repeats is other, its parent's ")

    monkeypatch.setattr(provenance, "commit", lambda: "unknown")
    assert refit_full.differences_from(parent, settings)[0].startswith("its code commit is unknown, its parent's ")


@pytest.mark.slow
def test_a_champion_by_override_is_not_refitted(refitted: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    loud = ServingTarget(registry.find_version(DATASET, PARENT), {"verdict": "OVERRIDE"})
    monkeypatch.setattr(promotion, "serving_target", lambda _: loud)

    assert "demo 2 is champion by an override; only a version that passed the gate is refitted" in refused(capsys)


@pytest.mark.slow
def test_a_refit_is_not_refitted(refitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refit_full.main([]) == 0
    assert capsys.readouterr().out == "nothing to do: demo 3, the champion, is a refit of 2\n"
