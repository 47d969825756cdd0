"""Answers are given again for a while: to the same user, with the same profile, by the same version."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_torchserve import FakeTorchServe
from memory_profiles import MemoryProfiles
from running import Start, wait_until

from data.consent import Decision
from serving.edge import recommend
from serving.edge.answer import PACKED_FORMAT
from serving.edge.cache import ENTRY_BYTES, MemoryCache
from serving.edge.consent import UserProfile
from serving.edge.recommend import SEAL_BYTES


class ManualClock(MemoryCache):
    """A memory cache whose clock the test moves, read without an event loop."""

    def __init__(self, most: int = 10_000) -> None:
        self.now = 0.0
        super().__init__(most, lambda: self.now)

    def read(self, key: bytes) -> bytes | None:
        step = self.get(key, 1)
        with pytest.raises(StopIteration) as end:
            step.send(None)
        return end.value.value


def test_an_entry_expires_when_it_should() -> None:
    cache = ManualClock()
    cache.put(b"a", b"1", 10)
    cache.put(b"never", b"1", 0)
    cache.now = 9.9
    assert (cache.read(b"a"), cache.read(b"never")) == (b"1", None)
    cache.now = 10
    assert cache.read(b"a") is None


def test_the_bytes_stay_within_their_limit_and_the_least_recently_used_entry_goes_first() -> None:
    size = ENTRY_BYTES + 1 + 100
    cache = ManualClock(most=3 * size)
    for key in (b"a", b"b", b"c"):
        cache.put(key, b"x" * 100, 10)
    assert cache.read(b"a")
    cache.put(b"d", b"x" * 100, 10)
    assert [bool(cache.read(key)) for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    cache.put(b"a", b"y" * 100, 10)  # in place of itself
    cache.put(b"large", b"x" * 10_000, 10)  # larger than the cache: refused, and displaces nothing
    assert cache.read(b"large") is None
    assert cache.read(b"a") == b"y" * 100


BODIES = [
    {"user_id": "ann"},
    {"user_id": "bob"},
    {"user_id": "ann", "k": 3},
    {"user_id": "ann", "exclude": ["ann-000"]},
    {"user_id": "ann", "time": "2026-01-01T00:00:00Z"},
    {"user_id": "ann", "context": {"device": "tv"}},
    {"history": [{"item_id": "a", "event_time": "2026-01-01T00:00:00Z"}]},
    {"user_id": "ann", "history": []},
]


def test_only_the_same_request_gets_the_cached_answer(start: Start) -> None:
    edge = start()
    first = [edge.answer(body) for body in BODIES]
    assert {answer["cache"] for answer in first} == {"miss"}
    for body, answer in zip(BODIES, first, strict=True):
        again = edge.answer(body | {"request_id": "another"})
        assert again == answer | {"cache": "hit", "request_id": "another"}
    assert edge.count("tidegate_edge_answers_total", source="personalized", cache="hit", bucket="") == len(BODIES)


def test_a_changed_profile_makes_cached_answers_invalid(start: Start) -> None:
    users = MemoryProfiles({"ann": UserProfile(Decision.GRANTED, "after 1 event")})
    edge = start(users)
    assert [edge.answer({"user_id": "ann"})["cache"] for _ in range(2)] == ["miss", "hit"]
    users.profiles["ann"] = UserProfile(Decision.GRANTED, "after 2 events")
    assert [edge.answer({"user_id": "ann"})["cache"] for _ in range(2)] == ["miss", "hit"]


def test_an_answer_of_a_worker_that_missed_the_profile_is_not_repeated(
    start: Start, torchserve: FakeTorchServe
) -> None:
    edge = start(MemoryProfiles({"ann": UserProfile(Decision.GRANTED, "after 1 event")}))
    torchserve.misses_profiles = True
    blind = edge.answer({"user_id": "ann"})
    assert (blind["source"], edge.answer({"user_id": "nobody knows"})["source"]) == ("popular", "popular")
    torchserve.misses_profiles = False

    assert edge.answer({"user_id": "ann"})["source"] == "personalized"
    assert edge.answer({"user_id": "nobody knows"})["cache"] == "hit"  # of whom there is nothing that could be missed


class StoredAnswers:
    """A cache whose entries the test can read and change."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}

    async def get(self, key: bytes, seconds: float) -> bytes | None:
        return self.entries.get(key)

    def put(self, key: bytes, value: bytes, keep_seconds: float) -> None:
        self.entries[key] = value

    async def close(self) -> None:
        return None


def change_byte(entry: bytes, position: int) -> bytes:
    return entry[:position] + bytes([entry[position] ^ 1]) + entry[position + 1 :]


DAMAGES = {
    "empty": lambda entry: b"",
    "cut off": lambda entry: entry[:-20],
    "longer": lambda entry: entry + b"}",
    "a changed byte at its start": lambda entry: change_byte(entry, 0),
    "a changed byte in the middle": lambda entry: change_byte(entry, len(entry) // 2),
    "without its seal": lambda entry: entry[SEAL_BYTES:],
    "another program's": lambda entry: b'{"items": []}',
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_or_foreign_entry_is_a_miss(start: Start, how: str) -> None:
    edge = start()
    stored = edge.service.pipeline.cache = StoredAnswers()
    first = edge.answer({"user_id": "ann"})
    assert edge.answer({"user_id": "ann"})["cache"] == "hit"
    stored.entries = {key: DAMAGES[how](entry) for key, entry in stored.entries.items()}
    assert edge.answer({"user_id": "ann"}) | {"request_id": ""} == first | {"request_id": ""}


def test_an_entry_under_another_key_is_a_miss(start: Start) -> None:
    edge = start()
    stored = edge.service.pipeline.cache = StoredAnswers()
    edge.answer({"user_id": "ann"})
    anns = set(stored.entries)
    edge.answer({"user_id": "bob"})
    bobs = next(stored.entries[key] for key in stored.entries if key not in anns)
    stored.entries = dict.fromkeys(stored.entries, bobs)
    answer = edge.answer({"user_id": "ann"})
    assert (answer["cache"], answer["items"][0]["item_id"]) == ("miss", "ann-000")


def test_datasets_and_releases_never_read_each_others_answers(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "the same on every machine"
    one, other = start(user_secret=secret), start(user_secret=secret, dataset="tiny/other", warm=False)
    stored = one.service.pipeline.cache = other.service.pipeline.cache = StoredAnswers()
    other.service.pipeline.version = "1.0"
    one.answer({"user_id": "ann"})
    assert one.answer({"user_id": "ann"})["cache"] == "hit"
    assert other.answer({"user_id": "ann"})["cache"] != "hit"
    assert all(PACKED_FORMAT.encode() + b":tiny" in key for key in stored.entries)
    monkeypatch.setattr(recommend, "PACKED_FORMAT", "of another release")
    assert one.answer({"user_id": "ann"})["cache"] == "miss"


@pytest.mark.parametrize("settings", [{"cache": "off"}, {"cache_seconds": 0}])
def test_a_cache_can_be_turned_off(start: Start, settings: dict) -> None:
    edge = start(**settings)
    assert [edge.answer({"user_id": "ann"})["cache"] for _ in range(2)] == ["miss", "miss"]


def test_equal_requests_at_the_same_time_cost_one_call(start: Start, torchserve: FakeTorchServe) -> None:
    edge = start()
    torchserve.delay = 0.5
    with ThreadPoolExecutor(8) as crowd:
        answers = list(crowd.map(lambda n: edge.answer({"user_id": "ann", "request_id": str(n)}), range(8)))
    assert torchserve.requested_users() == ["ann"]
    assert [answer["request_id"] for answer in answers] == [str(n) for n in range(8)]
    kinds = [answer["cache"] for answer in answers]
    assert kinds.count("miss") == 1
    assert set(kinds) <= {"miss", "shared", "hit"}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """A real Redis on a port of its own."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server is installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_until(lambda: not socket.socket().connect_ex(("127.0.0.1", port)))
    yield f"redis://127.0.0.1:{port}/0", process
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


def test_processes_share_a_redis(start: Start, redis) -> None:
    secret = "the same on every machine"
    one, two = (start(cache=redis[0], user_secret=secret) for _ in range(2))
    answer = one.answer({"user_id": "ann"})
    wait_until(lambda: two.answer({"user_id": "ann", "request_id": "x"})["cache"] == "hit")
    assert two.answer({"user_id": "ann"})["items"] == answer["items"]
    stranger = start(cache=redis[0], user_secret="of another installation")
    assert stranger.answer({"user_id": "ann"})["cache"] == "miss"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_redis_that_stops_costs_its_hits_only(
    start: Start, torchserve: FakeTorchServe, redis, how: signal.Signals
) -> None:
    url, process = redis
    edge = start(cache=url, cache_ms=100)
    edge.answer({"user_id": "ann"})
    wait_until(lambda: edge.answer({"user_id": "ann"})["cache"] == "hit")
    os.kill(process.pid, how)
    for number in range(12):
        answer = edge.answer({"user_id": "ann" if number % 2 else f"user-{number}"})
        assert (answer["source"], answer["cache"]) == ("personalized", "miss")
    assert edge.count("tidegate_edge_breaker_opened_total", part="cache") >= 1
    torchserve.stop()
    assert edge.answer({"user_id": "ann"})["source"] == "popular"
    torchserve.start()
    if how == signal.SIGSTOP:
        os.kill(process.pid, signal.SIGCONT)
        wait_until(lambda: edge.answer({"user_id": "dan"})["cache"] == "hit")
