"""How a command ends: one line for a user's mistake, a traceback only for ours."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something the person at the keyboard can put right; its text says what and where."""


def exits_cleanly(main: Callable[..., int]) -> Callable[..., int]:
    """Print a UserError as `error: ...` on stderr and return 2; an interrupt returns 130."""

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        try:
            return main(argv)
        except UserError as error:
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130

    return wrapped
