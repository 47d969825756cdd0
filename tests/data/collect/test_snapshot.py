"""The event log becomes daily partitions: each event once, in the day on which it became known, and never rewritten."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from collected_events import START, CollectedEvents, identify, item, play
from filelock import FileLock

from config.command import UserError
from config.paths import ROOT
from data.collect import snapshot
from data.collect.event_log import LogError, LoggedMessage, Position
from data.collect.partitions import CONTEXT, EVENTS, ITEMS, PEOPLE, SCHEMAS, events_at, read_parts
from data.collect.schema import MIN_TIME, RETENTION_DAYS, Alias, Context, Page, json_schema
from data.collect.snapshot import LOCK, write_snapshot
from data.columns import DAY, HOUR
from data.consent import MODEL_TRAINING
from data.files import DataError


@pytest.fixture
def collected(tmp_path: Path) -> CollectedEvents:
    return CollectedEvents(tmp_path)


def rows(collected: CollectedEvents, table: str = EVENTS) -> dict[str, list[dict]]:
    """File within the folder of partitions -> its rows."""
    found = sorted(collected.partitions.rglob(f"{table}-*.parquet"))
    return {str(path.relative_to(collected.partitions)): pq.read_table(path).to_pylist() for path in found}


def ids(collected: CollectedEvents) -> dict[str, list[str]]:
    return {name: [row["event_id"] for row in table] for name, table in rows(collected).items()}


def test_an_event_is_a_row_with_what_the_log_knows_of_it(collected: CollectedEvents) -> None:
    context = Context(device="phone", city="Berlin", campaign="spring")
    collected.add(2, play("a", 1, progress=0.75, session_id="s1", request_id="r1", position=3, context=context))
    collected.write(24)

    ((row,),) = rows(collected).values()
    assert {name: value for name, value in row.items() if value is not None} == {
        "event_id": "a",
        "user_id": "ann",
        "item_id": "film-1",
        "event_time": row["event_time"],
        "known_time": row["known_time"],
        "event_type": "play",
        "value": 0.75,
        "session_id": "s1",
        "request_id": "r1",
        "position": 3,
        "device": "phone",
        "purposes": "analytics|personalization|model_training",
        "source": "web",
        "receipt": "0:1",
    }
    assert row["event_time"].isoformat() == "2024-10-04T01:00:00+00:00"
    assert row["known_time"].isoformat() == "2024-10-04T02:00:00+00:00"


def test_events_about_people_are_in_a_table_of_their_own_and_pages_stay_in_the_log(collected: CollectedEvents) -> None:
    alias = Alias(event_id="b", event_time=START, user_id="ann", previous_id="anne")
    page = Page(event_id="c", event_time=START, user_id="ann")
    collected.add(1, identify("a", traits={"plan": "free", "age": 30}), alias, page)
    (part,) = collected.write(24)

    ((first, second),) = rows(collected, PEOPLE).values()
    assert (first["event_type"], first["traits"], first["receipt"]) == ("identify", '{"plan":"free","age":30}', "0:1")
    assert (second["event_type"], second["previous_id"], second["traits"]) == ("alias", "anne", None)
    assert (part.messages, part.not_included, list(part.files)) == (3, {"page": 1}, [PEOPLE])


def test_what_the_catalog_says_is_in_a_table_of_its_own(collected: CollectedEvents) -> None:
    first_year = MIN_TIME
    collected.add(1, item("i", title="Wings", genres=("Drama", "Sci|Fi"), release_time=first_year, traits={"stars": 5}))
    (part,) = collected.write(24)

    ((row,),) = rows(collected, ITEMS).values()
    assert (row["item_id"], row["title"], row["genres"], row["traits"]) == (
        "film-1", "Wings", "Drama|Sci/Fi", '{"stars":5}',
    )  # fmt: skip
    assert row["release_time"].year == 1
    assert part.not_included == {}


def test_context_holds_what_may_serve_training_as_long_as_the_event_is_kept() -> None:
    fields = json_schema()["$defs"]["Context"]["properties"]
    about = {name: next(one for one in field["anyOf"] if "x-purposes" in one) for name, field in fields.items()}
    allowed = {
        name
        for name, one in about.items()
        if MODEL_TRAINING in one["x-purposes"] and one["x-retention-days"] >= RETENTION_DAYS
    }
    assert set(CONTEXT) == allowed


def test_a_late_event_is_in_the_partition_of_the_day_on_which_it_became_known(collected: CollectedEvents) -> None:
    collected.add(1, play("on-time", 1))
    collected.write(24)
    collected.add(30, play("late", 2), play("next", 30))
    collected.write(48)

    assert ids(collected) == {
        "known_date=2024-10-04/events-1.parquet": ["on-time"],
        "known_date=2024-10-05/events-1.parquet": ["late", "next"],
    }


def test_a_day_is_written_in_parts_if_it_has_not_ended_and_no_file_changes(collected: CollectedEvents) -> None:
    collected.add(1, play("a"))
    collected.write(6)
    before = {path: path.read_bytes() for path in collected.partitions.rglob("*") if path.is_file()}
    assert collected.write(7) == []
    collected.add(8, play("b"))
    collected.write(24)

    assert ids(collected) == {
        "known_date=2024-10-04/events-1.parquet": ["a"],
        "known_date=2024-10-04/events-2.parquet": ["b"],
    }
    assert {path: path.read_bytes() for path in before} == before


def test_what_became_known_later_waits(collected: CollectedEvents) -> None:
    collected.add(1, play("a"))
    collected.add(25, play("b"))
    collected.write(24)

    assert ids(collected) == {"known_date=2024-10-04/events-1.parquet": ["a"]}


def test_a_message_that_was_stored_after_its_day_was_written_counts_as_known_then(collected: CollectedEvents) -> None:
    collected.add(1, play("a"))
    collected.add(30, play("b"))
    collected.write(24)
    collected.add(23, play("c"))  # its batch waited for the disk
    collected.write(48)

    (_, (b, c)) = rows(collected).values()
    assert (b["event_id"], c["event_id"]) == ("b", "c")
    assert b["known_time"] == c["known_time"]


class Messages:
    """A log of several partitions, as Kafka is: messages are (partition, offset, known hours, event)."""

    def __init__(self, *messages: tuple) -> None:
        self.messages = messages

    def read(self, after: dict[int, int] | None = None) -> Iterator[LoggedMessage]:
        for partition, offset, hours, event in self.messages:
            if offset > (after or {}).get(partition, -1):
                known_us = int(START + hours * HOUR)
                yield LoggedMessage(
                    Position(partition, offset), known_us, "web", event.event_id, msgspec.json.encode([event])
                )


def test_partitions_of_the_log_are_read_each_from_its_own_place(tmp_path: Path) -> None:
    first = [(0, 0, 1, play("a")), (1, 0, 2, play("b")), (0, 1, 25, play("c")), (1, 1, 3, play("d"))]
    second = [(1, 2, 26, play("e")), (0, 2, 27, play("f")), (2, 0, 4, play("g"))]
    (day,) = write_snapshot(Messages(*first), tmp_path / "events", START + DAY)
    later = write_snapshot(Messages(*first, *second), tmp_path / "events", START + 2 * DAY)

    assert {partition: (held.first, held.last) for partition, held in day.positions.items()} == {
        "0": (0, 0),
        "1": (0, 1),
    }
    assert [part.known_date for part in later] == ["2024-10-05"]
    assert ids(CollectedEvents(tmp_path)) == {
        "known_date=2024-10-04/events-1.parquet": ["a", "b", "d"],
        "known_date=2024-10-05/events-1.parquet": ["c", "e", "f", "g"],
    }


@pytest.mark.slow
def test_after_a_kill_at_any_step_every_event_is_there_once(collected: CollectedEvents, tmp_path: Path) -> None:
    for day in range(2):
        collected.add(24 * day + 1, play(f"p{day}"), identify(f"i{day}", traits={"plan": "free"}))
    command = [sys.executable, ROOT / "tests/support/killed_snapshot.py", collected.log, tmp_path / "killed"]
    done = subprocess.run(
        [*command, str(START + 2 * DAY)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    whole, *others = (CollectedEvents(folder) for folder in (tmp_path / "killed").iterdir())

    assert len(others) > 20, "it was killed before few steps"
    assert list(ids(whole).values()) == [["p0"], ["p1"]]
    assert [row["event_id"] for table in rows(whole, PEOPLE).values() for row in table] == ["i0", "i1"]
    for other in others:
        for table in (EVENTS, PEOPLE):
            assert rows(other, table) == rows(whole, table)
        assert read_parts(other.partitions) == read_parts(whole.partitions)
        assert sorted(path.name for path in other.folder.iterdir()) == ["events", LOCK]


def test_many_events_are_written_in_several_pieces(collected: CollectedEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "ROWS", 10)
    collected.add(1, *(play(f"e{number}") for number in range(35)))
    collected.write(24)

    assert list(ids(collected).values()) == [[f"e{number}" for number in range(35)]]


def test_a_position_leads_to_the_events_of_its_message(collected: CollectedEvents) -> None:
    collected.add(1, play("a"), [play("b"), play("b#2", item_id="film-2")])
    collected.write(24)

    assert events_at(collected.partitions, Position(0, 2)) == ["b", "b#2"]
    assert events_at(collected.partitions, Position(0, 3)) == []


def test_another_log_than_the_one_that_was_read_is_refused(collected: CollectedEvents, tmp_path: Path) -> None:
    collected.add(1, play("a"))
    collected.write(24)
    other = CollectedEvents(tmp_path / "other")
    other.add(25, play("x"), play("y"))
    other.partitions = collected.partitions

    with pytest.raises(LogError, match="holds another message at 0:1"):
        other.write(48)


def test_one_process_writes_at_a_time(collected: CollectedEvents) -> None:
    collected.add(1, play("a"))
    with FileLock(collected.folder / LOCK), pytest.raises(UserError, match="another process writes"):
        collected.write(24)


def test_a_damaged_part_ends_in_one_line(collected: CollectedEvents) -> None:
    collected.add(1, play("a"))
    collected.write(24)
    path = collected.partitions / "known_date=2024-10-04/part-1.json"
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")

    with pytest.raises(DataError, match=r"part-1\.json is damaged") as error:
        collected.write(48)
    assert "\n" not in str(error.value)


def test_the_command_writes_days_that_have_ended_and_today_on_request(
    collected: CollectedEvents, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEGATE_COLLECT_HOME", str(collected.folder))
    monkeypatch.setattr(snapshot, "now_us", lambda: START + DAY + 6 * HOUR)
    collected.add(1, play("a"))
    collected.add(25, play("b"), identify("c"))

    assert snapshot.main([]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2024-10-04 part 1: 1 events, 0 about people, from 1 messages at 0:1 to 0:1",
        f"-> {collected.partitions}",
    ]
    assert snapshot.main(["--today"]) == 0
    assert capsys.readouterr().out.startswith("2024-10-05 part 1: 1 events, 1 about people, from 2 messages")
    assert snapshot.main(["--today"]) == 0
    assert capsys.readouterr().out == f"nothing new for {collected.partitions}\n"


def test_the_tables_have_the_columns_of_their_schema(collected: CollectedEvents) -> None:
    collected.add(1, play("a"), identify("b"), item("c"))
    (part,) = collected.write(24)

    for table, schema in SCHEMAS.items():
        assert pq.read_schema(part.path(collected.partitions, table)) == schema
