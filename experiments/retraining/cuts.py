"""Where retraining cuts time: everything until the version before ended may teach, only what came since may judge."""

from __future__ import annotations

from typing import NamedTuple

from config.command import UserError
from data.times import from_iso, to_iso


class RetrainCuts(NamedTuple):
    """Moments in microseconds."""

    valid_start: int
    test_start: int
    end: int  # the last event


def retrain_cuts(old_end_us: int, end_us: int, valid_start: str | None, test_start: str | None) -> RetrainCuts:
    """Where to cut: what is new is the test part, and as long a time before it the validation part, unless stated.

    Raises:
        UserError: nothing is new, or a stated date is none, or lets old events judge, or leaves a part empty.
    """
    if end_us <= old_end_us:
        raise UserError(f"SOURCE holds no event after {to_iso(old_end_us)}, where the version before ended")
    test = old_end_us + 1 if test_start is None else _moment("--test-start", test_start)
    if test <= old_end_us:
        raise UserError(
            f"--test-start is {test_start}; events until {to_iso(old_end_us)} have judged or taught already"
        )
    if test > end_us:
        raise UserError(f"--test-start is {test_start}; the last event is of {to_iso(end_us)}")
    valid = 2 * test - end_us - 1 if valid_start is None else _moment("--valid-start", valid_start)
    if valid >= test:
        raise UserError(f"--valid-start is {valid_start}; expected a moment before the test part, {to_iso(test)}")
    return RetrainCuts(valid, test, end_us)


def _moment(option: str, text: str) -> int:
    try:
        return from_iso(text)
    except ValueError:
        raise UserError(f"{option} is {text!r}; expected an ISO 8601 time") from None
