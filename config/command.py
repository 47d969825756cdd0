"""How a command ends: one line for a user's mistake, a traceback only for ours."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any


class UserError(ValueError):
    """Something the person at the keyboard can put right; its text says what and where."""


def describe_fault(name: str, fault: Mapping[str, Any]) -> str:
    """One of Pydantic's errors as a sentence: `TIDEGATE_WORKERS is '0'; input should be greater than ...`.

    Args:
        name: of the setting, as the user knows it.
        fault: an entry of `ValidationError.errors()`.
    """
    message = fault["msg"].removeprefix("Value error, ")
    return f"{name} is {fault['input']!r}; {message[:1].lower()}{message[1:]}"


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
