"""The part of S3's protocol that tansu, the Kafka broker of tests and benchmarks, keeps its log with. Objects are in memory.

A broker that is killed loses nothing, as with a disk of its own.
"""

from __future__ import annotations

import re
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

ISO_TIME = "2026-01-01T00:00:00.000Z"


class StoredObject(NamedTuple):
    content: bytes
    etag: str


class ObjectStore:
    """A server on a free port of loopback; buckets need not be created."""

    def __init__(self) -> None:
        self.objects: dict[str, StoredObject] = {}
        self.lock = threading.Lock()
        self.versions = count(1)
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    store: ObjectStore
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.store.lock:
            old = self.store.objects.get(self._key)
            wanted = self.headers.get("If-Match")
            if (old and self.headers.get("If-None-Match") == "*") or (wanted and (not old or old.etag != wanted)):
                return self._answer(412)
            new = StoredObject(content, f'"{next(self.store.versions)}"')
            self.store.objects[self._key] = new
        self._answer(200, {"ETag": new.etag})

    def do_GET(self) -> None:
        parameters = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if "list-type" in parameters:
            return self._list(*(parameters.get(name, [""])[0] for name in ("prefix", "delimiter", "start-after")))
        with self.store.lock:
            found = self.store.objects.get(self._key)
        if found is None:
            return self._answer(404, content=b"<Error><Code>NoSuchKey</Code></Error>")
        headers = {"ETag": found.etag, "Last-Modified": formatdate(usegmt=True)}
        if self.headers.get("If-None-Match") == found.etag:
            return self._answer(304, headers)
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part is None:
            return self._answer(200, headers, found.content)
        first, last = int(part[1]), min(int(part[2]), len(found.content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(found.content)}"
        self._answer(206, headers, found.content[first : last + 1])

    do_HEAD = do_GET

    @property
    def _key(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _list(self, prefix: str, delimiter: str, after: str) -> None:
        """The objects below a prefix, and the folders. Keys here begin with the bucket, in the answer without."""
        bucket = self._key.rstrip("/") + "/"
        files, folders = [], {}
        with self.store.lock:
            keys = sorted(key.removeprefix(bucket) for key in self.store.objects if key.startswith(bucket + prefix))
            for key in keys:
                folder, separator, _ = key[len(prefix) :].partition(delimiter or "\0")
                if separator:
                    folders[f"{prefix}{folder}{separator}"] = None
                elif key > after:
                    files.append((key, self.store.objects[bucket + key]))
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{ISO_TIME}</LastModified>"
            f"<ETag>{escape(found.etag)}</ETag><Size>{len(found.content)}</Size></Contents>"
            for key, found in files
        )
        prefixes = "".join(f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>" for key in folders)
        result = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}{prefixes}</ListBucketResult>"
        self._answer(200, {"Content-Type": "application/xml"}, result.encode())

    def _answer(self, status: int, headers: dict[str, str] | None = None, content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
