"""Sessions astride the cut: how many there are, and whether training reads their later part."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data.columns import EVENT_TIME, PART, PARTS, USER
from data.instants import to_iso
from experiments.leakage.cut import Cut
from experiments.leakage.finding import Finding, Outcome, Row
from experiments.leakage.time_order import SPLIT_AGAIN
from experiments.protocols.session_numbers import session_numbers
from features.featurize import microseconds


def astride(at: Cut) -> Outcome:
    """Of a session that spans the cut, training reads nothing of what lies after it."""
    events, minutes = at.ordered, at.settings.audit.session_minutes
    number = pd.Series(session_numbers(events, minutes), index=events.index)
    time = pd.Series(microseconds(events[EVENT_TIME]), index=events.index)
    after = time >= at.start_us
    begun = (time.groupby(number).transform("min") < at.start_us) & after
    spanning = number[begun].unique()
    findings = []
    if begun.any():
        findings.append(Finding(
            f"{len(spanning):,} of {number.nunique():,} sessions span the cut, with {begun.sum() / after.sum():.2%} "
            f"of the events after it",
            int(begun.sum()), _sessions(at, events[USER], number, time, spanning),
            "Their first part is learned and their last is asked after, as on a live platform whose model was fitted "
            "in the middle of a session. It makes the first minutes after the cut easier than the rest.",
            "Nothing to do; where the share is large, set `split.test_start` to a quiet hour.", fails=False,
        ))  # fmt: skip
    leaked = events[begun & (_filed_before(at, events) | _read(at, events, time))]
    if len(leaked):
        findings.append(Finding(
            "training holds the later part of sessions that span the cut", len(leaked), at.shown(leaked),
            "A session is of one mood: who has learned its end foretells its middle.", SPLIT_AGAIN,
        ))  # fmt: skip
    return Outcome(int(number.nunique()), f"sessions (pauses under {minutes} minutes)", findings)


def _filed_before(at: Cut, events: pd.DataFrame) -> np.ndarray:
    """(E,) bool: the part that an event is filed under is one that the model of this cut learns from."""
    return events[PART].isin(PARTS[: PARTS.index(at.name)]).to_numpy()


def _read(at: Cut, events: pd.DataFrame, time: pd.Series) -> np.ndarray:
    """(E,) bool: what training reads holds an event of this user and time."""
    past = at.features.past
    held = pd.MultiIndex.from_arrays([np.array(at.features.users, dtype=object)[past.users], past.times])
    return pd.MultiIndex.from_arrays([events[USER], time]).isin(held)


def _sessions(at: Cut, users: pd.Series, number: pd.Series, time: pd.Series, spanning: np.ndarray) -> list[Row]:
    rows = []
    for one in spanning[: at.settings.audit.examples]:
        of = time[number == one]
        counts = {"events before": str((of < at.start_us).sum()), "after": str((of >= at.start_us).sum())}
        rows.append({USER: str(users[of.index[0]]), "from": to_iso(of.min()), "to": to_iso(of.max())} | counts)
    return rows
