"""Why the edge did not get, or does not give, what was asked for.

Refusal           the client's request is answered with an error
NoAnswer          TorchServe gave no answer that can be passed on; `text` is the reason that the client reads
├── Unreachable   no connection, or it was cut
├── TooSlow       nothing within the time that was left
├── Garbled       something came that is no answer of ours
├── Failed        an error status
├── FailedOnIt    the worker cannot answer this one request, which says nothing of the others
├── Resting       not asked, since it kept failing
└── Crowded       not asked, since as many requests as are allowed wait already
StoreError        the profile store gave no word on a user
"""

from __future__ import annotations


class Refusal(Exception):
    """An error for the client: `status`, the field that is wrong (None: none is) and what to do about it."""

    def __init__(self, status: int, field: str | None, message: str, headers: tuple = ()) -> None:
        super().__init__(message)
        self.status, self.field, self.message, self.headers = status, field, message, headers


class NoAnswer(Exception):
    """TorchServe gave no answer. `kind` labels metrics; `counts` says whether the breaker holds it against the server."""

    kind, counts = "none", True

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Unreachable(NoAnswer):
    kind = "unreachable"


class TooSlow(NoAnswer):
    kind = "slow"


class Garbled(NoAnswer):
    kind = "garbled"


class Failed(NoAnswer):
    kind = "failed"


class FailedOnIt(NoAnswer):
    kind, counts = "failed_on_it", False


class Resting(NoAnswer):
    kind, counts = "resting", False


class Crowded(NoAnswer):
    kind, counts = "crowded", False


class StoreError(Exception):
    """The profile store gave no word on a user; the text says why, for the client's eyes."""
