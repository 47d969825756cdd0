"""Read columns of times alike: find the format of a column, read its cells, and name those that are no times.

A column has one format. Cells of another format are never guessed at, and a column that can be read in two ways is
refused with both readings (docs/data.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.api.types import infer_dtype, is_datetime64_any_dtype, is_float_dtype, is_integer_dtype

from data.columns import EVENT_TIME, MICROSECONDS
from data.files import DataError
from data.tables import TIME_DTYPE
from data.time_text import DAY_FIRST, ISO, MONTH_FIRST, MONTH_NAMES, NO_TIME, NOT_A_TIME, PERIOD, localize, parse_text

EARLIEST = pd.Timestamp("1971-01-01", tz="UTC")  # an earlier event time is an empty or misread field
LATEST = pd.Timestamp("2100-01-01", tz="UTC")
EARLIEST_RELEASE = pd.Timestamp("1800-01-01", tz="UTC")  # of items and traits: films are from 1874 on, books are older

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # per second
_EPOCHS = ("epoch seconds", "epoch milliseconds", "epoch microseconds", "epoch nanoseconds")
_ISO, _NAMES, _NUMERIC = "ISO 8601", "dates with the month's name", "days and months as numbers"
_NUMBER, _CALENDAR, _MONTH, _YEAR = "other numbers", "dates as digits", "months", "years"
_WEEK, _CLOCK, _SHORT, _OTHER = "weeks or days of the year", "times of day", "years of two digits", "no time"
_KINDS = ("blank", _OTHER, *_EPOCHS, _ISO, _NAMES, _NUMERIC, _NUMBER, _CALENDAR, _MONTH, _YEAR, _WEEK, _CLOCK, _SHORT)
_CODE = {kind: code for code, kind in enumerate(_KINDS)}
_SHAPES = (  # of texts, in the order in which they are tried
    (_ISO, r"^\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:\D|$)|^\d{8}[Tt ]\d"),
    (_MONTH, r"^\d{4}[-/]\d{1,2}$"),
    (_WEEK, r"^\d{4}-?W\d|^\d{4}-\d{3}$"),
    (_CLOCK, r"^\d{1,2}:\d{2}"),
    (_NUMERIC, r"^\d{1,2}[-/.]\d{1,2}[-/.]\d{4}(?:\D|$)"),
    (_SHORT, r"^\d{1,2}[-/.](?:\d{1,2}|[A-Za-z]{3})[-/.]\d{2}(?:\D|$)"),
    (_NAMES, r"(?i)(?:^|[^a-z])(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\W.*\d{4}"),
)
_NUMBER_SHAPE = r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$"
_INTEGER_SHAPE = r"^[+-]?(?:0*\d{1,18}|[1-8]\d{18})$"
_ADVICE = {
    _MONTH: "months have no day; {key}: '%Y-%m' reads their first day",
    _YEAR: "years have no day; {key}: '%Y' reads their first day",
    _WEEK: "set {key}, such as '%G-W%V-%u' or '%Y-%j'",
    _CLOCK: "a time of day has no date",
    _SHORT: "years of two digits can be read in several ways; set {key}, such as '%m/%d/%y'",
    _NUMBER: "as epoch numbers they lie before 1971 or after 2100; set {key} to s, ms, us or ns if they are right",
}
_DIGITS = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S", 17: "%Y%m%d%H%M%S%f"}
# Numbers of other clocks, by their values from 1990 to 2040: name, lowest, above the highest, seconds per unit, start.
_CLOCKS = (
    ("days since 1970", 7_305, 25_568, 86_400, "1970-01-01"),
    ("days of a spreadsheet (Excel)", 32_874, 51_137, 86_400, "1899-12-30"),
    ("Julian days", 2_447_892, 2_466_155, 86_400, "-4713-11-24T12:00"),
    ("microseconds since 1601 (WebKit)", 1.2275e16, 1.3854e16, 1e-6, "1601-01-01"),
    ("Windows file times", 1.2275e17, 1.3854e17, 1e-7, "1601-01-01"),
    (".NET ticks", 6.2766e17, 6.4345e17, 1e-7, "0001-01-01"),
)
_APPLE = ("seconds since 2001 (Apple)", 3e8, 7.889e8, 1, "2001-01-01")  # Unix seconds from before 1995


@dataclass(frozen=True)
class TimeColumn:
    """A column of times: datetime64[us, UTC], NaT without a value; why cells are no times; the format found.

    `problems` has cells with content only: index of the row -> reason, such as `event_time is not a time`.
    """

    times: pd.Series
    problems: pd.Series
    found: str | None


def read_times(
    values: pd.Series,
    table: str,
    time_format: str | None = None,
    timezone: str = "UTC",
    earliest: pd.Timestamp = EARLIEST,
    periods: bool = False,
) -> TimeColumn:
    """Read a time column of a table (events, users or items).

    Args:
        time_format: a strptime format, or s, ms, us or ns for epoch numbers; None: found. Timestamps need none, and a
            column other than event_time is read as without it if no cell fits.
        timezone: of times without an offset.
        earliest: times before it, and from LATEST on, are no times.
        periods: read a month or a year as its first day; otherwise a column of them is refused.

    Raises:
        DataError: the column can be read in two ways, has no format that most cells share, or does not fit
            `time_format`.
    """
    moments = np.full(len(values), "NaT", dtype="datetime64[us]")
    reasons = np.full(len(values), "", dtype=object)
    found: str | None
    if is_datetime64_any_dtype(values):
        found, moments = "timestamps", values.dt.as_unit("us").to_numpy("datetime64[us]").copy()
        if getattr(values.dtype, "tz", None) is None:
            moments, reasons = localize(moments, reasons, timezone)
    else:
        column = _Column(values, table, timezone, moments, reasons)
        found = (column.read_as(time_format) if time_format else None) or column.find_format(periods)
    low, high = (bound.tz_localize(None).to_datetime64() for bound in (earliest, LATEST))
    outside = np.flatnonzero((moments < low) | (moments >= high))
    years = moments[outside].astype("datetime64[Y]").astype("int64") + 1970
    reasons[outside] = np.where(
        (years <= 1) | (years == 9999), NO_TIME, f"is out of range ({earliest:%Y} to {LATEST:%Y})"
    )
    moments[outside] = np.datetime64("NaT")
    wrong = np.flatnonzero(reasons != "")
    return TimeColumn(
        pd.Series(moments, index=values.index, name=values.name).dt.tz_localize("UTC").astype(TIME_DTYPE),
        pd.Series([f"{values.name} {reason}" for reason in reasons[wrong]], index=values.index[wrong], dtype=object),
        found,
    )


class _Column:
    """The cells of a column without a time type: integers, other numbers and texts, each with their positions."""

    def __init__(self, values: pd.Series, table: str, timezone: str, moments: np.ndarray, reasons: np.ndarray) -> None:
        self.values, self.table, self.timezone, self.moments, self.reasons = values, table, timezone, moments, reasons
        self.key = f"ingest.formats.{table}.time_format"
        cells = np.flatnonzero(values.notna())
        filled = values if len(cells) == len(values) else values.iloc[cells]
        none = cells[:0]
        self.integers, self.decimals = (none, np.array([], dtype="int64")), (none, np.array([], dtype="float64"))
        self.texts = (none, pa.array([], pa.string()))
        if is_integer_dtype(values):
            self.integers = (cells, filled.to_numpy("int64"))
        elif is_float_dtype(values):
            numbers = filled.to_numpy("float64")
            finite = np.isfinite(numbers)
            self.decimals = (cells[finite], numbers[finite])
            moments[cells[~finite]] = np.datetime64("9998-01-01")  # an infinite time is out of range
        else:
            texts = pc.utf8_trim_whitespace(_as_text(filled))
            numeric = pc.match_substring_regex(texts, _NUMBER_SHAPE).to_numpy(zero_copy_only=False)
            whole = numeric & pc.match_substring_regex(texts, _INTEGER_SHAPE).to_numpy(zero_copy_only=False)
            written = ~numeric & (pc.utf8_length(texts).to_numpy() > 0)
            integers = pc.utf8_ltrim(texts.filter(pa.array(whole)), "+").cast(pa.int64())
            decimals = pc.utf8_ltrim(texts.filter(pa.array(numeric & ~whole)), "+").cast(pa.float64())
            self.integers = (cells[whole], integers.to_numpy())
            self.decimals = (cells[numeric & ~whole], decimals.to_numpy())
            self.texts = (cells[written], texts.filter(pa.array(written)))

    def find_format(self, periods: bool) -> str | None:
        """Read the column by the kind of most of its cells. Returns its name, None if no cell holds a time."""
        kinds = self._kinds()
        if periods:
            kinds[np.isin(kinds, [_CODE[_MONTH], _CODE[_YEAR]])] = _CODE[_ISO]
        counts = np.bincount(kinds, minlength=len(_KINDS))
        epochs = [_CODE[name] for name in _EPOCHS]
        unit = max(epochs, key=lambda code: counts[code])
        if counts[unit]:  # a number that fits no unit has the unit of the others
            kinds[kinds == _CODE[_NUMBER]] = unit
            counts = np.bincount(kinds, minlength=len(_KINDS))
        counts[:2] = 0
        top = int(counts.argmax())
        self.reasons[kinds == _CODE[_OTHER]] = NOT_A_TIME
        if not counts.any():
            return None
        self._require_majority(kinds, counts)
        self._require_known_clock(_KINDS[top])
        if _KINDS[top] == _CALENDAR:
            raise self._error(kinds == top, self._two_readings)
        if _KINDS[top] in _ADVICE and not (_KINDS[top] == _NUMBER and self.table != "events"):
            raise self._error(kinds == top, lambda cell: _ADVICE[_KINDS[top]].format(key=self.key))
        for code in np.flatnonzero(counts):
            if code != top:
                self.reasons[kinds == code] = f"is of another format ({_KINDS[code]}) than most cells ({_KINDS[top]})"
        return self._read_kind(_KINDS[top], kinds == top)

    def read_as(self, time_format: str) -> str | None:
        """Read the column by a strptime format or as epoch numbers of a unit. Returns None if no cell fits."""
        if time_format in UNITS:
            parts = [(cells, _from_epoch(numbers, time_format)) for cells, numbers in (self.integers, self.decimals)]
            described = f"is no number of {dict(zip(UNITS, _EPOCHS, strict=True))[time_format]}"
        else:
            parts = [self._parse_format(time_format)]
            described = f"does not fit time_format {time_format}"
        fits = sum(int((~np.isnat(moments)).sum()) for _, moments in parts)
        filled = np.concatenate([self.integers[0], self.decimals[0], self.texts[0]])
        if not fits and len(filled) and self.values.name == EVENT_TIME:
            cell = str(self.values.iloc[filled.min()])
            raise DataError(f"{self.key} is {time_format!r}, which no cell of {EVENT_TIME} fits; first: {cell!r}")
        if not fits:
            return None
        self.reasons[filled] = described
        for cells, moments in parts:
            self.moments[cells] = moments
            self.reasons[cells[~np.isnat(moments)]] = ""
        if time_format not in UNITS and "%z" not in time_format and "%Z" not in time_format:
            self.moments[:], self.reasons[:] = localize(self.moments, self.reasons, self.timezone)
        return time_format

    def _parse_format(self, time_format: str) -> tuple[np.ndarray, np.ndarray]:
        filled = self.values.dropna()
        if is_float_dtype(filled) and (filled % 1 == 0).all():
            filled = filled.astype("int64")
        zoned = "%z" in time_format or "%Z" in time_format
        texts = pc.utf8_trim_whitespace(_as_text(filled)).to_numpy(zero_copy_only=False)
        times = pd.Series(pd.to_datetime(texts, format=time_format, errors="coerce", utc=zoned))
        return np.flatnonzero(self.values.notna()), times.dt.as_unit("us").to_numpy("datetime64[us]")

    def _kinds(self) -> np.ndarray:
        kinds = np.zeros(len(self.values), dtype="int8")
        for cells, numbers in (self.integers, self.decimals):
            kinds[cells] = _number_kinds(numbers)
        cells, texts = self.texts
        kinds[cells] = _CODE[_OTHER]
        rest = np.arange(len(cells))
        for kind, shape in _SHAPES:
            if len(rest):
                fits = pc.match_substring_regex(texts.take(pa.array(rest)), shape).to_numpy(zero_copy_only=False)
                kinds[cells[rest[fits]]] = _CODE[kind]
                rest = rest[~fits]
        return kinds

    def _require_majority(self, kinds: np.ndarray, counts: np.ndarray) -> None:
        if counts.max() * 2 <= counts.sum():
            found = [(code, int(counts[code])) for code in np.argsort(-counts, kind="stable") if counts[code]]
            first = {code: str(self.values.iloc[int((kinds == code).argmax())]) for code, _ in found}
            listed = ", ".join(f"{count:,} {_KINDS[code]} (first: {first[code]!r})" for code, count in found)
            raise DataError(
                f"{self.table}: {self.values.name} mixes formats, and none is that of most cells: {listed}; write "
                f"all times in one format, or set {self.key} to the right one"
            )

    def _require_known_clock(self, kind: str) -> None:
        """Raise a DataError if most numbers are of a clock that does not count from 1970."""
        if kind not in (_NUMBER, _EPOCHS[0], _EPOCHS[3]):
            return
        clocks = (_APPLE,) if kind == _EPOCHS[0] else _CLOCKS
        cells = np.concatenate([self.integers[0], self.decimals[0]])
        numbers = np.concatenate([self.integers[1].astype("float64"), self.decimals[1]])
        for name, low, high, seconds, start in clocks:
            inside = (numbers >= low) & (numbers < high)
            if name == _APPLE[0]:
                inside &= numbers % 1 != 0
            if inside.sum() * 2 > len(numbers):
                moment = np.datetime64(start, "us") + np.timedelta64(
                    round(numbers[inside][0] * seconds * MICROSECONDS), "us"
                )
                unit = "ns" if kind == _EPOCHS[3] else "s"
                other = _show(_from_epoch(numbers[inside][:1], unit)[0])
                raise DataError(
                    f"{self.table}: {self.values.name} holds {str(self.values.iloc[cells[inside][0]])!r}: {name} "
                    f"({_show(moment)}) or an epoch number in {unit} ({other}); convert them to ISO 8601, or set "
                    f"{self.key}: {unit}"
                )

    def _error(self, chosen: np.ndarray, explain: Callable[[str], str]) -> DataError:
        cell = str(self.values.iloc[int(chosen.argmax())])
        return DataError(f"{self.table}: {self.values.name} holds {cell!r}: {explain(cell)}")

    def _two_readings(self, cell: str) -> str:
        digits = str(int(float(cell)) if "." in cell else cell).strip()
        date_format = _DIGITS[len(digits)]
        unit = next(unit for unit, longest in (("s", 10), ("ms", 13), ("us", 16), ("ns", 19)) if len(digits) <= longest)
        moment = pd.to_datetime(digits, format=date_format).to_datetime64()
        return (
            f"a date ({_show(moment)}) or an epoch number in {unit} ({_show(_from_epoch(np.array([int(digits)]), unit)[0])}); "
            f"set {self.key}: '{date_format}' or {unit}"
        )

    def _read_kind(self, kind: str, chosen: np.ndarray) -> str:
        for cells, numbers in (self.integers, self.decimals):
            mine = chosen[cells]
            if kind == _ISO:  # years, where periods are read
                self.moments[cells[mine]] = (numbers[mine].astype("int64") - 1970).astype("datetime64[Y]")
            elif mine.any():
                unit = "s" if kind == _NUMBER else list(UNITS)[_EPOCHS.index(kind)]
                self.moments[cells[mine]] = _from_epoch(numbers[mine], unit)
        cells, texts = self.texts
        mine = chosen[cells]
        if mine.any():
            cells, texts = cells[mine], texts if mine.all() else texts.filter(pa.array(mine))
            patterns = {_ISO: (*ISO, *PERIOD), _NAMES: MONTH_NAMES}.get(kind) or self._order_of_days(chosen, texts)
            self.moments[cells], self.reasons[cells] = parse_text(texts, patterns, self.timezone)
            if kind == _NUMERIC:
                return "day/month/year" if patterns == DAY_FIRST else "month/day/year"
        return kind

    def _order_of_days(self, chosen: np.ndarray, texts: pa.Array) -> tuple[str, ...]:
        """Whether days or months come first: some number above 12 must show it, and none may contradict it."""
        numbers = pc.extract_regex(texts, r"^(?P<first>\d+)\D(?P<second>\d+)")
        first, second = (numbers.field(place).cast(pa.int64()).to_numpy(zero_copy_only=False) for place in (0, 1))
        day_first, month_first = (first > 12).any(), (second > 12).any()
        if day_first != month_first:
            return DAY_FIRST if day_first else MONTH_FIRST
        why = "both orders occur" if day_first else "no number above 12 shows which"
        raise self._error(chosen, lambda cell: self._two_orders(cell, why))

    def _two_orders(self, cell: str, why: str) -> str:
        first, mark, second = re.findall(r"\d+|\D", cell.strip())[:3]
        clock = "".join(ending for shape, ending in ((r":\d", " %H:%M"), (r":\d+:", ":%S")) if re.search(shape, cell))
        clock = clock.replace("%H", "%I") + " %p" if re.search(r"[AaPp][Mm]$", cell) else clock
        return (
            f"day {first} of month {second}, or day {second} of month {first} ({why}); set {self.key}: "
            f"'%d{mark}%m{mark}%Y{clock}' or '%m{mark}%d{mark}%Y{clock}'"
        )


def _as_text(values: pd.Series) -> pa.Array:
    """Cells as text: dates and datetimes as ISO 8601, other objects as Python writes them."""
    values = values.astype(object)
    texts = values if infer_dtype(values, skipna=False) == "string" else values.map(_cell_text)
    return pa.array(texts, pa.string())


def _cell_text(cell: object) -> str:
    if isinstance(cell, (date, time)):  # a datetime is a date
        return cell.isoformat()
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)


def _number_kinds(numbers: np.ndarray) -> np.ndarray:
    """The unit in which each number lies between EARLIEST and LATEST: the ranges of the units do not overlap.

    Dates written as digits, and years, are no epoch numbers.
    """
    edges = [bound.timestamp() * per_second for per_second in UNITS.values() for bound in (EARLIEST, LATEST)]
    none = _CODE[_NUMBER]
    by_position = [none, *(code for name in _EPOCHS for code in (_CODE[name], none))]
    kinds = np.array(by_position, dtype="int8")[np.searchsorted(edges, numbers, side="right")]
    kinds[np.isin(numbers, range(1800, 2100))] = _CODE[_YEAR]
    for digits in _DIGITS:
        mine = _dates_as_digits(numbers, digits)
        # Seconds after 2030 have the ten digits of an hour now and then, so that only most of a column shows hours.
        if digits != 10 or len(mine) * 2 > len(numbers):
            kinds[mine] = _CODE[_CALENDAR]
    return kinds


def _dates_as_digits(numbers: np.ndarray, digits: int) -> np.ndarray:
    """Positions of the numbers that are dates of the years 1900 to 2100 written with so many digits."""
    lowest, highest = 190_001 * 10.0 ** (digits - 6), 210_013 * 10.0 ** (digits - 6)
    found = np.flatnonzero((numbers >= lowest) & (numbers < highest))
    found = found[numbers[found] % 1 == 0]
    rest = numbers[found].astype("int64")
    valid = np.full(len(found), True)
    fields = ((1, 12), (1, 31), (0, 23), (0, 59), (0, 59))[: (digits - 4) // 2]
    scale = 10 ** (digits - 4)
    for low, high in fields:
        scale //= 100
        part = rest // scale % 100
        valid &= (part >= low) & (part <= high)
    return found[valid]


def _from_epoch(numbers: np.ndarray, unit: str) -> np.ndarray:
    """(n,) datetime64[us] of epoch numbers. Integers are exact; those finer than a microsecond are cut off."""
    if numbers.dtype.kind == "f":
        # A double holds the microseconds of every year up to 2100 exactly. What is beyond int64 is out of range anyway.
        scaled = np.nan_to_num((numbers * (MICROSECONDS / UNITS[unit])).round()).clip(-9e18, 9e18).astype("int64")
    elif unit == "ns":
        scaled = numbers // 1000
    else:
        factor = MICROSECONDS // UNITS[unit]
        scaled = numbers.clip(-(2**62) // factor, 2**62 // factor) * factor
    return scaled.astype("datetime64[us]")


def _show(moment: np.datetime64) -> str:
    return str(moment.astype("datetime64[s]")).replace("T", " ")


def holds_times(values: pd.Series) -> bool:
    """Whether a column of traits is one of times: typed as such, or at least nine of ten texts are dates.

    Numbers are no times here, since nothing sets them apart from other numbers.
    """
    if is_datetime64_any_dtype(values):
        return True
    if values.dtype != object and not isinstance(values.dtype, (pd.StringDtype, pd.CategoricalDtype)):
        return False
    nothing = np.array([], dtype=object)
    kinds = _Column(values, "", "UTC", nothing, nothing)._kinds()
    dates = np.isin(kinds, [_CODE[_ISO], _CODE[_NAMES]]).sum()
    return bool(dates and dates * 10 >= (kinds > 0).sum() * 9)
