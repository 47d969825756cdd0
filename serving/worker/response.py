"""An answer as clients get it. Worker side."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from data.times import to_iso
from features.trends import TrendSnapshot
from serving.worker.fallback import Rung
from serving.worker.request import Request
from serving.worker.users import Person


def dress(
    request: Request,
    rung: Rung,
    items: list[dict],
    feature_time_us: int,
    segments: Sequence[str],
    read: dict[str, str],
    about: dict,
) -> dict:
    """One answer; see the README for its fields.

    Args:
        items: {"item_id", "score", "title"}, best first.
        feature_time_us: of the newest thing known of whoever asks; 0 where nothing is.
        read: what it was computed from, as `serving.worker.response.of` gives it.
        about: what is the same in all answers of a batch: `trends_time`, `model_version`, `dataset_version`,
            `computed_on`.
    """
    return {
        "items": items,
        "rung": rung.name,
        "reason": rung.reason,
        "time": to_iso(request.time_us),
        "feature_time": to_iso(feature_time_us) if feature_time_us else None,
        "segments": list(segments),
        "request_id": request.request_id,
        "inputs": read,
        **about,
    }


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


TOLERANCE = 1e-5  # of a score, relative to the larger of 1 and the score


def difference(expected: dict, answer: dict) -> str | None:
    """How an answer departs from the golden one, in its items or their scores; None if it does not.

    Another processor rounds otherwise. So items whose scores are equal but for rounding may change places, and at the
    end of the list one of them may stand for the other.
    """
    wanted, got = expected["items"], answer["items"]
    if len(wanted) != len(got):
        return f"{len(got)} items, not {len(wanted)}"
    scores = {item["item_id"]: item["score"] for item in got}
    for one, other in zip(wanted, got, strict=True):
        if one["item_id"] not in scores and not _alike(one["score"], got[-1]["score"]):
            return f"{one['item_id']} is missing; the items are {list(scores)[:5]}, not {_ids(wanted)[:5]}"
        own = scores.get(one["item_id"], got[-1]["score"])
        if not _alike(one["score"], own):
            return f"{one['item_id']} scores {own}, not {one['score']}"
        if not _alike(one["score"], other["score"]):
            return f"{other['item_id']} scores {other['score']}, where {one['item_id']} scored {one['score']}"
    return None


def _alike(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE * max(1.0, abs(one))


def _ids(items: list[dict]) -> list[str]:
    return [item["item_id"] for item in items]


VENDOR = re.compile(r"^(?:vendor_id|CPU implementer)\s*:\s*(.+)$", re.MULTILINE)


def described() -> str:
    """Processor class and what was locked that computes: `x86_64 GenuineIntel AVX512, torch 2.13.0, numpy 2.4.6`."""
    cpu = " ".join(filter(None, (platform.machine(), _vendor(), torch.backends.cpu.get_cpu_capability())))
    return f"{cpu}, torch {torch.__version__}, numpy {np.__version__}"


def _vendor() -> str:
    """The maker of the processor, by which a matrix library chooses its way; empty where the system does not tell."""
    try:
        found = VENDOR.search(Path("/proc/cpuinfo").read_text())
    except OSError:
        return ""
    return found[1].strip() if found else ""
