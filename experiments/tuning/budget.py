"""How long a search may go on: so many trials, so many minutes, whichever ends first."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from command import UserError


@dataclass
class Budget:
    """How many more trials may begin; None is no limit but the time."""

    trials: int | None
    seconds: float

    def __post_init__(self) -> None:
        self.deadline = time.time() + self.seconds  # not the monotonic clock: other processes read it
        self.begun = False

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.deadline - time.time())

    def take(self) -> bool:
        """Take one trial from it; whether there was one. The first is there however little the time."""
        if self.trials == 0 or (self.begun and self.seconds_left == 0):
            return False
        self.begun = True
        if self.trials is not None:
            self.trials -= 1
        return True

    def __str__(self) -> str:
        trials = "" if self.trials is None else f"{self.trials} trial{'' if self.trials == 1 else 's'} and "
        return f"{trials}{self.seconds_left / 60:.1f} minutes left"


def minutes_of(text: str, name: str) -> float:
    """A number of minutes above 0.

    Raises:
        UserError: it is none; begins with `name`, which the person typed it for.
    """
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise UserError(f"{name} is {text!r}; expected a number of minutes above 0")
    return minutes
