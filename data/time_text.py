"""Times in text as instants: ISO 8601, dates with the month's name, and days and months as numbers."""

from __future__ import annotations

import re
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

CHUNK = 1 << 17  # cells read together: one odd cell slows only its chunk down

_TIME = (
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?)?)?"
    r"(?: ?(?P<half>[AaPp])\.?[Mm]\b\.?)?\s*(?P<zone>[A-Za-z+\-\[].*)?"
)
_DAY_OF_WEEK = r"^(?:[A-Za-z]{3,9}\.?,?\s+)?"
ISO = (
    r"^(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})(?:(?:[Tt]|,?\s+)" + _TIME + r")?$",
    r"^(?P<year>\d{4})-?(?P<month>\d{2})-?(?P<day>\d{2})[Tt ](?P<hour>\d{2})"
    r"(?::?(?P<minute>\d{2})(?::?(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?)?)?\s*(?P<zone>[A-Za-z+\-\[].*)?$",
)
PERIOD = (r"^(?P<year>\d{4})(?:[-/](?P<month>\d{1,2}))?$",)  # a year or month, read as its first day
MONTH_NAMES = (
    _DAY_OF_WEEK
    + r"(?P<day>\d{1,2})(?:st|nd|rd|th)?[ /-]?(?P<name>[A-Za-z]{3,9})\.?[ ,/-]+(?P<year>\d{4})(?:[\s:,T]+"
    + (_TIME + ")?$"),
    _DAY_OF_WEEK
    + r"(?P<name>[A-Za-z]{3,9})\.?[\s-]+(?P<day>\d{1,2})(?:st|nd|rd|th)?,?[\s-]+(?P<year>\d{4})(?:,?\s+(?:at\s+)?"
    + (_TIME + ")?$"),
    # As ctime, Java and Twitter write it
    r"^[A-Za-z]{3}\s+(?P<name>[A-Za-z]{3})\s+(?P<day>\d{1,2})\s+(?P<hour>\d{2}):(?P<minute>\d{2}):(?P<second>\d{2})"
    r"(?:\s+(?P<zone>[A-Za-z+-]\S*))?\s+(?P<year>\d{4})$",
)
_NUMBERS = r"^(?P<{}>\d{{1,2}})(?P<mark>[-/.])(?P<{}>\d{{1,2}})[-/.](?P<year>\d{{4}})(?:,?\s+"
DAY_FIRST = (_NUMBERS.format("day", "month") + _TIME + ")?$",)
MONTH_FIRST = (_NUMBERS.format("month", "day") + _TIME + ")?$",)

_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_MONTH_NUMBERS = {name: n for n, full in enumerate(_MONTHS, 1) for name in (full[:3], full)} | {"sept": 9}
_US_ZONES = {"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7}  # RFC 2822
_OFFSET = re.compile(r"(?:UTC|GMT)?\s*([+-])(\d{1,2})(?::?(\d{2}))?\s*(?:\[[\w/+-]+\]|\(.*\))?", re.ASCII)

NOT_A_TIME = "is not a time"
NO_TIME = "is a placeholder for no time (year 0, 1 or 9999)"


def parse_text(texts: pa.Array, patterns: tuple[str, ...], timezone: str) -> tuple[np.ndarray, np.ndarray]:
    """Read texts by the first pattern that fits each. Without an offset or a zone, they are times of `timezone`.

    Fractions finer than a microsecond are cut off. If a text has an offset and a zone name, the offset counts.

    Returns:
        (n,) datetime64[us] in UTC, NaT where a text is not a time; (n,) why, "" for times.
    """
    parts = [_parse_chunk(texts.slice(start, CHUNK), patterns, timezone) for start in range(0, len(texts), CHUNK)]
    moments, reasons = zip(*parts, strict=True) if parts else ([_empty(0)[0]], [_empty(0)[1]])
    return np.concatenate(moments), np.concatenate(reasons)


def _empty(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(size, "NaT", dtype="datetime64[us]"), np.full(size, NOT_A_TIME, dtype=object)


def _parse_chunk(texts: pa.Array, patterns: tuple[str, ...], timezone: str) -> tuple[np.ndarray, np.ndarray]:
    moments, reasons = _empty(len(texts))
    if patterns[0] == ISO[0]:
        zone = "UTC" if re.search(r"(?:Z|[+-]\d\d(?::?\d\d)?)$", texts[0].as_py()[10:]) else None
        try:  # Arrow is 20 times as fast where every text is plain ISO 8601
            found = texts.cast(pa.timestamp("us", zone)).to_numpy(zero_copy_only=False).astype("datetime64[us]")
        except pa.ArrowInvalid:
            pass
        else:
            reasons[:] = ""
            return (found, reasons) if zone else localize(found, reasons, timezone)
    for pattern in patterns:
        rest = np.flatnonzero(np.isnat(moments))
        groups = pc.extract_regex(texts.take(pa.array(rest)), pattern)
        fits = groups.is_valid()
        groups = groups.filter(fits)
        cells = rest[fits.to_numpy(zero_copy_only=False)]
        if len(cells):
            fields = dict(zip([field.name for field in groups.type], groups.flatten(), strict=True))
            moments[cells], reasons[cells] = _combine(fields, timezone)
    return moments, reasons


def _combine(fields: dict[str, pa.Array], timezone: str) -> tuple[np.ndarray, np.ndarray]:
    """The instants of the fields of texts: year, month or name, day, hour, minute, second, fraction, half, zone."""
    size = len(fields["year"])

    def number(name: str, default: int = 0) -> np.ndarray:
        if name not in fields:
            return np.full(size, default)
        texts = pc.if_else(pc.equal(fields[name], ""), str(default), fields[name])
        return texts.cast(pa.int64()).to_numpy(zero_copy_only=False)

    if "fraction" in fields:
        padded = pc.utf8_slice_codeunits(pc.utf8_rpad(fields["fraction"], 6, "0"), 0, 6)
        fields = fields | {"fraction": padded}
    year, month, day = number("year"), number("month", 1), number("day", 1)
    if "name" in fields:
        position = pc.index_in(pc.utf8_lower(fields["name"]), pa.array(list(_MONTH_NUMBERS)))
        month = np.array([*_MONTH_NUMBERS.values(), 0])[pc.fill_null(position, -1).to_numpy(zero_copy_only=False)]
    hour, minute, second, fraction = number("hour"), number("minute"), number("second"), number("fraction")
    valid = (month >= 1) & (month <= 12) & (minute < 60) & (second < 60)
    if "half" in fields:
        half = pc.utf8_lower(fields["half"]).to_numpy(zero_copy_only=False)
        valid &= (half == "") | ((hour >= 1) & (hour <= 12))
        hour = np.where(half == "", hour, hour % 12 + 12 * (half == "p"))
    valid &= (hour < 24) | ((hour == 24) & (minute + second + fraction == 0))
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    valid &= (day >= 1) & (days.astype("datetime64[M]") == months)
    seconds = hour * 3600 + minute * 60 + second
    moments = days.astype("datetime64[us]") + (seconds * 1_000_000 + fraction).astype("timedelta64[us]")
    reasons = np.where(valid, "", NOT_A_TIME).astype(object)
    reasons[second == 60] = "is a leap second"
    reasons[(year <= 1) | (year == 9999)] = NO_TIME
    moments[reasons != ""] = np.datetime64("NaT")
    return _apply_zones(moments, reasons, fields.get("zone"), timezone)


def _apply_zones(
    moments: np.ndarray, reasons: np.ndarray, zones: pa.Array | None, timezone: str
) -> tuple[np.ndarray, np.ndarray]:
    if zones is None:
        return localize(moments, reasons, timezone)
    encoded = zones.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    for code, text in enumerate(encoded.dictionary.to_pylist()):
        cells = np.flatnonzero((codes == code) & (reasons == ""))
        zone = parse_zone(text) if text else timezone
        if isinstance(zone, int):
            moments[cells] -= np.timedelta64(zone, "m")
        elif zone is None:
            moments[cells], reasons[cells] = np.datetime64("NaT"), "has an unknown time zone"
        else:
            moments[cells], reasons[cells] = localize(moments[cells], reasons[cells], zone)
    return moments, reasons


@lru_cache(4096)
def parse_zone(text: str) -> int | str | None:
    """A zone in text: minutes east of Greenwich, or an IANA name. None if it is neither."""
    if text in ("Z", "z", "UTC", "GMT", "UT"):
        return 0
    if text in _US_ZONES:
        return _US_ZONES[text] * 60
    if offset := _OFFSET.fullmatch(text):
        minutes = int(offset[2]) * 60 + int(offset[3] or 0)
        return None if minutes >= 24 * 60 else minutes * (-1 if offset[1] == "-" else 1)
    name = text.strip("[] ")
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None
    return name if "/" in name else None  # CET and the like mean different offsets to different people


def localize(moments: np.ndarray, reasons: np.ndarray, timezone: str) -> tuple[np.ndarray, np.ndarray]:
    """Wall-clock times of a zone in UTC; NaT, with the reason, for those that its clocks skip or show twice."""
    if timezone == "UTC":
        return moments, reasons
    walls = pd.DatetimeIndex(moments)
    local = walls.tz_localize(timezone, ambiguous="NaT", nonexistent="NaT")
    instants = local.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[us]")
    lost = np.flatnonzero(np.isnat(instants) & ~np.isnat(moments))
    if len(lost):
        reasons = reasons.copy()
        exists = walls[lost].tz_localize(timezone, ambiguous=np.ones(len(lost), dtype=bool), nonexistent="NaT").notna()
        reasons[lost] = np.where(
            exists, f"occurs twice in {timezone} (clocks go back)", f"does not exist in {timezone} (clocks go forward)"
        )
    return instants, reasons
