"""Which session each event is of."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data.columns import EVENT_TIME, MINUTE, SESSION, USER
from data.times import microseconds


def session_numbers(events: pd.DataFrame, minutes: int) -> np.ndarray:
    """(E,) session of each event: as the data names it where it names all, else a pause of `minutes` begins one.

    Args:
        events: by user, and in total order within each.
    """
    owners = events.groupby(USER, sort=False).ngroup().to_numpy()
    if SESSION in events and events[SESSION].notna().all():
        return events.groupby([owners, events[SESSION].to_numpy()], sort=False).ngroup().to_numpy()
    times = microseconds(events[EVENT_TIME]).to_numpy()
    pause = np.diff(times, prepend=times[:1]) >= minutes * MINUTE
    return np.cumsum(pause | (np.diff(owners, prepend=-1) != 0))
