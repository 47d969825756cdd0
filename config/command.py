"""How a command ends: one line for a user's mistake, a traceback only for ours."""

from __future__ import annotations

import functools
import os
import select
import sys
from collections.abc import Callable, Mapping
from typing import Any

from config import threads as threads  # before torch: it says how torch's threads wait

INTERRUPTED, CLOSED_PIPE = 130, 141  # exit codes of a shell: 128 + SIGINT, 128 + SIGPIPE


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
    """Print a UserError as `error: ...` on stderr and return 2; an interrupt returns 130, a closed pipe 141."""

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        try:
            try:
                return main(argv)
            finally:
                sys.stdout.flush()  # here, where a closed pipe is caught; at the interpreter's exit it is not
        except UserError as error:
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            if not _discard_output():
                raise
            return CLOSED_PIPE

    return wrapped


def _discard_output() -> bool:
    """Whether nobody reads our output any more (`| head`). If so, what is left of it goes nowhere, without an error."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors alone, which are always reported
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed
