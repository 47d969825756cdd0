"""The one spelling of a user or item id, for files, the online store and live requests.

Loads only the standard library, so that the serving worker and the edge can use it; `data.id_columns` does the same for
data frames.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from unicodedata import normalize

MAX_LENGTH = 256
_MAX_EXACT_FLOAT = 2**53  # from it on, floats of different integers are equal

# White space, zero-width characters, direction marks and the byte-order mark; as text, and for a regular expression.
_TRIMMED_RANGES = (
    (0x09, 0x0D), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200F), (0x2028, 0x202F),
    (0x205F, 0x2060), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
TRIMMED = "".join(chr(code) for first, last in _TRIMMED_RANGES for code in range(first, last + 1))
TRIMMED_PATTERN = "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in _TRIMMED_RANGES)
CONTROL_PATTERN = r"\u0000-\u001f\u007f-\u009f"
VALID_PATTERN = (
    rf"^[{TRIMMED_PATTERN}]*[^{TRIMMED_PATTERN}{CONTROL_PATTERN}]"
    rf"([^{CONTROL_PATTERN}]*[^{TRIMMED_PATTERN}{CONTROL_PATTERN}])?[{TRIMMED_PATTERN}]*$"
)

_CONTROL = re.compile(f"[{CONTROL_PATTERN}]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_INTEGER = re.compile(r"-?[0-9]+")
# As programs write floats: 100.0 and, from R, 1e+05. Not 1e5, which may be a hexadecimal id.
_FLOAT = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0*|(-?[1-9])(?:\.([0-9]*))?[eE]\+([0-9]{1,3})")
_MAX_EXPONENT = 10  # Excel shows 12 digits and more as 1.23457E+11, which loses the others


def canonical_id(text: str, is_numeric: bool) -> str:
    """The one spelling of an id: trimmed and in Unicode's form NFC. Idempotent.

    If the ids are numeric, an integer that is written as a float becomes one again: 100.0 and 1e+02 become 100. Case and
    leading zeros stay.
    """
    text = text.strip(TRIMMED)
    if not text.isascii():
        text = normalize("NFC", text)
    elif is_numeric and not text.isdigit():
        return _integer_of_float(text) or text
    return text


def are_numeric(texts: Collection[str]) -> bool:
    """Whether a column's ids are numeric: there is one, and each is an integer, or a float without a fraction."""
    canonical = (canonical_id(text, False) for text in texts)
    return bool(texts) and all(_INTEGER.fullmatch(text) or _integer_of_float(text) is not None for text in canonical)


def id_shape(text: str) -> str:
    """What an id looks like, without naming anybody: digits as 9, letters as A and a."""
    return "".join("9" if char.isdigit() else "aA"[char.isupper()] if char.isalpha() else char for char in text)


def id_problem(text: str, is_numeric: bool = False) -> str | None:
    """Why a canonical id cannot be used; None if it can."""
    if not text:
        return "is blank"
    if len(text) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH} characters"
    if _CONTROL.search(text):
        return "holds a control character"
    if not text.isascii() and _SURROGATE.search(text):
        return "holds half of a surrogate pair"
    if is_numeric and _integer_of_float(text) == "":
        return "is a float whose last digits are lost; write ids as integers or text"
    return None


def _integer_of_float(text: str) -> str | None:
    """The integer that a float stands for: empty where its last digits are lost, None for other text."""
    match = _FLOAT.fullmatch(text)
    if match is None:
        return None
    whole, first, fraction, exponent = match.groups()
    if exponent is not None:
        places, fraction = int(exponent), (fraction or "").rstrip("0")
        if places > _MAX_EXPONENT:
            return ""
        if len(fraction) > places:
            return None
        whole = first + fraction.ljust(places, "0")
    if len(whole) > 17 or abs(int(whole)) >= _MAX_EXACT_FLOAT:
        return ""
    return str(int(whole))
