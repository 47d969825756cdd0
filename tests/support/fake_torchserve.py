"""A small server that answers as TorchServe does with one of our models, and fails on demand."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

DATASET = "tiny"
TIME = "2026-01-02T00:00:00Z"
SLOW_SECONDS = 0.1  # of a version that is slow


class FakeTorchServe:
    """Listens on a port of its own until stopped; started again, on the same one.

    Attributes:
        mode: well, hung, slow, failing (503), garbage (200 with other JSON), noise (no HTTP), closing (mid-answer).
        delay: seconds that each answer takes.
        token: the token that it demands; None: none.
        misses_profiles: whether it finds no profile, as a worker whose store fails, and gives users without a history
            the popular list.
        drops: the number of coming requests whose connection it closes.
        loaded: the versions that a path may name; `version` answers a path without one.
        inputs: the digests of inputs in its answers.
        faults: version -> its own fault: failing, slow or strange (it lists other items).
        requests: (path, body) of every request.
    """

    def __init__(self) -> None:
        self.mode, self.delay, self.token = "well", 0.0, None
        self.version, self.loaded = "1.0", {"1.0"}
        self.drops, self.misses_profiles = 0, False
        self.inputs: object = None
        self.faults: dict[str, str] = {}
        self.requests: list[tuple[str, dict]] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._do(self._listen())

    def stop(self) -> None:
        """Die: no listener, and every connection cut."""
        self._do(self._die())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def requested_users(self) -> list[str | None]:
        """The users of the requests, without those that refresh the popular list."""
        return [body.get("user_id") for _, body in self.requests if body.get("k") != 1000]

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _die(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        under_way = list(self._tasks)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._tasks.add(asyncio.current_task())
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(
                    next(line for line in head.split("\r\n") if line.lower().startswith("content-length"))[15:]
                )
                await self._answer(head, json.loads(await reader.readexactly(length)), writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(asyncio.current_task())
            writer.close()

    async def _answer(self, head: str, body: dict, writer: asyncio.StreamWriter) -> None:
        path = head.split(" ")[1]
        self.requests.append((path, body))
        if self.drops:  # as where it closed an idle connection just when a request came
            self.drops -= 1
            writer.transport.abort()
            return
        if self.mode == "hung":
            await asyncio.sleep(3600)
        await asyncio.sleep(self.delay)
        if self.mode == "noise":
            writer.write(b"\x00\x01 what?\r\n\r\n")
        elif self.mode == "closing":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{")
            writer.close()
        elif self.token is not None and f"Bearer {self.token}" not in head:
            refusal = {"code": 400, "type": "InvalidKeyException", "message": "Token Authorization failed."}
            _write(writer, 400, refusal)
        elif self.mode == "failing":
            _write(writer, 503, {"code": 503, "type": "InternalServerException", "message": "Prediction failed"})
        elif self.mode == "garbage":
            _write(writer, 200, {"predictions": [1, 2, 3]})
        else:
            await self._recommend(path, body, writer)

    async def _recommend(self, path: str, body: dict, writer: asyncio.StreamWriter) -> None:
        version = path.removeprefix(f"/predictions/{DATASET}").strip("/") or self.version
        fault = self.faults.get(version)
        if fault == "slow":
            await asyncio.sleep(SLOW_SECONDS)
        if version not in self.loaded:
            _write(writer, 404, {"code": 404, "type": "ModelVersionNotFoundException", "message": "not found"})
        elif fault == "failing":
            _write(writer, 503, {"code": 503, "type": "InternalServerException", "message": "Prediction failed"})
        elif body.get("user_id") == "who breaks the model":
            _write(writer, 500, {"code": 500, "field": None, "message": "the recommender failed on this request"})
        elif body.get("exclude") == ["refuse me"]:
            _write(writer, 400, {"code": 400, "field": "exclude", "message": "is refused by the worker"})
        else:
            seen = {name: value for name, value in body.items() if name != "user_id"} if self.misses_profiles else body
            answer = recommendations(seen, version) | {"inputs": self.inputs}
            if fault == "strange":
                answer["items"] = [item | {"item_id": f"strange-{item['item_id']}"} for item in answer["items"]]
            _write(writer, 200, answer)


def recommendations(body: dict, version: str) -> dict:
    """The answer of a worker of this version; every user has another list."""
    user = body.get("user_id")
    prefix = "popular" if user is None and not body.get("history") else user or "guest"
    items = [{"item_id": f"{prefix}-{n:03d}", "score": 1.0 - n / 1000, "title": f"Title {n}"} for n in range(1000)]
    gone = set(body.get("exclude") or [])
    return {
        "items": [item for item in items if item["item_id"] not in gone][: int(body.get("k", 10))],
        "source": "popular" if prefix == "popular" else "personalized",
        "reason": "as the fake says",
        "time": TIME,
        "trends_time": TIME,
        "feature_time": None,
        "model_version": version,
        "dataset_version": "fake-data",
        "numeric_ids": [],
        "segments": [],
        "request_id": body.get("request_id"),
    }


def _write(writer: asyncio.StreamWriter, status: int, body: dict) -> None:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Fake\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
