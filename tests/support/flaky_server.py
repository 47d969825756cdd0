"""An HTTP server of one file that fails as servers do: refused requests, cut-off answers, new versions."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FlakyServer:
    """Serves `content` under any path, with an ETag and ranges. `faults` holds, for the next requests, a status to answer
    with, or the number of bytes after which an answer is cut off, as a negative number; None: no fault.
    """

    def __init__(self, content: bytes, etag: str = '"1"') -> None:
        self.content, self.etag = content, etag
        self.faults: list[int | None] = []
        self.requests: list[dict[str, str]] = []  # headers in lower case
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.requests.append(headers)
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None and fault > 0:
            handler.send_response(fault)
            handler.send_header("Retry-After", "0")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if headers.get("if-none-match") == self.etag:
            handler.send_response(304)
            handler.end_headers()
            return
        start = 0
        if "range" in headers and headers.get("if-range") == self.etag:
            start = int(headers["range"].removeprefix("bytes=").rstrip("-"))
        content = self.content[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        handler.send_header("ETag", self.etag)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content if fault is None else content[:-fault])
        handler.close_connection = True

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
