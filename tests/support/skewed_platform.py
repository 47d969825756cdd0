"""A platform that answered the same users while it was sound, and again under each of some faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from running import Edge
from served_platform import DATASET, Worker, chosen, edge, log, platform

from experiments import skew
from experiments.lineage.inputs import EVENTS, OfflineUsers
from features import materialization, materialize
from features.feature_files import load_features
from features.online.connect import connect, read_settings
from features.online.profile import LATEST_US, Profile
from serving.worker.scorer import LiveTrends
from serving.worker.users import StoreLookup

LAST_DAY = "2026-03-31T00:00:00Z"
LATE = pd.Timestamp("2090-01-01", tz="UTC")
HISTORY = [{"item_id": "m00003", "event_time": "2026-01-05T10:00:00Z"}]
ALONE = {
    "then": {"user_id": "u000001", "time": "2026-02-20T08:09:10Z"},
    "context": {"user_id": "u000001", "context": {"device": "tv"}},
    "own_history": {"user_id": "u000001", "history": HISTORY},
    "unknown": {"user_id": "nobody-we-know"},
    "denied": {"user_id": "u000002"},
    "nobody": {},
}


def people(events: pd.DataFrame) -> dict[str, str]:
    """Users for the plants: some who did something on the last day, and some who did not."""
    days = events[events["user_id"] != "u000002"].groupby("user_id")["event_time"].agg(["max", "size"])
    days = days[days["size"].between(6, 40)]  # the model reads all of them
    active, idle = (days.index[(days["max"] >= LAST_DAY) == late] for late in (True, False))
    names = ("less", "behind", "trait", "late", "unseen")
    return dict(zip((*names, "active"), [*idle[: len(names)], active[0]], strict=True))


def changed(profile: Profile, **changes: object) -> None:
    """Write another profile of a user into the store."""
    store = connect(DATASET, read_settings(), writing=True)
    store.erase([profile.user_id])
    store.upsert([replace(profile, **changes)])
    store.close()


def plant(of: dict[str, str]) -> None:
    """What three stores of three users got wrong, and one event that is not known yet."""
    known = OfflineUsers.load(list(of.values()), chosen(Path()).online)
    assert known is not None
    less, behind, trait, unseen = (known.profile(of[name], LATEST_US) for name in ("less", "behind", "trait", "unseen"))
    changed(less, events=[*less.events[:2], *less.events[3:]])
    changed(behind, events=behind.events[:-1], feature_time_us=max(event.known_us for event in behind.events[:-1]))
    plan = trait.traits["plan"]
    changed(trait, traits={**trait.traits, "plan": plan._replace(value=f"not {plan.value}")})
    first, *others = unseen.events
    changed(unseen, events=[first._replace(known_us=LATE.value // 1000), *others], feature_time_us=LATE.value // 1000)


def ask(running: Edge, worker: Worker, of: dict[str, str], phase: str, k: int) -> None:
    """Send a request of each user to a worker that reads trends again. Another k avoids the cached answer."""
    one = worker.recommender
    one.trends = LiveTrends(one.artifact.trends, one.vocabulary, one.model.channels)
    for name, user in of.items():
        running.ask({"user_id": user, "k": k, "request_id": f"{phase}-{name}"})


def other_trends() -> None:
    """Let the store hold the trends of another day, as if they were the newest."""
    features = load_features("out/features/test")
    other, newest = (
        materialization.trends_at(features, moment) for moment in (features.cut_us, features.description["until_us"])
    )
    connect(DATASET, read_settings(), writing=True).write_trends(replace(other, time_us=newest.time_us))


@contextmanager
def skewed(pipeline: Path, folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The platform's folder, and the users by name."""
    with platform(pipeline, folder), edge(folder) as (running, worker):
        of = people(pd.read_parquet(EVENTS))
        ask(running, worker, of, "clean", 5)
        for name, body in ALONE.items():
            running.ask(body | {"request_id": f"alone-{name}"})
        plant(of)
        ask(running, worker, of, "planted", 6)
        other_trends()
        ask(running, worker, of, "other-trends", 7)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TIDEGATE_STORE", f"sqlite:///{folder}/yesterday.db")
            assert materialize.main(["--until", LAST_DAY]) == 0
            worker.recommender.lookup = StoreLookup(lambda: connect(DATASET, read_settings()))
            ask(running, worker, of, "yesterday", 8)
            patch.setenv("TIDEGATE_STORE", f"sqlite:///{folder}/none.db")
            worker.recommender.lookup = StoreLookup.from_environment(DATASET, lambda outcome: None)
            ask(running, worker, of, "absent", 9)
        worker.stop()
        running.service.pipeline.fallback.popular = None
        running.ask({"k": 8, "request_id": "alone-static"})
        running.service.served_log.flush()
        yield folder, of


def measured(here: Path, phase: str, *arguments: str, status: int = 1) -> dict:
    """The record of the answers of a phase."""
    lines = [one for one in log(here).read_text(encoding="utf-8").splitlines(True) if f'"request_id":"{phase}-' in one]
    (here / "of/served").mkdir(parents=True, exist_ok=True)
    (here / "of/served/served-x.jsonl").write_text("".join(lines), encoding="utf-8")
    if (here / "edge/requests").exists() and not (here / "of/requests").exists():
        (here / "of/requests").symlink_to(here / "edge/requests")
    assert skew.main(["--served", "of/served", *arguments]) == status
    return json.loads((here / "out/experiments/skew.json").read_text(encoding="utf-8"))


def differing(record: dict) -> dict[tuple[str, str], str]:
    """(user, group) -> what and why."""
    return {
        (row["request_id"].rpartition("-")[2], row["group"]): f"{row['what']}: {row['why']}"
        for row in record["differences"]
    }
