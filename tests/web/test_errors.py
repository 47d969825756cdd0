"""An error labels a metric by a short fixed list of reasons."""

from __future__ import annotations

import pytest

from web.errors import ApiError


@pytest.mark.parametrize(("status", "reason", "label"), [(401, "", "key"), (418, "", "other"), (429, "rate", "rate")])
def test_an_error_has_its_reason_or_that_of_its_status(status: int, reason: str, label: str) -> None:
    assert ApiError(status, None, "no", reason=reason).reason == label
