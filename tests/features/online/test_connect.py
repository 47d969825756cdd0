"""Which store there is comes from the environment; a Redis that is slow, gone or back is met in time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from data.consent import PERSONALIZATION, Answer, decide
from features.online.connect import StoreSettings, connect, connect_to_read, read_settings
from features.online.errors import StoreError, StoreUnavailable
from features.online.profile import Event, make_profile
from features.online.store import Policy, ProfileStore, ReadingState
from serving.artifact.archive import worker_modules

ROOT = Path(__file__).resolve().parents[3]
T = 1_700_000_000_000_000
SLACK = 20  # seconds that a busy machine may add; what ignores the timeout waits a minute or for ever


def test_the_default_is_embedded_and_an_empty_variable_counts_as_unset() -> None:
    assert read_settings({}) == read_settings({"TIDEGATE_STORE": "", "TIDEGATE_STORE_READ_MS": ""}) == StoreSettings()
    assert read_settings({}).store == f"sqlite:///{Path.cwd()}/out/state/online.db"


def test_variables_set_the_store_and_its_timeouts() -> None:
    found = read_settings(
        {"TIDEGATE_STORE": "rediss://h:1/2", "TIDEGATE_STORE_READ_MS": "7", "TIDEGATE_STORE_WRITE_MS": "8.5"}
    )
    assert found == StoreSettings("rediss://h:1/2", 7, 8.5)


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "1e9"])
@pytest.mark.parametrize("name", ["TIDEGATE_STORE_READ_MS", "TIDEGATE_STORE_WRITE_MS"])
def test_a_timeout_out_of_bounds_is_named(name: str, value: str) -> None:
    with pytest.raises(StoreError, match=f"^{name} is '{value}'; expected milliseconds"):
        read_settings({name: value})


def test_an_unknown_kind_of_store_is_named_without_its_password() -> None:
    with pytest.raises(StoreError, match="TIDEGATE_STORE begins with 'mysql'") as refused:
        read_settings({"TIDEGATE_STORE": "mysql://me:secret@host"})
    assert "secret" not in str(refused.value)


def test_a_malformed_url_is_named() -> None:
    with pytest.raises(StoreError, match="TIDEGATE_STORE is not a Redis URL"):
        connect("d", StoreSettings("redis://h:port/0"))


def test_the_password_stays_out_of_errors() -> None:
    store = connect("d", StoreSettings("redis://me:secret@127.0.0.1:1/0"))
    with pytest.raises(StoreUnavailable, match=r"redis://127\.0\.0\.1:1/0") as refused:
        store.policy()
    assert "secret" not in str(refused.value)


def test_an_error_names_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    for name in ("store.db", "store.consent.db"):
        (tmp_path / name).write_text("rubbish " * 200, encoding="utf-8")
    with pytest.raises(StoreUnavailable, match=r"store\.db.*not a database"):
        connect("d", StoreSettings(f"sqlite:///{tmp_path}/store.db"))


def test_an_embedded_store_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    connect("d", StoreSettings(f"sqlite:///{tmp_path}/deep/store.db")).configure(Policy(5, None))

    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "deep").iterdir()} == {"0o600"}


def refused(store: ProfileStore, user: str) -> str:
    return decide(store.read([user], [T])[0].consent, PERSONALIZATION, T)


def test_consent_outlives_the_file_of_the_profiles_and_its_own_loss_denies(tmp_path: Path) -> None:
    settings = StoreSettings(f"sqlite:///{tmp_path}/store.db")
    played = [Event(T - 1, "e", T - 1, "i", "play")]
    no = make_profile("a", played, consent={PERSONALIZATION: Answer(False, T, "page")})

    def write(creates_consent: bool = False) -> None:
        store = connect("d", settings, writing=True, creates_consent=creates_consent)
        store.configure(Policy(5, None))
        store.upsert([make_profile("a", played), make_profile("b", played)])
        store.close()

    write()
    connect("d", settings).upsert([no])
    (tmp_path / "store.db").unlink()
    with pytest.raises(StoreUnavailable, match=r"run features\.materialize") as missing:
        connect_to_read("d", settings)
    assert missing.type is StoreUnavailable
    write()
    assert [refused(connect("d", settings), user) for user in ("a", "b")] == ["denied", "not_asked"]

    (tmp_path / "store.consent.db").unlink()
    for opened in (connect_to_read, connect):
        with pytest.raises(StoreUnavailable, match="lost all answers to consent"):
            opened("d", settings)
    assert not (tmp_path / "store.consent.db").exists()
    write(creates_consent=True)
    assert [refused(connect("d", settings), user) for user in ("a", "b")] == ["denied", "denied"]


def test_a_consent_file_that_was_emptied_lost_all_answers(tmp_path: Path) -> None:
    settings = StoreSettings(f"sqlite:///{tmp_path}/store.db")
    running = connect("d", settings)
    running.configure(Policy(5, None))
    running.upsert([make_profile("a", consent={PERSONALIZATION: Answer(False, T, "page")})])
    assert refused(running, "a") == "denied"

    (tmp_path / "empty").touch()
    (tmp_path / "empty").replace(tmp_path / "store.consent.db")
    for _ in range(2):
        for opened in (lambda *_: running.policy(), connect_to_read, connect):
            with pytest.raises(StoreUnavailable, match=r"lost all answers to consent: .*store\.consent\.db is empty"):
                opened("d", settings)
    running.close()
    assert refused(connect("d", settings, creates_consent=True), "a") == "denied"


def test_a_file_that_is_replaced_under_a_running_process_is_opened_again(tmp_path: Path) -> None:
    url, other = f"sqlite:///{tmp_path}/store.db", f"sqlite:///{tmp_path}/other/store.db"
    running, writer = connect("d", StoreSettings(url)), connect("d", StoreSettings(url), writing=True)
    writer.configure(Policy(5, None))
    writer.upsert([make_profile("old", [Event(T - 1, "e", T - 1, "i", "play")])])
    assert running.read(["old"], [T])[0].state == ReadingState.FOUND
    later = connect("d", StoreSettings(other), writing=True)
    later.configure(Policy(5, None))
    no = {PERSONALIZATION: Answer(False, T - 1, "page")}
    later.upsert([make_profile("new", [Event(T - 1, "e", T - 1, "i", "play")], consent=no)])
    later.close()

    for name in ("store.db", "store.consent.db"):
        (tmp_path / "other" / name).replace(tmp_path / name)

    assert [one.state for one in running.read(["old", "new"], [T, T])] == [ReadingState.UNKNOWN, ReadingState.FOUND]
    assert refused(running, "new") == "denied"
    writer.upsert([make_profile("third", [Event(T - 1, "e", T - 1, "i", "play")])])  # into the new file
    assert connect("d", StoreSettings(url)).read(["third"], [T])[0].state == ReadingState.FOUND


def test_a_file_that_is_gone_is_an_error_until_it_is_back(tmp_path: Path) -> None:
    store = connect("d", StoreSettings(f"sqlite:///{tmp_path}/store.db"))
    store.configure(Policy(5, None))
    for name in ("store.db", "store.consent.db"):
        (tmp_path / name).rename(tmp_path / "aside")
        with pytest.raises(StoreUnavailable, match="No such file"):
            store.policy()
        (tmp_path / "aside").rename(tmp_path / name)
        assert store.policy() == Policy(5, None)


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_a_redis_that_may_evict_a_no_is_refused(own_redis, policy: str) -> None:
    client = redis.Redis.from_url(own_redis.url)
    connect("d", StoreSettings(own_redis.url)).configure(Policy(5, None))
    client.config_set("maxmemory-policy", policy)

    for single in (True, False):
        with pytest.raises(StoreUnavailable, match=f"maxmemory-policy is {policy}.*set noeviction"):
            connect("d", StoreSettings(own_redis.url), single=single).policy()
    client.config_set("maxmemory-policy", "volatile-lru")  # evicts only keys with a time-to-live, and none has one
    assert connect("d", StoreSettings(own_redis.url)).policy() == Policy(5, None)


def test_a_redis_that_does_not_say_whether_it_evicts_is_logged(own_redis, caplog: pytest.LogCaptureFixture) -> None:
    redis.Redis.from_url(own_redis.url).acl_setuser(
        "app", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"]
    )
    url = own_redis.url.replace("redis://", "redis://app:any@")

    connect("d", StoreSettings(url)).configure(Policy(5, None))

    assert "whether it evicts keys is not known" in caplog.text


def test_no_key_in_redis_has_a_time_to_live(own_redis) -> None:
    store = connect("d", StoreSettings(own_redis.url))
    store.configure(Policy(5, ttl_us=1))
    store.upsert([make_profile("a", consent={PERSONALIZATION: Answer(False, T, "page")})])

    client = redis.Redis.from_url(own_redis.url)
    assert {client.ttl(key) for key in client.scan_iter()} == {-1}


def test_a_locked_file_is_an_error_within_the_timeout(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    holder, waiting = connect("d", StoreSettings(url)), connect("d", StoreSettings(url, read_ms=100))
    holder.configure(Policy(5, None))
    holder.engine._database.execute("BEGIN IMMEDIATE")

    begun = time.perf_counter()
    with pytest.raises(StoreUnavailable, match="locked"):
        waiting.upsert([make_profile("u")])
    assert time.perf_counter() - begun < 0.1 + SLACK
    assert waiting.read(["u"], [T])[0].state == ReadingState.UNKNOWN  # readers do not wait for writers


def test_a_stopped_redis_is_an_error_within_the_timeout_and_a_restarted_one_answers(own_redis) -> None:
    store = connect("d", StoreSettings(own_redis.url, read_ms=200))
    store.configure(Policy(5, None))
    own_redis.stop()
    for call in (store.policy, lambda: store.read(["u"], [T]), lambda: store.upsert([make_profile("u")])):
        begun = time.perf_counter()
        with pytest.raises(StoreUnavailable, match=f"redis://127.0.0.1:{own_redis.port}"):
            call()
        assert time.perf_counter() - begun < 0.2 + SLACK

    own_redis.start()
    store.configure(Policy(5, None))
    assert store.read(["u"], [T])[0].state == ReadingState.UNKNOWN


def test_a_redis_that_hangs_is_an_error_within_the_timeout(own_redis) -> None:
    store = connect("d", StoreSettings(own_redis.url, read_ms=1000))
    store.configure(Policy(5, None))
    os.kill(own_redis.process.pid, signal.SIGSTOP)
    try:
        begun = time.perf_counter()
        with pytest.raises(StoreUnavailable, match="Timeout"):
            store.read(["u"], [T])
        assert time.perf_counter() - begun < 1 + SLACK
    finally:
        os.kill(own_redis.process.pid, signal.SIGCONT)
    assert store.read(["u"], [T])[0].state == ReadingState.UNKNOWN  # and not the answer to the question before


def test_a_server_that_takes_calls_and_never_answers_is_an_error_within_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        store = connect("d", StoreSettings(f"redis://127.0.0.1:{deaf.getsockname()[1]}", read_ms=1000))
        begun = time.perf_counter()
        with pytest.raises(StoreUnavailable, match="Timeout"):
            store.read(["u"], [T])
        assert time.perf_counter() - begun < 1 + SLACK


def test_a_batch_is_read_in_one_round_trip(own_redis, monkeypatch: pytest.MonkeyPatch) -> None:
    store = connect("d", StoreSettings(own_redis.url), writing=True)
    store.configure(Policy(5, None))
    users = [f"u{number}" for number in range(32)]
    store.upsert([make_profile(user, [Event(T, "e", T, "i", "play")]) for user in users])
    before = commands(store)
    assert all(reading.profile for reading in store.read(users, [T] * 32))
    assert commands(store) - before == 2  # the read, and the INFO before it


def commands(store) -> int:
    return store.engine._redis.info("stats")["total_commands_processed"]


def test_the_worker_can_load_all_of_it_and_loads_no_table_library() -> None:
    names = [f"features.online.{path.stem}" for path in (ROOT / "features" / "online").glob("[a-z]*.py")]
    assert names
    for name in names:
        assert name in worker_modules(ROOT, name)
    program = f"import sys, {', '.join(names)}; print(sorted({{'pandas', 'pydantic', 'pyarrow'}} & set(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    assert printed.stdout == "[]\n"
