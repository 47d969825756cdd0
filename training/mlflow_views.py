"""What MLflow's UI shows first: descriptions, and saved views of an experiment's runs.

A saved view is an experiment tag that MLflow's UI (3.17) writes and reads: columns, filter, order and charts.
"""

from __future__ import annotations

import json

SHARED = "mlflow.sharedViewState."

PURPOSE = {
    "valid": "Finds the hyperparameters of **{label}** on `{dataset}`: fitted before the `valid` cut, scored after it.",
    "test": (
        "**{label}** on `{dataset}` with the hyperparameters of its `valid` run: fitted on everything before the `test` "
        "cut. Exported, measured on what follows, and served if the gate promotes it."
    ),
    "full": (
        "**{label}** on `{dataset}` with the hyperparameters of a version that passed the gate: fitted on all events, so "
        "that the newest are not wasted. Served only under that version's gate report."
    ),
}

# The UI shows the first paragraph; the rest opens with a click.
DESCRIPTION = """Saved views of **{dataset}**: [models on the test window]({runs}tidegate-models) · \
[fits on validation]({runs}tidegate-recipes) · [tuning trials]({runs}tidegate-trials)

Each run is one fit, named `label · cut`. At the cut `valid` hyperparameters are found; at `test` they are used, and that
artifact is exported, measured, gated and deployed. Of the targets, `next_item` is each event's item and `horizon` the new
items of the days (`split.horizon_days`) after the cut.

| metric | what it is |
| --- | --- |
| `valid/…` | choices rest on it |
| `test/…` | reported; intervals in the run's description, plots and `evaluation.json` among its artifacts |
| `early_stopping/…` | a small sample, scored after each epoch |

Numbers can be compared only where the tag `split_id` is the same.
"""

NEXT_ITEM, HORIZON = "test/next_item/ndcg_10", "test/horizon/ndcg_10"
VALID = ("valid/next_item/ndcg_10", "valid/horizon/ndcg_10")


def experiment_tags(experiment_id: str, dataset: str) -> dict[str, str]:
    """Tags of the dataset's experiment: its description, its kind, its saved views."""
    runs = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey="
    return {
        "mlflow.note.content": DESCRIPTION.format(dataset=dataset, runs=runs),
        "mlflow.experimentKind": "custom_model_development",  # else the UI opens as one for language models
        **{f"{SHARED}tidegate-{name}": saved_view(*view) for name, view in VIEWS.items()},
    }


def saved_view(title: str, search: str, order: str, columns: list[str], charts: list[dict]) -> str:
    """The value of a saved view's tag: our charts first, what the UI adds below them."""
    own = {"deleted": False, "isGenerated": False}
    section = {"uuid": "tidegate", "name": title, "display": True, "isReordered": True}
    state = {
        "searchFilter": search,
        "orderByKey": f"metrics.`{order}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "runsHiddenMode": "FIRST_20_RUNS",
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunCharts": [
            own | {"uuid": f"tidegate-{n}", "metricSectionId": "tidegate"} | charts[n] for n in range(len(charts))
        ],
        "compareRunSections": [section | own | {"columns": 2, "cardHeight": 400}],
        "isAccordionReordered": True,
    }
    return json.dumps({"name": title, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


def columns(metrics: tuple[str, ...], parameters: tuple[str, ...]) -> list[str]:
    """Names of columns as the UI knows them."""
    return [*(f"metrics.`{name}`" for name in metrics), *(f"params.`{name}`" for name in parameters)]


def chart(kind: str, name: str, **options: object) -> dict:
    return {"type": kind, "displayName": name, "runsCountToCompare": 100, **options}


def bar(metric: str) -> dict:
    """One bar per run."""
    return chart("BAR", metric, metricKey=metric)


def line(metric: str) -> dict:
    """A metric by step, one line per run."""
    return chart("LINE", metric, metricKey=metric, xAxisKey="step", lineSmoothness=0, range={})


def scatter(x: str, y: str, kind: str = "METRIC") -> dict:
    """One point per run; `kind` says whether x is a METRIC or a PARAM."""
    return chart("SCATTER", f"{y} by {x}", xaxis={"key": x, "type": kind}, yaxis={"key": y, "type": "METRIC"})


def parallel(parameters: list[str], metrics: list[str]) -> dict:
    """Parallel coordinates: one line per run across the axes."""
    return chart(
        "PARALLEL", "Parallel coordinates", showAllRuns=False, selectedParams=parameters, selectedMetrics=metrics
    )


VIEWS = {
    "models": (
        "Models on the test window", "tags.cut = 'test' AND tags.stage = 'train'", NEXT_ITEM,
        columns((NEXT_ITEM, HORIZON, *VALID, "fit_seconds", "test/next_item/coverage_10"), ("name",)),
        [bar(NEXT_ITEM), bar(HORIZON), scatter("fit_seconds", NEXT_ITEM), scatter(VALID[0], NEXT_ITEM),
         parallel(["name"], ["test/next_item/coverage_10", VALID[0], HORIZON, NEXT_ITEM])],
    ),
    "recipes": (
        "Fits on validation", "tags.cut = 'valid' AND tags.stage = 'train'", VALID[0],
        columns((*VALID, "fit_seconds"), ("name", "best_steps", "chosen.l2")),
        [bar(VALID[0]), bar(VALID[1]), scatter("fit_seconds", VALID[0]),
         line("early_stopping/next_item/ndcg_10"), line("early_stopping/horizon/ndcg_10"), line("train/loss")],
    ),
    "trials": (
        "Tuning trials", "tags.stage = 'trial'", "objective",
        columns(("objective", *VALID, "fit_seconds"), ("name", "learning_rate", "dropout", "weight_decay")),
        [parallel(["learning_rate", "dropout", "weight_decay"], ["objective"]),
         scatter("learning_rate", "objective", "PARAM"), scatter("dropout", "objective", "PARAM"),
         line("early_stopping/next_item/ndcg_10"), line("train/loss")],
    ),
}  # fmt: skip
