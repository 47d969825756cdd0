"""Write recommendations for every user of the dataset to one Parquet file, from an artifact and without a server.

The endpoint would answer the same at that time, with the histories and trends that the online store would hold. Users
who do not consent to personalization now, according to the online store, get the popular list, as from the endpoint.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from config import files, params
from config.command import UserError, exits_cleanly
from config.paths import FEATURES, INGESTED, RECOMMENDATIONS, SPLIT
from data.columns import USER
from data.consent import PERSONALIZATION, ConsentRecord, Decision, decide
from data.tables import read_table
from data.times import now_us, to_iso
from features.feast_sdk import open_feast
from features.feature_files import load_features
from features.materialization import parse_time, profiles_at, trends_at
from features.online.connect import connect_to_read, read_settings
from features.online.profile import Profile
from features.online.records import ItemTrends
from features.online.store import Policy
from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary
from serving.deployment import promotion, registry
from serving.edge import settings as edge_settings
from serving.worker.recommender import ArtifactError, Recommender
from serving.worker.request import MAX_K, Request
from serving.worker.users import User, user_from_reading

NOT_ASKED = "this user was not asked to agree to personalization"
BATCH_USERS = 512  # memory holds the profiles of one batch
TIMESTAMP = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "item_ids": pa.list_(pa.string()),  # best first
        "scores": pa.list_(pa.float32()),
        "source": pa.string(),
        "reason": pa.string(),
        "segments": pa.list_(pa.string()),
        "time": TIMESTAMP,
        "feature_time": TIMESTAMP,
        "trends_time": TIMESTAMP,
        "model_version": pa.string(),
        "dataset_version": pa.string(),
    }
)
TIMES = [field.name for field in SCHEMA if field.type == TIMESTAMP]


class BatchError(UserError):
    """The recommendations cannot be written; the text names the cause."""


@dataclass(frozen=True)
class UserHistories:
    """A `serving.worker.users.UserLookup` of some users, as the online store would hold and serve them."""

    profiles: dict[str, Profile]  # by user id
    policy: Policy
    item_trends: ItemTrends  # as of the time of the requests
    consent: Mapping[str, ConsentRecord | None]  # by user id, as of now
    personalizes_by_default: bool  # whether users who were not asked for consent get personal answers

    def find_users(self, requests: Sequence[Request], repeats: str) -> list[User]:
        moment_us = now_us()
        return [self._find_user(request.user_id or "", request.time_us, repeats, moment_us) for request in requests]

    def _find_user(self, user_id: str, time_us: int, repeats: str, now_us: int) -> User:
        consent = self.consent[user_id]
        if not self.personalizes_by_default and decide(consent, PERSONALIZATION, now_us) is Decision.NOT_ASKED:
            return User(reason=NOT_ASKED)
        return user_from_reading(
            self.policy.reading(self.profiles.get(user_id), consent, time_us), time_us, repeats, now_us
        )

    def find_trends(self, vocabulary: Vocabulary, as_of_us: int, newer_than_us: int) -> TrendSnapshot | None:
        is_usable = newer_than_us < self.item_trends.time_us <= as_of_us
        return self.item_trends.snapshot(vocabulary) if is_usable else None


def read_consent(dataset: str, user_ids: list[str]) -> dict[str, ConsentRecord | None]:
    """User id -> consent, from the online store that the environment names. Raises StoreError if it does not answer."""
    with closing(connect_to_read(dataset, read_settings(), open_feast)) as store:
        found = store.read(user_ids, [now_us()] * len(user_ids))
    return {user: reading.consent for user, reading in zip(user_ids, found, strict=True)}


def batches_of_users(
    events: pd.DataFrame,
    users: pd.DataFrame,
    until_us: int,
    policy: Policy,
    trends: ItemTrends,
    consent_of: Callable[[list[str]], dict[str, ConsentRecord | None]],
    personalizes_by_default: bool,
) -> Iterator[tuple[list[str], UserHistories]]:
    """Every user of the two tables with their histories until a time, ordered by id, in batches."""
    events, users = (table.sort_values(USER, kind="stable") for table in (events, users))
    user_ids = sorted({*events[USER], *users[USER]})
    for begin in range(0, len(user_ids), BATCH_USERS):
        batch = user_ids[begin : begin + BATCH_USERS]
        read = profiles_at(_rows_of(events, batch), _rows_of(users, batch), until_us)
        profiles = {profile.user_id: profile for profile in read}
        yield batch, UserHistories(profiles, policy, trends, consent_of(batch), personalizes_by_default)


def answer_users(
    recommender: Recommender, users: Iterable[tuple[list[str], UserHistories]], until_us: int, k: int
) -> Iterator[pa.Table]:
    """A table of answers per batch of users, at the time `until_us`.

    Raises:
        BatchError: a user's request is refused; names the user.
    """
    for user_ids, histories in users:
        recommender.lookup = histories
        answers = recommender.recommend([{"user_id": user_id, "k": k} for user_id in user_ids], now_us=until_us)
        yield pa.Table.from_pylist([_row(*pair) for pair in zip(user_ids, answers, strict=True)], SCHEMA)


def write_file(tables: Iterable[pa.Table], target: Path, total: int) -> Counter:
    """Write the file atomically and print the progress after each tenth of all users; the answers per source."""
    sources: Counter = Counter()
    with files.replacing(target, durable=False) as partial, pq.ParquetWriter(partial, SCHEMA) as file:
        for table in tables:
            before = sources.total()
            file.write_table(table)
            sources.update(table["source"].to_pylist())
            if sources.total() * 10 // total > before * 10 // total:
                print(f"{sources.total():,} of {total:,} users")
    return sources


@contextmanager
def load_recommender(artifact: Path | None, dataset: str) -> Iterator[Recommender]:
    """The artifact of a folder, or the registry's champion if its gate report lets it serve.

    Raises:
        BatchError: the folder holds no artifact, or one of another dataset.
        RegistryError: no version may serve.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-") as scratch:
        folder, version = artifact, "unregistered"
        if folder is None:
            champion = promotion.serving_target(dataset).version
            folder, version = registry.download_artifact(champion, Path(scratch)), f"{champion.version}.0"
        try:
            recommender = Recommender.load(folder, version)
        except ArtifactError as error:
            raise BatchError(f"--artifact: {error}") from None
        if recommender.manifest["dataset"] != dataset:
            raise BatchError(
                f"--artifact {artifact} is of {recommender.manifest['dataset']}; params.dataset is {dataset}"
            )
        yield recommender


def _row(user_id: str, answer: dict | Exception) -> dict:
    if isinstance(answer, Exception):
        raise BatchError(f"the request of a user is refused: {answer}")
    return {
        "user_id": user_id,
        **{name: answer[name] for name in SCHEMA.names if name in answer},
        "item_ids": [item["item_id"] for item in answer["items"]],
        "scores": [item["score"] for item in answer["items"]],
        **{name: answer[name] and datetime.fromisoformat(answer[name]) for name in TIMES},
    }


def _rows_of(table: pd.DataFrame, user_ids: list[str]) -> pd.DataFrame:
    """The rows of consecutive users, from a table sorted by user."""
    owners = table[USER].to_numpy(dtype=object)
    return table.iloc[np.searchsorted(owners, user_ids[0]) : np.searchsorted(owners, user_ids[-1], side="right")]


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.batch", description=__doc__.splitlines()[0])
    parser.add_argument("--artifact", type=Path, metavar="FOLDER", help="default: the registry's champion")
    parser.add_argument("--at", metavar="TIME", help="the time of the requests (default: the end of the dataset)")
    parser.add_argument("--k", type=int, default=20, help="items per user (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RECOMMENDATIONS, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.k <= MAX_K:
        raise BatchError(f"--k is {arguments.k}; expected 1 to {MAX_K}")
    if arguments.out.is_dir():
        raise BatchError(f"--out is {arguments.out}, which is a folder; expected a file to write")
    begun = time.monotonic()
    torch.set_num_threads(1)  # as in the worker: another order of sums would give other scores
    settings, features = params.load(), load_features(FEATURES / "test")
    events = read_table(SPLIT / "events.parquet", "python -m data.split")
    users = read_table(INGESTED / "users.parquet", "python -m data.ingest")
    policy = Policy.from_days(settings.online.max_events, settings.online.ttl_days)
    with load_recommender(arguments.artifact, settings.dataset) as recommender:
        until_us = parse_time("--at", arguments.at) if arguments.at else features.description["until_us"]
        if until_us < (fit_until_us := recommender.manifest["fit_until_us"]):
            until, fit_until = to_iso(until_us), to_iso(fit_until_us)
            raise BatchError(f"--at is {until}; the artifact was fitted on events until {fit_until}")
        batches = batches_of_users(
            events,
            users,
            until_us,
            policy,
            trends_at(features, until_us),
            partial(read_consent, settings.dataset),
            edge_settings.load().personalize_by_default,
        )
        total = len({*events[USER], *users[USER]})
        sources = write_file(answer_users(recommender, batches, until_us, arguments.k), arguments.out, total)
    counts = ", ".join(f"{count:,} {source}" for source, count in sources.most_common())
    print(
        f"recommended for {total:,} users at {to_iso(until_us)} with version {recommender.version} in "
        f"{time.monotonic() - begun:.1f} s ({counts}): {arguments.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
