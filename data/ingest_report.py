"""The ingest report: where every row went, what was found in the files, and what looks suspicious.

It holds nothing that depends on the clock: the pipeline's later stages read its folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from config import params
from data import pages
from data.cleaning import Ingested
from data.columns import DAY, EVENT_TIME, EVENT_TYPE, ITEM, USER, VALUE
from data.files import DataError
from data.readers.delimited import QUOTES_ARE_LETTERS
from data.readers.sources import Source
from data.tables import microseconds
from data.times import to_iso

SIDES = {"users": USER, "items": ITEM}  # side table -> its id
LEFT_OUT = {  # key in `Ingested.counts` -> what it means; with the rows kept they add up to the rows read
    "quarantined": "quarantined",
    "duplicates": "duplicates",
    "repeats_dropped": "repeats",
    "without_consent": "without consent",
    "other_event_types": "of other event types",
    "below_min_value": "below the minimum value",
}
MAX_REASONS, MAX_EXAMPLE = 3, 120  # reasons that a line names, and characters of an example

# From which share on something is worth a line of its own.
MANY_QUARANTINED, MANY_REPEATS, MANY_TIES, GREAT_USER, FEW_MATCHES = 0.01, 0.5, 0.5, 0.1, 0.5
SHEET_DIGITS = 15  # digits that spreadsheets keep
SHEET_IDS = 5  # so many longer ids without more digits are no chance


def build_report(source: Source, result: Ingested, dataset: str) -> dict[str, Any]:
    """The report as JSON values.

    Returns:
        {"dataset", "source", "findings": sentences, "tables": table -> {"found": facts of the reader, "rows": {"read",
        "kept", ...}, "quarantined": reasons with "rows", "share" and the first row}, "events": their span and shares,
        "ids" and "matches": as in `Ingested.counts`}. Side tables that the source lacks are left out.
    """
    tables = {
        name: {
            "found": source.found.get(name, {}) | ({"times": result.time_formats} if name == "events" else {}),
            "rows": rows,
            "quarantined": _reasons(result.quarantine[result.quarantine["table"] == name], rows["read"]),
        }
        for name, rows in _count_rows(source, result).items()
    }
    report: dict[str, Any] = {
        "dataset": dataset,
        "source": source.name,
        "findings": [],
        "tables": tables,
        "events": _describe_events(result.events),
        **{key: result.counts[key] for key in ("ids", "matches") if key in result.counts},
    }
    return report | {"findings": list(_findings(report, result, source))}


def _count_rows(source: Source, result: Ingested) -> dict[str, dict[str, int]]:
    """Table -> {"read", "kept", and why rows were left out}; the others add up to "read"."""
    counts = result.counts
    of_events = {"read": counts["rows_read"], "kept": counts["events"], **{key: counts[key] for key in LEFT_OUT}}
    rows: dict[str, dict[str, int]] = {"events": of_events}
    for name in SIDES:
        table = getattr(source, name)
        if table is not None:
            read = len(table) + int((source.broken["table"] == name).sum())
            quarantined = int((result.quarantine["table"] == name).sum())
            duplicates = counts["side_duplicates"][name]
            kept = read - quarantined - duplicates
            rows[name] = {"read": read, "kept": kept, "quarantined": quarantined, "duplicates": duplicates}
    return rows


def _reasons(quarantine: pd.DataFrame, rows_read: int) -> list[dict[str, Any]]:
    """Why rows of a table are in quarantine, most frequent reason first, each with its first row."""
    found = [
        {"reason": reason, "rows": len(part), "share": _share(len(part), rows_read), "first": _place(part.iloc[0])}
        for reason, part in quarantine.groupby("reason")
    ]
    return sorted(found, key=lambda one: (-one["rows"], one["reason"]))


def _place(row: pd.Series) -> str:
    """A row of the quarantine as text: `row 5 of part-1.csv: {...}`."""
    file = row.get("file")
    where = f"row {row['source_row']}" + (f" of {file}" if isinstance(file, str) else "")
    text = str(row["raw"])
    return f"{where}: {text[:MAX_EXAMPLE]}{'...' if len(text) > MAX_EXAMPLE else ''}"


def _describe_events(events: pd.DataFrame) -> dict[str, Any]:
    """What the events are like after cleaning."""
    times, counts = microseconds(events[EVENT_TIME]), events[USER].value_counts()
    return {
        "users": len(counts),
        "items": int(events[ITEM].nunique()),
        "first": to_iso(int(times[0])),
        "last": to_iso(int(times[-1])),
        "days": len(np.unique(times // DAY)),
        "event_types": {str(name): int(size) for name, size in events[EVENT_TYPE].value_counts().head(10).items()},
        "of_busiest_user": _share(int(counts.max()), len(events)),
        "tied": _share(int(events.duplicated([USER, EVENT_TIME], keep=False).sum()), len(events)),
    }


# Findings


def _findings(report: Mapping[str, Any], result: Ingested, source: Source) -> Iterator[str]:
    """What looks like a misread file, or unlike what models expect: sentences that begin with the table's name."""
    for name, table in report["tables"].items():
        rows = table["rows"]
        if rows["quarantined"] > MANY_QUARANTINED * rows["read"]:
            yield f"{name}: {_part(rows['quarantined'], rows['read'])} rows are in quarantine: {_top(table)}"
        if table["found"].get("quote") == QUOTES_ARE_LETTERS:
            yield f"{name}: quotes are {QUOTES_ARE_LETTERS}, since they do not enclose cells"
    yield from _match_findings(report.get("matches", {}))
    yield from _id_findings(report.get("ids", {}), result)
    yield from _event_findings(report, result.events, result.counts)
    for name, key in SIDES.items():
        given, table = getattr(source, name), getattr(result, name)
        for column in [] if given is None or len(table) < 2 else given.columns.intersection(table.columns):
            if column != key and table[column].nunique(dropna=False) == 1:
                value = table[column].iloc[0]
                yield f"{name}: {column} is {'empty' if pd.isna(value) else repr(value)} in every row"


def _match_findings(matches: Mapping[str, Any]) -> Iterator[str]:
    for name, match in matches.items():
        if match["both"] == 0:
            yield (
                f"{name}: no {SIDES[name]} occurs in the events; {name} has {_some(match['only_in_table'])}, the events "
                f"have {_some(match['only_in_events'])}"
            )
        elif match["both"] < FEW_MATCHES * match["events"]:
            missing = _part(match["events"] - match["both"], match["events"])
            yield f"{name}: {missing} ids of the events are missing, such as {_some(match['only_in_events'])}"


def _id_findings(changes: Mapping[str, Any], result: Ingested) -> Iterator[str]:
    for column, changed in changes.items():
        for kind in ("trimmed", "normalized", "shortened"):
            if count := changed.get(kind):
                before, after = changed["examples"][kind]
                yield f"{column}: {count:,} spellings were {kind}, such as {before!r} to {after!r}"
    for column in (USER, ITEM):
        ids = pd.Series(result.events[column].unique(), dtype="string")
        long = ids[ids.str.fullmatch(rf"[1-9]\d{{{SHEET_DIGITS},}}")]
        if len(long) >= SHEET_IDS and long.str.fullmatch(rf"\d{{{SHEET_DIGITS}}}0+").all():
            yield f"{column}: long ids were rounded by a spreadsheet; export them as text"


def _event_findings(report: Mapping[str, Any], events: pd.DataFrame, counts: Mapping[str, Any]) -> Iterator[str]:
    rows, about = report["tables"]["events"]["rows"], report["events"]
    usable = rows["kept"] + rows["repeats_dropped"]
    if rows["repeats_dropped"] > MANY_REPEATS * usable:
        repeats = _part(rows["repeats_dropped"], usable)
        yield f"events: {repeats} repeat a (user, item) pair and were dropped; ingest.repeats: all keeps them"
    if about["of_busiest_user"] > GREAT_USER:
        yield f"events: {about['of_busiest_user']:.1%} are of one user; a bot, a test or a shared account?"
    of_day = microseconds(events[EVENT_TIME]) % DAY
    if about["days"] == 1:
        yield f"events: all are of one day, {about['first'][:10]}"
    elif len(np.unique(of_day)) == 1:
        yield f"events: all are at {to_iso(int(of_day[0]))[11:19]} UTC, so their order within a day is unknown"
    if about["tied"] > MANY_TIES:
        yield f"events: {about['tied']:.1%} share their time with another one of the same user; a batch import?"
    if raised := counts.get("known_time_raised"):
        yield f"events: {raised:,} known times lay shortly before their event and were raised to it"
    if len(events) > 1 and events[VALUE].notna().all() and events[VALUE].nunique() == 1:
        yield f"events: {VALUE} is {events[VALUE].iloc[0]:g} in every row"


def _top(table: Mapping[str, Any]) -> str:
    reasons = table["quarantined"][:MAX_REASONS]
    return "; ".join(f"{one['reason']} ({one['rows']:,}, first {one['first']})" for one in reasons)


def _some(ids: list[str]) -> str:
    return " and ".join(map(repr, ids[:2])) or "none"


def _part(rows: int, total: int) -> str:
    return f"{rows:,} of {total:,} ({rows / total:.1%})"


def _share(part: int, total: int) -> float:
    return round(part / total, 6) if total else 0.0


# Limits


def require_limits(report: Mapping[str, Any], settings: params.Ingest) -> None:
    """Raise a DataError if too many rows are unusable, or a side table describes too few of the events' ids."""
    for name, table in report["tables"].items():
        rows = table["rows"]
        if rows["quarantined"] > settings.max_quarantine * rows["read"]:
            raise DataError(
                f"ingest: {_part(rows['quarantined'], rows['read'])} rows of {name} cannot be used; "
                f"ingest.max_quarantine is {settings.max_quarantine:g}; {_top(table)}"
            )
    for name, match in report.get("matches", {}).items():
        if match["both"] < settings.min_matched * match["events"]:
            raise DataError(
                f"ingest: {name} describes {_part(match['both'], match['events'])} ids of the events; "
                f"ingest.min_matched is {settings.min_matched:g}: {name} has {_some(match['only_in_table'])}, the events "
                f"have {_some(match['only_in_events'])}"
            )


# Text and page


def summary(report: Mapping[str, Any], now: pd.Timestamp) -> str:
    """Lines for the terminal, findings first; one of them depends on the clock: whether the events end after `now`."""
    findings = list(report["findings"])
    if pd.Timestamp(report["events"]["last"]) > now:
        findings.insert(0, f"events: the last is in the future, {report['events']['last']}")
    lines = [f"! {finding}" for finding in findings]
    for name, table in report["tables"].items():
        rows, found = table["rows"], table["found"]
        parts = [f"{rows['read']:,} rows read", f"{rows['kept']:,} kept"]
        parts += [f"{rows[key]:,} {text}" for key, text in LEFT_OUT.items() if rows.get(key)]
        if match := report.get("matches", {}).get(name):
            parts.append(f"describes {_part(match['both'], match['events'])} ids of the events")
        read = ", ".join(
            f"{key} {_plain(value)}" for key, value in found.items() if value is not None and key != "rows"
        )
        lines.append(f"{name}: {', '.join(parts)}{f' ({read})' if read else ''}")
    return "\n".join(lines)


def page(report: Mapping[str, Any]) -> str:
    """The report as an HTML page."""
    tables = report["tables"]
    rows = [
        {"table": name, "read": f"{rows['read']:,}", "kept": f"{rows['kept']:,}"}
        | {text: _part(rows[key], rows["read"]) for key, text in LEFT_OUT.items() if rows.get(key)}
        for name, rows in ((name, table["rows"]) for name, table in tables.items())
    ]
    quarantined = [
        {"table": name} | {key: _plain(value) for key, value in one.items()}
        for name, table in tables.items()
        for one in table["quarantined"]
    ]
    found = {"events": report["events"], "ids": report.get("ids", {}), "matches": report.get("matches", {})}
    facts = [
        {"": name, "what": key.replace("_", " "), "found": _plain(value)}
        for name, about in [*((f"{name} as read", table["found"]) for name, table in tables.items()), *found.items()]
        for key, value in about.items()
        if value is not None
    ]
    sections = {"Rows": rows, "Quarantine": quarantined, "What was found": facts}
    body = [f"<h1>Ingest report of {escape(report['dataset'])}</h1>"]
    findings = report["findings"] or ["Nothing suspicious was found."]
    body += [f'<p class="note">{escape(finding)}</p>' for finding in findings]
    body += [f"<h2>{title}</h2>{pages.table(lines)}" for title, lines in sections.items() if lines]
    return pages.page(f"Ingest report: {report['dataset']}", body)


def _plain(value: Any) -> str:
    """A value of the report as text; floats are shares."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value[:3])) + (f" and {len(value) - 3} more" if len(value) > 3 else "") or "-"
    if isinstance(value, float):
        return f"{value:.1%}"
    return repr(value) if isinstance(value, str) and len(value) == 1 else str(value)  # a delimiter or a quote
