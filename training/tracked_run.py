"""An open MLflow run, and the words in which a fit is written into it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from features.store import Features
from training import plots, run_inputs

NOTE = "mlflow.note.content"  # what the UI shows as the description of a run


class TrainingRun:
    """An open MLflow run of one fit."""

    def __init__(self, client, run_id: str, asked: dict[str, str] | None = None) -> None:
        self._client, self.run_id, self._asked = client, run_id, asked or {}

    def log_epoch(self, row: dict) -> None:
        """One row of the learning curve: numbers by name, `step` among them.

        Validation goes under `early_stopping/`: MLflow shows the last value that a metric had, and for `valid/`
        this has to be the score of the finished fit, which rests on more cases and on the best epoch's weights.
        """
        shown = {name: value for name, value in row.items() if name not in ("step", "epoch")}
        self.log_metrics({_curve_name(name): value for name, value in shown.items()}, int(row["step"]))

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        """Numbers by name, all in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        self._client.log_batch(self.run_id, metrics=entries)

    def log_params(self, values: Mapping[str, object]) -> None:
        """Parameters by name, written as params.yaml writes them; one already logged cannot change."""
        from mlflow.entities import Param

        entries = [Param(name, as_text(value)) for name, value in values.items()]
        self._client.log_batch(self.run_id, params=entries)

    def log_input(self, features: Features) -> None:
        """The data set version that these features were made of, as a logged input."""
        self._client.log_inputs(self.run_id, [run_inputs.dataset_input(features)])

    def log_figure(self, figure, name: str) -> None:
        """A Matplotlib figure as the artifact plots/<name>.png."""
        self._client.log_figure(self.run_id, figure, f"plots/{name}.png")

    def log_json(self, content: dict, name: str) -> None:
        """A dictionary as the artifact <name>.json."""
        self._client.log_dict(self.run_id, content, f"{name}.json")

    def tag(self, **tags: str) -> None:
        """Set tags; `note` is the description that the UI shows in Markdown."""
        for key, value in tags.items():
            self._client.set_tag(self.run_id, NOTE if key == "note" else key, value)

    def close(self, status: str = "FINISHED") -> None:
        """End the run."""
        self._client.set_terminated(self.run_id, status)

    def fail(self, error: BaseException, status: str = "FAILED") -> None:
        """End the run before its end, with the reason as a tag."""
        self.tag(error=" ".join(f"{type(error).__name__}: {error}".split())[:500])
        self.close(status)

    def log_fit(self, result) -> None:
        """What the fit chose beyond what was asked, how long it took, its curve, how it did on validation."""
        found = {name: as_text(value) for name, value in result.recipe.items()}
        new = {name: value for name, value in found.items() if name not in self._asked}
        settled = {f"chosen.{name}": value for name, value in found.items() if self._asked.get(name, value) != value}
        self.log_params(new | settled)
        scores = {f"valid/{target}/ndcg_10": value for target, value in result.validation.items()}
        self.log_metrics({"fit_seconds": result.seconds} | scores)
        if len(result.curves) > 1:
            self.log_figure(plots.learning_curve(result.curves, result.recipe.get("best_steps")), "learning_curve")


@contextmanager
def carried_through(
    run: TrainingRun, features: Features | None = None, gave_up: tuple[type[BaseException], ...] = ()
) -> Iterator[TrainingRun]:
    """Close a run at the end of the block; where that fails, mark the run so, with the reason as a tag.

    Args:
        features: logged as the run's input.
        gave_up: exceptions that end the run as KILLED, since nothing went wrong.
    """
    try:
        if features is not None:
            run.log_input(features)
        yield run
    except BaseException as error:
        run.fail(error, "KILLED" if isinstance(error, gave_up) else "FAILED")
        raise
    run.close()


def _curve_name(name: str) -> str:
    return f"early_stopping/{name.removeprefix('valid/')}" if name.startswith("valid/") else name


def as_text(value: object) -> str:
    """A parameter as a person writes it in params.yaml: `all, window_1d`, `null`, `200` for 200.0."""
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.15g}" if isinstance(value, float) else str(value)
