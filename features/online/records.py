"""How the online store keeps profiles, consent and item trends as bytes: magic, format, checksum, then the content.

Legend: N items, C channels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import sub
from zlib import crc32

import numpy as np
import orjson

from data.consent import Answer, ConsentRecord
from features.online.errors import NewerRecord, ProfileError, RecordError
from features.online.profile import EventColumns, Profile, TimedValue, check_consent
from features.trends import TrendLog, TrendSnapshot
from features.vocabulary import PAD, Vocabulary

PROFILE_MAGIC, PROFILE_FORMAT = b"TGP", 2  # format 1 held consent too
CONSENT_MAGIC, CONSENT_FORMAT = b"TGC", 1
TRENDS_MAGIC, TRENDS_FORMAT = b"TGT", 1
HEADER_BYTES = 8  # magic 3, format 1, checksum 4
STORED_DTYPE = np.dtype("<f4")


def encode_profile(profile: Profile) -> bytes:
    """Encode a profile without its consent. Equal profiles give equal bytes, in whatever order traits were learned.

    Events are stored by column, which decodes without creating an object per event.
    """
    times, ids, known, items, types = map(list, zip(*profile.events, strict=True)) if profile.events else ([],) * 5
    type_names = sorted(set(types))
    body = {
        "user": profile.user_id,
        "times": times[:1] + [later - earlier for earlier, later in pairwise(times)],
        "ids": ids,
        "lags": list(map(sub, known, times)),
        "items": items,
        "types": type_names,
        "type": [type_names.index(name) for name in types],
        "traits": dict(sorted(profile.traits.items())),
        "feature_time": profile.feature_time_us,
        "truncated": profile.truncated,
    }
    return _seal(PROFILE_MAGIC, PROFILE_FORMAT, json.dumps(body, allow_nan=False, separators=(",", ":")).encode())


def decode_profile(raw: bytes, user_id: str) -> Profile:
    """Decode the profile of `user_id`. Raises RecordError if it is damaged or of another user, or NewerRecord."""
    try:
        body = _parse_json(_unseal(PROFILE_MAGIC, PROFILE_FORMAT, raw))
        if body["user"] != user_id:
            raise RecordError("a profile record lies under the key of another user")
        columns = list(accumulate(body["times"])), body["ids"], body["lags"], body["items"]
        if {*map(len, columns)} != {len(body["type"])}:
            raise ValueError("its columns differ in length")
        return Profile(
            user_id,
            EventColumns(*columns, body["types"], body["type"]),
            {name: TimedValue(*value) for name, value in body["traits"].items()},
            _consent_of_format_1(body["consent"]) if raw[3] == 1 else None,
            body["feature_time"],
            body["truncated"],
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"a profile is corrupt: {error!r}") from None


def _consent_of_format_1(purposes: dict[str, list]) -> ConsentRecord:
    """Each value was [time, event id, known time, whether the person agreed]."""
    return ConsentRecord({name: Answer(value[3], value[0], "profile") for name, value in purposes.items()})


def encode_consent(record: ConsentRecord, user_id: str) -> bytes:
    """Encode a person's consent. Equal records give equal bytes."""
    body = {"user": user_id, "answers": dict(sorted(record.answers.items())), "lost": record.lost_us}
    return _seal(CONSENT_MAGIC, CONSENT_FORMAT, json.dumps(body, separators=(",", ":")).encode())


def decode_consent(raw: bytes, user_id: str) -> ConsentRecord:
    """Decode the consent of `user_id`. Raises RecordError if it is damaged or of another user, or NewerRecord."""
    try:
        body = _parse_json(_unseal(CONSENT_MAGIC, CONSENT_FORMAT, raw))
        if body["user"] != user_id:
            raise RecordError("a consent record lies under the key of another user")
        answers = {purpose: Answer(*value) for purpose, value in body["answers"].items()}
        check_consent(answers)
        return ConsentRecord(answers, int(body["lost"]))
    except (ValueError, KeyError, TypeError, AttributeError, ProfileError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"a consent record is corrupt: {error!r}") from None


def _parse_json(body: bytes) -> dict:
    try:
        return orjson.loads(body)
    except ValueError:  # half of a surrogate pair in an id, which only json reads
        return json.loads(body)


@dataclass(frozen=True)
class ItemTrends:
    """The trends of all items as of one moment, by item id, so that every model can use them.

    N ids without PAD, C channels as in `features.trends`, (N, C) float32 values, and the moment in microseconds.
    """

    item_ids: list[str]
    channels: list[str]
    values: np.ndarray
    time_us: int

    @classmethod
    def from_log(cls, log: TrendLog, vocabulary: Vocabulary, channels: Sequence[str], time_us: int) -> ItemTrends:
        """The log's trends as of a moment."""
        values = log.at(np.array([time_us]), channels)[0, PAD + 1 :]
        return cls(vocabulary.ids, list(channels), values, time_us)

    def snapshot(self, vocabulary: Vocabulary) -> TrendSnapshot:
        """The same trends in the rows of a model's vocabulary. Items without trends get 0."""
        values = np.zeros((len(vocabulary), len(self.channels)), dtype=np.float32)
        values[vocabulary.indices(self.item_ids)] = self.values
        values[PAD] = 0  # items outside the vocabulary were written there
        return TrendSnapshot(values, self.channels, self.time_us)

    def to_bytes(self) -> bytes:
        """A JSON line of names, then the values row by row."""
        names = {"time": self.time_us, "channels": self.channels, "items": self.item_ids}
        head = json.dumps(names, separators=(",", ":")).encode()
        return _seal(TRENDS_MAGIC, TRENDS_FORMAT, head + b"\n" + self.values.astype(STORED_DTYPE).tobytes())

    @classmethod
    def from_bytes(cls, raw: bytes) -> ItemTrends:
        """Decode trends. Raises NewerRecord or RecordError, as `decode_profile` does."""
        head, _, values = _unseal(TRENDS_MAGIC, TRENDS_FORMAT, raw).partition(b"\n")
        try:
            names = json.loads(head)
            shape = len(names["items"]), len(names["channels"])
            table = np.frombuffer(values, STORED_DTYPE).reshape(shape).astype(np.float32)
            return cls(names["items"], names["channels"], table, names["time"])
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"the record of item trends is corrupt: {error!r}") from None


def _seal(magic: bytes, version: int, body: bytes) -> bytes:
    return magic + bytes([version]) + crc32(body).to_bytes(4, "big") + body


def _unseal(magic: bytes, version: int, raw: bytes) -> bytes:
    if raw[:3] != magic or len(raw) < HEADER_BYTES:
        raise RecordError(f"a record begins with {raw[:8]!r}; expected {magic!r}")
    if not 1 <= raw[3] <= version:
        raise NewerRecord(f"a record is of format {raw[3]}; this code reads and writes {version}")
    body = raw[HEADER_BYTES:]
    if crc32(body) != int.from_bytes(raw[4:HEADER_BYTES], "big"):
        raise RecordError("a record's checksum does not match its content")
    return body
