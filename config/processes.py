"""Processes that end when the process that started them does, however it ended."""

from __future__ import annotations

import shutil

# Before a command: the kernel kills it when the thread that started it ends. From util-linux, so empty on macOS.
END_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
