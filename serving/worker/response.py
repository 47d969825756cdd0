"""Build a response, record what it was computed from, and compare it with the one recorded at export. Worker side."""

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
from serving.worker.fallback_level import FallbackLevel
from serving.worker.request import Request
from serving.worker.users import User

TOLERANCE = 1e-5  # of a score, relative to the larger of 1 and the score
DIGEST_BYTES = 8  # digests only tell whether two readings are equal; they need not resist an attack
NO_TRAITS = blake2b(b"{}", digest_size=DIGEST_BYTES).hexdigest()
FIRST_ROW = np.zeros(1, dtype=np.int64)


def build_response(
    request: Request,
    level: FallbackLevel,
    items: list[dict],
    feature_time_us: int,
    segments: Sequence[str],
    inputs: dict[str, str],
    common: dict,
) -> dict:
    """One response, with the fields that docs/endpoint.md lists.

    Args:
        items: {"item_id", "score", "title"}, best first.
        feature_time_us: time of the newest fact known about the user; 0 where nothing is.
        common: fields that all responses of a batch share.
    """
    return {
        "items": items,
        "source": level.name,
        "reason": level.reason,
        "time": to_iso(request.time_us),
        "feature_time": to_iso(feature_time_us) if feature_time_us else None,
        "segments": list(segments),
        "request_id": request.request_id,
        "inputs": inputs,
        **common,
    }


def input_digests(request: Request, user: User, trends_digest: str) -> dict[str, str]:
    """Digests of what a response was computed from: {"history", "traits", "trends"}.

    Equal digests mean equal inputs. Traits include the request's context.
    """
    traits = {**user.traits, **request.context}
    return {
        "history": _digest([user.items, user.times]),
        "traits": _digest(traits) if traits else NO_TRAITS,
        "trends": trends_digest,
    }


def digest_of_trends(snapshot: TrendSnapshot, channels: Sequence[str]) -> str:
    """Digest of the channels that a model reads and of their time; empty for a model that reads none."""
    if not channels:
        return ""
    digest = blake2b(orjson.dumps([snapshot.time_us, list(channels)]), digest_size=DIGEST_BYTES)
    digest.update(snapshot.at(FIRST_ROW, channels).tobytes())
    return digest.hexdigest()


def find_difference(expected: dict, response: dict) -> str | None:
    """How a response departs from the expected one in its items or scores; None if it does not.

    Another processor rounds differently. So items whose scores are equal up to rounding may change places, and one
    of them may replace another at the end of the list.
    """
    wanted, items = expected["items"], response["items"]
    if len(wanted) != len(items):
        return f"{len(items)} items, not {len(wanted)}"
    scores = {item["item_id"]: item["score"] for item in items}
    for one, other in zip(wanted, items, strict=True):
        score = scores.get(one["item_id"])
        if score is None and not _is_close(one["score"], items[-1]["score"]):
            first = [item["item_id"] for item in wanted[:5]]
            return f"{one['item_id']} is missing; the items are {list(scores)[:5]}, not {first}"
        if score is not None and not _is_close(one["score"], score):
            return f"{one['item_id']} scores {score}, not {one['score']}"
        if not _is_close(one["score"], other["score"]):
            return f"{other['item_id']} scores {other['score']}, where {one['item_id']} scored {one['score']}"
    return None


def describe_processor() -> str:
    """The processor class and numeric libraries: `x86_64 GenuineIntel AVX512, torch 2.13.0, numpy 2.4.6`.

    Scores are equal to the bit where this text is equal, and up to rounding elsewhere.
    """
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    vendor = re.search(
        r"^(?:vendor_id|CPU implementer)\s*:\s*(\S+)", about, re.MULTILINE
    )  # matrix libraries look at it
    parts = (platform.machine(), vendor[1] if vendor else "", torch.backends.cpu.get_cpu_capability())
    return f"{' '.join(filter(None, parts))}, torch {torch.__version__}, numpy {np.__version__}"


def _is_close(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE * max(1.0, abs(one))


def _digest(value: Any) -> str:
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # half a surrogate pair, or a number beyond 64 bits
        text = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return blake2b(text, digest_size=DIGEST_BYTES).hexdigest()
