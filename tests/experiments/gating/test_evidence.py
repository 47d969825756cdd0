"""Evidence: what the gate measures, and planted faults that it must find."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gate_policy import POLICY
from made_features import ITEMS, checkerboard, recipe
from safetensors.torch import load_file, save_file
from small_pipeline import inside

from config import params
from config.paths import INGESTED, ROOT
from experiments.evaluation import ranking
from experiments.evaluation.cases import Catalog
from experiments.evaluation.ranking import ScoredCases, cases_since, score_cases
from experiments.gating import evidence, judgment, looks
from experiments.gating.evidence import (
    TIMED_ROUNDS,
    budget_rows,
    chosen_params,
    median_latencies,
    same_data_refit,
    size_mb,
    why_no_same_data_refit,
)
from experiments.gating.verdict import HOLD, INSUFFICIENT_DATA, PROMOTE, REJECT, decide
from features import feature_files
from features.sequences import InteractionLog
from features.vocabulary import Vocabulary
from serving.artifact import export_artifact
from serving.artifact.export_artifact import SideTables
from serving.deployment import promotion, registry
from serving.worker.recommender import Recommender
from training import validation
from training.fitting import fit
from training.models.artifact import MANIFEST, hash_file

BUDGETS = params.load(ROOT / "params.yaml").gate.budgets.model_copy(
    update={"size_mb": 10.0, "latency_ms": 50.0, "latency_ratio": 2.0, "latency_free_ms": 5.0}
)


def test_the_size_is_that_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "one").write_bytes(b"x" * 1_500_000)
    (tmp_path / "inner" / "two").write_bytes(b"x" * 500_000)

    assert size_mb(tmp_path) == 2.0


def test_a_first_round_of_requests_is_not_timed() -> None:
    requests: list[str] = []
    ticks = count()
    one: Any = SimpleNamespace(golden_cases=lambda: [{"request": "a"}, {"request": "b"}], recommend=requests.extend)

    found = median_latencies({"candidate": one}, clock=lambda: next(ticks) * 0.002)

    assert requests == ["a", "b"] * (TIMED_ROUNDS + 1)
    assert 1.999 < found["candidate"] < 2.001


def limit_of(champion_ms: float, candidate_ms: float) -> tuple[float, bool]:
    sizes = {"candidate": 1.0, "champion": 1.0}
    _, latency = budget_rows(sizes, {"candidate": candidate_ms, "champion": champion_ms}, BUDGETS)
    return latency["limit"], latency["within"]


def test_a_candidate_may_be_twice_as_slow_as_the_champion_and_no_slower() -> None:
    assert limit_of(champion_ms=8.0, candidate_ms=16.0) == (16.0, True)
    assert limit_of(champion_ms=8.0, candidate_ms=16.1) == (16.0, False)


def test_the_ratio_does_not_count_if_both_are_fast() -> None:
    assert limit_of(champion_ms=0.5, candidate_ms=4.9) == (5.0, True)


def test_the_absolute_limit_holds_whatever_the_ratio() -> None:
    assert limit_of(champion_ms=40.0, candidate_ms=51.0) == (50.0, False)


def test_the_size_has_its_own_limit() -> None:
    speeds = {"candidate": 1.0, "champion": 1.0}
    size, _ = budget_rows({"candidate": 10.5, "champion": 99.0}, speeds, BUDGETS)

    assert (size["limit"], size["within"]) == (10.0, False)


USERS, EACH = 300, 8


class World:
    """Sound evidence on made cases: a candidate 10% better for everybody; a test plants what is wrong with it."""

    def __init__(self, users: int = USERS, gain: float = 0.1) -> None:
        rng = np.random.default_rng(0)
        self.user = np.repeat(np.arange(users), EACH)
        self.theirs = rng.uniform(0.2, 0.6, len(self.user))
        self.noise = rng.normal(0, 0.1, len(self.user))
        self.ours = self.theirs * (1 + gain) + self.noise
        self.baseline = self.theirs * 0.8
        self.parts = {"cold": self.user % 10 == 0, "warm": self.user % 10 > 0, "segment:lapsed": self.user % 4 == 1}
        self.lists = rng.integers(0, ITEMS, (len(self.user), 10))

    def decided(self, looks: int = 1, policy: params.Gate = POLICY, **facts: Any):
        of = {"candidate": self.ours, "champion": self.theirs, "baseline": self.baseline}
        scores = {
            role: {t: ScoredCases(ndcg, self.lists) for t in ("horizon", "next_item")} for role, ndcg in of.items()
        }
        cases: Any = {target: SimpleNamespace(user=self.user) for target in ("horizon", "next_item")}
        parts = dict.fromkeys(cases, self.parts)
        found = evidence.compare(scores, cases, parts, checkerboard(cut="test"), policy, 0, looks)
        return decide(found | {"age_days": 1.0} | facts, policy)


def test_a_sound_candidate_is_promoted() -> None:
    assert World().decided().verdict == PROMOTE


def test_a_model_that_is_worse_in_one_segment_only_is_rejected_and_the_segment_named() -> None:
    world = World()
    inside = world.parts["segment:lapsed"]
    world.ours[inside] = world.theirs[inside] * 0.85 + world.noise[inside]
    decided = world.decided()

    assert (world.ours - world.theirs).mean() > 0
    assert decided.verdict == REJECT
    assert "worse by more than 2% in a segment: lapsed on" in decided.reason
    assert "cold" not in decided.reason


def test_a_model_that_is_better_on_average_but_worse_for_cold_users_is_rejected() -> None:
    world = World()
    cold = world.parts["cold"]
    world.ours[cold] = world.theirs[cold] * 0.7 + world.noise[cold]
    decided = world.decided(policy=POLICY.model_copy(update={"segment_min_users": 10_000}))

    assert (world.ours - world.theirs).mean() > 0
    assert decided.verdict == REJECT, "cold users are tested however few they are"
    assert "cold on" in decided.reason


def test_a_model_below_the_best_baseline_is_rejected_though_it_beats_a_weak_champion() -> None:
    world = World()
    world.baseline = world.theirs * 1.3
    decided = world.decided()

    assert decided.verdict == REJECT
    assert decided.reason.startswith("worse than the best baseline on next_item")


def test_a_model_that_shows_everybody_the_same_is_rejected() -> None:
    world = World()
    sound = world.lists
    of = {"candidate": np.tile(np.arange(10), (len(sound), 1)), "champion": sound}
    shown = evidence.check_guard_rails(of, checkerboard(cut="test"), POLICY.guard_rails)
    decided = world.decided(guard_rails=shown)

    assert decided.verdict == REJECT
    assert decided.reason.startswith("guard rail: coverage is 0.250, the limit is at least 0.500 (champion 1.000)")


def test_what_passes_at_the_first_look_may_fail_at_the_third() -> None:
    world = World(gain=0.006)

    assert world.decided(looks=1).verdict == PROMOTE
    third = world.decided(looks=3)
    assert third.verdict == HOLD
    assert third.reason.startswith("not shown to be better than the champion on next_item")


def test_with_too_few_users_the_verdict_says_how_many_would_decide() -> None:
    decided = World(users=40, gain=0.005).decided()

    assert decided.verdict == INSUFFICIENT_DATA
    assert decided.reason.startswith(
        "40 users have next_item cases after the cut; at least 100 are needed; judging by the spread, about "
    )
    assert "would decide" in decided.reason


def test_a_stale_dataset_is_held() -> None:
    decided = World().decided(age_days=31.0, policy=POLICY.model_copy(update={"max_age_days": 30.0}))

    assert decided.verdict == HOLD
    assert decided.reason.startswith("stale data: the newest event is 31.0 days old")


FEATURES = checkerboard(cut="test")
SHIPPED = params.load(ROOT / "params.yaml")
NOW = {"dataset_hash": "none", "fit_until_us": FEATURES.cut_us, "params": {"name": "ease", "l2": 100.0}}
OLD = {"dataset_hash": "older", "fit_until_us": FEATURES.cut_us - 1, "params": {"name": "popularity", "days": None}}


@pytest.mark.parametrize(
    ("candidate", "champion", "requested", "says"),
    [
        (NOW, NOW | {"params": OLD["params"]}, True, "not needed: both were fitted on the same data"),
        (
            NOW,
            OLD | {"params": NOW["params"]},
            True,
            "not needed: the candidate is the champion's configuration on newer data",
        ),
        (NOW | {"fit_until_us": 5}, OLD, True, "not possible"),
        (NOW, OLD, False, "not done: this report cannot separate the idea from the fresher data; use --refit"),
        (NOW, OLD, True, None),
    ],
)
def test_the_report_says_why_there_is_no_same_data_refit(
    candidate: dict, champion: dict, requested: bool, says: str | None
) -> None:
    reason = why_no_same_data_refit(candidate, champion, FEATURES, requested)

    assert reason is None if says is None else (reason or "").startswith(says)


def test_values_that_a_fit_adds_do_not_change_a_configuration() -> None:
    found = {"parts": {"two_tower": {"embedding_dim": 64, "best_steps": 300, "train_events": 9}}, "weights": [0.5]}

    assert chosen_params(found) == {"parts": {"two_tower": {"embedding_dim": 64}}}


def test_the_same_data_refit_is_compared_with_champion_and_candidate() -> None:
    cases = cases_since(FEATURES, FEATURES.cut_us)
    old = recipe("item_knn")
    again = fit(old, FEATURES, SHIPPED.train, SHIPPED.train.seed).model
    known = {t: validation.ndcg(again, FEATURES, every, FEATURES.trend_log(), 64) for t, every in cases.items()}
    nothing = {t: np.full(len(every), 0.01) for t, every in cases.items()}

    found = same_data_refit(old, known, nothing, cases, FEATURES, SHIPPED, looks=1)

    for target, ndcg in known.items():
        assert found["data"][target]["difference"] == pytest.approx(ndcg.mean() - 0.01)
        assert found["idea"][target]["difference"] == 0.0


@pytest.fixture(scope="module")
def settings(pipeline: Path) -> params.Params:
    return params.load(pipeline / "params.yaml")


@pytest.fixture
def project(pipeline: Path, tmp_path: Path):
    """A copy of the products to work in."""
    shutil.copytree(pipeline, tmp_path, dirs_exist_ok=True)
    with inside(tmp_path):
        yield tmp_path


def metrics(folder: Path, label: str) -> dict:
    return json.loads((folder / "out/experiments/metrics" / f"{label}.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_gate_scores_artifacts_exactly_as_evaluate_does(project: Path, settings: params.Params) -> None:
    features = feature_files.load_features(project / "out/features/test")
    cases = cases_since(features, features.cut_us)
    tables = [pd.read_parquet(project / f"out/data/{name}.parquet") for name in ("split/events", "ingest/users")]
    labels = ("two_tower", "ease")
    artifacts = {label: Recommender.load(project / "out/serving/artifacts" / label) for label in labels}
    scores = evidence.score_all(artifacts, features, cases, *tables, settings.train.eval_batch_size)
    items = Catalog.from_items(ranking.catalog_items(features))

    for label in labels:
        for target in ("horizon", "next_item"):
            published, scored = metrics(project, label)["targets"][target], scores[label][target]
            figures = {key: entry.get("mean", entry.get("value")) for key, entry in published["metrics"].items()}
            lists = evidence.list_figures(scored.lists, items)
            assert len(scored.ndcg) == published["cases"]
            assert scored.ndcg.mean() == pytest.approx(figures["ndcg@10"], abs=1e-9)
            assert lists["coverage"] == pytest.approx(figures["coverage@10"], abs=1e-9)
            assert lists["diversity"] == pytest.approx(figures["diversity@10"], abs=1e-9)


@pytest.mark.slow
def test_an_artifact_is_read_through_its_own_vocabulary(project: Path, settings: params.Params) -> None:
    features = feature_files.load_features(project / "out/features/test")
    cases = cases_since(features, features.cut_us)
    tables = [pd.read_parquet(project / f"out/data/{name}.parquet") for name in ("split/events", "ingest/users")]
    artifact = Recommender.load(project / "out/serving/artifacts/ease")
    turned = replace(features, vocabulary=Vocabulary(features.vocabulary.ids[::-1]))
    size = len(features.vocabulary)
    of = replace(cases["next_item"], truth=size - cases["next_item"].truth)

    one = score_cases(artifact, features, cases, *tables, 512)["next_item"]
    other = score_cases(artifact, turned, {"next_item": of}, *tables, 512)["next_item"]

    assert np.array_equal(one.ndcg, other.ndcg)
    assert np.array_equal(np.where(one.lists < 0, -1, size - 2 - one.lists), other.lists)


def judged(settings: params.Params, label: str) -> dict:
    return judgment.run(settings, label)[-1]


def with_zeroed_weights(artifact: Path) -> None:
    path = artifact / "weights.safetensors"
    save_file({name: tensor * 0 for name, tensor in load_file(path).items()}, path)
    manifest = json.loads((artifact / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"][path.name] = hash_file(path)
    (artifact / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def with_shuffled_times(folder: Path, settings: params.Params) -> None:
    """The same training, on events whose times are shuffled among the events before the cut."""
    features = feature_files.load_features(folder / "out/features/test")
    shuffled = replace(features, log=shuffle(features.log, features.cut_us))
    configuration = json.loads((folder / "out/training/two_tower/valid/fit.json").read_text(encoding="utf-8"))[
        "hyperparameters"
    ]
    model = fit(configuration, shuffled, settings.train, settings.seed).model
    weights = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights)
    facts = json.loads((folder / "out/training/two_tower/test/fit.json").read_text(encoding="utf-8"))
    export_artifact.export_artifact(
        folder / "out/serving/artifacts/two_tower",
        weights,
        facts,
        features,
        settings,
        SideTables.read(folder / INGESTED),
    )


def shuffle(log: InteractionLog, cut_us: int) -> InteractionLog:
    past = np.flatnonzero(log.times < cut_us)
    times = log.times.copy()
    times[past] = np.random.default_rng(0).permutation(times[past])
    order = np.lexsort([times, log.users])
    return InteractionLog(log.offsets, log.items[order], times[order], times[order], log.context[order], log.traits)


@pytest.mark.slow
def test_a_sound_model_is_promoted_over_the_first_champion_and_judged_once(
    project: Path, settings: params.Params
) -> None:
    first, report = judgment.run(settings, "two_tower")
    again = judged(settings, "two_tower")

    assert (first["verdict"], report["verdict"]) == ("PROMOTE", "PROMOTE"), report["reason"]
    assert first["reason"].startswith("first")
    assert promotion.serving_target(settings.dataset).report["label"] == "two_tower"
    assert again["decided_before"] is True
    assert len(looks.read(settings.dataset).at(report["split_id"])) == 1


@pytest.mark.slow
@pytest.mark.parametrize("sabotage", ["zeroed weights", "shuffled times"])
def test_a_sabotaged_model_does_not_pass(project: Path, settings: params.Params, sabotage: str) -> None:
    judgment.run(settings, "two_tower")  # the sound one is the champion
    champion = promotion.serving_target(settings.dataset).version
    if sabotage == "zeroed weights":
        with_zeroed_weights(project / "out/serving/artifacts/two_tower")
    else:
        with_shuffled_times(project, settings)

    report = judged(settings, "two_tower")

    assert report["verdict"] in ("HOLD", "REJECT"), report["reason"]
    # Zeroed weights do not give the golden answers, so nobody looks; the other was exported as it is, and is looked at.
    assert report.get("looks") == (2 if sabotage == "shuffled times" else None)
    assert promotion.serving_target(settings.dataset).version == champion


@pytest.mark.slow
def test_zeroed_weights_do_not_pass_as_the_first_learned_model_either(project: Path, settings: params.Params) -> None:
    with_zeroed_weights(project / "out/serving/artifacts/two_tower")

    report = judged(settings, "two_tower")

    assert report["verdict"] == "REJECT"
    shown = registry.find_version(settings.dataset, report["version"])
    assert "REJECT" in registry.registry_client().get_model_version(settings.dataset, shown.version).description
    assert promotion.serving_target(settings.dataset).report["reason"].startswith("first")


@pytest.mark.slow
def test_an_index_that_finds_too_little_is_rejected_before_the_look(project: Path, settings: params.Params) -> None:
    artifact = project / "out/serving/artifacts/two_tower"
    manifest = json.loads((artifact / MANIFEST).read_text(encoding="utf-8"))
    about = {"kind": "faiss", "recall@20": 0.98, "candidates": 512, "probes": 1}
    (artifact / MANIFEST).write_text(json.dumps(manifest | {"index": about}), encoding="utf-8")

    report = judged(settings, "two_tower")

    assert report["verdict"] == "REJECT"
    assert report["reason"].startswith(
        "its index finds 0.9800 of the exact best 20, below gate.min_index_recall = 0.99"
    )
    assert looks.read(settings.dataset).at(manifest["split_id"]) == []
    shown = registry.registry_client().get_model_version(settings.dataset, report["version"])
    assert "its index finds 0.9800" in shown.description
    assert promotion.serving_target(settings.dataset).report["reason"].startswith("first")
