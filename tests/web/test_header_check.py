"""Headers that two readers may read differently, and too many of them, are refused before anything else."""

from __future__ import annotations

import pytest

from web.header_check import MAX_HEADER_BYTES, MAX_HEADERS, check_headers

Headers = list[tuple[bytes, bytes]]


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ([(b"accept", b"a"), (b"accept", b"b"), (b"authorization", b"a")], None),
        ([(b"authorization", b"a"), (b"authorization", b"a")], (400, "authorization")),
        ([(b"upgrade", b"h2c")], None),
        ([(b"upgrade", b"h2c"), (b"content-length", b"1")], (400, "upgrade")),
        ([(b"upgrade", b"h2c"), (b"transfer-encoding", b"chunked")], (400, "upgrade")),
        ([(b"a", b"")] * MAX_HEADERS, None),
        ([(b"a", b"")] * (MAX_HEADERS + 1), (431, "headers")),
        ([(b"a", b"b" * (MAX_HEADER_BYTES - 1))], None),
        ([(b"a", b"b" * MAX_HEADER_BYTES)], (431, "headers")),
    ],
)
def test_headers_are_accepted_or_refused(headers: Headers, refused: tuple[int, str] | None) -> None:
    error = check_headers(headers, frozenset({b"authorization"}))
    assert (error and (error.status_code, error.field)) == refused
