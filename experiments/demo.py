"""VERB demo: the whole life of a model: events, features, models, gate, live endpoint, answers by title."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import params
from command import exits_cleanly
from experiments.orchestration import source_options, steps
from params import ROOT

SHOWN_USERS, SHOWN_EVENTS, SHOWN_ITEMS = 3, 5, 5


def answers(folder: Path, dataset: str) -> str:
    """Three users with their latest events and their recommendations, fetched over HTTP."""
    from experiments.orchestration.showcase import showcase
    from serving import settings
    from serving.torchserve.client import TorchServe

    with TorchServe.of(settings.load()) as client:
        return showcase(folder, lambda body: client.predict(dataset, body), SHOWN_USERS, SHOWN_EVENTS, SHOWN_ITEMS)


def closing(folder: Path, dataset: str) -> str:
    """What to do next."""
    where = "" if folder == ROOT else f" (products: {folder.relative_to(ROOT)})"
    return (
        f"\nNext{where}:\n"
        f"  make ui      compare the runs in MLflow: experiment and registered model '{dataset}'\n"
        f"  .venv/bin/python -m serving.ask --dataset {dataset} --history ITEM,ITEM --k 5      ask for more\n"
        f"  experiments/results/{dataset}.md      the leaderboard; "
        f"{(folder / 'experiments/out/gate.html').relative_to(ROOT)}      the gate's report\n"
        f"  make stop    stop TorchServe and the MLflow UI"
    )


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.demo", description=__doc__)
    source_options.add(parser)
    folder = source_options.workspace_of(parser.parse_args(argv)) or ROOT
    dataset = params.load(folder / "params.yaml").dataset
    env = steps.environment()
    if folder != ROOT:
        steps.data_and_features(folder, env)
    steps.pipeline(folder, env)
    steps.step("tune (a few trials)", "experiments.tune", [], folder, env)
    steps.step("gate", "experiments.gate", [], folder, env)
    steps.publish(folder, dataset)
    steps.step("fill the online store", "features.fill", [], folder, env)
    steps.step("deploy", "serving.deploy", ["--dataset", dataset], ROOT, env)
    print(f"\n{steps.leaderboard(dataset)}\n\n{steps.verdict(folder)}\n")
    print(answers(folder, dataset))
    print(closing(folder, dataset))
    return 0


if __name__ == "__main__":
    sys.exit(main())
