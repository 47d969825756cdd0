"""Neither the order of the source's rows nor the numbering of its items may touch a result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_pipeline import BASELINES, run_stages

pytestmark = pytest.mark.slow


def as_file(pipeline: Path, folder: Path, renumber: bool = False, shuffle: bool = False) -> Path:
    """The platform's events as a CSV without event ids, so that ids follow from content; times in whole hours,
    so that many tie."""
    events = pd.read_parquet(pipeline / "out/data/ingest/events.parquet")[["user_id", "item_id", "event_time"]]
    events["event_time"] = events["event_time"].dt.floor("h")
    if renumber:
        names = sorted(events["item_id"].unique())
        strangers = [f"{number:05d}" for number in np.random.default_rng(1).permutation(len(names))]
        events["item_id"] = events["item_id"].map(dict(zip(names, strangers, strict=True)))
    if shuffle:
        events = events.sample(frac=1, random_state=2)
    folder.mkdir()
    events.to_csv(folder / "log.csv", index=False)
    return folder / "log.csv"


@pytest.fixture(scope="module")
def runs(pipeline: Path, tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> dict[str, Path]:
    """The same events three times: as they are, with rows shuffled, and with items renumbered as well."""
    made = {}
    for name, changes in (("plain", {}), ("shuffled", {"shuffle": True}), ("renumbered", {"renumber": True, "shuffle": True})):  # fmt: skip
        folder = tmp_path_factory.mktemp(name)
        shutil.copyfile(empty_registry, folder / "mlflow.db")
        log = as_file(pipeline, folder / "source", **changes)
        made[name] = run_stages(folder, BASELINES, source="auto", path=str(log), event_types=None)
    return made


def manifest(folder: Path) -> dict:
    return json.loads((folder / "out/data/split/manifest.json").read_text(encoding="utf-8"))


def metrics(folder: Path, label: str) -> dict:
    return json.loads((folder / "out/experiments/metrics" / f"{label}.json").read_text(encoding="utf-8"))


def cases(folder: Path) -> pd.DataFrame:
    table = pd.read_parquet(folder / "out/experiments/rankings/popularity.parquet")
    facts = table[["target", "user_id", "time", "history_length", "activity"]]
    return facts.sort_values(list(facts.columns)).reset_index(drop=True)


def test_shuffled_rows_change_nothing_at_all(runs: dict[str, Path]) -> None:
    assert manifest(runs["shuffled"])["split_id"] == manifest(runs["plain"])["split_id"]
    for label in BASELINES:
        one, other = (pd.read_parquet(runs[name] / f"out/experiments/rankings/{label}.parquet") for name in ("plain", "shuffled"))  # fmt: skip
        pd.testing.assert_frame_equal(one, other)


def test_renumbered_items_change_no_split_and_no_case(runs: dict[str, Path]) -> None:
    ours, theirs = manifest(runs["plain"]), manifest(runs["renumbered"])
    # These name the data, and the items are named otherwise: with numbers.
    identity = ("dataset", "dataset_hash", "split_id", "numeric_ids")
    assert {k: v for k, v in ours.items() if k not in identity} == {
        k: v for k, v in theirs.items() if k not in identity
    }
    pd.testing.assert_frame_equal(cases(runs["plain"]), cases(runs["renumbered"]))


@pytest.mark.parametrize("label", BASELINES)
def test_renumbered_items_change_no_metric(runs: dict[str, Path], label: str) -> None:
    ours, theirs = (metrics(runs[name], label)["targets"] for name in ("plain", "renumbered"))
    for target in ("horizon", "next_item"):
        for key, entry in ours[target]["metrics"].items():
            again = theirs[target]["metrics"][key]
            assert entry.get("mean", entry.get("value")) == pytest.approx(
                again.get("mean", again.get("value")), abs=1e-12
            ), (
                target,
                key,
            )
