"""Read TorchServe's messages in large pieces. Worker side.

Its worker reads every field of a message by two calls to the system, the length and the value: over 30 for a request
with five headers, a tenth of what an answer costs. Here what has arrived is taken at once and handed out in parts.
"""

from __future__ import annotations

import logging
import sys
from socket import socket
from struct import Struct
from typing import Any

log = logging.getLogger(__name__)

PIECE = 65_536
NUMBER = Struct("!i")
TAKE, COUNT = "_retrieve_buffer", "_retrieve_int"  # of ts.protocol.otf_message_handler: all that it reads by


class ReadAhead:
    """In place of two functions of TorchServe 0.12, for the one connection that a worker has."""

    def __init__(self) -> None:
        self._held, self._at = b"", 0

    def take(self, connection: socket, length: int) -> bytes:
        """So many bytes; ends the process, as TorchServe's does, where the frontend has gone."""
        end = self._at + length
        if end > len(self._held):
            self._fill(connection, length)
            end = length
        part, self._at = self._held[self._at : end], end
        return part

    def number(self, connection: socket) -> int:
        """A whole number of four bytes, as lengths are."""
        at = self._at
        if at + NUMBER.size > len(self._held):
            self._fill(connection, NUMBER.size)
            at = 0
        self._at = at + NUMBER.size
        return NUMBER.unpack_from(self._held, at)[0]

    def _fill(self, connection: socket, length: int) -> None:
        """Hold at least so many bytes from place 0 on."""
        parts = [self._held[self._at :]]
        held = len(parts[0])
        while held < length:
            part = connection.recv(max(PIECE, length - held))
            if not part:
                log.info("Frontend disconnected.")
                sys.exit(0)
            parts.append(part)
            held += len(part)
        self._held, self._at = b"".join(parts), 0


def install(codec: Any) -> None:
    """Let TorchServe's codec read so from now on; called between two messages, where nothing is half read."""
    if hasattr(codec, TAKE) and hasattr(codec, COUNT):
        ahead = ReadAhead()
        setattr(codec, TAKE, ahead.take)
        setattr(codec, COUNT, ahead.number)
    else:
        log.warning("%s has no %s and %s: its messages are read piece by piece", codec.__name__, TAKE, COUNT)
