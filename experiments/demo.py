"""Run every step from events to a live endpoint, and show the leaderboard, the verdict and recommendations."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from config import params
from config.command import exits_cleanly
from config.paths import EXPERIMENTS, INGESTED, ROOT, SPLIT
from data.columns import EVENT_TIME, ITEM, TITLE, USER
from experiments.orchestration import steps, workspace


def recommendations(folder: Path, dataset: str) -> str:
    """The latest users with a history of some length: their latest events, and recommendations fetched over HTTP."""
    from serving import settings
    from serving.torchserve.client import TorchServe

    events = pd.read_parquet(folder / SPLIT / "events.parquet")
    items = pd.read_parquet(folder / INGESTED / "items.parquet").set_index(ITEM)
    titles = items[TITLE].fillna("") if TITLE in items else pd.Series("", index=items.index)
    now = (events[EVENT_TIME].max() + pd.Timedelta(seconds=1)).isoformat()
    counts = events[USER].value_counts()
    active = counts.index[counts >= min(5, counts.max())]
    latest = events[events[USER].isin(active)].drop_duplicates(USER, keep="last")
    lines = []
    with TorchServe.from_settings(settings.load()) as client:
        for user in latest[USER].tail(SHOWN_USERS)[::-1]:
            recent = events.loc[events[USER] == user, ITEM].tail(SHOWN_EVENTS)[::-1]
            # The request holds no history: the worker reads it from the online store.
            answer = client.predict(dataset, {"user_id": user, "k": SHOWN_ITEMS, "time": now})
            lines.append(f"User {user} lately: {', '.join(titles.get(item, '') or item for item in recent)}")
            lines.append(f"  {answer['source']} by version {answer['model_version']}: {answer['reason']}")
            lines += [
                f"  {place}. {found['title'] or found['item_id']}  ({found['score']:.3f})"
                for place, found in enumerate(answer["items"], start=1)
            ]
    return "\n".join(lines)


def closing(folder: Path, dataset: str) -> str:
    """What to do next."""
    inside = folder.relative_to(ROOT)
    return (
        f"\nNext (all files of this run: {inside}):\n"
        f"  make ui      compare the runs in MLflow: experiment and registered model '{dataset}'\n"
        f"  .venv/bin/python -m serving.ask --dataset {dataset} --history ITEM,ITEM --k 5      ask for more\n"
        f"  {inside / INGESTED}/report.html      what was read, and what looks suspicious\n"
        f"  {inside}/experiments/results/{dataset}.md      the leaderboard\n"
        f"  {inside / EXPERIMENTS}/gate.html      the gate's report\n"
        f"  make stop    stop TorchServe and the MLflow UI"
    )


SHOWN_USERS, SHOWN_EVENTS, SHOWN_ITEMS = 3, 5, 5
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
    print("", steps.leaderboard(dataset, folder), "", steps.verdict(folder), steps.undecided(folder), "", sep="\n")
    print(recommendations(folder, dataset))
    print(closing(folder, dataset))
    return 0


if __name__ == "__main__":
    sys.exit(main())
