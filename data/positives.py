"""Which events count: of users who agreed, of the wanted types, of at least the wanted value."""

from __future__ import annotations

from typing import Any

import pandas as pd

import params
from data.columns import EVENT_TYPE, TRAINING_CONSENT, USER, VALUE
from data.errors import DataError

_YES, _NO = {"true", "1", "1.0", "yes", "y", "t"}, {"false", "0", "0.0", "no", "n", "f"}


def consenting(users: pd.DataFrame | None) -> set[str] | None:
    """Users who agreed that their events train models; None where the source does not ask.

    Only a yes is consent: an empty cell is none, nor is a yes beside a no.

    Raises:
        DataError: a value that is neither yes nor no.
    """
    if users is None or TRAINING_CONSENT not in users.columns:
        return None
    answers = users[TRAINING_CONSENT]
    text = answers.astype("string").str.strip().str.lower().fillna("")
    unclear = ~text.isin(_YES | _NO | {""})
    if unclear.any():
        raise DataError(
            f"users: {TRAINING_CONSENT} is {answers[unclear].iloc[0]!r} for user "
            f"{users[USER][unclear].iloc[0]!r}; expected true or false"
        )
    return set(users[USER][text.isin(_YES)]) - set(users[USER][~text.isin(_YES)])


def with_consent(events: pd.DataFrame, users: pd.DataFrame | None, counts: dict[str, Any]) -> pd.DataFrame:
    """Events of users who agreed, or all where the source does not ask; adds to `counts`."""
    agreed = consenting(users)
    allowed = pd.Series(True, index=events.index) if agreed is None else events[USER].isin(agreed)
    counts["without_consent"] = int((~allowed).sum())
    counts["users_without_consent"] = int(events[USER][~allowed].nunique())
    if not allowed.any():
        raise DataError(f"ingest: none of {len(events)} events is of a user whose {TRAINING_CONSENT} is true")
    return events[allowed]


def positives(events: pd.DataFrame, settings: params.Ingest, counts: dict[str, Any]) -> pd.DataFrame:
    """Events of the wanted types and of at least the wanted value; adds to `counts`."""
    wanted = pd.Series(True, index=events.index)
    if settings.event_types is not None:
        wanted = events[EVENT_TYPE].isin(settings.event_types)
        if not wanted.any():
            sizes = events[EVENT_TYPE].value_counts().items()
            types = ", ".join(f"{name} ({count})" for name, count in sizes)
            raise DataError(
                f"ingest.event_types is {settings.event_types}; none of {len(events)} events is "
                f"one; the source holds: {types}; null takes all"
            )
    counts["other_event_types"] = int((~wanted).sum())
    events = events[wanted]
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
