"""A day of the simulator, sent by Segment's Python SDK, gives the dataset that the same events give as a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from collector_app import RunningCollector
from segment.analytics.client import Client

from config import params
from config.paths import ROOT
from data import ingest
from data.collect.schema import ANALYTICS
from data.collect.snapshot import write_snapshot
from data.collect.sqlite_log import SqliteLogReader
from data.columns import TRAINING_CONSENT
from data.consent import MODEL_TRAINING
from data.simulator.simulation import simulate
from data.tables import timestamps
from data.times import now_us

pytestmark = pytest.mark.slow

SIZES = {"users": 400, "items": 150, "events": 14_000, "days": 14, "start": datetime(2024, 1, 1, tzinfo=UTC)}


@pytest.fixture(scope="module")
def day() -> dict[str, pd.DataFrame]:
    """The events of one simulated day, its users, and the catalog."""
    simulation = simulate(params.load(ROOT / "params.yaml").simulate.model_copy(update=SIZES), seed=0)
    events = simulation.events[simulation.events["event_time"] >= "2024-01-14"]
    events = events.assign(device=events["device"].replace("web", "desktop"))  # a name of our schema
    users = simulation.users[simulation.users["user_id"].isin(events["user_id"])]
    return {"events": events, "users": users[sorted(users.columns)], "items": simulation.items}


def send(collector: RunningCollector, day: dict[str, pd.DataFrame]) -> None:
    """Send the users by `identify` and the events by `track`, as an application does."""
    client = Client(collector.key, host=collector.url, max_queue_size=100_000, thread=1)
    consent = {}
    for user in day["users"].to_dict("records"):
        answers = {ANALYTICS: True, MODEL_TRAINING: bool(user.pop(TRAINING_CONSENT))}
        consent[user["user_id"]] = {"categoryPreferences": answers}
        user_id = user.pop("user_id")
        client.identify(user_id, user, {"consent": consent[user_id]}, timestamp=user["joined"])
    for event in day["events"].to_dict("records"):
        context = {"device": {"type": event["device"]}, "sessionId": event["session_id"]}
        client.track(
            event["user_id"],
            event["event_type"],
            {"item_id": event["item_id"], "progress": event["value"]},
            context | {"consent": consent[event["user_id"]]},
            event["event_time"].to_pydatetime(),
            message_id=event["event_id"],
        )
    client.flush()
    client.join()


def test_a_simulated_day_sent_by_the_sdk_gives_the_dataset_of_the_same_events_as_a_file(
    day: dict[str, pd.DataFrame],
    collector: RunningCollector,
    params_file: Callable[..., Path],
    tmp_path: Path,
) -> None:
    send(collector, day)
    write_snapshot(SqliteLogReader(collector.settings.log_folder), collector.settings.partitions, now_us())

    # The file says when the platform learned of each event: when the collector did.
    known = {message.message_id: message.known_us for message in collector.logged()}
    learned = timestamps(day["events"]["event_id"].map(known).to_numpy())
    folder = tmp_path / "files"
    folder.mkdir()
    for name, table in (day | {"events": day["events"].assign(known_time=learned)}).items():
        table.to_parquet(folder / f"{name}.parquet", index=False)

    manifests = {}
    for name, settings in {
        "file": {"path": str(folder)},
        "collected": {"path": str(collector.settings.partitions), "items": str(folder / "items.parquet")},
    }.items():
        out = tmp_path / name
        assert ingest.main(["--params", str(params_file(**settings)), "--out", str(out)]) == 0
        manifests[name] = json.loads((out / "manifest.json").read_text(encoding="utf-8"))

    for table in ("events", "users", "items"):
        assert (tmp_path / "collected" / f"{table}.parquet").read_bytes() == (
            tmp_path / "file" / f"{table}.parquet"
        ).read_bytes(), table
    of_file, of_collected = manifests["file"], manifests["collected"]
    assert of_collected["dataset_hash"] == of_file["dataset_hash"]
    for count in ("rows_read", "events", "without_consent", "repeats_dropped", "quarantined"):
        assert of_collected["counts"][count] == of_file["counts"][count], count
    assert of_file["counts"]["rows_read"] == len(day["events"]) > 2_000
    assert of_file["counts"]["without_consent"] > 0
