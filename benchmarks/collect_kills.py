"""Kill the collector at random while clients send, let its disk refuse writes, and compare what it acknowledged with its log.

Clients send each batch until every event has the verdict accepted or duplicate, and now and then send one again. What
counts: acknowledged events that the log lacks, events that it holds twice, and requests that end with another status than
200, 429 or 503. With `--log kafka`, half of the kills hit the Kafka broker.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import httpx
import psutil

from benchmarks._kafka_broker import KafkaBroker
from benchmarks._load import free_ports
from benchmarks._record import write
from config.command import exits_cleanly
from data.collect.open_log import open_reader
from data.collect.schema import PURPOSES
from data.collect.settings import PREFIX, SQLITE, CollectSettings
from data.collect.write_keys import WriteKey
from web.keys import add_key, create

CLIENTS, BATCH_EVENTS, REPEATED = 4, 20, 0.1
REFUSING_SECONDS = 2.0
BROKER_SECONDS = 3.0  # that a killed broker stays away, at most
FINAL = {"accepted", "duplicate"}


class Collector:
    """The collector's process, which is started again when it was killed."""

    def __init__(self, settings: CollectSettings) -> None:
        self.port, metrics_port = free_ports(2)
        self.key, key = create(WriteKey, None, source="kills", purposes=PURPOSES)
        add_key(settings.write_keys, key)
        values = {"home": settings.home, "log": settings.log, "port": self.port, "metrics_port": metrics_port}
        self._environ = os.environ | {PREFIX + name.upper(): str(value) for name, value in values.items()}
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "data.collect.serve"]
        self.process = subprocess.Popen(
            command, env=self._environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        """Kill it, and start it again."""
        self.process.kill()
        self.process.wait()
        self.start()

    def refuse_writes(self) -> None:
        """Let each write to a file fail for some seconds, as on a full disk."""
        limits = psutil.Process(self.process.pid)
        limits.rlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        time.sleep(REFUSING_SECONDS)
        limits.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


class Client:
    """Sends batches until told to stop; `acknowledged` holds the ids of delivered events."""

    def __init__(self, number: int, url: str, key: str, stop: threading.Event) -> None:
        self._number, self._url, self._key, self._stop = number, url, key, stop
        self._random = random.Random(number)
        self.acknowledged: list[str] = []
        self.statuses: Counter[str] = Counter()

    def run(self) -> None:
        batch = 0
        while not self._stop.is_set():
            ids = [f"{self._number}-{batch}-{event}" for event in range(BATCH_EVENTS)]
            self._deliver(ids)
            self.acknowledged += ids
            if self._random.random() < REPEATED:
                self._deliver(self._random.choices(self.acknowledged, k=BATCH_EVENTS))
            batch += 1

    def _deliver(self, ids: list[str]) -> None:
        """Send until everything is acknowledged."""
        message = {"type": "track", "userId": "ann", "event": "view", "properties": {"item_id": "a"}}
        body = {"batch": [message | {"messageId": message_id} for message_id in ids]}
        while True:
            try:
                with httpx.Client(trust_env=False, timeout=30) as http:
                    response = http.post(f"{self._url}/v1/batch", json=body, auth=(self._key, ""))
            except httpx.HTTPError:
                self.statuses["no answer"] += 1
                time.sleep(0.05)
                continue
            self.statuses[str(response.status_code)] += 1
            if response.status_code == 200:
                results = response.json()["results"]
                assert set(results) == set(ids), "a verdict is missing"
                if {verdict["status"] for verdict in results.values()} <= FINAL:
                    return
            time.sleep(0.05)


def run(home: Path, kills: int, refusals: int, seconds: float, seed: int, broker: KafkaBroker | None = None) -> dict:
    """The figures of one run, with the embedded log or that of a broker."""
    generator = random.Random(seed)
    settings = CollectSettings(home=home, log=f"kafka://{broker.address}/events" if broker else SQLITE)
    collector, stop = Collector(settings), threading.Event()
    url = f"http://127.0.0.1:{collector.port}"
    clients = [Client(number, url, collector.key, stop) for number in range(CLIENTS)]
    kills_of_broker = kills // 2 if broker else 0
    order = ["kill"] * (kills - kills_of_broker) + ["kill the broker"] * kills_of_broker + ["refuse"] * refusals
    generator.shuffle(order)
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(client.run) for client in clients]
        for number, action in enumerate(order, 1):
            time.sleep(generator.uniform(0.2, 2 * seconds / len(order)))
            if action == "kill":
                collector.kill()
            elif broker and action == "kill the broker":
                broker.kill()
                time.sleep(generator.uniform(0, BROKER_SECONDS))
                broker.start()
            else:
                with suppress(psutil.NoSuchProcess):
                    collector.refuse_writes()
            print(
                f"{number}/{len(order)}: {action}, {sum(len(client.acknowledged) for client in clients):,} acknowledged",
                flush=True,
            )
        stop.set()
        for future in running:
            future.result()
    collector.stop()
    acknowledged = {message_id for client in clients for message_id in client.acknowledged}
    logged = [message.message_id for message in open_reader(settings).read()]
    statuses = sum((client.statuses for client in clients), Counter())
    return {
        "log": "kafka" if broker else SQLITE,
        "kills": kills,
        "of_the_broker": kills_of_broker,
        "refusals_of_the_disk": refusals,
        "acknowledged": len(acknowledged),
        "acknowledged_and_not_in_the_log": len(acknowledged - set(logged)),
        "in_the_log_twice": len(logged) - len(set(logged)),
        "in_the_log_and_not_acknowledged": len(set(logged) - acknowledged),
        "requests_by_status": dict(statuses),
    }


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collect_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--refusals", type=int, default=2, help="times that the disk refuses; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=150, help="about how long it takes; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--log", choices=("sqlite", "kafka"), default="sqlite", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        broker = stack.enter_context(closing(KafkaBroker())) if arguments.log == "kafka" else None
        home = Path(folder) / "collect"
        figures = run(home, arguments.kills, arguments.refusals, arguments.seconds, arguments.seed, broker)
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):<36}{value}")
    print(f"-> {write('collect_kills', figures, arguments.log if broker else None)}")
    bad = set(figures["requests_by_status"]) - {"200", "429", "503", "no answer"}
    failed = figures["acknowledged_and_not_in_the_log"] or figures["in_the_log_twice"] or bad
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
