"""Raw events become typed ones, and each row that cannot is named with its reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from config import params
from data.columns import (
    EVENT_ID,
    EVENT_TIME,
    EVENT_TYPE,
    GENRES,
    ITEM,
    KNOWN_TIME,
    SESSION,
    TITLE,
    TRAINING_CONSENT,
    USER,
    VALUE,
)
from data.errors import DataError
from data.fingerprint import event_ids
from data.readers.raw import as_text
from data.schema import Events, Items, Users, blank, faults
from data.time_columns import microseconds, read_times

DEFAULT_TYPE = "interaction"
UNREADABLE_TIME = "is not a time"
UNREADABLE_NUMBER = "is not a number"


def type_events(raw: pd.DataFrame, time_unit: str, context: Sequence[str]) -> tuple[pd.DataFrame, pd.Series]:
    """Give every column its type.

    Returns:
        The typed events (every column of the schema, and those of `context` that the source has), and why
        rows cannot be used: index of the row -> reason.
    """
    typed = pd.DataFrame(index=raw.index)
    for name in (EVENT_ID, USER, ITEM, SESSION):
        typed[name] = _text(raw, name)
    typed[EVENT_TIME] = _times(raw, EVENT_TIME, time_unit)
    typed[KNOWN_TIME] = _times(raw, KNOWN_TIME, time_unit)
    typed[EVENT_TYPE] = _text(raw, EVENT_TYPE).fillna(DEFAULT_TYPE)
    typed[VALUE] = pd.to_numeric(_filled(raw, VALUE), errors="coerce").astype("float64")
    reasons = _unreadable(raw, typed)
    # Silence about when it was known means: as it happened. An unreadable one is already named above.
    typed[KNOWN_TIME] = typed[KNOWN_TIME].fillna(typed[EVENT_TIME])
    for name in context:
        if name in raw.columns and name not in typed.columns:
            typed[name] = raw[name]
    broken = faults(typed, Events)
    return typed, pd.concat([reasons, broken[~broken.index.isin(reasons.index)]]).sort_index()


def quarantined(raw: pd.DataFrame, reasons: pd.Series, table: str) -> pd.DataFrame:
    """The rows left out: table, source_row, raw (the row as JSON), reason."""
    rows = raw.loc[reasons.index].astype(object)
    rows = rows.where(rows.notna(), None)
    texts = [json.dumps(row, default=str, ensure_ascii=False) for row in rows.to_dict("records")]
    return pd.DataFrame(
        {
            "table": table,
            "source_row": reasons.index.astype("int64"),
            "raw": texts,
            "reason": reasons.to_numpy(),
        }
    )


def refuse_if_none_left(raw: pd.DataFrame, reasons: pd.Series, broken: int) -> None:
    """Raise a DataError with the commonest reason where no row can be used."""
    total = len(raw) + broken
    if len(reasons) < len(raw):
        return
    if reasons.empty:
        raise DataError(f"ingest: none of {total} rows could be taken apart into fields")
    reason, count = reasons.value_counts().index[0], int(reasons.value_counts().iloc[0])
    column, _, fault = reason.partition(" ")
    first = raw.loc[reasons.index[reasons == reason][0], column] if column in raw.columns else None
    plain = first.item() if isinstance(first, np.generic) else first
    shown = f"; first: {plain!r}" if plain is not None and not pd.isna(plain) else ""
    verb = {UNREADABLE_TIME: "read as a time", UNREADABLE_NUMBER: "read as a number"}.get(fault)
    if verb and count == total:
        raise DataError(f"ingest: {column}: none of {total} rows could be {verb}{shown}")
    raise DataError(f"ingest: {column}: none of {total} rows could be used; {count} times it {fault}{shown}")


def _text(raw: pd.DataFrame, name: str) -> pd.Series:
    return as_text(_filled(raw, name))


def _times(raw: pd.DataFrame, name: str, unit: str) -> pd.Series:
    return read_times(_filled(raw, name), unit)


def _filled(raw: pd.DataFrame, name: str) -> pd.Series:
    """The column with blank cells as null; all null where the source lacks it."""
    if name not in raw.columns:
        return pd.Series(None, index=raw.index, dtype=object)
    values = raw[name]
    if values.dtype != object and not isinstance(values.dtype, pd.StringDtype):
        return values
    return values.where(values.notna() & ~blank(values), None)


def _unreadable(raw: pd.DataFrame, typed: pd.DataFrame) -> pd.Series:
    """Cells that hold something, but not what their column wants."""
    reasons = pd.Series(dtype=object)
    for name, says in (
        (EVENT_TIME, UNREADABLE_TIME),
        (KNOWN_TIME, UNREADABLE_TIME),
        (VALUE, UNREADABLE_NUMBER),
    ):
        wrong = typed.index[typed[name].isna() & _filled(raw, name).notna()].difference(reasons.index)
        reasons = pd.concat([reasons, pd.Series(f"{name} {says}", index=wrong, dtype=object)])
    return reasons


_YES, _NO = {"true", "1", "1.0", "yes", "y", "t"}, {"false", "0", "0.0", "no", "n", "f"}


def consenting(users: pd.DataFrame | None) -> set[str] | None:
    """Users who agreed that their events train models; None where the source does not ask.

    Only a yes is consent: an empty cell is none, nor is a yes beside a no.

    Raises:
        DataError: a value that is neither yes nor no.
    """
    if users is None or TRAINING_CONSENT not in users.columns:
        return None
    answers = users[TRAINING_CONSENT]
    text = answers.astype("string").str.strip().str.lower().fillna("")
    unclear = ~text.isin(_YES | _NO | {""})
    if unclear.any():
        raise DataError(
            f"users: {TRAINING_CONSENT} is {answers[unclear].iloc[0]!r} for user "
            f"{users[USER][unclear].iloc[0]!r}; expected true or false"
        )
    return set(users[USER][text.isin(_YES)]) - set(users[USER][~text.isin(_YES)])


def with_consent(events: pd.DataFrame, users: pd.DataFrame | None, counts: dict[str, Any]) -> pd.DataFrame:
    """Events of users who agreed, or all where the source does not ask; adds to `counts`."""
    agreed = consenting(users)
    allowed = pd.Series(True, index=events.index) if agreed is None else events[USER].isin(agreed)
    counts["without_consent"] = int((~allowed).sum())
    counts["users_without_consent"] = int(events[USER][~allowed].nunique())
    if not allowed.any():
        raise DataError(f"ingest: none of {len(events)} events is of a user whose {TRAINING_CONSENT} is true")
    return events[allowed]


def positives(events: pd.DataFrame, settings: params.Ingest, counts: dict[str, Any]) -> pd.DataFrame:
    """Events of the wanted types and of at least the wanted value; adds to `counts`."""
    wanted = pd.Series(True, index=events.index)
    if settings.event_types is not None:
        wanted = events[EVENT_TYPE].isin(settings.event_types)
        if not wanted.any():
            sizes = events[EVENT_TYPE].value_counts().items()
            types = ", ".join(f"{name} ({count})" for name, count in sizes)
            raise DataError(
                f"ingest.event_types is {settings.event_types}; none of {len(events)} events is "
                f"one; the source holds: {types}; null takes all"
            )
    counts["other_event_types"] = int((~wanted).sum())
    events = events[wanted]
    high = pd.Series(True, index=events.index)
    if settings.min_value is not None:
        high = events[VALUE] >= settings.min_value
    if not high.any():
        raise DataError(
            f"ingest.min_value is {settings.min_value}; none of {len(events)} events reaches it; "
            f"the greatest value is {events[VALUE].max()}"
        )
    counts["below_min_value"] = int((~high).sum())
    return events[high]


TAKEN = "event_id is taken by another event"


def with_ids(events: pd.DataFrame) -> pd.DataFrame:
    """Events that have no id get one from their content (`data.event_id`)."""
    missing = events[EVENT_ID].isna()
    if not missing.any():
        return events
    ids = events[EVENT_ID].copy()
    ids[missing] = event_ids(events[missing])
    return events.assign(**{EVENT_ID: ids})


def total_order(events: pd.DataFrame) -> pd.DataFrame:
    """Events by (event_time, event_id); further columns decide among rows that share an id.

    So the order rests on content alone, never on the order of the source's rows.
    """
    rest = [KNOWN_TIME, USER, ITEM, EVENT_TYPE]
    others = sorted(set(events.columns) - {EVENT_TIME, EVENT_ID, *rest})
    if _in_order(events):
        return events
    keys = [EVENT_TIME, EVENT_ID, *rest, *others]
    table = pa.Table.from_pandas(events[keys], preserve_index=False)  # Arrow sorts text 5 times as fast
    return events.iloc[pc.sort_indices(table, sort_keys=[(name, "ascending") for name in keys]).to_numpy()]


def drop_duplicates(events: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Of events with one id, keep the first in the total order.

    Returns:
        The events, and the rows whose id another event bears already: index -> reason. These are no
        duplicates, since user, item, time or type differ.
    """
    extra = events[EVENT_ID].duplicated()
    what = [EVENT_ID, USER, ITEM, EVENT_TIME, EVENT_TYPE]
    other = extra & ~events.duplicated(what)
    reasons = pd.Series(TAKEN, index=events.index[other], dtype=object)
    return events[~extra], reasons


def resolve_repeats(events: pd.DataFrame, rule: str) -> pd.DataFrame:
    """Keep the first or the last event of each (user, item) pair, or all of them.

    Returns:
        Events in total order. At equal times the smallest event_id is the first, the largest the last.
    """
    ordered = total_order(events)
    if rule == "all":
        return ordered
    if rule not in ("first", "last"):
        raise DataError(f"ingest.repeats is {rule!r}; expected first, last or all")
    return ordered.drop_duplicates([USER, ITEM], keep=rule)


def _in_order(events: pd.DataFrame) -> bool:
    """Whether every event comes strictly after the one above it."""
    times, ids = microseconds(events[EVENT_TIME]).to_numpy(), events[EVENT_ID].to_numpy()
    steps = np.diff(times)
    tied = np.flatnonzero(steps == 0)
    return bool((steps >= 0).all() and (ids[tied] < ids[tied + 1]).all())


def clean_side(table: pd.DataFrame | None, key: str) -> tuple[pd.DataFrame | None, pd.DataFrame]:
    """A side table without rows that have no id, or an id that stands there already."""
    if table is None:
        return None, quarantined(pd.DataFrame(), pd.Series(dtype=object), "")
    # By content, so that which of two rows of one id stays does not rest on their order in the file.
    order = table.astype("string").sort_values([key, *sorted(set(table.columns) - {key})]).index
    table = table.loc[order]
    reasons = faults(table, Users if key == USER else Items)
    return table.drop(index=reasons.index), quarantined(table, reasons, "users" if key == USER else "items")


def users_of(events: pd.DataFrame, known: pd.DataFrame | None) -> pd.DataFrame:
    """One row per user of the events, with what is known of them."""
    users = pd.DataFrame({USER: sorted(events[USER].unique())})
    if known is None:
        return users
    # After this stage everybody consents, so the column would be a trait that says nothing.
    return users.merge(known.drop(columns=TRAINING_CONSENT, errors="ignore"), on=USER, how="left")


def items_of(events: pd.DataFrame, known: pd.DataFrame | None) -> pd.DataFrame:
    """One row per item of the events or the catalogue, with what is known of it; title and genres always."""
    items = pd.DataFrame({ITEM: events[ITEM].unique()})
    if known is not None:
        items = items.merge(known, on=ITEM, how="outer")
    for name in (GENRES, TITLE):
        if name not in items.columns:
            items.insert(1, name, pd.Series(None, index=items.index, dtype=object))
    return items.sort_values(ITEM, ignore_index=True)
