"""A profile as bytes: magic and format, checksum, then JSON by columns (which decodes without an object per event)."""

from __future__ import annotations

import json
from itertools import accumulate, pairwise
from operator import sub
from zlib import crc32

import orjson

from features.online.errors import NewerRecord, RecordError
from features.online.profile import Columns, Profile, Stated

MAGIC, FORMAT = b"TGP", 1
HEAD = 8  # magic 3, format 1, checksum 4


def encode(profile: Profile) -> bytes:
    """The same profile gives the same bytes, whatever the order in which its traits were learned."""
    times, ids, known, items, types = map(list, zip(*profile.events, strict=True)) if profile.events else ([],) * 5
    names = sorted(set(types))
    body = {
        "user": profile.user_id,
        "times": times[:1] + [later - earlier for earlier, later in pairwise(times)],
        "ids": ids,
        "lags": list(map(sub, known, times)),
        "items": items,
        "types": names,
        "type": [names.index(name) for name in types],
        "traits": dict(sorted(profile.traits.items())),
        "consent": dict(sorted(profile.consent.items())),
        "feature_time": profile.feature_time_us,
        "truncated": profile.truncated,
    }
    return seal(MAGIC, FORMAT, json.dumps(body, allow_nan=False, separators=(",", ":")).encode())


def decode(raw: bytes, user_id: str) -> Profile:
    """The profile in a record.

    Args:
        user_id: whose record it should be.

    Raises:
        NewerRecord: the format is not this code's.
        RecordError: the bytes are not what was written, or are another user's.
    """
    try:
        body = _parsed(unseal(MAGIC, FORMAT, raw))
        if body["user"] != user_id:
            raise RecordError(f"the record of user {user_id!r} is of user {body['user']!r}")
        times = list(accumulate(body["times"]))
        columns = times, body["ids"], body["lags"], body["items"]
        if {*map(len, columns)} != {len(body["type"])}:
            raise ValueError("its columns differ in length")
        events = Columns(*columns, body["types"], body["type"])
        return Profile(
            user_id,
            events,
            {name: Stated(*stated) for name, stated in body["traits"].items()},
            {name: Stated(*stated) for name, stated in body["consent"].items()},
            body["feature_time"],
            body["truncated"],
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"the record of user {user_id!r} is corrupt: {error!r}") from None


def _parsed(body: bytes) -> dict:
    try:
        return orjson.loads(body)
    except ValueError:  # half a surrogate pair in an id, which json alone reads
        return json.loads(body)


def seal(magic: bytes, form: int, body: bytes) -> bytes:
    """Put magic, format and checksum before a body."""
    return magic + bytes([form]) + crc32(body).to_bytes(4, "big") + body


def unseal(magic: bytes, form: int, raw: bytes) -> bytes:
    """The body, checked.

    Raises:
        NewerRecord, RecordError: as in `decode`.
    """
    if raw[:3] != magic or len(raw) < HEAD:
        raise RecordError(f"a record begins with {raw[:8]!r}; expected {magic!r}")
    if raw[3] != form:
        raise NewerRecord(f"a record is of format {raw[3]}; this code reads and writes {form}")
    body = raw[HEAD:]
    if crc32(body) != int.from_bytes(raw[4:HEAD], "big"):
        raise RecordError("a record's checksum does not fit its bytes")
    return body
