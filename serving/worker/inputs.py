"""What an answer was computed from, as digests: whoever reads the same again can tell that it is the same. Worker
side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson

from features.trends import TrendSnapshot
from serving.worker.person import Person
from serving.worker.request import Request

ONE = np.zeros(1, dtype=np.int64)  # a snapshot is of one moment, whichever is asked for
SIZE = 8  # bytes: they tell whether two readings are equal, and need not stand an attack
NOTHING = blake2b(b"{}", digest_size=SIZE).hexdigest()  # of no traits, as most people have


def of(request: Request, person: Person, trends: str) -> dict[str, str]:
    """{"history", "traits", "trends"}: of the person's items and times, of the traits with what the request states
    of them, and of the item trends.

    Args:
        trends: as `of_trends` gives it.
    """
    traits = {**person.traits, **request.context}
    return {
        "history": _digest([person.items, person.times]),
        "traits": _digest(traits) if traits else NOTHING,
        "trends": trends,
    }


def of_trends(snapshot: TrendSnapshot, channels: Sequence[str]) -> str:
    """Of the channels that a model reads, and of the moment that they are of; empty for one that reads none."""
    if not channels:
        return ""
    digest = blake2b(orjson.dumps([snapshot.time_us, list(channels)]), digest_size=SIZE)
    digest.update(snapshot.at(ONE, channels).tobytes())
    return digest.hexdigest()


def _digest(value: Any) -> str:
    try:
        written = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # half a surrogate pair, or a number beyond 64 bits
        written = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return blake2b(written, digest_size=SIZE).hexdigest()
