"""How uvicorn runs each service: options of `uvicorn.run` other than the application and its address."""

from __future__ import annotations

from typing import Any

IDLE_SECONDS = 75  # longer than common balancers keep idle connections, so that they meet no closed one
GRACEFUL_SECONDS = 5  # for requests in progress, once the port is closed
CONTENT_POLICY = (  # FastAPI's documentation page has inline scripts and styles
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'"
)
UVICORN_OPTIONS: dict[str, Any] = {
    "loop": "uvloop",
    "http": "web.connections:BoundedConnection",  # httptools, with bounds
    "ws": "none",
    "lifespan": "on",
    "access_log": False,  # query strings may name users
    "server_header": False,
    "proxy_headers": False,  # nothing here depends on the client's address
    "timeout_keep_alive": IDLE_SECONDS,
    "timeout_graceful_shutdown": GRACEFUL_SECONDS,
    "timeout_worker_healthcheck": 30,  # a process that hangs this long is replaced; 5 s are soon over on a busy machine
    "headers": [
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", CONTENT_POLICY),
    ],
}
