"""What is known of an item besides who took it: genres, text, numbers, as one vector.

Everything learned (terms, projection, means) is learned from items seen before the cut.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from data.columns import DESCRIPTION, GENRES, ITEM, RELEASE_TIME, TITLE
from features.encode import trait_row

SECONDS_IN_YEAR = 365.25 * 24 * 3600


def item_features(items: pd.DataFrame, dimensions: int, seed: int) -> tuple[np.ndarray, dict[str, int]]:
    """(N, V) float32 features, row 0 zero, and how wide each group of columns is.

    Args:
        items: the catalogue in vocabulary order.
        dimensions: width of the text part (latent semantic analysis, Deerwester et al. 1990).
    """
    parts = {
        "genres": _genres(items),
        "text": _text(items, dimensions, seed),
        "numbers": _numbers(items),
    }
    features = np.concatenate(list(parts.values()), axis=1).astype(np.float32)
    widths = {name: part.shape[1] for name, part in parts.items()}
    return np.concatenate([np.zeros((1, features.shape[1]), np.float32), features]), widths


def _genres(items: pd.DataFrame) -> np.ndarray:
    if GENRES not in items:
        return np.zeros((len(items), 0))
    flags = items[GENRES].fillna("").astype(str).str.get_dummies("|")
    return flags[sorted(flags.columns)].to_numpy(dtype=float)


def _text(items: pd.DataFrame, dimensions: int, seed: int) -> np.ndarray:
    columns = [column for column in (TITLE, DESCRIPTION, GENRES) if column in items]
    texts = items[columns].fillna("").astype(str).agg(" ".join, axis=1) if columns else None
    if texts is None or dimensions == 0 or not texts.str.contains(r"\w\w", regex=True).any():
        return np.zeros((len(items), 0))
    try:
        terms = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(texts)
    except ValueError:  # no term occurs in two items: nothing that could generalise
        return np.zeros((len(items), 0))
    width = min(dimensions, min(terms.shape) - 1)
    if width < 1:
        return np.zeros((len(items), 0))
    projected = TruncatedSVD(width, random_state=seed).fit_transform(terms)
    norms = np.linalg.norm(projected, axis=1, keepdims=True)
    return projected / np.where(norms > 0, norms, 1)


def _numbers(items: pd.DataFrame) -> np.ndarray:
    columns = {}
    for name in items.columns.difference([ITEM]):
        if name == RELEASE_TIME:
            seconds = pd.to_datetime(items[name], utc=True) - pd.Timestamp(0, tz="UTC")
            columns[name] = seconds.dt.total_seconds() / SECONDS_IN_YEAR
        elif pd.api.types.is_numeric_dtype(items[name]):
            columns[name] = items[name].astype(float)
    scaled = [((values - values.mean()) / (values.std() or 1)).fillna(0).clip(-5, 5) for values in columns.values()]
    return np.stack(scaled, axis=1) if scaled else np.zeros((len(items), 0))


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
