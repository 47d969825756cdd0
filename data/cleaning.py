"""Clean a source: parse events, quarantine unusable rows, drop duplicates, apply consent and the rules of params.yaml.

Every result depends on the content of the rows only, never on their order in the source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc

from config import params
from data import columns
from data.columns import EVENT_COLUMNS, EVENT_ID, EVENT_TIME, EVENT_TYPE, ITEM, KNOWN_TIME, USER, VALUE, event_id
from data.consent import MODEL_TRAINING, NEVER_ASKED, Answer, ConsentRecord, Decision, decide, merge
from data.files import DataError
from data.id_columns import id_errors, match_ids, unify_ids
from data.outliers import find_outliers
from data.readers.combine import locate_rows
from data.readers.sources import Source
from data.readers.table import to_text
from data.tables import TIME_DTYPE, microseconds
from data.time_columns import EARLIEST, LATEST, TimeColumn, read_times
from data.times import now_us

YES, NO = {"true", "1", "1.0", "yes", "y", "t"}, {"false", "0", "0.0", "no", "n", "f"}


@dataclass(frozen=True)
class Ingested:
    """Clean tables; `counts` says where every row of the source went.

    `numeric_ids` names those of user_id and item_id that are numbers; see `data.ids`.
    """

    events: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame
    quarantine: pd.DataFrame
    counts: dict[str, Any]
    numeric_ids: list[str]
    time_formats: dict[str, str | None] = field(default_factory=dict)  # found in the time columns of the events


def clean(source: Source, settings: params.Ingest, context: Sequence[str] = ()) -> Ingested:
    """Clean a source, keeping the event columns of `context` too.

    Returns events in total order, positives only, repeats resolved; their users; the items of events and catalog.
    Raises DataError if no event is left, or if a setting names something that the source does not hold.
    """
    num_broken = int((source.broken["table"] == "events").sum())
    counts: dict[str, Any] = {"rows_read": len(source.events) + num_broken}
    ids = unify_ids(source)
    counts |= ids.counts
    times = read_event_times(source.events, settings, counts)
    parsed, reasons = parse_events(ids.events, times, context, ids.numeric)
    now = None if source.name == "simulator" else now_us()
    reasons = pd.concat([reasons, find_outliers(parsed.drop(index=reasons.index), settings.outliers, now)])
    require_usable_rows(source.events, reasons, num_broken)
    users, bad_users = clean_side_table(source.users, ids.users, "users", USER, ids.numeric)
    items, bad_items = clean_side_table(source.items, ids.items, "items", ITEM, ids.numeric)

    counts["side_duplicates"] = {
        name: len(raw) - len(table) - len(bad)
        for name, raw, table, bad in (
            ("users", source.users, users, bad_users),
            ("items", source.items, items, bad_items),
        )
        if raw is not None and table is not None
    }
    events = keep_consenting(parsed.drop(index=reasons.index), ids.users, counts)
    events = keep_positives(events, settings, counts)
    ordered = sort_events(fill_event_ids(events))
    unique, id_conflicts = drop_duplicates(ordered)
    counts["duplicates"] = len(ordered) - len(unique) - len(id_conflicts)
    resolved = resolve_repeats(unique, settings.repeats)
    counts["repeats_dropped"] = len(unique) - len(resolved)

    unusable = quarantine_rows(source.events, pd.concat([reasons, id_conflicts]), "events")
    quarantine = pd.concat([source.broken[unusable.columns], unusable, bad_users, bad_items])
    quarantine = quarantine.sort_values(["table", "source_row"], ignore_index=True)
    quarantine = locate_rows(quarantine, source.found)
    kept = list(dict.fromkeys([*EVENT_COLUMNS, *(name for name in context if name in resolved.columns)]))
    events = resolved[kept].reset_index(drop=True)
    tables = {"events": events, "users": complete_users(events, users), "items": complete_items(events, items)}
    sizes = quarantine.groupby(["table", "reason"]).size()
    counts |= {
        "quarantined": int((quarantine["table"] == "events").sum()),
        "quarantined_by_reason": {f"{table}: {reason}": int(size) for (table, reason), size in sizes.items()},
        **{name: len(table) for name, table in tables.items()},
    }
    formats = {name: column.found for name, column in times.items()}
    return Ingested(**tables, quarantine=quarantine, counts=counts, numeric_ids=ids.numeric, time_formats=formats)


# Schemas


def is_blank(values: pd.Series) -> pd.Series:
    """Which cells are text without a visible character. Looks at each distinct text once."""
    blanks = [text for text in values.unique() if isinstance(text, str) and not text.strip()]
    return values.isin(blanks) if blanks else pd.Series(False, index=values.index)


FILLED = pandera.Check(lambda ids: ~is_blank(ids), name="is blank")
UNIQUE = pandera.Check(lambda ids: ~ids.duplicated(), name="occurs twice")
IN_RANGE = pandera.Check(
    lambda times: (times >= EARLIEST) & (times < LATEST), name=f"is out of range ({EARLIEST:%Y} to {LATEST:%Y})"
)
FINITE = pandera.Check(lambda values: np.isfinite(values), name="is not finite")
KNOWN_AFTER_EVENT = pandera.Check(
    lambda events: ~(events[KNOWN_TIME] < events[EVENT_TIME]), name=f"{KNOWN_TIME} is before {EVENT_TIME}"
)
EVENT_SCHEMA = pandera.DataFrameSchema(  # further columns are free
    {
        USER: pandera.Column(str, FILLED),
        ITEM: pandera.Column(str, FILLED),
        EVENT_TIME: pandera.Column(TIME_DTYPE, IN_RANGE),
        KNOWN_TIME: pandera.Column(TIME_DTYPE, IN_RANGE),
        EVENT_TYPE: pandera.Column(str, FILLED),
        VALUE: pandera.Column(float, FINITE, nullable=True),
    },
    checks=KNOWN_AFTER_EVENT,
)


def find_errors(frame: pd.DataFrame, schema: pandera.DataFrameSchema) -> pd.Series:
    """Why rows break a schema: index of the broken rows -> reason, such as `event_time is blank`.

    A row with several errors gets the reason of its first column.
    """
    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        cases = errors.failure_cases
    else:
        return pd.Series(dtype=object)
    assert cases["index"].notna().all(), cases  # otherwise a column is missing or has the wrong type
    checks = cases["check"].replace({"not_nullable": "is blank"})
    whole_row = cases["schema_context"] == "DataFrameSchema"
    reasons = checks.where(whole_row, cases["column"].astype(str) + " " + checks).set_axis(cases["index"])
    rank = cases["column"].map({name: position for position, name in enumerate(frame.columns)})
    order = rank.where(~whole_row, len(frame.columns)).to_numpy().argsort(kind="stable")
    first = reasons.iloc[order]
    return first[~first.index.duplicated()]


# Parsing


def read_event_times(raw: pd.DataFrame, settings: params.Ingest, counts: dict[str, Any]) -> dict[str, TimeColumn]:
    """The time columns that the events have, event_time first. Adds to `counts`.

    A known time that is earlier than its event by no more than the clock skew is raised to it.
    Raises DataError if a column has no clear format.
    """
    written = settings.formats.events
    times = {
        name: read_times(_column(raw, name).rename(name), "events", written.time_format, written.timezone)
        for name in (EVENT_TIME, KNOWN_TIME)
        if name in raw.columns
    }
    counts["known_time_raised"] = 0
    if KNOWN_TIME in times:
        happened, known = times[EVENT_TIME].times, times[KNOWN_TIME].times
        skewed = (known < happened) & (happened - known <= pd.Timedelta(seconds=settings.clock_skew_seconds))
        times[KNOWN_TIME] = replace(times[KNOWN_TIME], times=known.mask(skewed, happened))
        counts["known_time_raised"] = int(skewed.sum())
    return times


def parse_events(
    raw: pd.DataFrame, times: Mapping[str, TimeColumn], context: Sequence[str], numeric_ids: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.Series]:
    """Give every column its type.

    Returns the typed events (every column of the schema, and those of `context` that the source has), and why rows are
    unusable: index of the row -> reason.
    """
    events = pd.DataFrame(index=raw.index)
    for name in (EVENT_ID, USER, ITEM, columns.SESSION):
        events[name] = to_text(_column(raw, name))
    for name in (EVENT_TIME, KNOWN_TIME):
        events[name] = times[name].times if name in times else pd.Series(pd.NaT, raw.index, TIME_DTYPE)
    events[EVENT_TYPE] = to_text(_column(raw, EVENT_TYPE)).fillna(columns.DEFAULT_EVENT_TYPE)
    events[VALUE] = pd.to_numeric(_column(raw, VALUE), errors="coerce").astype("float64")
    named = id_errors(events, (USER, ITEM, EVENT_ID, EVENT_TYPE), numeric_ids)
    reasons = _unreadable_cells(raw, events, times, named)
    # An event without a known time was known when it happened. Unreadable ones already have a reason.
    events[KNOWN_TIME] = events[KNOWN_TIME].fillna(events[EVENT_TIME])
    for name in (*context, columns.TRAINING_CONSENT):
        if name in raw.columns and name not in events.columns:
            events[name] = raw[name]
    errors = find_errors(events, EVENT_SCHEMA)
    return events, pd.concat([reasons, errors[~errors.index.isin(reasons.index)]]).sort_index()


def _column(raw: pd.DataFrame, name: str) -> pd.Series:
    """The column with blank cells as null; all null where the source lacks it."""
    if name not in raw.columns:
        return pd.Series(None, index=raw.index, dtype=object)
    values = raw[name]
    if values.dtype != object and not isinstance(values.dtype, pd.StringDtype):
        return values
    return values.where(values.notna() & ~is_blank(values), None)


def _unreadable_cells(
    raw: pd.DataFrame, events: pd.DataFrame, times: Mapping[str, TimeColumn], reasons: pd.Series
) -> pd.Series:
    """Adds to `reasons` those for cells that hold something, but not what their column needs."""
    wrong = events.index[events[VALUE].isna() & _column(raw, VALUE).notna()]
    values = pd.Series(f"{VALUE} is not a number", index=wrong, dtype=object)
    reasons = pd.concat([reasons, *(column.problems for column in times.values()), values])
    return reasons[~reasons.index.duplicated()]


def require_usable_rows(raw: pd.DataFrame, reasons: pd.Series, num_broken: int) -> None:
    """Raise a DataError with the most frequent reason if no row is usable."""
    total = len(raw) + num_broken
    if len(reasons) < len(raw):
        return
    if reasons.empty:
        raise DataError(f"ingest: none of {total} rows could be taken apart into fields")
    counts = reasons.value_counts()
    reason, column = counts.index[0], counts.index[0].split()[0]
    rows = raw.loc[reasons.index[reasons == reason]]
    values = rows[column].dropna() if column in rows else pd.Series()
    example = f"; first: {str(values.iloc[0])!r}" if len(values) and column != USER else ""
    raise DataError(f"ingest: none of {total} rows could be used, {counts.iloc[0]} because {reason}{example}")


def quarantine_rows(raw: pd.DataFrame, reasons: pd.Series, table: str) -> pd.DataFrame:
    """The rows left out: table, source_row, raw (the row as JSON), reason."""
    rows = raw.loc[reasons.index].astype(object)
    rows = rows.where(rows.notna(), None)
    texts = [json.dumps(row, default=str, ensure_ascii=False) for row in rows.to_dict("records")]
    # Half of a surrogate pair cannot be stored.
    texts = [text.encode("utf-8", "backslashreplace").decode() for text in texts]
    numbers = reasons.index.to_numpy(dtype="int64")
    return pd.DataFrame({"table": table, "source_row": numbers, "raw": texts, "reason": reasons.to_numpy()})


# Consent and positives


def keep_consenting(events: pd.DataFrame, users: pd.DataFrame | None, counts: dict[str, Any]) -> pd.DataFrame:
    """Keep events of users who consented to training, or all if the source has no consent column. Adds to `counts`.

    Collected events have a consent of their own, which is required too.
    Raises DataError if that leaves none; the message says whether users refuse or their ids differ.
    """
    consenting = consenting_users(users)
    allowed = pd.Series(True, index=events.index) if consenting is None else events[USER].isin(consenting)
    if columns.TRAINING_CONSENT in events:
        if not events[columns.TRAINING_CONSENT].any():
            raise DataError(f"ingest: none of {len(events)} events has {MODEL_TRAINING} among its purposes")
        allowed &= events[columns.TRAINING_CONSENT]
    counts["without_consent"] = int((~allowed).sum())
    counts["users_without_consent"] = int(events[USER][~allowed].nunique())
    if not allowed.any():
        require_common_ids(users, events)
        raise DataError(f"ingest: none of {len(events)} events is of a user whose {columns.TRAINING_CONSENT} is true")
    return events[allowed]


def require_common_ids(users: pd.DataFrame | None, events: pd.DataFrame) -> None:
    """Raise a DataError with examples of both if the events hold no user id of the side table."""
    if users is None:
        return
    match = match_ids(users[USER], events[USER])
    if match["both"] == 0:
        raise DataError(
            f"ingest: {USER} differs between users and events: none of {match['ids']} ids of users, of shapes such as "
            f"{match['only_in_table']}, is among the {match['events']} ids of events, of shapes such as "
            f"{match['only_in_events']}; so no user's {columns.TRAINING_CONSENT} is known"
        )


def consenting_users(users: pd.DataFrame | None) -> set[str] | None:
    """Users who consented to training on their events; None if the source has no consent column.

    Only yes is consent: an empty cell is not, and neither is a yes together with a no. Another value is a DataError.
    """
    if users is None or columns.TRAINING_CONSENT not in users.columns:
        return None
    consent = users[columns.TRAINING_CONSENT]
    text = consent.astype("string").str.strip().str.lower().fillna("")
    unclear = ~text.isin(YES | NO | {""})
    if unclear.any():
        raise DataError(
            f"users: {columns.TRAINING_CONSENT} is {consent[unclear].iloc[0]!r} in source_row "
            f"{consent[unclear].index[0]}; expected true or false"
        )
    # A table has no times: its answers are of the moment at which it is read, and of a yes and a no the no holds.
    moment_us = now_us()
    answers = {yes: ConsentRecord({MODEL_TRAINING: Answer(yes, moment_us, "users")}) for yes in (True, False)}
    records: dict[str, ConsentRecord] = {}
    for user, is_yes in zip(users[USER].tolist(), text.isin(YES).tolist(), strict=True):
        records[user] = merge(records.get(user, NEVER_ASKED), answers[is_yes])
    return {user for user, record in records.items() if decide(record, MODEL_TRAINING, moment_us) is Decision.GRANTED}


def keep_positives(events: pd.DataFrame, settings: params.Ingest, counts: dict[str, Any]) -> pd.DataFrame:
    """Keep events of the configured types with at least the configured value. Adds to `counts`."""
    right_type = pd.Series(True, index=events.index)
    if settings.event_types is not None:
        right_type = events[EVENT_TYPE].isin(settings.event_types)
        if not right_type.any():
            types = ", ".join(f"{name} ({count})" for name, count in events[EVENT_TYPE].value_counts().items())
            raise DataError(
                f"ingest.event_types is {settings.event_types}; none of {len(events)} events is "
                f"one; the source holds: {types}; null takes all"
            )
    counts["other_event_types"] = int((~right_type).sum())
    events = events[right_type]
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


# Order, duplicates and repeats


def fill_event_ids(events: pd.DataFrame) -> pd.DataFrame:
    """Give events without an id one derived from their content; see `data.columns.event_id`."""
    missing = events[events[EVENT_ID].isna()]
    parts = (missing[USER], missing[ITEM], microseconds(missing[EVENT_TIME]), missing[EVENT_TYPE])
    rows = zip(*(part.tolist() for part in parts), strict=True)
    ids = pd.Series([event_id(*row) for row in rows], index=missing.index, dtype=object)
    return events.assign(**{EVENT_ID: events[EVENT_ID].fillna(ids)})


def sort_events(events: pd.DataFrame) -> pd.DataFrame:
    """Sort events into total order: by (event_time, event_id), then by all other columns where ids are equal."""
    keys = [EVENT_TIME, EVENT_ID, KNOWN_TIME, USER, ITEM, EVENT_TYPE]
    keys += sorted(set(events.columns) - set(keys))
    table = pa.Table.from_pandas(events[keys], preserve_index=False)  # Arrow sorts text 5 times as fast
    return events.iloc[pc.sort_indices(table, sort_keys=[(name, "ascending") for name in keys]).to_numpy()]


def drop_duplicates(events: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Keep the first event of each id, in total order.

    Also returns the id conflicts, index -> reason: dropped rows with another user, item, time or type.
    """
    repeated = events[EVENT_ID].duplicated()
    conflict = repeated & ~events.duplicated([EVENT_ID, USER, ITEM, EVENT_TIME, EVENT_TYPE])
    return events[~repeated], pd.Series(
        "event_id is taken by another event", index=events.index[conflict], dtype=object
    )


def resolve_repeats(events: pd.DataFrame, rule: str) -> pd.DataFrame:
    """Keep the first or the last event of each (user, item) pair, or all of them. Events must be in total order."""
    return events if rule == "all" else events.drop_duplicates([USER, ITEM], keep=rule)


# Side tables


def clean_side_table(
    raw: pd.DataFrame | None, table: pd.DataFrame | None, name: str, key: str, numeric_ids: Sequence[str] = ()
) -> tuple[pd.DataFrame | None, pd.DataFrame]:
    """Drop rows with an unusable or repeated id. Returns the table (None if there is none) and the quarantined rows.

    A row that only repeats another one is dropped without quarantine.

    Args:
        raw: the table with ids as the source spells them.
        table: the same rows with one spelling per id.
    """
    if raw is None or table is None:
        return None, quarantine_rows(pd.DataFrame(), pd.Series(dtype=object), name)
    # Sorted by content, so that it does not depend on the file's order which row of a repeated id stays.
    order = raw[key].astype("string").sort_values(kind="stable").index
    by_content = [key, *sorted(set(table.columns) - {key})]
    table = table.loc[table.loc[order].astype("string").sort_values(by_content, kind="stable").index]
    reasons = id_errors(table, [key], numeric_ids)
    errors = find_errors(table, pandera.DataFrameSchema({key: pandera.Column(str, [FILLED, UNIQUE])}))
    reasons = pd.concat([reasons, errors.drop(reasons.index, errors="ignore")])
    spelled = raw.loc[table.index, key]
    is_respelled = spelled != spelled.groupby(table[key]).transform("first")
    is_repeated = reasons == f"{key} {UNIQUE.name}"
    reasons[is_repeated & is_respelled[reasons.index]] = f"{key} is another spelling of an id that occurs"
    is_copy = is_repeated & (table.astype("string").duplicated() & ~is_respelled)[reasons.index]
    return table.drop(index=reasons.index), quarantine_rows(raw, reasons[~is_copy], name)


def complete_users(events: pd.DataFrame, users: pd.DataFrame | None) -> pd.DataFrame:
    """One row per user of the events, with the columns of `users`."""
    complete = pd.DataFrame({USER: sorted(events[USER].unique())})
    if users is None:
        return complete
    # Every remaining user has consented, so as a trait the column would be constant.
    return complete.merge(users.drop(columns=columns.TRAINING_CONSENT, errors="ignore"), on=USER, how="left")


def complete_items(events: pd.DataFrame, items: pd.DataFrame | None) -> pd.DataFrame:
    """One row per item of the events or the catalog, with the columns of `items`, always with title and genres."""
    complete = pd.DataFrame({ITEM: events[ITEM].unique()})
    if items is not None:
        complete = complete.merge(items, on=ITEM, how="outer")
    for name in (columns.GENRES, columns.TITLE):
        if name not in complete.columns:
            complete.insert(1, name, pd.Series(None, index=complete.index, dtype=object))
    return complete.sort_values(ITEM, ignore_index=True)
