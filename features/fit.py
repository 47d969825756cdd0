"""Fit features on what was known before a cut: item features, trait encoders, vocabulary, and the log of all events.

A cut is the valid or test cut, the end of all data, the start of a rolling window, or a subset of the events.

Legend: N items, V item features, F encoded columns, E events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import pandas as pd

from config import params
from config.paths import INGESTED, SPLIT
from data.columns import DESCRIPTION, EVENT_ID, EVENT_TIME, GENRES, ITEM, KNOWN_TIME, RELEASE_TIME, TITLE, USER
from data.files import read_json
from data.tables import microseconds, read_table, trait_columns
from features.encode import encode_values
from features.feature_files import Features, cut_time
from features.ragged import offsets_of
from features.sequences import InteractionLog
from features.trends import ALL, half_life_channel, window_channel
from features.vocabulary import Vocabulary

SECONDS_IN_YEAR = 365.25 * 24 * 3600


def fit_features(
    events: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    cut_us: int,
    settings: params.Featurize,
    seed: int,
) -> Features:
    """Fit everything that a model needs on what was known before `cut_us`.

    Returns:
        Features whose log holds all events. `description` lacks the origin of the data; see `describe_origin`.
    """
    time = microseconds(events[EVENT_TIME])
    past = events[(time < cut_us) & (microseconds(events[KNOWN_TIME]) <= cut_us)]
    vocabulary = Vocabulary(order_items(past))
    limits = settings.max_trait_values, settings.trait_buckets
    encoders = {
        "traits": fit_encoders(users[users[USER].isin(past[USER])], trait_columns(users), *limits),
        "context": fit_encoders(past, [column for column in settings.context if column in events], *limits),
    }
    catalog = items.set_index(ITEM).reindex(vocabulary.ids).rename_axis(ITEM).reset_index()
    item_features, widths = fit_item_features(catalog, settings.text_dimensions, seed)
    titles = catalog[TITLE] if TITLE in catalog else [None] * len(catalog)
    trends = settings.trends
    description = {
        "cut_us": cut_us,
        "num_items": len(vocabulary),
        "encoders": encoders,
        "trait_sizes": [encoder_size(encoder) for encoder in encoders["traits"]],
        "context_sizes": [encoder_size(encoder) for encoder in encoders["context"]],
        "content_widths": widths,
        "channels": [ALL, *map(window_channel, trends.windows_days), *map(half_life_channel, trends.half_lives_days)],
        "refresh_minutes": trends.refresh_minutes,
    }
    return Features(
        vocabulary=vocabulary,
        log=build_log(events, users, vocabulary, encoders),
        users=users[USER].tolist(),
        titles=[None if pd.isna(title) else str(title) for title in titles],
        item_features=item_features,
        description=description,
    )


def fit_cuts(cuts: Iterable[str], settings: params.Params) -> Iterator[tuple[str, Features]]:
    """Read the outputs of ingest and split, and yield the features of each cut: valid, test or full."""
    events, users, items, manifest = _read_stages()
    for cut in cuts:
        features = fit_features(events, users, items, cut_time(cut, manifest), settings.featurize, settings.seed)
        until_us = manifest["test_start_us"] if cut == "valid" else manifest["end_us"] + 1
        features.description |= describe_origin(manifest, settings.ingest.repeats, cut, until_us)
        yield cut, features


def _read_stages() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict]:
    """Events, users, items and the split's manifest."""
    manifest = read_json(SPLIT / "manifest.json", "python -m data.split")
    return (
        read_table(SPLIT / "events.parquet", "python -m data.split"),
        read_table(INGESTED / "users.parquet", "python -m data.ingest"),
        read_table(INGESTED / "items.parquet", "python -m data.ingest"),
        manifest,
    )


def describe_origin(manifest: dict, repeats: str, cut: str, until_us: int) -> dict:
    """The part of a description that names the data, its ids and the evaluation period after the cut."""
    origin = {key: manifest[key] for key in ("dataset", "dataset_hash", "split_id", "numeric_ids")}
    return origin | {"cut": cut, "repeats": repeats, "until_us": until_us, "horizon_days": manifest["horizon_days"]}


def order_items(events: pd.DataFrame) -> list[str]:
    """Item ids, most popular first. Ties are ordered by a hash of the users and times of the item's events.

    This order breaks ties between equal scores everywhere, so it must not depend on how items are named.
    """
    moments = pd.DataFrame({"user": events[USER], "time": microseconds(events[EVENT_TIME])})
    signature = pd.util.hash_pandas_object(moments, index=False).to_numpy()
    table = pd.DataFrame({ITEM: events[ITEM].to_numpy(), "signature": signature, "count": 1})
    totals = table.groupby(ITEM, as_index=False).sum()
    return totals.sort_values(["count", "signature", ITEM], ascending=[False, True, True])[ITEM].tolist()


def build_log(events: pd.DataFrame, users: pd.DataFrame, vocabulary: Vocabulary, encoders: dict) -> InteractionLog:
    """Encode all events, grouped by user in the order of `users`."""
    order, owner = _by_user(events, users)
    events = events.iloc[order]
    return InteractionLog(
        offsets=offsets_of(np.bincount(owner, minlength=len(users))),
        items=vocabulary.indices(events[ITEM]),
        times=microseconds(events[EVENT_TIME]),
        known=microseconds(events[KNOWN_TIME]),
        context=encode_columns(events, encoders["context"]),
        traits=encode_columns(users, encoders["traits"]),
    )


def _by_user(events: pd.DataFrame, users: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(E,) the order of events by user and then in total order, and (E,) their user rows in that order."""
    position = pd.Series(np.arange(len(users)), index=users[USER].to_numpy())
    owner = position.loc[events[USER]].to_numpy()
    order = np.lexsort([events[EVENT_ID].to_numpy().astype(str), microseconds(events[EVENT_TIME]), owner])
    return order, owner[order]


# Item features


def fit_item_features(items: pd.DataFrame, dimensions: int, seed: int) -> tuple[np.ndarray, dict[str, int]]:
    """(N, V) float32 features of genres, text and numbers, row 0 zero, and the width of each group of columns.

    Items are in vocabulary order. The text part is latent semantic analysis (Deerwester et al. 1990).
    """
    parts = {
        "genres": _genre_flags(items),
        "text": _text_vectors(items, dimensions, seed),
        "numbers": _scaled_numbers(items),
    }
    features = np.concatenate(list(parts.values()), axis=1).astype(np.float32)
    widths = {name: part.shape[1] for name, part in parts.items()}
    return np.concatenate([np.zeros((1, features.shape[1]), np.float32), features]), widths


def _genre_flags(items: pd.DataFrame) -> np.ndarray:
    if GENRES not in items:
        return np.zeros((len(items), 0))
    flags = items[GENRES].fillna("").astype(str).str.get_dummies("|")
    return flags[sorted(flags.columns)].to_numpy(dtype=float)


def _text_vectors(items: pd.DataFrame, dimensions: int, seed: int) -> np.ndarray:
    # Imported here since scikit-learn takes long to load, and callers of `build_log` do not need it.
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    nothing = np.zeros((len(items), 0))
    columns = [column for column in (TITLE, DESCRIPTION, GENRES) if column in items]
    texts = items[columns].fillna("").astype(str).agg(" ".join, axis=1) if columns else None
    if texts is None or dimensions == 0 or not texts.str.contains(r"\w\w", regex=True).any():
        return nothing
    try:
        terms = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(texts)
    except ValueError:  # no term occurs in two items
        return nothing
    width = min(dimensions, min(terms.shape) - 1)
    if width < 1:
        return nothing
    projected = TruncatedSVD(width, random_state=seed).fit_transform(terms)
    norms = np.linalg.norm(projected, axis=1, keepdims=True)
    return projected / np.where(norms > 0, norms, 1)


def _scaled_numbers(items: pd.DataFrame) -> np.ndarray:
    columns = {}
    for name in items.columns.difference([ITEM]):
        if name == RELEASE_TIME:
            seconds = pd.to_datetime(items[name], utc=True) - pd.Timestamp(0, tz="UTC")
            columns[name] = seconds.dt.total_seconds() / SECONDS_IN_YEAR
        elif pd.api.types.is_numeric_dtype(items[name]):
            columns[name] = items[name].astype(float)
    scaled = [((values - values.mean()) / (values.std() or 1)).fillna(0).clip(-5, 5) for values in columns.values()]
    return np.stack(scaled, axis=1) if scaled else np.zeros((len(items), 0))


# Encoders of user traits and request context


def fit_encoders(frame: pd.DataFrame, columns: list[str], max_values: int, buckets: int) -> list[dict]:
    """Fit one encoder per column: {"column", "values"} for text, {"column", "edges"} for numbers.

    Of a text column the `max_values` most frequent values are kept, others are encoded as unknown (0). A number falls
    into one of `buckets` quantile buckets.
    """
    return [_fit_encoder(frame[column].dropna(), max_values, buckets) for column in columns]


def _fit_encoder(values: pd.Series, max_values: int, buckets: int) -> dict:
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if numeric and values.nunique() > buckets:
        edges = np.unique(values.quantile(np.linspace(0, 1, buckets + 1)[1:-1]))
        return {"column": values.name, "edges": [float(edge) for edge in edges]}
    counts = values.astype(str).value_counts()
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return {"column": values.name, "values": [value for value, _ in ranked[:max_values]]}


def encode_columns(frame: pd.DataFrame, encoders: list[dict]) -> np.ndarray:
    """(rows, F) int64: the columns of a frame, encoded by the function that encodes one request."""
    encoded = np.zeros((len(frame), len(encoders)), dtype=np.int64)
    for position, encoder in enumerate(encoders):
        column = encoder["column"]
        codes, distinct = pd.factorize(frame[column])
        table = [encode_values({column: value}, [encoder])[0] for value in distinct]
        encoded[:, position] = np.append(table, 0)[codes]  # code -1 is a missing value
    return encoded


def encoder_size(encoder: dict) -> int:
    """Number of codes of a column, including 0 (unknown)."""
    return len(encoder["values"]) + 1 if "values" in encoder else len(encoder["edges"]) + 2


# Rolling windows and subsets


@dataclass(frozen=True)
class SplitTables:
    """Tables to fit features on in memory, without the test period: fitting here is not a look at the holdout.

    `events` are in the order of an InteractionLog of them.
    """

    events: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame
    manifest: dict

    @classmethod
    def before_test(cls, events: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame, manifest: dict) -> SplitTables:
        """Drop events of the test period, and sort the others by user and then in total order."""
        events = events[microseconds(events[EVENT_TIME]) < manifest["test_start_us"]]
        order, _ = _by_user(events, users)
        return cls(events.iloc[order].reset_index(drop=True), users, items, manifest)

    @classmethod
    def read(cls) -> SplitTables:
        """Read what ingest and split wrote."""
        return cls.before_test(*_read_stages())

    @property
    def times(self) -> np.ndarray:
        """(E,) microseconds of the events."""
        return microseconds(self.events[EVENT_TIME])


def rolling_windows(tables: SplitTables, count: int) -> list[tuple[int, int]]:
    """(start, stop) in microseconds of consecutive windows as long as the validation window, oldest first.

    The last one is the validation window. There are fewer than `count` if the past is too short: before each window
    there must be at least as many events as in it.
    """
    start, stop = tables.manifest["valid_start_us"], tables.manifest["test_start_us"]
    windows = [(start - back * (stop - start), stop - back * (stop - start)) for back in range(count)]
    return list(takewhile(lambda window: _enough_before(tables.times, *window), windows))[::-1]


def _enough_before(times: np.ndarray, start: int, stop: int) -> bool:
    before, inside = int((times < start).sum()), int(((times >= start) & (times < stop)).sum())
    return before >= inside > 0


def fit_window(
    tables: SplitTables, start_us: int, stop_us: int, settings: params.Params, cut: str = "valid"
) -> Features:
    """Fit features on what was known before `start_us`. Their log ends at `stop_us`.

    With the cut `valid` a fit chooses its hyperparameters in the window, with `test` it uses the given ones.
    """
    events = tables.events[tables.times < stop_us]
    return _fit(tables, events, start_us, stop_us, settings, cut)


def fit_subset(tables: SplitTables, kept: np.ndarray, settings: params.Params) -> tuple[Features, Features]:
    """Fit features on the events in the (E,) mask `kept`, regardless of their times.

    Returns features with a log of the subset, to learn and count trends from, and the same features with a log of all
    events, to read histories from. Row e of the second log is row e of `tables.events`.
    """
    stop = tables.manifest["test_start_us"]
    features = _fit(tables, tables.events[kept], stop, stop, settings, "test")
    log = build_log(tables.events, tables.users, features.vocabulary, features.description["encoders"])
    return features, replace(features, log=log)


def _fit(
    tables: SplitTables, events: pd.DataFrame, cut_us: int, until_us: int, settings: params.Params, cut: str
) -> Features:
    features = fit_features(events, tables.users, tables.items, cut_us, settings.featurize, settings.seed)
    features.description |= describe_origin(tables.manifest, settings.ingest.repeats, cut, until_us)
    return features
