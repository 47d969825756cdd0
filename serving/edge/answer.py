"""An answer as bytes that are joined, not parsed: a cached one reaches its client without being read again."""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from serving.edge.errors import Garbled

RUNGS = ("personalised", "segment", "popular", "cached", "static")
FIELDS = (
    "items",
    "rung",
    "reason",
    "time",
    "trends_time",
    "feature_time",
    "model_version",
    "dataset_version",
    "segments",
)
TRACED = ("inputs", "computed_on")  # what a worker says for the served log alone; older ones do not
OWN_FIELDS = ("request_id", "experiment", "bucket", "cache")  # what the edge adds to each answer that it gives


class Answer(NamedTuple):
    """What every client who asks the same gets; both parts are JSON objects that still want their closing brace."""

    rung: str
    version: str  # of the model, empty where none is known
    body: bytes
    receipt: bytes  # the same for the served log: of the items ids and scores, and what a replay compares with

    def pack(self) -> bytes:
        return b"\n".join((self.rung.encode(), self.version.encode(), self.receipt, self.body))

    @classmethod
    def unpack(cls, packed: bytes) -> Answer:
        """Raises ValueError where the bytes are none of ours."""
        rung, version, receipt, body = packed.split(b"\n", 3)  # JSON as we write it holds no line breaks
        return cls(rung.decode(), version.decode(), body, receipt)


def seal(fields: dict[str, Any]) -> Answer:
    """The answer with these FIELDS."""
    told = {name: fields[name] for name in FIELDS}
    body = orjson.dumps(told)[:-1]
    listed = {
        "items": [item["item_id"] for item in told["items"]],
        "scores": [item.get("score") for item in told["items"]],
    }
    traced = {"digest": digest(body)} | {name: fields.get(name) for name in TRACED}
    return Answer(told["rung"], told["model_version"] or "", body, orjson.dumps(told | listed | traced)[:-1])


def digest(body: bytes) -> str:
    """Of an answer's shared part, by which a replay tells that it is the same to the byte."""
    return blake2b(body, digest_size=16).hexdigest()


def read(answer: Answer) -> dict[str, Any]:
    """The fields of a sealed answer."""
    return orjson.loads(answer.body + b"}")


def from_worker(body: bytes) -> dict[str, Any]:
    """The fields of TorchServe's answer.

    Raises:
        Garbled: it is not one.
    """
    try:
        fields = orjson.loads(body)
        sound = (
            all(name in fields for name in FIELDS)
            and fields["rung"] in RUNGS
            and isinstance(fields["reason"], str)
            and isinstance(fields["model_version"], str)
            and all(isinstance(item["item_id"], str) for item in fields["items"])
        )
    except (ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        raise Garbled("what TorchServe answered is no recommendation")
    return fields


def without(items: list[dict], unwanted: Collection[str], k: int) -> list[dict]:
    """The first k items that are not unwanted, in order."""
    if not unwanted:
        return items[:k]
    gone = frozenset(unwanted)
    return [item for item in items if item["item_id"] not in gone][:k]


def finish(answer: Answer, own: dict[str, Any]) -> bytes:
    """The body for one client: the shared part and OWN_FIELDS."""
    return answer.body + b"," + orjson.dumps(own)[1:]
