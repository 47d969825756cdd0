"""An answer as bytes to be joined: a cached one reaches its client without being parsed again."""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

SOURCES = ("personalized", "segment", "popular", "cached", "static")
FIELDS = (
    "items",
    "source",
    "reason",
    "time",
    "trends_time",
    "feature_time",
    "model_version",
    "dataset_version",
    "segments",
)
LOGGED_FIELDS = ("inputs", "computed_on")  # a worker sends these for the served log only
CLIENT_FIELDS = ("request_id", "experiment", "bucket", "cache")  # the edge adds these to every answer
# Of packed answers: releases whose answers have other fields do not read each other's. Count on when `pack` changes.
PACKED_FORMAT = "2-" + blake2b(",".join(FIELDS + LOGGED_FIELDS).encode(), digest_size=4).hexdigest()


class Answer(NamedTuple):
    """What every client with the same request gets. `body` and `log_entry` are JSON objects without the last brace."""

    source: str
    version: str  # of the model; empty where none is known
    body: bytes
    log_entry: bytes  # for the served log: ids and scores of the items, and what a replay compares with

    def pack(self) -> bytes:
        return b"\n".join((self.source.encode(), self.version.encode(), self.log_entry, self.body))

    @classmethod
    def unpack(cls, packed: bytes) -> Answer:
        """Raises ValueError where the bytes are no packed answer."""
        source, version, log_entry, body = packed.split(b"\n", 3)  # orjson writes no line breaks
        return cls(source.decode(), version.decode(), body, log_entry)


def build_answer(fields: dict[str, Any]) -> Answer:
    """The answer with these FIELDS."""
    public = {name: fields[name] for name in FIELDS}
    body = orjson.dumps(public)[:-1]
    items = public["items"]
    log_entry = {
        **public,
        "items": [item["item_id"] for item in items],
        "scores": [item.get("score") for item in items],
        "digest": digest(body),
        **{name: fields.get(name) for name in LOGGED_FIELDS},
    }
    return Answer(public["source"], public["model_version"] or "", body, orjson.dumps(log_entry)[:-1])


def digest(body: bytes) -> str:
    """A hash of an answer's body, by which a replay shows that its answer is identical."""
    return blake2b(body, digest_size=16).hexdigest()


def parse_answer(answer: Answer) -> dict[str, Any]:
    """The FIELDS of an answer."""
    return orjson.loads(answer.body + b"}")


def client_body(answer: Answer, client_fields: dict[str, Any]) -> bytes:
    """The response body for one client: the shared part and its CLIENT_FIELDS."""
    return answer.body + b"," + orjson.dumps(client_fields)[1:]


def log_line(answer: Answer, request_fields: dict[str, Any]) -> bytes:
    """The served log's line: the answer and what is known of its request."""
    return answer.log_entry + b"," + orjson.dumps(request_fields)[1:]


def first_items(items: list[dict], excluded: Collection[str], k: int) -> list[dict]:
    """The first k items that are not excluded, in order."""
    if not excluded:
        return items[:k]
    unwanted = frozenset(excluded)
    return [item for item in items if item["item_id"] not in unwanted][:k]
