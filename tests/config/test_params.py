"""Settings are checked when they are read, and what is wrong is named."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from config.params import TableFormat

FOUND = {"encoding": None, "delimiter": None, "quote": '"', "na_values": [], "time_format": None, "timezone": "UTC"}


@pytest.mark.parametrize("text", ["\t", "tab", r"\t"])
def test_a_tab_is_written_in_three_ways(text):
    assert TableFormat(**FOUND | {"delimiter": text}).delimiter == "\t"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("encoding", "klingon", "expected a text encoding such as utf-8"),
        ("encoding", "hex", "expected a text encoding such as utf-8"),
        ("delimiter", "\n", "without a quote, a line break or a NUL"),
        ("delimiter", "", "at least 1 character"),
        ("quote", "''", "at most 1 character"),
        ("quote", "a", "expected one ASCII punctuation character"),
        ("time_format", "yyyy-MM-dd", "expected s, ms, us, ns or a strptime format with a year"),
        ("time_format", "%Y-%Q", "expected s, ms, us, ns or a strptime format with a year"),
        ("time_format", "%H:%M", "expected s, ms, us, ns or a strptime format with a year"),
        ("timezone", "Europe/Berln", "expected an IANA name such as UTC or Europe/Berlin"),
        ("timezone", "../etc/passwd", "expected an IANA name such as UTC or Europe/Berlin"),
        ("timezone", "", "expected an IANA name such as UTC or Europe/Berlin"),
    ],
)
def test_a_format_that_no_file_has_is_refused(key, value, message):
    with pytest.raises(ValidationError, match=message):
        TableFormat(**FOUND | {key: value})
