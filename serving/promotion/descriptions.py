"""What a person reads of a registered model and its versions in MLflow's UI."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

FROM_RUN = ("label", "model", "split_id", "dataset_hash")  # tags that a version takes over from its run
VERDICT = "gate_verdict"
TARGETS = ("next", "window")
PERIODS = {"valid": "validation", "test": "test window"}

MODEL = """Recommends items of **{dataset}**: one version per exported artifact, whatever kind of model made it.

- `champion` is what should serve; `previous` the champion before it; `challenger` waits for the gate.
- An alias moves only with a signed gate report that says PROMOTE for that very artifact: tags `gate_verdict`, `gate_report`.
- Each move is signed, in the tags `alias_move.N`; what is moved by hand is not deployed.
- Each version's run holds its parameters, data set, curves and plots.
"""


def of_model(dataset: str) -> str:
    """The registered model's description."""
    return MODEL.format(dataset=dataset)


def describe(mlflow: MlflowClient, dataset: str, version: str, gate: str | None = None) -> None:
    """Write a version's description and the tags that it shares with its run, as they are known now.

    Args:
        gate: what the gate said, in one line; None before it spoke.
    """
    entry = mlflow.get_model_version(dataset, version)
    run = mlflow.get_run(entry.run_id or "").data
    for key in FROM_RUN:
        if key in run.tags and key not in entry.tags:
            mlflow.set_model_version_tag(dataset, version, key, run.tags[key])
    label = entry.tags.get("label") or run.tags.get("label") or "a model"
    mlflow.update_model_version(dataset, version, of_version(label, gate, run.metrics))


def of_version(label: str, gate: str | None, metrics: dict[str, float]) -> str:
    """A version's description; the first line is plain text, since the list of versions shows it as it is."""
    first = f"{label}: {gate}" if gate else label
    found = {
        (period, target): metrics[f"{period}/{target}/ndcg_10"]
        for period in PERIODS
        for target in TARGETS
        if f"{period}/{target}/ndcg_10" in metrics
    }
    if not found:
        return first
    rows = [
        f"| {said} | " + " | ".join(_number(found.get((period, target))) for target in TARGETS) + " |"
        for period, said in PERIODS.items()
    ]
    return "\n".join([first, "", "| NDCG@10 | next | window |", "| --- | --- | --- |", *rows])


def verdict(mlflow: MlflowClient, dataset: str, version: str, report: dict) -> None:
    """Tag a version with what the gate said of it, and say it in its description; any verdict, PROMOTE or not."""
    mlflow.set_model_version_tag(dataset, version, VERDICT, report["verdict"])
    describe(mlflow, dataset, version, f"{report['verdict']}: {report.get('reason', 'no reason was given')}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
