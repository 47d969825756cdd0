"""Run every step from events to a live endpoint, and show the leaderboard, the verdict and recommendations."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from config import params
from config.command import exits_cleanly
from config.paths import EXPERIMENTS, INGESTED, ROOT, SPLIT
from data.columns import EVENT_TIME, ITEM, TITLE, USER
from experiments.orchestration import steps, workspace


def showcase(folder: Path, ask: Callable[[dict], dict], users: int, events_shown: int, k: int) -> str:
    """Text for people: the latest users with a history of some length, and their answers.

    Args:
        folder: the project or workspace that holds out/data.
        ask: sends one prediction request.
    """
    events = pd.read_parquet(folder / SPLIT / "events.parquet")
    items = pd.read_parquet(folder / INGESTED / "items.parquet").set_index(ITEM)
    titles = items[TITLE].fillna("") if TITLE in items else pd.Series("", index=items.index)
    now = events[EVENT_TIME].max() + pd.Timedelta(seconds=1)
    counts = events[USER].value_counts()
    latest = events[events[USER].isin(counts[counts >= min(5, counts.max())].index)].drop_duplicates(USER, keep="last")
    lines = []
    for user in latest[USER].tail(users)[::-1]:
        own = events[events[USER] == user]
        answer = ask({"user_id": user, "k": k, "time": now.isoformat()})  # who the user is, the online store knows
        recent = [_named(item, titles) for item in own[ITEM].tail(events_shown)[::-1]]
        lines.append(f"User {user} lately: {', '.join(recent)}")
        lines.append(f"  {answer['source']} by version {answer['model_version']}: {answer['reason']}")
        lines += [
            f"  {place}. {found['title'] or found['item_id']}  ({found['score']:.3f})"
            for place, found in enumerate(answer["items"], start=1)
        ]
    return "\n".join(lines)


def _named(item: str, titles: pd.Series) -> str:
    return titles.get(item, "") or item


SHOWN_USERS, SHOWN_EVENTS, SHOWN_ITEMS = 3, 5, 5


def answers(folder: Path, dataset: str) -> str:
    """Three users with their latest events and their recommendations, fetched over HTTP."""
    from serving import settings
    from serving.torchserve.client import TorchServe

    with TorchServe.from_settings(settings.load()) as client:
        return showcase(folder, lambda body: client.predict(dataset, body), SHOWN_USERS, SHOWN_EVENTS, SHOWN_ITEMS)


def closing(folder: Path, dataset: str) -> str:
    """What to do next."""
    inside = folder.relative_to(ROOT)
    return (
        f"\nNext (all files of this run: {inside}):\n"
        f"  make ui      compare the runs in MLflow: experiment and registered model '{dataset}'\n"
        f"  .venv/bin/python -m serving.ask --dataset {dataset} --history ITEM,ITEM --k 5      ask for more\n"
        f"  {inside}/experiments/results/{dataset}.md      the leaderboard\n"
        f"  {inside / EXPERIMENTS}/gate.html      the gate's report\n"
        f"  make stop    stop TorchServe and the MLflow UI"
    )


TITLES = {
    "ingest": "read and clean the events",
    "split": "split them in time into training, validation and test",
    "featurize": "compute features as known before validation and before test",
    "train-baselines": "fit the baselines",
    "train-network": "train the network {model}",
    "train-hybrid": "combine models into {model}",
    "export": "export what serves, with answers to check a server by",
    "evaluate": "rank the test period with every model",
    "compare": "write the leaderboard",
}
AFTER_THE_PIPELINE = 5


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.demo", description=__doc__)
    workspace.add(parser)
    folder = workspace.workspace_of(parser.parse_args(argv))
    env = steps.environment()
    if folder is None:
        folder = workspace.make_demo()
    else:
        steps.data_and_features(folder, env)  # models that cannot hold so many items are left out
    dataset = params.load(folder / "params.yaml").dataset
    progress = steps.Progress(folder, env, "compare", AFTER_THE_PIPELINE)
    progress.pipeline(TITLES)
    progress.run("search for leaks of the future into features and training", "experiments.audit")
    progress.run("search better hyperparameters (a few trials)", "experiments.tune")
    progress.run("judge the best candidate against the champion", "experiments.gate")
    progress.run("write user profiles into the online store", "features.materialize")
    progress.run("deploy what the gate promoted", "serving.deploy", "--dataset", dataset, folder=ROOT)
    print(f"\n{steps.leaderboard(dataset, folder)}\n\n{steps.verdict(folder)}\n")
    print(answers(folder, dataset))
    print(closing(folder, dataset))
    return 0


if __name__ == "__main__":
    sys.exit(main())
