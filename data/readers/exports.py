"""Read event logs that are known by the fields of their records: exports of tracking tools and public datasets.

A column comes from a field of the record, or of the elements of an array in it; each element is one event then. A
record without an item, such as a page view, is no interaction: it is left out and counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from config.params import TableFormat
from data.columns import EVENT_ID, EVENT_TIME, EVENT_TYPE, GENRES, ITEM, KNOWN_TIME, SESSION, TITLE, USER
from data.files import DataError
from data.readers.combine import concatenate
from data.readers.encodings import decode
from data.readers.json_records import is_json
from data.readers.nested import (
    RECORD,
    Broken,
    fit_table,
    read_json_shape,
    read_parquet_shape,
    shape_of,
    unnest,
    values_at,
)
from data.readers.packed import Part, list_parts, read_head
from data.readers.parquet import MAGIC
from data.readers.reading import read_part
from data.readers.table import RawTable, broken_lines, number_rows
from data.time_columns import read_times

BRAND, PRICE, DEVICE = "brand", "price", "device"
ITEM_TRAITS = (TITLE, GENRES, BRAND, PRICE)
HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class Export:
    """The fields that every record has, and our column -> paths of fields; the first field that is not blank counts.

    A path such as `events[].aid` leads into the elements of `array`. Each element is one event.
    """

    marks: str
    columns: dict[str, str]
    array: str = ""
    integers: str = ""  # paths that JSON usually writes as integers
    blank: tuple[str, ...] = ()  # texts for no value
    levels: str | None = None  # what separates the levels of a category
    calls: tuple[str, ...] = ()  # what the field `type` holds


EXPORTS = {
    # https://github.com/otto-de/recsys-dataset. All that is known of a person is one session.
    "otto": Export(
        "session events",
        {USER: "session", ITEM: "events[].aid", EVENT_TIME: "events[].ts", EVENT_TYPE: "events[].type"},
        array="events",
        integers="session events[].aid events[].ts",
    ),
    # https://www.twilio.com/docs/segment/connections/spec/track and .../spec/ecommerce/v2, as written by its storage
    # destinations. RudderStack has the same fields.
    "segment": Export(
        "messageId type",
        {
            EVENT_ID: "messageId",
            USER: "userId anonymousId",
            ITEM: "properties.products[].product_id properties.products[].sku properties.product_id properties.sku",
            EVENT_TIME: "timestamp originalTimestamp",
            KNOWN_TIME: "receivedAt",
            EVENT_TYPE: "event type",
            DEVICE: "context.device.type",
            TITLE: "properties.products[].name properties.name",
            GENRES: "properties.products[].category properties.category",
            BRAND: "properties.products[].brand properties.brand",
            PRICE: "properties.products[].price properties.price",
        },
        array="properties.products",
        calls=("track", "page", "screen", "identify", "group", "alias"),
    ),
    # https://www.twilio.com/docs/segment/connections/storage/warehouses/schema: the table of one event
    "segment-warehouse": Export(
        "anonymous_id received_at event",
        {
            EVENT_ID: "id",
            USER: "user_id anonymous_id",
            ITEM: "product_id sku",
            EVENT_TIME: "timestamp original_timestamp",
            KNOWN_TIME: "received_at",
            EVENT_TYPE: "event_text event",
            DEVICE: "context_device_type",
            TITLE: "name",
            GENRES: "category",
            BRAND: "brand",
            PRICE: "price",
        },
    ),
    # https://support.google.com/analytics/answer/7029846: [GA4] BigQuery Export schema
    "ga4": Export(
        "event_timestamp event_name items",
        {
            USER: "user_id user_pseudo_id",
            ITEM: "items[].item_id",
            EVENT_TIME: "event_timestamp",
            EVENT_TYPE: "event_name",
            DEVICE: "device.category",
            TITLE: "items[].item_name",
            GENRES: "items[].item_category",
            BRAND: "items[].item_brand",
            PRICE: "items[].price",
        },
        array="items",
        blank=("(not set)", "(not provided)"),
    ),
    # https://www.kaggle.com/datasets/mkechinov/ecommerce-behavior-data-from-multi-category-store
    "rees46": Export(
        "event_time event_type product_id category_code user_id user_session",
        {
            USER: "user_id",
            ITEM: "product_id",
            EVENT_TIME: "event_time",
            EVENT_TYPE: "event_type",
            SESSION: "user_session",
            GENRES: "category_code",
            BRAND: "brand",
            PRICE: "price",
        },
        levels=".",
    ),
}


def detect_export(path: Path) -> str | None:
    """The name of the export that a file holds, by the fields of its first record; None for another file."""
    fields = _first_record(list_parts(path)[0])
    for name, export in EXPORTS.items():
        is_call = not export.calls or fields.get("type") in export.calls
        has_array = isinstance(fields.get(export.array, []), list)
        if is_call and has_array and fields.keys() >= set(export.marks.split()):
            return name
    return None


def read_export(paths: Sequence[Path], name: str, table_format: TableFormat) -> RawTable:
    """The events of an export under our names, without those that have no item; and what they say about items."""
    path = paths[0] if len(paths) == 1 else paths[0].parent
    parts = [_read_part(part, name, table_format) for each in paths for part in list_parts(each)]
    table = parts[0] if len(parts) == 1 else concatenate(path, parts)
    # Without an item and a type, a record is not whole, which cleaning reports.
    is_other = table.rows[ITEM].isna() & table.rows[EVENT_TYPE].notna()
    without_item = table.rows[EVENT_TYPE][is_other].value_counts().to_dict()
    rows = table.rows[~is_other]
    if rows.empty and without_item:
        shown = ", ".join(f"{event} ({count})" for event, count in without_item.items())
        raise DataError(f"{path}: none of its events names an item; they are {shown}")
    traits = [name for name in ITEM_TRAITS if name in rows]
    return replace(
        table,
        rows=rows.drop(columns=traits),
        header=(),
        found={**table.found, "without_item": without_item},
        items=newest_traits(rows, traits, table_format) if traits else None,
    )


def _read_part(part: Part, name: str, table_format: TableFormat) -> RawTable:
    """One row per event of a file, with what it says about its item."""
    export = EXPORTS[name]
    head = read_head(part)
    broken: Broken = []
    try:
        if head.startswith(MAGIC):
            tables = read_parquet_shape(part.read(), _shape(export))
        elif is_json(head):
            tables = read_json_shape(str(part), *decode(str(part), part.read(), table_format), _shape(export), broken)
        else:
            plain = read_part(part, table_format)
            names = [column for column in _shape(export) if column in plain.rows]
            fitted = fit_table(pa.Table.from_pandas(plain.rows[names], preserve_index=False), _shape(export))
            tables = iter([fitted.append_column(RECORD, pa.array(plain.rows.index))])
            broken = list(plain.broken[["source_row", "raw", "reason"]].itertuples(index=False, name=None))
        flat = [flatten(records, export) for records in tables]
    except (ValueError, RecursionError, OSError) as error:  # Arrow's errors are ValueErrors
        raise DataError(f"{part} cannot be read as {name}: {' '.join(str(error).split())}") from None
    if not flat:
        raise DataError(f"{part} holds no rows")
    events = pa.concat_tables(flat)
    if export.array:
        with suppress(pa.ArrowInvalid):  # as text, epochs would take most of the memory
            at = events.column_names.index(EVENT_TIME)
            events = events.set_column(at, EVENT_TIME, events[EVENT_TIME].cast(pa.int64()))
    rows = events.to_pandas()
    rows = number_rows(rows) if export.array else rows.set_index(RECORD).rename_axis("source_row")
    lines = broken_lines(*zip(*broken, strict=True))
    found = part.describe(name, len(rows) + len(lines))
    return RawTable(part.path, rows, lines, tuple(rows.columns), found=found)


def flatten(records: pa.Table, export: Export) -> pa.Table:
    """One row per element of the export's array, or without elements, or without an array, one row per record.

    An element of an array gets the id of its record and its position: `m1#2`.
    """
    lists = values_at(records, export.array) if export.array else pa.nulls(len(records), pa.list_(pa.null()))
    elements, parents, positions = unnest(lists)

    def read(path: str) -> pa.Array:
        _, is_element, inner = path.partition("[].")
        return values_at(elements, inner) if is_element else values_at(records, path).take(parents)

    columns = {ours: _first_of(map(read, paths.split()), export.blank) for ours, paths in export.columns.items()}
    if EVENT_ID in columns:
        numbered = pc.binary_join_element_wise(columns[EVENT_ID], pa.array(positions + 1).cast(pa.string()), "#")
        columns[EVENT_ID] = pc.if_else(elements.is_valid(), numbered, columns[EVENT_ID])
    if export.levels:
        columns[GENRES] = pc.replace_substring(columns[GENRES], export.levels, "|")
    return pa.table(columns | {RECORD: read(RECORD)})


def newest_traits(events: pd.DataFrame, traits: list[str], written: TableFormat) -> pd.DataFrame:
    """One row per item: of each trait the newest value that is not null."""
    times = read_times(events[EVENT_TIME], "events", written.time_format, written.timezone).times
    times = times.sort_values(kind="stable", na_position="first")
    return number_rows(events.loc[times.index].groupby(ITEM)[traits].last().reset_index())


def _first_of(columns: Iterable[pa.Array], blank: tuple[str, ...]) -> pa.Array:
    empty = pa.array(["", *blank])
    return pc.coalesce(*(pc.if_else(pc.is_in(pc.utf8_trim_whitespace(each), empty), None, each) for each in columns))


def _shape(export: Export) -> dict[str, Any]:
    """The shape of the records: the fields of every path with the type that they usually have."""
    special = {PRICE: float} | dict.fromkeys(ITEM_TRAITS[:-1], object)
    kinds = {path: special.get(ours, str) for ours, paths in export.columns.items() for path in paths.split()}
    return shape_of(kinds | dict.fromkeys(export.integers.split(), int))


def _first_record(part: Part) -> dict[str, Any]:
    """The first record of JSON; of Parquet and other tables, the columns, with [] for an array and null for others."""
    head = part.read(HEAD_BYTES)
    if head.startswith(MAGIC):
        with suppress(pa.ArrowException, OSError):  # a damaged file is refused when it is read
            return {each.name: [] if pa.types.is_list(each.type) else None for each in pq.read_schema(part.path)}
        return {}
    text = head.decode(errors="replace").lstrip("\ufeff \r\n\t")
    if not is_json(head):
        return dict.fromkeys(name.strip('" ') for name in re.split(r"[,;\t|]", text.split("\n")[0].strip()))
    try:
        record, _ = json.JSONDecoder().raw_decode(text.lstrip("[ \r\n\t"))
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
