"""VERB demo: the whole life of a model: events, features, models, gate, live endpoint, answers by title."""

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
        lines.append(f"  {answer['rung']} by version {answer['model_version']}: {answer['reason']}")
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
    where = "" if folder == ROOT else f" (products: {folder.relative_to(ROOT)})"
    return (
        f"\nNext{where}:\n"
        f"  make ui      compare the runs in MLflow: experiment and registered model '{dataset}'\n"
        f"  .venv/bin/python -m serving.ask --dataset {dataset} --history ITEM,ITEM --k 5      ask for more\n"
        f"  experiments/results/{dataset}.md      the leaderboard; "
        f"{(folder / EXPERIMENTS / 'gate.html').relative_to(ROOT)}      the gate's report\n"
        f"  make stop    stop TorchServe and the MLflow UI"
    )


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.demo", description=__doc__)
    workspace.add(parser)
    folder = workspace.workspace_of(parser.parse_args(argv)) or ROOT
    dataset = params.load(folder / "params.yaml").dataset
    env = steps.environment()
    if folder != ROOT:
        steps.data_and_features(folder, env)
    steps.pipeline(folder, env)
    steps.step("tune (a few trials)", "experiments.tune", [], folder, env)
    steps.step("gate", "experiments.gate", [], folder, env)
    steps.publish(folder, dataset)
    steps.step("fill the online store", "features.materialize", [], folder, env)
    steps.step("deploy", "serving.deploy", ["--dataset", dataset], ROOT, env)
    print(f"\n{steps.leaderboard(dataset)}\n\n{steps.verdict(folder)}\n")
    print(answers(folder, dataset))
    print(closing(folder, dataset))
    return 0


if __name__ == "__main__":
    sys.exit(main())
