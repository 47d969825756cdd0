"""Collected events become a dataset: with consent only, as of any moment, and from undamaged partitions only."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from collected_events import CollectedEvents, identify, item, play

from data import ingest
from data.collect.schema import ANALYTICS, Impression
from data.columns import DAY
from data.consent import MODEL_TRAINING
from data.files import DataError
from data.readers.sources import Source, detect_format
from data.times import from_iso

ReadFrom = Callable[..., Source]
Ingest = Callable[..., dict]


@pytest.fixture
def collected(tmp_path: Path) -> CollectedEvents:
    return CollectedEvents(tmp_path)


@pytest.fixture
def ingested(params_file: Callable[..., Path], collected: CollectedEvents, tmp_path: Path) -> Ingest:
    """Ingest the partitions with the given settings; the manifest."""

    def run(**settings: object) -> dict:
        path = params_file(**({"source": "events", "path": str(collected.partitions)} | settings))
        assert ingest.main(["--params", str(path), "--out", str(tmp_path / "ingest")]) == 0
        return json.loads((tmp_path / "ingest" / "manifest.json").read_text(encoding="utf-8"))

    return run


def test_events_are_read_under_our_names_and_the_user_is_the_account_or_else_the_anonymous_id(
    collected: CollectedEvents, read_from: ReadFrom
) -> None:
    both, stranger = {"anonymous_id": "x1"}, {"anonymous_id": "x2", "user_id": None}
    collected.add(1, play("a", progress=0.5, **both), play("b", 1, **stranger))
    collected.write(24)

    assert detect_format(collected.partitions) == "events"
    source = read_from(collected.partitions, ("device",))
    assert source.name == "events"
    assert source.events["user_id"].tolist() == ["ann", "x2"]
    assert source.events["value"].tolist()[0] == 0.5
    assert source.events["known_time"].tolist() == [pd.Timestamp("2024-10-04T01:00:00Z")] * 2
    assert list(source.events.index) == [1, 2]


def test_only_events_that_may_serve_training_enter_the_dataset_and_the_others_are_counted(
    collected: CollectedEvents, ingested: Ingest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collected.add(
        1,
        play("a"),
        play("b", user_id="bob", purposes=(ANALYTICS,)),
        play("c", user_id="cy", purposes=()),
        play("d", user_id="dan", item_id="film-2", purposes=(MODEL_TRAINING,)),
        identify("e", user_id="bob", traits={"plan": "free"}, purposes=(ANALYTICS,)),
        identify("f", traits={"plan": "paid"}),
    )
    collected.write(24)
    manifest = ingested()

    assert pd.read_parquet(tmp_path / "ingest/events.parquet")["event_id"].tolist() == ["a", "d"]
    users = pd.read_parquet(tmp_path / "ingest/users.parquet")
    assert users.to_dict("records") == [{"user_id": "ann", "plan": "paid"}, {"user_id": "dan", "plan": None}]
    assert manifest["counts"]["without_consent"] == manifest["counts"]["users_without_consent"] == 2
    assert "4 rows read, 2 kept, 2 without consent" in capsys.readouterr().out


def test_without_any_consent_ingest_ends_with_one_line(
    collected: CollectedEvents, params_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collected.add(1, play("a", purposes=()))
    collected.write(24)
    path = params_file(path=str(collected.partitions))

    assert ingest.main(["--params", str(path), "--out", str(tmp_path / "ingest")]) == 2
    assert capsys.readouterr().err == "error: ingest: none of 1 events has model_training among its purposes\n"


def test_a_dataset_as_of_a_moment_is_the_same_before_and_after_newer_events_came(
    collected: CollectedEvents, ingested: Ingest
) -> None:
    collected.add(1, play("a", 1), identify("b", 1, traits={"plan": "free"}))
    collected.add(20, play("c", 20, item_id="film-2"))
    collected.write(24)
    at_noon, at_midnight, all_then = (
        ingested(until=until) for until in ("2024-10-04T12:00:00Z", "2024-10-05T00:00:00Z", None)
    )

    collected.add(23, play("d", 2, item_id="film-3"))  # stored after the snapshot, although it came before
    collected.add(30, play("e", 2, item_id="film-4"), identify("f", 2, traits={"plan": "paid"}))
    collected.write(48)

    assert ingested(until="2024-10-04T12:00:00Z")["dataset_hash"] == at_noon["dataset_hash"]
    assert ingested(until="2024-10-05T00:00:00Z")["dataset_hash"] == at_midnight["dataset_hash"]
    assert at_midnight["dataset_hash"] == all_then["dataset_hash"] != ingested()["dataset_hash"]
    assert at_noon["counts"]["events"] == 1
    assert ingested()["counts"]["events"] == 4


def test_the_manifest_holds_the_positions_that_were_read(collected: CollectedEvents, ingested: Ingest) -> None:
    collected.add(1, play("a"), identify("b"))
    collected.add(25, play("c", 1, item_id="film-2"))
    collected.write(48)

    assert ingested()["source"]["positions"] == ["0:1 to 0:3"]
    assert ingested(until="2024-10-05T00:00:00Z")["source"] == {
        "name": "events",
        "files": [str(collected.partitions)],
        "positions": ["0:1 to 0:2"],
    }


def test_traits_are_the_latest_by_event_time_for_each_name(collected: CollectedEvents, read_from: ReadFrom) -> None:
    collected.add(1, play("a"), identify("b", 5, traits={"plan": "paid", "user_id": "eve", "consent_training": False}))
    collected.add(2, identify("c", 3, traits={"plan": "free", "age": 30}))
    collected.write(24)

    users = read_from(collected.partitions).users
    assert users is not None
    assert users.to_dict("records") == [{"user_id": "ann", "age": 30, "plan": "paid"}]


def test_items_are_what_the_catalog_said_last_of_each_attribute(
    collected: CollectedEvents, read_from: ReadFrom
) -> None:
    released = from_iso("1927-08-12")
    collected.add(1, play("a"), item("b", 5, title="Wings (1927)", traits={"stars": 4}))
    collected.add(2, item("c", 3, title="Wing", genres=("Drama", "War"), release_time=released, traits={"price": 2}))
    collected.write(24)
    collected.add(30, item("d", 30, title="Later", item_id="film-2"))
    collected.write(48)

    items = read_from(collected.partitions, until=datetime(2024, 10, 5, tzinfo=UTC)).items
    assert items is not None
    (row,) = items.to_dict("records")
    assert row.pop("release_time").isoformat() == "1927-08-12T00:00:00+00:00"
    assert row == {
        "item_id": "film-1", "title": "Wings (1927)", "genres": "Drama|War", "stars": 4, "price": 2, "year": 1927,
    }  # fmt: skip
    later = read_from(collected.partitions).items
    assert later is not None
    assert later["item_id"].tolist() == ["film-1", "film-2"]


def test_an_event_that_was_written_twice_counts_once(collected: CollectedEvents, ingested: Ingest) -> None:
    # Two collectors in front of Kafka may each accept it.
    collected.add(1, play("a"), [play("x"), play("a")])
    collected.write(24)

    assert (ingested()["counts"]["events"], ingested()["counts"]["duplicates"]) == (1, 1)


def test_an_event_ahead_of_the_clock_of_the_collector_counts_as_known_when_it_happened(
    collected: CollectedEvents, ingested: Ingest, tmp_path: Path
) -> None:
    collected.add(1, play("a", 1.08))
    collected.write(24)

    assert ingested()["counts"]["quarantined"] == 0
    (event,) = pd.read_parquet(tmp_path / "ingest/events.parquet").to_dict("records")
    assert event["known_time"] == event["event_time"] == pd.Timestamp("2024-10-04T01:04:48Z")


def test_impressions_are_no_interactions(collected: CollectedEvents, read_from: ReadFrom) -> None:
    shown = Impression(event_id="b", event_time=20_000 * DAY, user_id="ann", item_id="film-2", position=1)
    collected.add(1, play("a"), shown)
    collected.write(24)

    source = read_from(collected.partitions)
    assert source.events["event_id"].tolist() == ["a"]
    assert source.found["events"]["impressions"] == 1


def test_damage_and_settings_that_cannot_be_met_end_in_one_line(
    collected: CollectedEvents, read_from: ReadFrom, tmp_path: Path
) -> None:
    def refusal(path: Path, **settings: object) -> str:
        with pytest.raises(DataError) as error:
            read_from(path, **settings)
        assert "\n" not in str(error.value)
        return str(error.value)

    collected.partitions.mkdir()
    assert "holds no collected events; `make snapshot`" in refusal(collected.partitions, source="events")
    collected.add(1, play("a"))
    collected.write(24)
    ends = f"but {collected.partitions} ends at 2024-10-05T00:00:00Z; run `make snapshot`"
    assert refusal(collected.partitions, until="2024-10-06T00:00:00Z").endswith(ends)
    early = "holds no event about an item that became known before 2024-10-04T00:00:00Z"
    assert early in refusal(collected.partitions, until="2024-10-04T00:00:00Z")
    (tmp_path / "log.csv").write_text("user_id,item_id,event_time\nu,i,2024-01-01\n", encoding="utf-8")
    assert "applies to collected events only, not to table" in refusal(
        tmp_path / "log.csv", until="2024-10-05T00:00:00Z"
    )

    path = collected.partitions / "known_date=2024-10-04/events-1.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert f"{path} is damaged" in refusal(collected.partitions)
    path.unlink()
    assert f"{path} cannot be read: No such file or directory" in refusal(collected.partitions)
