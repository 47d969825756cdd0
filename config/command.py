"""How a command ends: a user's mistake is one line on stderr, an unexpected error a traceback."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
CLOSED_PIPE = 141  # 128 + SIGPIPE


class UserError(ValueError):
    """An error that the user can fix. The message says what is wrong and where."""


def describe_fault(name: str, fault: Mapping[str, Any]) -> str:
    """One of Pydantic's errors as a sentence: `TIDEGATE_WORKERS is '0'; input should be greater than ...`.

    Args:
        name: of the setting, as the user knows it.
        fault: an entry of `ValidationError.errors()`.
    """
    message = fault["msg"].removeprefix("Value error, ")
    return f"{name} is {fault['input']!r}; {message[:1].lower()}{message[1:]}"


def exits_cleanly(main: Callable[..., int]) -> Callable[..., int]:
    """Decorate the `main` of a command.

    A UserError is printed as `error: ...` on stderr and returns 2. An interrupt returns 130. If the reader of stdout
    has gone (`... | head`), the command stops silently and returns 141.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        try:
            code = main(argv)
            sys.stdout.flush()
            return code
        except UserError as error:
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr)
            return USER_ERROR
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            if _stdout_is_open():  # the broken pipe is another one, such as a socket
                raise
            # The interpreter flushes stdout once more at exit; it must not fail there.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return CLOSED_PIPE

    return wrapped


def _stdout_is_open() -> bool:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return False
    return True
