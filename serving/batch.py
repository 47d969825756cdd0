"""Write recommendations for every user of the data set to one Parquet file, from an artifact and without a server.

Answers are those that the endpoint would give at that moment: the same code answers, from histories and trends as the
online store would hold them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from config import params
from config.command import UserError, exits_cleanly
from config.paths import FEATURES, INGESTED, RECOMMENDATIONS, SPLIT
from data.tables import read_table
from data.times import to_iso
from features import materialization
from features.feature_files import Features, load_features
from features.materialization import parse_time
from features.online.store import Policy
from serving import user_histories
from serving.deployment import registry
from serving.user_histories import Histories
from serving.worker.recommender import ArtifactError, Recommender
from serving.worker.request import MAX_K

MOMENT = pa.timestamp("us", tz="UTC")
COLUMNS = {
    "user_id": pa.string(),
    "item_ids": pa.list_(pa.string()),  # best first
    "scores": pa.list_(pa.float32()),
    "source": pa.string(),
    "reason": pa.string(),
    "segments": pa.list_(pa.string()),
    "time": MOMENT,
    "feature_time": MOMENT,
    "trends_time": MOMENT,
    "model_version": pa.string(),
    "dataset_version": pa.string(),
}
SCHEMA = pa.schema(list(COLUMNS.items()))
MOMENTS = [name for name, kind in COLUMNS.items() if kind == MOMENT]

Say = Callable[[str], None]


class BatchError(UserError):
    """Recommendations cannot be written as asked; the text names what stands in the way."""


def answer(
    recommender: Recommender, people: Iterable[tuple[list[str], Histories]], until_us: int, k: int
) -> Iterator[pa.Table]:
    """A table of answers for each batch of users.

    Args:
        people: as `serving.user_histories.by_users` gives them.
        until_us: the moment that is asked about.

    Raises:
        BatchError: a user cannot be asked for; names the user.
    """
    for users, known in people:
        recommender.lookup = known
        answers = recommender.recommend([{"user_id": user, "k": k} for user in users], now_us=until_us)
        yield pa.Table.from_pylist([_row(*pair) for pair in zip(users, answers, strict=True)], SCHEMA)


def _row(user: str, given: dict | Exception) -> dict:
    if isinstance(given, Exception):
        raise BatchError(f"user {user!r}: {given}")
    items = {"item_ids": [item["item_id"] for item in given["items"]], "scores": [i["score"] for i in given["items"]]}
    moments = {name: given[name] and datetime.fromisoformat(given[name]) for name in MOMENTS}
    return {"user_id": user, **{name: given[name] for name in COLUMNS if name in given}, **items, **moments}


def write(tables: Iterable[pa.Table], target: Path, total: int, say: Say) -> Counter:
    """Write the file, whole or not at all, and say after each tenth how far it is; answers by source.

    Args:
        total: users that there will be.
    """
    sources: Counter = Counter()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with pq.ParquetWriter(partial, SCHEMA) as file:
            for table in tables:
                before = sources.total()
                file.write_table(table)
                sources.update(table["source"].to_pylist())
                if sources.total() * 10 // total > before * 10 // total:
                    say(f"{sources.total():,} of {total:,} users")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return sources


@contextmanager
def chosen_recommender(artifact: Path | None, dataset: str) -> Iterator[Recommender]:
    """The artifact of a folder, or the registry's champion, which its gate's report lets serve.

    Raises:
        BatchError: the folder holds no artifact, or one of another data set.
        RegistryError: nothing may serve.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-") as scratch:
        version = None if artifact else registry.serving_target(dataset).version.version
        folder = artifact or registry.download(dataset, str(version), Path(scratch))
        try:
            recommender = Recommender.load(folder, f"{version}.0" if version else "unregistered")
        except ArtifactError as error:
            raise BatchError(f"--artifact: {error}") from None
        if recommender.manifest["dataset"] != dataset:
            raise BatchError(
                f"--artifact {artifact} is of {recommender.manifest['dataset']}; params.dataset is {dataset}"
            )
        yield recommender


def moment(stated: str | None, features: Features, recommender: Recommender) -> int:
    """The moment asked about, in microseconds; the end of the data set unless stated.

    Raises:
        ProfileError: it is no time.
        BatchError: the artifact has learned from later events.
    """
    until_us = features.description["until_us"] if stated is None else parse_time("--at", stated)
    learned_us = recommender.manifest.get("fit_until_us", 0)
    if until_us < learned_us:
        raise BatchError(f"--at is {to_iso(until_us)}; the artifact has learned from events until {to_iso(learned_us)}")
    return until_us


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.batch", description=__doc__.splitlines()[0])
    parser.add_argument("--params", default="params.yaml", help="settings (default: %(default)s)")
    parser.add_argument("--artifact", type=Path, metavar="FOLDER", help="default: the registry's champion")
    parser.add_argument("--at", metavar="TIME", help="the moment asked about (default: the end of the data set)")
    parser.add_argument("--k", type=int, default=20, help="items for each user (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=512, help="users at once (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RECOMMENDATIONS, help="default: %(default)s")
    return parser


def check(given: argparse.Namespace) -> None:
    """Raises BatchError: an argument is out of bounds."""
    if not 1 <= given.k <= MAX_K:
        raise BatchError(f"--k is {given.k}; expected 1 to {MAX_K}")
    if given.batch < 1:
        raise BatchError(f"--batch is {given.batch}; expected at least 1")
    if given.out.is_dir():
        raise BatchError(f"--out is {given.out}, which is a folder; expected a file to write")


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    given = options().parse_args(argv)
    check(given)
    torch.set_num_threads(1)  # as the worker has it: another sum order would be another answer
    chosen, features, begun = params.load(given.params), load_features(FEATURES / "test"), time.monotonic()
    events = read_table(SPLIT / "events.parquet", "python -m data.split")
    users = read_table(INGESTED / "users.parquet", "python -m data.ingest")
    policy = Policy.from_days(chosen.online.max_events, chosen.online.ttl_days)
    with chosen_recommender(given.artifact, chosen.dataset) as recommender:
        until_us = moment(given.at, features, recommender)
        trends = materialization.trends_at(features, until_us)
        people = user_histories.by_users(events, users, until_us, policy, trends, given.batch)
        total = len({*events["user_id"], *users["user_id"]})
        sources = write(answer(recommender, people, until_us, given.k), given.out, total, print)
    told = ", ".join(f"{count:,} {source}" for source, count in sources.most_common())
    took = time.monotonic() - begun
    print(
        f"batch: {total:,} users at {to_iso(until_us)} by {recommender.version} in {took:.1f} s ({told}) -> {given.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
