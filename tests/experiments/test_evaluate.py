"""What evaluate found stands in the run that trained the model: numbers, plots and a summary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_rankings import made_cases, made_items, rank
from mlflow import MlflowClient

from experiments import evaluate
from experiments.evaluation.measure import measure
from training import mlflow_views, tracking


def facts_of(run_id: str, frozen: bool) -> dict:
    """A metrics file's content; a model that reads trends is measured with frozen ones too."""
    rng = np.random.default_rng(0)
    items = made_items(rng, 40)
    targets = measure(rank(rng, items, made_cases(rng, items, 12, 60), skill=3), items, 0, resamples=50)
    if frozen:
        targets["next_item_frozen"] = {key: targets["next_item"][key] for key in ("users", "cases", "metrics")}
    return {
        "label": "ease", "dataset": "shop", "split_id": "s", "run_id": run_id, "targets": targets,
        "validation": {"next_item": {"ndcg@10": 0.25}, "horizon": {"ndcg@10": 0.5}},
    }  # fmt: skip


def recorded(frozen: bool = False):
    run = tracking.start_run("shop", "ease · test", {"stage": "train", "cut": "test"})
    run.close()
    facts = facts_of(run.run_id, frozen)
    evaluate.log_evaluation(facts)
    return MlflowClient().get_run(run.run_id), facts


def test_the_headline_metrics_are_logged_under_the_same_names_for_every_model(tracked: Path) -> None:
    (counted, facts), (learned, _) = recorded(), recorded(frozen=True)

    metrics = counted.data.metrics
    assert set(learned.data.metrics) - set(metrics) == {"test/next_item_frozen/ndcg_10"}
    for target in ("next_item", "horizon"):
        assert metrics[f"test/{target}/ndcg_10"] == facts["targets"][target]["metrics"]["ndcg@10"]["mean"]
        assert metrics[f"test/{target}/coverage_10"] == facts["targets"][target]["metrics"]["coverage@10"]["value"]
        assert metrics[f"valid/{target}/ndcg_10"] == facts["validation"][target]["ndcg@10"]
        assert {f"test/{target}/{name}_{k}" for name in ("ndcg", "recall") for k in (5, 10, 20, 50, 100)} <= set(
            metrics
        )


def test_the_saved_view_of_models_shows_what_is_logged(tracked: Path) -> None:
    run, _ = recorded()
    _, search, order, shown, _ = mlflow_views.VIEWS["models"]
    found = MlflowClient().search_runs([run.info.experiment_id], search, order_by=[f"metrics.`{order}` DESC"])

    assert [entry.info.run_id for entry in found] == [run.info.run_id]
    named = {column.split("`")[1] for column in shown if column.startswith("metrics")} - {"fit_seconds"}
    assert named <= set(run.data.metrics)


def test_plots_and_all_numbers_are_artifacts(tracked: Path) -> None:
    run, facts = recorded()
    folder = tracked / "mlartifacts/shop" / run.info.run_id / "artifacts"

    plot = (folder / "plots/metrics_by_k.png").read_bytes()
    assert plot.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(plot) < 200_000
    assert json.loads((folder / "evaluation.json").read_text(encoding="utf-8")) == json.loads(json.dumps(facts))


def test_the_description_holds_the_numbers_and_their_intervals(tracked: Path) -> None:
    run, facts = recorded()
    entry = facts["targets"]["next_item"]["metrics"]["ndcg@10"]

    note = run.data.tags["mlflow.note.content"]
    assert f"next_item **{entry['mean']:.4f} [{entry['low']:.4f}, {entry['high']:.4f}]**" in note


@pytest.mark.parametrize("gone", ["deleted", "never there"])
def test_a_run_that_is_gone_is_passed_over(gone: str, tracked: Path) -> None:
    run = tracking.start_run("shop", "ease · test", {})
    MlflowClient().delete_run(run.run_id)

    evaluate.log_evaluation(facts_of(run.run_id if gone == "deleted" else "0" * 32, False))

    assert not list((tracked / "mlartifacts").rglob("*.png"))
