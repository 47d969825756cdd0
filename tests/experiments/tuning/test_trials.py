"""A search with several objectives prunes nothing and finds the front; the most accurate configuration is taken."""

from __future__ import annotations

import json
import time
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_features import checkerboard, train_settings
from mlflow import MlflowClient

from config import params
from config.paths import ROOT
from experiments import tune
from experiments.tuning import trials
from experiments.tuning.study import Budget, study_name
from experiments.tuning.trials import measure_objectives, objectives_text
from training import provenance, validation
from training.fitting import FitError

pytestmark = pytest.mark.slow  # each test takes little, all of them many seconds

SHIPPED = params.load(ROOT / "params.yaml")
FEATURES = checkerboard()


class Constant:
    """Scores every item the same way whoever asks, and takes its time."""

    channels, max_history = ("all",), None

    def __init__(self, scores: np.ndarray, seconds: float = 0.0) -> None:
        self.row, self.seconds = torch.from_numpy(scores), seconds

    def scores(self, batch) -> torch.Tensor:
        time.sleep(self.seconds)
        return self.row.expand(len(batch.items), -1)


def aiming_at(*aims: str) -> params.Params:
    """The shipped settings with these objectives."""
    return SHIPPED.model_copy(update={"tune": SHIPPED.tune.model_copy(update={"objectives": list(aims)})})


def measured(name: str, model: Constant, features=FEATURES) -> float:
    result = SimpleNamespace(model=model, validation={"next_item": 0.1, "horizon": 0.4})
    return measure_objectives([name], result, features, train_settings(), 0)[name]


def test_accuracy_is_the_geometric_mean_of_both_targets() -> None:
    assert measured("accuracy", Constant(np.zeros(1))) == pytest.approx(0.2, rel=1e-4)


def test_diversity_is_one_less_the_mean_cosine_of_all_pairs_of_the_first_ten() -> None:
    scores = np.random.default_rng(0).normal(size=len(FEATURES.vocabulary))
    content, means = FEATURES.item_features.astype(float), []
    for every in validation.cases(FEATURES).values():
        cases, lists = validation.sample(every, 50, 0), []
        for user, end in zip(cases.user, cases.end, strict=True):
            seen = FEATURES.log.items[FEATURES.log.offsets[user] : end]
            shown = [item for item in np.argsort(-scores) if item != 0 and item not in seen][:10]
            pairs = [(content[a], content[b]) for a, b in combinations(shown, 2)]
            lists.append(np.mean([1 - a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairs]))
        means.append(np.mean(lists))

    assert measured("diversity", Constant(scores)) == pytest.approx(np.mean(means), abs=1e-5)


def test_items_without_content_have_no_diversity() -> None:
    bare = checkerboard()
    bare.item_features = np.zeros((len(bare.vocabulary), 0), dtype=np.float32)

    with pytest.raises(FitError, match=r"tune\.objectives holds diversity, but no item of this dataset has content"):
        measured("diversity", Constant(np.zeros(len(bare.vocabulary))), bare)


def test_latency_is_in_milliseconds_and_of_one_request() -> None:
    scores = np.zeros(len(FEATURES.vocabulary))

    slow = measured("latency", Constant(scores, seconds=0.01))

    assert slow >= 10  # it sleeps so long for each request
    assert measured("latency", Constant(scores)) < slow


# A search: the less dropout, the more accurate; the more, the more diverse, but only up to 0.25


def fitted(configuration, features, settings, seed, on_epoch, deadline=None):
    value = 0.5 - configuration["dropout"] ** 2
    rows = [{"step": n, "epoch": n, "train/loss": 1.0} | {"valid/next_item/ndcg_10": value} for n in (1, 2)]
    for row in rows:
        on_epoch(row)
    return SimpleNamespace(
        hyperparameters=configuration, seconds=0.1, validation={"next_item": value, "horizon": value}, curves=rows
    )


@pytest.fixture
def studied(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder of its own, and a fit and a diversity that take no time."""
    monkeypatch.setattr(trials, "fit", fitted)
    monkeypatch.setattr(provenance, "checkout", lambda: ("abc", []))
    monkeypatch.setitem(
        trials.OBJECTIVES, "diversity", lambda result, *_: -abs(result.hyperparameters["dropout"] - 0.25)
    )
    return tracked


def beaten(one: dict, by: dict) -> bool:
    better = [by[name] >= one[name] for name in one]
    return all(better) and by != one


def test_the_front_is_written_and_the_most_accurate_configuration_is_taken(
    studied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aims = ["accuracy", "diversity"]
    tune.tune("two_tower", FEATURES, aiming_at(*aims), Budget(8, 600))
    study = tune.tune("two_tower", FEATURES, aiming_at(*aims), Budget(4, 600))  # goes on
    found = json.loads((studied / "out/experiments/tuned/two_tower.json").read_text(encoding="utf-8"))

    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 12, "none is pruned"
    all_of = [dict(zip(aims, trial.values, strict=True)) for trial in study.trials]
    kept = {trial.number for trial in study.trials if not any(beaten(all_of[trial.number], by) for by in all_of)}
    assert {one["trial"] for one in found["front"]} == kept
    assert 1 < len(kept) < 12
    taken = found["front"][0]
    assert taken["objectives"]["accuracy"] == max(one["accuracy"] for one in all_of) == found["objective"]
    assert (taken["trial"], taken["hyperparameters"]) == (found["trial"], found["hyperparameters"])
    for one in found["front"]:
        assert one["objectives"] == all_of[one["trial"]]
        assert one["hyperparameters"]["dropout"] == one["parameters"]["dropout"]
    assert f": {objectives_text(all_of[3])} with " in capsys.readouterr().out
    assert f"the most accurate of {len(kept)} on the Pareto front" in tune.summary_line("two_tower", study, aims)

    client = MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name(SHIPPED.dataset).experiment_id])
    of_trial = {int(run.data.tags["number"]): run.data.metrics for run in runs if "number" in run.data.tags}
    assert {number: {name: of_trial[number][f"objective/{name}"] for name in aims} for number in of_trial} == dict(
        enumerate(all_of)
    )
    parent = max((run for run in runs if run.data.tags["stage"] == "tune"), key=lambda run: run.info.start_time)
    plots = studied / "mlartifacts" / SHIPPED.dataset / parent.info.run_id / "artifacts/plots"
    assert sorted(plot.name for plot in plots.iterdir()) == ["front.png", "study.png"]
    assert parent.data.metrics["objective/diversity"] == taken["objectives"]["diversity"]


def test_trials_of_other_objectives_are_another_study() -> None:
    settings = [aiming_at("accuracy"), aiming_at("accuracy", "diversity"), aiming_at("accuracy", "latency")]

    assert len({study_name("two_tower", FEATURES, one) for one in settings}) == 3
