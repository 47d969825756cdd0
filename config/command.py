"""How a command ends: a user's mistake is one line on stderr, an unexpected error a traceback."""

from __future__ import annotations

import errno
import functools
import io
import os
import select
import sys
from collections.abc import Callable

from config.redact import install as install_redaction
from config.redact import redact

# OpenMP threads spin while they wait for each other. If other processes use the cores, each waits for a thread that does
# not run: a fit next to another one took 150 s instead of 20. If they sleep at once, they wake up too slowly: a fit alone
# took 31 s instead of 15. So they spin for a moment, then sleep. Torch's OpenMP runtime (GNU, or Intel's and LLVM's) reads
# these variables once, so every command imports this module before torch.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("KMP_BLOCKTIME", "0")

USER_ERROR = 2
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)
INTERRUPTED, CLOSED_PIPE = 130, 141  # as a shell reports them: 128 + SIGINT, 128 + SIGPIPE


class UserError(ValueError):
    """An error that the user can fix. The message says what is wrong and where; its text holds no password."""

    def __str__(self) -> str:
        return redact(super().__str__())


def exits_cleanly(main: Callable[..., int]) -> Callable[..., int]:
    """Decorate the `main` of a command.

    A UserError is printed as `error: ...` on stderr and returns 2, and so is a file that cannot be read or written for
    want of permission or space. An interrupt returns 130. If the reader of stdout
    has gone (`... | head`), the command stops silently and returns 141. Characters that stdout's encoding lacks are
    printed as escapes, such as `\\u2013`. Passwords are redacted in all log messages and tracebacks.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        install_redaction()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            try:
                return main(argv)
            finally:
                sys.stdout.flush()  # a closed pipe is caught here; at the interpreter's exit it would not be
        except UserError as error:
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr)
            return USER_ERROR
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            if not _discard_output():  # the broken pipe is another one, such as a socket
                raise
            return CLOSED_PIPE
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise
            print(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
            return USER_ERROR

    return wrapped


def _discard_output() -> bool:
    """Whether the reader of stdout has gone. If so, the remaining output is discarded without an error."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # only errors, which are always reported
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed
