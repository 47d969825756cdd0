"""The trends of all items as of one moment, as the store holds them: by item id, so that every model can read them.

Legend: N items, C channels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from features.online.errors import RecordError
from features.online.profile_codec import seal, unseal
from features.trends import TrendLog, TrendSnapshot
from features.vocabulary import PAD, Vocabulary

MAGIC, FORMAT = b"TGT", 1
STORED = np.dtype("<f4")


@dataclass(frozen=True)
class ItemTrends:
    """Attributes:
    item_ids: N ids, PAD not among them.
    channels: C names, as in `features.trends`.
    values: (N, C) float32.
    time_us: the moment they are of.
    """

    item_ids: list[str]
    channels: list[str]
    values: np.ndarray
    time_us: int

    @classmethod
    def of(cls, log: TrendLog, vocabulary: Vocabulary, channels: Sequence[str], time_us: int) -> ItemTrends:
        """The log's trends as of a moment."""
        values = log.at(np.array([time_us]), channels)[0, PAD + 1 :]
        return cls(vocabulary.ids, list(channels), values, time_us)

    def snapshot(self, vocabulary: Vocabulary) -> TrendSnapshot:
        """The same trends by the rows of a model's vocabulary; an item that the store does not hold has none (0)."""
        values = np.zeros((len(vocabulary), len(self.channels)), dtype=np.float32)
        values[vocabulary.indices(self.item_ids)] = self.values
        values[PAD] = 0  # where items that the vocabulary does not hold went
        return TrendSnapshot(values, self.channels, self.time_us)

    def to_bytes(self) -> bytes:
        """A JSON line of names, then the values row by row."""
        about = {"time": self.time_us, "channels": self.channels, "items": self.item_ids}
        head = json.dumps(about, separators=(",", ":")).encode()
        return seal(MAGIC, FORMAT, head + b"\n" + self.values.astype(STORED).tobytes())

    @classmethod
    def from_bytes(cls, raw: bytes) -> ItemTrends:
        """Raises RecordError where the bytes are not what was written."""
        head, _, values = unseal(MAGIC, FORMAT, raw).partition(b"\n")
        try:
            about = json.loads(head)
            shape = len(about["items"]), len(about["channels"])
            table = np.frombuffer(values, STORED).reshape(shape).astype(np.float32)
            return cls(about["items"], about["channels"], table, about["time"])
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"the record of item trends is corrupt: {error!r}") from None
