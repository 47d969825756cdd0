"""The error that a service answers with."""

from __future__ import annotations

from fastapi import HTTPException

REASONS = {  # of a refusal, by its status
    400: "malformed",
    401: "key",
    404: "path",
    405: "method",
    408: "slow_body",
    413: "long_body",
    431: "long_headers",
}
CLOSE = {"Connection": "close"}  # a header: the rest of the body is not read


class ApiError(HTTPException):
    """An error for the client: its status, the part of the request that is wrong (None: no part), and what to do.

    `reason` labels a metric: one of a short fixed list, by default the one of the status.
    """

    def __init__(
        self, status: int, field: str | None, message: str, headers: dict[str, str] | None = None, reason: str = ""
    ) -> None:
        super().__init__(status, message, headers)
        self.field, self.reason = field, reason or REASONS.get(status, "other")
