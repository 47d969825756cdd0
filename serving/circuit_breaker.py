"""A circuit breaker: who keeps failing is left alone for a while, then asked once to see whether it is back."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

WINDOW = 20  # outcomes that are looked back on
SHARE = 0.5  # of failures among them that opens it


class Breaker:
    """Closed: everybody asks. Open: nobody does, for `seconds`; then one at a time, until one succeeds.

    It opens when at least `failures` of the last outcomes, and at least half of them, failed: so a server that
    answers every other request in time is rested too, and one bad moment among many good ones is not.

    Args:
        failures: the least number of failures that opens it.
        seconds: how long it stays open.
        on_open: called whenever it opens.
        clock: seconds, monotonic.
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
        self._asked_again: float | None = None  # when it may be asked next; None while closed
        self._on_open = on_open
        self._failed_at = -math.inf
        self._trial = False  # whether somebody was let through since it opened

    @property
    def closed(self) -> bool:
        return self._asked_again is None

    def allows(self) -> bool:
        """Whether to ask now. While open, a True is a trial: none other is allowed for `seconds`."""
        if self._asked_again is None:
            return True
        now = self.clock()
        if now < self._asked_again:
            return False
        self._trial = True
        self._asked_again = now + self._seconds  # a trial that never reports back must not keep it open for ever
        return True

    def succeeded(self) -> None:
        if self._asked_again is not None:
            if not self._trial:  # asked before it opened: one late success among failures says little
                return
            self._asked_again = None
            self._outcomes.clear()
        self._outcomes.append(True)

    def failed(self, asked: float | None = None) -> None:
        """Count a failure.

        Args:
            asked: when, on `clock`. Who had asked before the last failure came in waited through the same moment, and
                is not counted again: or one pause of this process would count once for everybody who waits.
        """
        if asked is not None and asked < self._failed_at:
            return
        self._failed_at = self.clock()
        self._outcomes.append(False)
        failures = self._outcomes.count(False)
        if self._asked_again is not None:
            self._asked_again, self._trial = self.clock() + self._seconds, False
        elif failures >= self._failures and failures >= SHARE * len(self._outcomes):
            self._asked_again = self.clock() + self._seconds
            self._trial = False
            self._on_open()
