"""An event log with events of chosen known times, and the daily partitions written from it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from data.collect.event_log import NewMessage, Outcome
from data.collect.partitions import Part
from data.collect.schema import PURPOSES, Event, Identify, Item, Play
from data.collect.snapshot import write_snapshot
from data.collect.sqlite_log import SqliteEventLog, SqliteLogReader
from data.columns import DAY, HOUR

START = 20_000 * DAY  # 2024-10-04


def play(event_id: str, hours: float = 0, **fields: object) -> Play:
    """A play `hours` after START."""
    about = {"user_id": "ann", "item_id": "film-1", "purposes": PURPOSES} | fields
    return Play(event_id=event_id, event_time=int(START + hours * HOUR), **about)


def identify(event_id: str, hours: float = 0, **fields: object) -> Identify:
    """What is known of a person from `hours` after START on."""
    about = {"user_id": "ann", "purposes": PURPOSES} | fields
    return Identify(event_id=event_id, event_time=int(START + hours * HOUR), **about)


def item(event_id: str, hours: float = 0, **fields: object) -> Item:
    """What the catalog says of an item from `hours` after START on."""
    about = {"item_id": "film-1", "purposes": PURPOSES} | fields
    return Item(event_id=event_id, event_time=int(START + hours * HOUR), **about)


class CollectedEvents:
    """A folder with an event log in `log` and its partitions in `events`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.partitions = folder, folder / "log", folder / "events"

    def add(self, hours: float, *messages: Event | list[Event]) -> None:
        """Store messages of one or several events that became known `hours` after START."""
        log = SqliteEventLog(self.log)
        new = []
        for message in messages:
            events = message if isinstance(message, list) else [message]
            content = msgspec.json.encode(events)
            new.append(NewMessage(events[0].event_id, content[:8].ljust(8), events[0].user_id or "", content))
        receipts = log.append(int(START + hours * HOUR), "web", new).result(30)
        log.close()
        assert {receipt.outcome for receipt in receipts} == {Outcome.STORED}

    def write(self, until_hours: float) -> list[Part]:
        """Write what became known until `until_hours` after START."""
        return write_snapshot(SqliteLogReader(self.log), self.partitions, int(START + until_hours * HOUR))
