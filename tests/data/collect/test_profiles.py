"""Users and items sent as rows: a verdict for each, durable, in the same event log, by keys that may."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from collector_app import RunningCollector
from pydantic import ValidationError

from data.collect.messages import MAX_EVENT_BYTES
from data.collect.rejected import replay
from data.collect.rejected_store import RejectedStore, Search
from data.collect.request import MAX_BATCH_BYTES, MAX_MESSAGES
from data.collect.schema import PURPOSES, Identify, Item
from data.times import from_iso

Upload = Callable[..., httpx.Response]
JSON_LINES, CSV, PARQUET = "application/x-ndjson", "text/csv; charset=utf-8", "application/vnd.apache.parquet"
PAST = "2026-01-02T03:04:05"
FILM = {"item_id": "film-1", "title": "Wings", "genres": ["Drama", "War"], "release_time": "1927-08-12", "stars": 5}


@pytest.fixture
def upload(collector: RunningCollector) -> Upload:
    """Send rows with a key that may send profiles; `rows` is a list of objects or the body."""
    key = collector.make_key("crm", profiles=True)
    collector.app.state.service.authenticator.reload(force=True)

    def send(path: str, rows: Any, content_type: str = JSON_LINES, **headers: str) -> httpx.Response:
        content = rows if isinstance(rows, bytes) else "\n".join(map(json.dumps, rows)).encode()
        return collector.post(path, key=key, content=content, headers={"Content-Type": content_type} | headers)

    return send


def to_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def to_parquet(columns: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    return content.getvalue()


def statuses(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [verdict["status"] for verdict in response.json()["results"]]


def test_users_become_identify_events_of_the_same_log(collector: RunningCollector, upload: Upload) -> None:
    response = upload("/v1/users", [{"user_id": "ann", "event_time": PAST, "plan": "free", "age": 41}, {"id": 7}])
    assert statuses(response) == ["accepted", "accepted"]
    first, second = collector.events()
    assert isinstance(first, Identify)
    assert (first.user_id, first.event_time, first.traits) == ("ann", from_iso(PAST), {"plan": "free", "age": 41})
    assert first.purposes == PURPOSES
    assert second.user_id == "7"
    assert second.event_time == collector.logged()[1].known_us
    assert {message.source for message in collector.logged()} == {"crm"}


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (json.dumps(FILM | {"event_time": PAST}).encode(), JSON_LINES),
        (to_csv([FILM | {"genres": "Drama|War", "event_time": PAST, "note": ""}]), CSV),
        (
            to_parquet(
                {
                    "id": ["film-1"],
                    "title": ["Wings"],
                    "genres": [["Drama", "War"]],
                    "release_time": pa.array([from_iso("1927-08-12") * 1000], pa.timestamp("ns")),
                    "event_time": pa.array([from_iso(PAST)], pa.timestamp("us", "UTC")),
                    "stars": [5],
                    "note": [float("nan")],
                }
            ),
            PARQUET,
        ),
    ],
    ids=["json", "csv", "parquet"],
)
def test_items_arrive_alike_from_each_format(
    collector: RunningCollector, upload: Upload, content: bytes, content_type: str
) -> None:
    assert statuses(upload("/v1/items", content, content_type)) == ["accepted"]
    (item,) = collector.events()
    assert isinstance(item, Item)
    assert (item.item_id, item.title, item.genres) == ("film-1", "Wings", ("Drama", "War"))
    assert (item.event_time, item.release_time) == (from_iso(PAST), from_iso("1927-08-12"))
    assert {name: int(value) for name, value in item.traits.items()} == {"stars": 5}
    assert item.user_id is None
    assert item.purposes == PURPOSES


def test_each_row_gets_its_own_verdict(collector: RunningCollector, upload: Upload) -> None:
    rows = [b'{"user_id": "a"}', b"not JSON", b'{"plan": "free"}', b"[1]", b"", b'{"id": "b", "event_time": "now"}']
    response = upload("/v1/users", b"\n".join(rows))
    assert statuses(response) == ["accepted", "rejected", "rejected", "rejected", "rejected"]
    assert [verdict.get("reason") for verdict in response.json()["results"]] == [None, *["schema"] * 3, "time"]
    lines = upload("/v1/users", b"user_id,plan\na,free\nb\n\nc,x,y\nd,pro\n", CSV)
    assert statuses(lines) == ["accepted", "rejected", "rejected", "accepted"]
    big = upload("/v1/items", [FILM | {"item_id": "big", "notes": "x" * MAX_EVENT_BYTES}, FILM])
    assert statuses(big) == ["rejected", "accepted"]
    wrong = upload("/v1/items", [{"title": "no id"}, FILM | {"release_time": "soon"}]).json()["results"]
    assert [verdict["field"] for verdict in wrong] == ["item_id", "release_time"]
    assert len(RejectedStore(collector.settings.home).search()) == 9


def test_a_row_with_a_time_is_stored_once_and_one_without_is_new_each_time(upload: Upload) -> None:
    timed, timeless = {"id": "a", "event_time": PAST, "plan": "free"}, {"id": "a", "plan": "free"}
    assert statuses(upload("/v1/users", [timed, timeless])) == ["accepted", "accepted"]
    assert statuses(upload("/v1/users", [timed, timeless])) == ["duplicate", "accepted"]
    assert statuses(upload("/v1/users", [timed | {"plan": "pro"}])) == ["accepted"]
    named = {"id": "a", "message_id": "row-1"}
    assert statuses(upload("/v1/users", [named, named])) == ["accepted", "duplicate"]


def test_a_rejected_row_is_replayed_as_what_it_was(collector: RunningCollector, upload: Upload) -> None:
    upload("/v1/items", [FILM | {"title": 7}])
    store = RejectedStore(collector.settings.home)
    assert replay(store, Search()) == (0, 1)
    fixed = store.search()[0].body.replace(b'"title":7', b'"title":"7"')
    with store._transaction() as database:  # in place of a fix of the schema
        database.execute("UPDATE bodies SET body = ?", [fixed])
    assert replay(store, Search()) == (1, 0)
    (item,) = collector.events()
    assert isinstance(item, Item)
    assert item.title == "7"


def test_other_keys_may_not_send_profiles_and_no_key_sends_items_as_events(collector: RunningCollector) -> None:
    response = collector.post("/v1/users", content=b'{"id": "a"}', headers={"Content-Type": JSON_LINES})
    assert (response.status_code, response.json()["field"]) == (403, "authorization")
    assert collector.client.post("/v1/items", content=b"{}").status_code == 401
    item = {"type": "item", "messageId": "m", "userId": "ann", "properties": {"item_id": "film-1"}}
    verdict = collector.send(item)["m"]
    assert (verdict["status"], verdict["message"]) == ("rejected", "items are sent to /v1/items")
    assert replay(RejectedStore(collector.settings.home), Search()) == (0, 1)
    assert collector.events() == []


def test_a_key_for_web_pages_cannot_send_profiles(collector: RunningCollector) -> None:
    with pytest.raises(ValidationError, match="make two keys"):
        collector.make_key("shop", profiles=True, origins=("https://shop.example",))


@pytest.mark.parametrize(
    ("content", "content_type", "status", "field"),
    [
        (b"{}", "application/json", 415, "content-type"),
        (b"PAR1 is not enough", PARQUET, 400, "body"),
        (b"user_id\n\xff\n", CSV, 400, "body"),
        (b"user_id,user_id\na,b\n", CSV, 400, "body"),
        (b"{}\n" * (MAX_MESSAGES + 1), JSON_LINES, 400, "body"),
        (b"user_id,x\na," + b"x" * MAX_BATCH_BYTES, CSV, 400, "body"),
        (to_parquet({"user_id": ["a"] * 2000, "x": ["x" * 1000] * 2000}), PARQUET, 400, "body"),
        (to_parquet({"user_id": ["a"], "x": ["x" * 10_000_000]}), PARQUET, 400, "body"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_whole(
    collector: RunningCollector, upload: Upload, content: bytes, content_type: str, status: int, field: str
) -> None:
    response = upload("/v1/users", content, content_type)
    assert (response.status_code, response.json()["field"]) == (status, field)
    assert collector.events() == []


def test_rows_may_be_compressed(upload: Upload) -> None:
    assert statuses(upload("/v1/users", gzip.compress(b'{"id": "a"}'), **{"Content-Encoding": "gzip"})) == ["accepted"]
