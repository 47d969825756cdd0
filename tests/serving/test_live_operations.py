"""A real TorchServe without a registry: installed archives, metrics, and restarts after a kill."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import promql
import psutil
import pytest
import tiny_artifact
from monitoring_files import EXPRESSIONS, TORCHSERVES, WORKERS
from signed_archives import signed_archive

from serving.artifact import archive
from serving.deployment import rollout_stage
from serving.deployment.archive_signature import verified_archives
from serving.deployment.load_version import DeployError
from serving.deployment.restore import RestoreError, restore
from serving.install import install
from serving.settings import PORTS, ServerSettings
from serving.torchserve import launch, server
from serving.torchserve.client import LoadedVersion, ServerError, TorchServe
from serving.worker.handler import ANSWERS, BATCHES, MEMORY, REFUSED, STORE

pytestmark = pytest.mark.slow

NAME = "tiny"
PLANTED = (
    "TIDEGATE_GATE_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "TIDEGATE_EDGE_USER_SECRET",
    "ANY_TOKEN",
)
HISTORY = [{"item_id": "item-01", "event_time": "2026-01-01T00:00:00Z"}]


@pytest.fixture(scope="module")
def archives(artifacts: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Version -> an archive, as the deploy of another machine writes it."""
    folder = tmp_path_factory.mktemp("archives")
    for seed, artifact in artifacts.items():
        signed_archive(artifact, folder / f"{seed}.0.mar", NAME, f"{seed}.0")
    return {path.stem: path for path in folder.glob("*.mar")}


@pytest.fixture(scope="module")
def serving(
    live: ServerSettings, archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> ServerSettings:
    """Two workers of the first version, in batches of four, without an online store."""
    server.stop(live)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEGATE_STORE", f"sqlite:///{tmp_path_factory.mktemp('store')}/none.db")
        for name in PLANTED:
            patch.setenv(name, "planted-secret-of-this-test")
        server.start(live, set)
    settings = live.model_copy(update={"workers": 2, "batch_size": 4, "batch_delay_ms": 3})
    install(archives["1.0"], settings, lambda line: None)
    return settings


def scrape(settings: ServerSettings) -> str:
    return httpx.get(f"http://{settings.host}:{settings.metrics_port}/metrics", trust_env=False).text


def counted(page: str, name: str, **labels: str) -> float:
    """The sum of the samples of this name with these labels."""
    total = 0.0
    for given, value in re.findall(rf"^{name}\{{(.*)\}} (\S+)$", page, re.MULTILINE):
        if labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', given)).items():
            total += float(value)
    return total


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.1)


def described(settings: ServerSettings) -> dict[str, LoadedVersion]:
    with TorchServe.from_settings(settings) as client:
        return client.describe(NAME)


def test_every_worker_answers_the_golden_requests_before_the_version_becomes_default(serving: ServerSettings) -> None:
    loaded = described(serving)["1.0"]
    assert (loaded.ready, loaded.workers, loaded.default) == (2, 2, True)
    log = (serving.server_home / "logs" / "worker.log").read_text(encoding="utf-8")
    lines = re.findall(r"tiny 1\.0 loaded in \S+ s, (\d+) golden requests answered", log)
    assert lines == [str(len(tiny_artifact.GOLDEN))] * 2


def test_no_secret_of_the_starting_process_is_in_the_environment_of_the_server_or_a_worker(
    serving: ServerSettings,
) -> None:
    process = server.find(serving)
    assert process is not None
    children = process.children(recursive=True)
    environments = [Path(f"/proc/{one.pid}/environ").read_bytes() for one in (process, *children)]

    assert {worker for version in described(serving).values() for worker in version.pids} <= {c.pid for c in children}
    assert all(b"TIDEGATE_STORE=" in text for text in environments)
    assert not [text for text in environments if b"planted-secret" in text]


def test_every_port_is_on_loopback_and_the_tokens_and_logs_are_for_the_servers_user_only(
    serving: ServerSettings,
) -> None:
    process = server.find(serving)
    assert process is not None
    listening = [one.laddr for one in process.net_connections() if one.status == psutil.CONN_LISTEN]

    assert {address.port for address in listening} == {getattr(serving, field) for field in PORTS}
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    for path in (serving.key_file, serving.server_home / "logs", launch.scratch_folder(serving.server_home.resolve())):
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_http_ports_speak_no_http_2_and_decompress_nothing(serving: ServerSettings) -> None:
    for port in (serving.inference_port, serving.management_port, serving.metrics_port):
        with socket.create_connection((serving.host, port), 10) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert connection.recv(9) in (b"HTTP/1.1 ", b"HTTP/1.0 ", b"")
    with TorchServe.from_settings(serving) as client:
        headers = {"Authorization": f"Bearer {client.token('inference')}", "Content-Encoding": "gzip"}
    url = f"{serving.inference_url}/predictions/{NAME}"
    refused = httpx.post(url, content=gzip.compress(b'{"k": 1}'), headers=headers, trust_env=False)
    assert (refused.status_code, refused.json()["field"]) == (400, "body")


def test_no_user_id_is_logged_by_the_server_or_its_workers(serving: ServerSettings) -> None:
    user = "user-that-no-log-may-name"
    url = f"{serving.inference_url}/predictions/{NAME}"
    with TorchServe.from_settings(serving) as client:
        client.predict(NAME, {"user_id": user, "k": 1})
        for body in ({"user_id": user, "k": 0}, {"user_id": [user]}, {user: 1}, f'{{"user_id": "{user}"'.encode()):
            with pytest.raises(ServerError):
                client.predict(NAME, body)
        with pytest.raises(ServerError):
            client.predict(user, {"user_id": user})
        token = client.token("inference")
    for path, headers in (
        (f"?user_id={user}", {}),
        (f"/9.9?user_id={user}", {}),
        (f"?user_id={user}", {"X-User": user}),
    ):
        httpx.post(url + path, json={"user_id": user}, headers=headers, trust_env=False)
        httpx.post(url + path, json={"user_id": user}, headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    httpx.get(f"{serving.inference_url}/users/{user}", trust_env=False)
    time.sleep(1.5)
    files = [path for path in serving.server_home.rglob("*") if path.suffix in (".log", ".json", ".cfg", ".properties")]

    assert {"console.log", "worker.log"} <= {path.name for path in files}
    assert [path.name for path in files if user.encode() in path.read_bytes()] == []


def test_the_metrics_port_counts_answers_refusals_and_store_queries(
    serving: ServerSettings,
) -> None:
    names = {
        "popular": (ANSWERS, {"source": "popular"}),
        "personalized": (ANSWERS, {"source": "personalized"}),
        "refused": (REFUSED, {"status": "400"}),
        "absent": (STORE, {"outcome": "absent"}),
    }

    def counts() -> dict[str, float]:
        page = scrape(serving)
        model = {"model_name": NAME, "model_version": "1.0"}
        return {key: counted(page, name, **model, **labels) for key, (name, labels) in names.items()}

    time.sleep(2)  # for the counts of the golden requests
    before = counts()
    with TorchServe.from_settings(serving) as client:
        for _ in range(5):
            client.predict(NAME, {"k": 1})
        for _ in range(3):
            client.predict(NAME, {"history": HISTORY, "k": 1})
        for _ in range(2):
            with pytest.raises(ServerError):
                client.predict(NAME, {"k": 0})
        client.predict(NAME, {"user_id": "ann", "k": 1})
    wait_until(lambda: counts()["popular"] - before["popular"] >= 6, 20)
    time.sleep(1.5)  # for anything that is counted twice
    rise = {key: value - before[key] for key, value in counts().items()}
    assert rise["absent"] >= 1  # trends are looked up as well
    assert {key: rise[key] for key in ("popular", "personalized", "refused")} == {
        "popular": 6,
        "personalized": 3,
        "refused": 2,
    }
    page = scrape(serving)
    assert counted(page, BATCHES, size="1") >= 11
    workers = re.findall(rf'^{MEMORY}\{{.*worker="(\d+)".*\}} (\S+)$', page, re.MULTILINE)
    assert len({worker for worker, _ in workers}) == 2
    assert all(float(resident) > 50e6 for _, resident in workers)


def test_torchserve_exposes_every_metric_of_the_dashboard_and_the_alerts(serving: ServerSettings) -> None:
    before = promql.exposed(scrape(serving))
    wanted = {name for expression in EXPRESSIONS for name in promql.metrics(expression)}
    with TorchServe.from_settings(serving) as client, pytest.raises(ServerError):
        client.predict(NAME, {"k": 0})
    wait_until(lambda: REFUSED in promql.exposed(scrape(serving)), 20)
    assert promql.exposed(scrape(serving)) | before >= TORCHSERVES | WORKERS
    assert {name for name in wanted if not name.startswith("tidegate_edge_")} - {"up"} <= TORCHSERVES | WORKERS


def test_a_killed_server_restarts_with_its_models_their_settings_and_the_default(
    serving: ServerSettings, archives: dict[str, Path]
) -> None:
    install(archives["2.0"], serving.model_copy(update={"workers": 1, "batch_size": 2}), lambda line: None)
    with TorchServe.from_settings(serving) as client:
        client.set_default(NAME, "1.0")  # not the newest, so the restart has to remember it
    before = described(serving)
    os.kill(server.find(serving).pid, 9)
    wait_until(lambda: server.find(serving) is None)
    assert server.start(serving, lambda: verified_archives(serving))
    after = described(serving)
    assert {version: settings_of(live) for version, live in after.items()} == {
        version: settings_of(live) for version, live in before.items()
    }
    assert settings_of(after["1.0"]) == (True, 2, 2, 4, 3)
    assert settings_of(after["2.0"]) == (False, 1, 1, 2, 3)
    with TorchServe.from_settings(serving) as client:
        assert client.predict(NAME, {"k": 1})["model_version"] == "1.0"


def test_a_lone_request_waits_for_the_batch_delay(serving: ServerSettings, artifacts: dict[int, Path]) -> None:
    archive.build_archive(artifacts[1], serving.model_store / "slow.mar", "slow", "1.0")
    with TorchServe.from_settings(serving) as client:
        client.register("slow.mar", "slow", batch_size=2, batch_delay_ms=300)
        try:
            client.predict("slow", {"k": 1})
            begun = time.perf_counter()
            client.predict("slow", {"k": 1})
            waited = time.perf_counter() - begun
        finally:
            client.unregister("slow", "1.0")

    assert 0.3 <= waited < 60


def settings_of(live: LoadedVersion) -> tuple:
    return live.default, live.ready, live.workers, live.batch_size, live.batch_delay_ms


def test_restore_serves_what_was_installed_last_whatever_is_the_default_now(serving: ServerSettings) -> None:
    stage = rollout_stage.read_stage(rollout_stage.stage_path(NAME, serving))
    assert stage is not None
    assert (stage.version, stage.previous) == ("2.0", "1.0")
    assert restore(NAME, serving, lambda line: None) == "2.0"
    assert described(serving)["2.0"].default
    with TorchServe.from_settings(serving) as client:
        client.scale(NAME, "1.0", 2)
        client.set_default(NAME, "1.0")
    rollout_stage.stage_path(NAME, serving).unlink()


def test_restore_loads_nothing_where_a_version_serves(serving: ServerSettings) -> None:
    before = described(serving)
    assert restore(NAME, serving) == "1.0"
    assert described(serving) == before


def test_an_archive_with_other_golden_answers_is_not_installed(
    serving: ServerSettings, artifacts: dict[int, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(artifacts[2], broken)
    golden = broken / "golden.jsonl"
    golden.write_text(golden.read_text(encoding="utf-8").replace("item-03", "item-99"), encoding="utf-8")
    tiny_artifact.seal(broken, 2)
    signed_archive(broken, tmp_path / "3.0.mar", NAME, "3.0")
    with pytest.raises(DeployError, match=r"golden request \d .*differ.*; tiny 1\.0 still answers"):
        install(tmp_path / "3.0.mar", serving)
    assert set(described(serving)) == {"1.0", "2.0"}


def test_restore_serves_the_newest_archive_where_no_model_is_loaded(
    serving: ServerSettings, archives: dict[str, Path]
) -> None:
    with TorchServe.from_settings(serving) as client:
        for version in ("2.0", "1.0"):
            client.unregister(NAME, version)
    for path in serving.model_store.glob("*.mar"):
        path.unlink()
    with pytest.raises(RestoreError, match="holds no archive of tiny"):
        restore(NAME, serving)
    for version in ("2.0", "1.0"):
        shutil.copyfile(archives[version], serving.model_store / f"{version}-of-tiny.mar")
    assert restore(NAME, serving, lambda line: None) == "2.0"
    assert described(serving)["2.0"].default
