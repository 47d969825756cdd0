"""Whatever stops, slows, empties or fills up: every request is answered in time, says its source, and it heals."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import tiny_artifact
from outage import Client, Disk, Line, Redis, Row, process, readiness, until
from own_registry import use_registry

from benchmarks._load import free_ports
from config.command import UserError
from data.consent import PERSONALIZATION, Answer
from features.online.connect import STORE_VARIABLE, StoreSettings, connect
from features.online.errors import StoreUnavailable
from features.online.profile import Event, Profile, make_profile
from features.online.store import Policy, ProfileStore
from serving import settings as torchserve
from serving.deployment import promotion, reconcile, registry
from serving.edge.keys import create_key
from serving.edge.settings import variable as edge_variable
from serving.settings import PORTS, variable
from serving.torchserve import launch, server
from serving.torchserve.client import TorchServe
from web.keys import add_key

pytestmark = pytest.mark.slow

LATE = "tidegate_edge_late_total"
DEADLINE_MS = 500
PATIENCE = 120  # seconds to heal, where a healthy machine takes a tenth of that
SOURCES = {"personalized", "segment", "popular", "cached", "static"}
NOW = time.time_ns() // 1000
MINUTE = 60_000_000
PAGE = 4096
NAME = "tiny"


def profile(user: str, agrees: bool, *numbers: int) -> Profile:
    events = [
        Event(NOW - (60 - item) * MINUTE, f"e{item}", NOW - (60 - item) * MINUTE, tiny_artifact.ITEMS[item], "play")
        for item in numbers
    ]
    return make_profile(user, events, consent={PERSONALIZATION: Answer(agrees, NOW - 90 * MINUTE, "page")})


PROFILES = [profile(f"yes-{number}", True, number, number + 1) for number in range(8)]
PROFILES += [profile(f"no-{number}", False, number, number + 1) for number in range(8)]
BODIES = {
    "known": [{"user_id": f"yes-{number}", "k": 3} for number in range(8)],
    "denied": [{"user_id": f"no-{number}", "k": 3} for number in range(8)],
    "stated": [{"history": tiny_artifact.history(number), "k": 3} for number in range(1, 9)],
}


@dataclass
class Stack:
    """Everything under test, and the eyes on it."""

    redis: Redis
    line: Line
    disk: Disk
    store: ProfileStore  # as a writer has it, straight to Redis
    server: torchserve.Settings
    edge_pid: int
    counts: str
    client: Client

    def last(self, kind: str, number: int, since: int = 0) -> list[Row]:
        return [row for row in self.client.rows[since:] if row.kind == kind][-number:]

    def settles(self, kind: str, sources: set[str], why: str = "") -> None:
        """The next answers of a kind come to have these sources for a reason, and keep them for a while."""
        since = len(self.client.rows)

        def fits(row: Row) -> bool:
            return row.source in sources and why in row.reason

        def settled() -> bool:
            rows = self.last(kind, 10, since)
            return len(rows) == 10 and all(map(fits, rows))

        def seen() -> dict[str, int]:
            return Counter(f"{row.source}: {row.reason}" for row in self.client.rows[since:] if row.kind == kind)

        until(settled, PATIENCE, seen)

    def falls(self, kind: str, sources: set[str], why: str = "") -> None:
        """What heals by itself is seen at least once. It may be over before ten slow answers are in."""
        since = len(self.client.rows)

        def fell() -> bool:
            return any(
                row.source in sources and why in row.reason for row in self.client.rows[since:] if row.kind == kind
            )

        until(fell, PATIENCE, lambda: Counter(row.source for row in self.client.rows[since:] if row.kind == kind))

    def well(self) -> None:
        self.settles("stated", {"personalized"})
        self.settles("known", {"personalized"})
        self.settles("denied", {"popular"}, "does not consent")

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Whatever happens in the block: all are answered in time, and nobody who denied consent is known."""
        self.well()
        begin, late = len(self.client.rows), self.count(LATE)
        yield
        self.well()
        rows = self.client.rows[begin:]
        assert not [row for row in rows if row.status != 200 or row.source not in SOURCES]
        assert not [row for row in rows if row.kind == "denied" and row.source not in ("popular", "static")]
        # Few, on a machine with other work: if requests waited for what fails, a third of them would be late.
        assert self.count(LATE) - late <= len(rows) / 20

    def count(self, name: str) -> float:
        """The sum of a metric over its labels."""
        page = httpx.get(f"{self.counts}/metrics", trust_env=False).text
        return sum(map(float, re.findall(rf"^{re.escape(name)}\S* (\S+)$", page, re.MULTILINE)))

    def worker(self) -> int:
        with TorchServe.from_settings(self.server) as client:
            (pid,) = client.describe(NAME)["1.0"].pids
        return pid


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, artifacts, empty_registry: Path) -> Iterator[Stack]:
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server on the path (Debian: apt-get install redis-server)")
    home = tmp_path_factory.mktemp("outages")
    redis_port, edge_port, counts_port, *ports = free_ports(3 + len(PORTS))
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        redis = Redis(home, redis_port)
        stack.callback(redis.kill)
        line = Line(redis_port)
        stack.callback(line.close)
        disk = Disk(home / "disk")
        stack.callback(disk.close)
        store = connect(NAME, StoreSettings(f"redis://127.0.0.1:{redis_port}/0"), writing=True)
        stack.callback(store.close)
        fill(store)
        patch.setenv(variable("state"), str(home / "state"))
        use_registry(home, empty_registry, patch)
        promotion.promote(NAME, registry.register_version(NAME, artifacts[1]), {"verdict": "PROMOTE"})

        url = f"redis://127.0.0.1:{line.port}/0"
        patch.setenv(STORE_VARIABLE, url)
        for field, port in zip(PORTS, ports, strict=True):
            patch.setenv(variable(field), str(port))
        patch.setenv(variable("server_home"), str(home / "torchserve"))
        own = {"home": disk.folder / "edge", "port": edge_port, "metrics_port": counts_port, "dataset": NAME}
        own |= {
            "artifact": artifacts[1],
            "cache": url,
            "cache_seconds": 0,
            "popular_seconds": 2,
            "deadline_ms": DEADLINE_MS,
        }
        own |= {"store_ms": 100, "cache_ms": 50}  # for a busy machine
        for field, value in own.items():
            patch.setenv(edge_variable(field), str(value))
        (disk.folder / "logs").mkdir()
        (home / "torchserve").mkdir()
        (home / "torchserve" / "logs").symlink_to(disk.folder / "logs")
        key, stored = create_key()
        add_key(disk.folder / "edge" / "keys.json", stored)

        reconcile.deploy(NAME, torchserve.load(), lambda line: None)
        stack.enter_context(process(["serving.supervisor", "--dataset", NAME], home / "keep.log"))
        edge = stack.enter_context(process(["serving.edge.serve"], home / "edge.log"))
        url = f"http://127.0.0.1:{edge_port}"
        until(lambda: bool(readiness(url).get("popular_list")), PATIENCE, (home / "keep.log").read_text)
        client = Client(f"{url}/v1/recommendations", key, BODIES)
        stack.callback(client.close)
        counts = f"http://127.0.0.1:{counts_port}"
        yield Stack(redis, line, disk, store, torchserve.load(), edge.pid, counts, client)


def fill(store: ProfileStore) -> None:
    """As features.fill does."""
    store.configure(Policy(max_events=100, ttl_us=None))
    store.upsert(PROFILES)


NOT_KNOWN = "so the user's consent to personalization is not known"


def test_a_killed_redis_costs_personalization_of_named_users_only(stack: Stack) -> None:
    with stack.watched():
        stack.redis.kill()
        stack.settles("known", {"popular"}, NOT_KNOWN)
        stack.settles("stated", {"personalized"})
        stack.redis.start()


def test_no_request_waits_for_a_redis_that_takes_half_a_second(stack: Stack) -> None:
    with stack.watched():
        stack.line.delay = 0.5
        stack.settles("known", {"popular"}, NOT_KNOWN)
        stack.settles("stated", {"personalized"})
        stack.line.delay = 0.0


def test_an_emptied_redis_holds_no_consent_until_it_is_filled(stack: Stack) -> None:
    with stack.watched():
        stack.redis.client.flushall()
        stack.settles("known", {"popular"}, NOT_KNOWN)
        stack.settles("stated", {"personalized"})
        fill(stack.store)


def test_a_full_redis_answers_reads_and_tells_writers_that_it_is_full(stack: Stack) -> None:
    before = stack.store.read(["yes-0"], [NOW])
    more = profile("yes-0", True, 5, 6, 7)
    with stack.watched():
        stack.redis.client.config_set("maxmemory-policy", "noeviction")
        stack.redis.client.config_set("maxmemory", "1")
        begin = len(stack.client.rows)
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            stack.store.upsert([more])
        stack.store.erase(["no-7"])  # an erased user is erased all the same, and their no stays
        time.sleep(1)
        stack.settles("known", {"personalized"})
        asked = [row.source for row in stack.client.rows[begin:] if row.kind == "known"]
        assert asked.count("personalized") >= 0.95 * len(asked)
        assert stack.store.read(["yes-0"], [NOW]) == before
        stack.redis.client.config_set("maxmemory", "0")
        stack.store.upsert([more, PROFILES[-1]])
        assert len(stack.store.read(["yes-0"], [NOW])[0].profile.events) == 5


def test_a_killed_worker_comes_back(stack: Stack) -> None:
    with stack.watched():
        before = stack.worker()
        os.kill(before, 9)
        stack.settles("known", {"personalized"})
    assert stack.worker() != before


def test_a_killed_torchserve_comes_back(stack: Stack) -> None:
    with stack.watched():
        os.kill(server.find(stack.server).pid, 9)
        stack.falls("known", {"cached", "popular"}, "TorchServe")
        stack.falls("stated", {"cached", "popular"}, "TorchServe")


def test_a_model_whose_files_are_gone_comes_back_with_the_next_deployment(stack: Stack) -> None:
    def deployed() -> bool:
        with suppress(UserError):  # the supervisor restarts the server meanwhile, and finds nothing to load
            reconcile.deploy(NAME, stack.server, lambda line: None)
            return True
        return False

    with stack.watched():
        for archive in stack.server.model_store.glob("*.mar"):
            archive.unlink()
        shutil.rmtree(launch.scratch_folder(stack.server.server_home.resolve()) / "models")
        stack.settles("known", {"personalized"})  # a loaded model does not need them
        os.kill(stack.worker(), 9)
        stack.falls("known", {"cached", "popular"}, "TorchServe")
        until(deployed, PATIENCE)
    assert list(stack.server.model_store.glob("*.mar"))


def test_a_full_disk_costs_logs_only(stack: Stack) -> None:
    log = stack.server.server_home / "logs" / "worker.log"
    lost = 'tidegate_edge_served_lines_total{outcome="failed"'
    with stack.watched():
        with log.open("ab") as file:
            file.write(b"\n" * (-log.stat().st_size % PAGE))  # or the rest of its last page would take some lines more
        size, before = log.stat().st_size, stack.count(lost)
        stack.disk.fill([stack.edge_pid, server.find(stack.server).pid])
        until(lambda: stack.count(lost) > before, 10)
        os.kill(stack.worker(), 9)
        stack.falls("known", {"cached", "popular"}, "TorchServe")
        stack.settles("known", {"personalized"})
        assert log.stat().st_size == size, "TorchServe could not log either"
        os.kill(server.find(stack.server).pid, 9)
        stack.falls("known", {"cached", "popular"}, "TorchServe")
        stack.settles("known", {"personalized"})
        stack.disk.free()
        written = 'tidegate_edge_served_lines_total{outcome="written"'
        before = stack.count(written)
        until(lambda: stack.count(written) > before, 10)
