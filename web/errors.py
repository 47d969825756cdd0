"""The error that a service answers with."""

from __future__ import annotations

from fastapi import HTTPException, Request
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Route

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


def as_api_error(request: Request, error: StarletteHTTPException) -> ApiError:
    """An error of ours as it is, and one of the framework with the part of the request that is wrong."""
    if isinstance(error, ApiError):
        return error
    if error.status_code == 404:
        return ApiError(404, "path", "unknown; see /docs")
    if error.status_code == 405:  # of all routes with this path; Starlette names the methods of the first only
        routes = [route for route in request.app.routes if isinstance(route, Route) and route.path == request.url.path]
        allowed = ", ".join(sorted({method for route in routes for method in route.methods or ()}))
        return ApiError(405, "method", f"expected {allowed}", {"Allow": allowed})
    return ApiError(error.status_code, None, error.detail, dict(error.headers or {}))
