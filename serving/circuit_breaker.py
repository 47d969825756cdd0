"""A circuit breaker: leave a failing service alone for a while, then try it again."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

WINDOW = 20  # recent outcomes that are looked at
FAILURE_SHARE = 0.5  # of failures among them that opens it


class Breaker:
    """Closed, it allows every call. Open, it allows none for some seconds, then one trial at a time until one succeeds.

    It opens if `failures` of the recent outcomes, and at least half of them, are failures.
    """

    def __init__(
        self,
        failures: int,
        seconds: float,
        on_open: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures, self._seconds, self.clock = failures, seconds, clock
        self._outcomes: deque[bool] = deque(maxlen=max(WINDOW, failures))
        self._next_trial: float | None = None  # None while closed
        self._on_open = on_open
        self._last_failure = -math.inf
        self._trial_started = False  # since it opened

    @property
    def closed(self) -> bool:
        return self._next_trial is None

    def allows(self) -> bool:
        """Whether to call now. While open, True starts a trial, and further calls get False for `seconds`."""
        if self._next_trial is None:
            return True
        now = self.clock()
        if now < self._next_trial:
            return False
        self._trial_started = True
        self._next_trial = now + self._seconds  # so a trial that never reports back does not keep it open
        return True

    def succeeded(self) -> None:
        """Record a success."""
        if self._next_trial is not None:
            if not self._trial_started:  # the call began before the breaker opened, so it is no trial
                return
            self._next_trial = None
            self._outcomes.clear()
        self._outcomes.append(True)

    def failed(self, started: float | None = None) -> None:
        """Record a failure of a call that began at `started`, on `clock`.

        A call that began before the last failure is not counted: it waited through the same outage.
        """
        if started is not None and started < self._last_failure:
            return
        self._last_failure = self.clock()
        self._outcomes.append(False)
        was_closed, failures = self.closed, self._outcomes.count(False)
        if was_closed and (failures < self._failures or failures < FAILURE_SHARE * len(self._outcomes)):
            return
        self._next_trial, self._trial_started = self.clock() + self._seconds, False
        if was_closed:
            self._on_open()
