"""Encoders of user traits and request context: which value is which row. Fitted before the cut."""

from __future__ import annotations

import numpy as np
import pandas as pd

from features.encode import trait_row


def fit(frame: pd.DataFrame, columns: list[str], max_values: int, buckets: int) -> list[dict]:
    """One encoder per column: {"column", "values"} for text, {"column", "edges"} for numbers.

    Args:
        frame: rows known before the cut, one per user (or per event, for context).
        columns: those to encode; all must be in the frame.
        max_values: commonest values kept of a text column; others read as unknown (0).
        buckets: quantile buckets of a number.
    """
    return [_fit_column(frame[column].dropna(), max_values, buckets) for column in columns]


def _fit_column(values: pd.Series, max_values: int, buckets: int) -> dict:
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if numeric and values.nunique() > buckets:
        edges = np.unique(values.quantile(np.linspace(0, 1, buckets + 1)[1:-1]))
        return {"column": values.name, "edges": [float(edge) for edge in edges]}
    counts = values.astype(str).value_counts()
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return {"column": values.name, "values": [value for value, _ in ranked[:max_values]]}


def encode(frame: pd.DataFrame, encoders: list[dict]) -> np.ndarray:
    """(rows, F) int64 of a frame, by the same function that reads one request."""
    encoded = np.zeros((len(frame), len(encoders)), dtype=np.int64)
    for position, encoder in enumerate(encoders):
        column = frame[encoder["column"]]
        codes, distinct = pd.factorize(column)
        table = [trait_row({encoder["column"]: value}, [encoder])[0] for value in distinct]
        encoded[:, position] = np.append(table, 0)[codes]  # code -1 is a missing value
    return encoded


def size(encoder: dict) -> int:
    """Rows that a column takes, 0 (unknown) included."""
    return len(encoder["values"]) + 1 if "values" in encoder else len(encoder["edges"]) + 2
