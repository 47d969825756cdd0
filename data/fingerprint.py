"""Names that content gives itself: event ids and data set hashes (BLAKE2b, RFC 7693)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.api.types import is_bool_dtype, is_datetime64_any_dtype, is_numeric_dtype

from data.columns import EVENT_TIME, EVENT_TYPE, ITEM, USER
from data.event_id import event_id
from data.time_columns import microseconds


def event_ids(events: pd.DataFrame) -> list[str]:
    """`event_id` of each row."""
    columns = (events[USER], events[ITEM], microseconds(events[EVENT_TIME]), events[EVENT_TYPE])
    return [event_id(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def json_hash(value: Any) -> str:
    """Hash of a JSON value, whatever the order of its keys; 32 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def content_hash(tables: Mapping[str, pd.DataFrame]) -> str:
    """Hash of what tables hold: names, rows in their order, values, nulls. 32 hex digits.

    Column order, index, integer or float storage and the encoding of the files have no part in it.
    """
    digest = blake2b(digest_size=16)
    for name in sorted(tables):
        table = tables[name]
        digest.update(f"table {name} {len(table)}\n".encode())
        for column in sorted(table.columns):
            digest.update(f"column {column} ".encode())
            _add_column(digest, table[column])
    return digest.hexdigest()


def _add_column(digest, values: pd.Series) -> None:
    nulls = values.isna()
    digest.update(nulls.to_numpy().tobytes())
    if is_datetime64_any_dtype(values):
        digest.update(b"time " + microseconds(values.fillna(pd.Timestamp(0, tz="UTC"))).to_numpy().tobytes())
    elif is_numeric_dtype(values) and not is_bool_dtype(values):
        plain = values.astype("float64").fillna(0.0).to_numpy() + 0.0  # -0.0 becomes 0.0
        digest.update(b"number " + plain.tobytes())
    else:
        texts = pa.array(values.where(~nulls, "").astype(str), type=pa.large_string())
        digest.update(b"text " + pc.binary_length(texts).to_numpy().tobytes())
        digest.update("".join(texts.to_pylist()).encode())
