"""A real TorchServe on loopback, deployed to from a real registry.

One server for all tests; each leaves it serving the first version.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
import reach
import tiny_artifact
from own_registry import use_registry

from config.paths import ROOT
from serving import ask, deploy
from serving.artifact import archive
from serving.artifact.archive import worker_modules
from serving.deployment import promotion, reconcile, registry
from serving.deployment.archive_signature import verified_archives
from serving.deployment.load_version import DeployError
from serving.deployment.registry import RegistryError
from serving.settings import PORTS, ServerSettings, variable
from serving.torchserve import server
from serving.torchserve.client import ServerError, TorchServe
from serving.torchserve.launch import ServerStartError

pytestmark = pytest.mark.slow

PROMOTED = {"verdict": "PROMOTE"}
NAME = "tiny"
ENTRY = f"{archive.ENTRY_MODULE}.py"
TRAINING_LIBRARIES = ("dvc", "feast", "lightning", "mlflow", "optuna", "pandas", "pyarrow", "pytorch_lightning")
HTTP = httpx.Client(timeout=30, trust_env=False)


@pytest.fixture(scope="module", autouse=True)
def registry_home(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        use_registry(folder, empty_registry, patch)
        yield folder


@pytest.fixture(scope="module", autouse=True)
def frozen_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Package the worker code as it was when the tests started, so that a file saved meanwhile makes no new build."""
    root = tmp_path_factory.mktemp("sources")
    for path in worker_modules(ROOT).values():
        copy = root / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "build_archive", partial(archive.build_archive, root=root))
        patch.setattr(archive, "content_hash", partial(archive.content_hash, root=root))
        yield


@pytest.fixture(scope="module")
def first(live: ServerSettings, artifacts: dict[int, Path]) -> str:
    """The first champion, deployed."""
    version = registry.register_version(NAME, artifacts[1])
    promotion.promote(NAME, version, PROMOTED)
    return reconcile.deploy(NAME, live).version


@pytest.fixture
def client(live: ServerSettings, first: str) -> Iterator[TorchServe]:
    with TorchServe.from_settings(live) as client:
        yield client


def post(live: ServerSettings, body: bytes, token: str | None = None) -> httpx.Response:
    """Send a request without our own client."""
    key = json.loads(live.key_file.read_text(encoding="utf-8"))["inference"]["key"] if token is None else token
    url = f"{live.inference_url}/predictions/{NAME}"
    return HTTP.post(url, content=body, headers={"Authorization": f"Bearer {key}"})


def predict_with_retries(client: TorchServe, request: dict, seconds: float = 60) -> dict:
    """The answer, once the worker has restarted."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return client.predict(NAME, request)
        except ServerError as error:
            if error.status not in (None, 500, 503, 507) or time.monotonic() > deadline:
                raise


def pids(client: TorchServe) -> dict[str, tuple[int, ...]]:
    return {version: about.pids for version, about in client.describe(NAME).items()}


def serving(client: TorchServe) -> str:
    return client.predict(NAME, {"k": 1})["model_version"]


def test_the_endpoint_gives_the_golden_answers_of_the_export(
    live: ServerSettings, client: TorchServe, tmp_path: Path
) -> None:
    artifact = registry.download_artifact(promotion.serving_target(NAME).version, tmp_path)
    cases = [json.loads(line) for line in (artifact / "golden.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(cases) == 3
    for case in cases:
        answer = post(live, json.dumps(case["request"]).encode())
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == case["answer"] | {"model_version": "1.0"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"k": ', "body"),
        (b"", "body"),
        (b'{"k": 0}', "k"),
        (b'{"k": "ten"}', "k"),
        (b'{"history": [{"item_id": 5}]}', "history[0].item_id"),
        (b'{"user_id": {"a": 1}}', "user_id"),
        (b'["k", 10]', "body"),
    ],
)
def test_a_bad_request_is_a_400_that_names_its_field(live: ServerSettings, first: str, body: bytes, field: str) -> None:
    answer = post(live, body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert (answer.json()["code"], answer.json()["field"]) == (400, field)


def test_a_body_of_ten_megabytes_is_refused_and_the_server_keeps_serving(
    live: ServerSettings, client: TorchServe
) -> None:
    assert post(live, b'{"user_id": "' + b"x" * 10_000_000 + b'"}').status_code == 413
    assert serving(client) == "1.0"


def test_an_unknown_user_and_unknown_items_are_answered(client: TorchServe) -> None:
    history = [{"item_id": "never-seen", "event_time": "2026-01-01T00:00:00Z"}]
    answer = client.predict(NAME, {"user_id": "nobody", "history": history, "k": 1000})
    assert len(answer["items"]) == len(tiny_artifact.ITEMS)
    assert answer["source"] == "popular"


def test_concurrent_requests_get_their_own_answers_or_errors(live: ServerSettings, client: TorchServe) -> None:
    def one(number: int) -> tuple[int, dict]:
        body = {"k": number % 4, "request_id": str(number)}  # every fourth is malformed
        answer = post(live, json.dumps(body).encode())
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(64)))
    for number, (status, answer) in enumerate(answers):
        assert status == (200 if number % 4 else 400)
        assert answer.get("request_id") == (str(number) if number % 4 else None)
        assert len(answer.get("items", [])) == number % 4


def test_requests_without_a_valid_token_are_refused(live: ServerSettings, first: str) -> None:
    assert post(live, b"{}", token="made-up").status_code == 400
    assert httpx.get(f"{live.management_url}/models").status_code == 400
    assert httpx.get(f"{live.inference_url}/ping").status_code == 400


def test_a_renewed_or_expired_token_is_replaced(live: ServerSettings, client: TorchServe) -> None:
    assert client.ping() == "Healthy"
    with TorchServe.from_settings(live) as other:
        other.renew_token("inference")  # makes the token of `client` invalid
    assert client.ping() == "Healthy"
    keys = json.loads(live.key_file.read_text(encoding="utf-8"))
    keys["inference"]["key"] = "expired1"
    live.key_file.chmod(0o600)
    live.key_file.write_text(json.dumps(keys), encoding="utf-8")  # now only a renewal helps
    client._tokens.clear()
    assert client.ping() == "Healthy"


def test_every_port_listens_on_loopback_alone(live: ServerSettings, first: str) -> None:
    listening = {
        (at.laddr.ip.removeprefix("::ffff:"), at.laddr.port)
        for at in server.find(live).net_connections()
        if at.status == psutil.CONN_LISTEN
    }
    assert {("127.0.0.1", getattr(live, field)) for field in PORTS} <= listening
    assert {address for address, _ in listening} == {"127.0.0.1"}
    assert reach.open_beyond_loopback(getattr(live, field) for field in PORTS) == set()


def test_nothing_from_outside_the_model_store_can_be_loaded(live: ServerSettings, client: TorchServe) -> None:
    for url in ("http://127.0.0.1:9/a.mar", f"file://{live.server_home}/a.mar", "../a.mar"):
        with pytest.raises(ServerError, match=r"allowed URL|Relative path"):
            client.register(url, "foreign")


def test_the_worker_loads_no_training_library(client: TorchServe) -> None:
    (worker,) = pids(client)["1.0"]
    mapped = Path(f"/proc/{worker}/maps").read_text(encoding="utf-8")
    assert "libtorch" in mapped
    assert not [name for name in TRAINING_LIBRARIES if f"/{name}/" in mapped]
    variables = psutil.Process(worker).environ()
    assert variables["OMP_NUM_THREADS"] == "1"
    assert str(Path(archive.__file__).parents[1]) not in variables["PYTHONPATH"].split(":")


def test_a_second_deploy_changes_nothing(live: ServerSettings, client: TorchServe) -> None:
    before = pids(client)
    lines: list[str] = []
    assert reconcile.deploy(NAME, live, lines.append).version == "1.0"
    assert lines == []
    assert pids(client) == before


def test_a_killed_worker_is_restarted(client: TorchServe) -> None:
    (worker,) = pids(client)["1.0"]
    os.kill(worker, 9)
    assert predict_with_retries(client, {"k": 1})["model_version"] == "1.0"
    assert pids(client)["1.0"] != (worker,)


def test_a_new_champion_takes_over_without_a_gap_and_rollback_loads_nothing(
    live: ServerSettings, client: TorchServe, artifacts: dict[int, Path]
) -> None:
    promotion.promote(NAME, registry.register_version(NAME, artifacts[2]), PROMOTED)
    seen: list[str] = []
    done = threading.Event()

    def keep_asking() -> None:
        with TorchServe.from_settings(live) as other:
            while not done.is_set():
                seen.append(serving(other))  # a gap would raise here

    with ThreadPoolExecutor(1) as asker:
        asking = asker.submit(keep_asking)
        try:
            assert reconcile.deploy(NAME, live).version == "2.0"
        finally:
            done.set()
        asking.result()
    assert serving(client) == "2.0"
    assert sorted(set(seen)) in (["1.0"], ["1.0", "2.0"])
    assert seen == sorted(seen)  # the old version until the new one, never back
    before = pids(client)
    assert set(before) == {"1.0", "2.0"}
    promotion.roll_back_aliases(NAME)
    assert reconcile.deploy(NAME, live).version == "1.0"
    assert serving(client) == "1.0"
    assert pids(client) == before


def test_a_version_with_other_golden_answers_never_serves(
    live: ServerSettings, client: TorchServe, artifacts: dict[int, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(artifacts[1], broken)
    text = (broken / "golden.jsonl").read_text(encoding="utf-8")
    (broken / "golden.jsonl").write_text(text.replace('"score": ', '"score": 1'), encoding="utf-8")
    tiny_artifact.seal(broken, seed=3)
    with failing_champion(broken):
        with pytest.raises(DeployError, match=r"golden request 0 .*scores .*; tiny 1\.0 still answers"):
            reconcile.deploy(NAME, live)
        assert serving(client) == "1.0"
        assert set(pids(client)) == {"1.0", "2.0"}


def test_the_old_version_keeps_serving_where_the_new_one_cannot_be_loaded(
    live: ServerSettings, client: TorchServe, artifacts: dict[int, Path], tmp_path: Path, capsys, monkeypatch
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(artifacts[1], broken)
    (broken / "weights.safetensors").write_bytes(b"not weights")
    tiny_artifact.seal(broken, seed=4)  # the hashes match: only loading fails
    monkeypatch.setattr(deploy.environment, "load", lambda: live)
    with failing_champion(broken):
        assert deploy.main(["--dataset", NAME]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {NAME} ")
        assert "ArtifactError" in error
        assert error.endswith("tiny 1.0 still answers\n")
        assert len(error.splitlines()) == 1
        assert serving(client) == "1.0"
        assert set(pids(client)) == {"1.0", "2.0"}


def test_an_artifact_changed_in_the_registry_is_never_loaded(
    live: ServerSettings, client: TorchServe, registry_home: Path, tmp_path: Path
) -> None:
    other = tiny_artifact.write(tmp_path / "other", seed=5)
    with failing_champion(other) as version:
        (stored,) = registry_home.rglob(f"artifact-{registry.find_version(NAME, version).artifact[:12]}")
        (stored / "items.json").write_text("[]", encoding="utf-8")
        with pytest.raises(RegistryError, match=r"items\.json is not the file that was exported"):
            reconcile.deploy(NAME, live)
        assert serving(client) == "1.0"


class failing_champion:
    """Promote an artifact inside a `with`, then promote the versions of before again."""

    def __init__(self, artifact: Path) -> None:
        self.version = registry.register_version(NAME, artifact)

    def __enter__(self) -> str:
        self.before = registry.version_by_alias(NAME, "champion"), registry.version_by_alias(NAME, "previous")
        promotion.promote(NAME, self.version, PROMOTED)
        return self.version

    def __exit__(self, *_: object) -> None:
        for version in reversed(self.before):
            promotion.promote(NAME, version.version, PROMOTED | {"again": "as before the test"})


def test_newer_worker_code_is_a_new_build_of_the_version(
    live: ServerSettings, client: TorchServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ENTRY_SOURCE", archive.ENTRY_SOURCE + "\n# newer\n")
    assert reconcile.deploy(NAME, live).version == "1.1"
    assert serving(client) == "1.1"
    assert set(pids(client)) == {"1.1", "2.1"}
    assert {path.name for path in live.model_store.iterdir()} == {"tiny-1.1.mar", "tiny-2.1.mar"}


def test_a_deploy_killed_before_the_switch_converges_when_run_again(
    live: ServerSettings, client: TorchServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    before = serving(client)
    promotion.roll_back_aliases(NAME)
    with monkeypatch.context() as patch:
        patch.setattr(TorchServe, "set_default", killed)
        with pytest.raises(KeyboardInterrupt):
            reconcile.deploy(NAME, live)
    assert serving(client) == before
    assert reconcile.deploy(NAME, live).version.startswith("2.")
    assert serving(client).startswith("2.")
    promotion.roll_back_aliases(NAME)
    assert reconcile.deploy(NAME, live).version.startswith("1.")


def test_a_restarted_server_serves_what_it_served(live: ServerSettings, client: TorchServe) -> None:
    before, loaded = serving(client), set(pids(client))
    assert server.stop(live)
    assert not server.stop(live)
    assert server.start(live, lambda: verified_archives(live))
    assert not server.start(live, set)
    with TorchServe.from_settings(live) as fresh:
        assert serving(fresh) == before
        assert set(pids(fresh)) == loaded


def test_deploy_repairs_a_killed_server(live: ServerSettings, client: TorchServe) -> None:
    before = serving(client)
    os.kill(server.find(live).pid, 9)
    assert reconcile.deploy(NAME, live).version == before
    with TorchServe.from_settings(live) as fresh:
        assert serving(fresh) == before


def test_code_that_was_put_into_the_store_while_the_server_was_down_never_runs(
    live: ServerSettings, client: TorchServe, tmp_path: Path
) -> None:
    before = serving(client)
    server.stop(live)
    path, mark = live.model_store / f"{NAME}-{before}.mar", tmp_path / "it ran"
    with zipfile.ZipFile(path) as mar:
        entries = {info: mar.read(info) for info in mar.infolist()}
    with zipfile.ZipFile(path, "w") as mar:  # answers the golden requests as before
        for info, content in entries.items():
            mar.writestr(info, content + (f"\nopen({str(mark)!r}, 'w')\n".encode() if info.filename == ENTRY else b""))
    version, number = before.split(".")
    lines: list[str] = []
    assert reconcile.deploy(NAME, live, lines.append).version == f"{version}.{int(number) + 1}"
    assert f"{path} was changed after it was built" in lines[0]
    with TorchServe.from_settings(live) as fresh:
        assert serving(fresh) != before
        assert before not in pids(fresh)
    assert not path.exists()
    assert not mark.exists()


def test_an_occupied_port_is_named_with_its_variable(live: ServerSettings, first: str, tmp_path: Path) -> None:
    other = live.model_copy(update={"server_home": tmp_path})
    port = live.inference_port
    with pytest.raises(ServerStartError, match=f"{variable('inference_port')} is {port}, which cannot be used"):
        server.start(other, set)
    assert server.find(other) is None


def test_the_ask_and_status_commands_show_what_serves(
    live: ServerSettings, client: TorchServe, monkeypatch, capsys
) -> None:
    for module in (ask.environment, deploy.environment):
        monkeypatch.setattr(module, "load", lambda: live)
    assert ask.main(["--dataset", NAME, "--history", "item-01,item-02", "--k", "2"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[2].startswith("personalized: ranked from 2 known events")
    assert output[-1].startswith(f"2 items from {NAME} version {serving(client)}, with item trends of ")
    assert ask.main(["--dataset", NAME, "--k", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert deploy.main(["--dataset", NAME, "--status"]) == 0
    output = capsys.readouterr().out
    assert f"serves    {serving(client)} since " in output
    assert "reason    PROMOTE: " in output
    assert f"loaded    {serving(client)} (1 of 1 workers ready, the default)" in output
    assert "registry  champion    1" in output
    assert "next      nothing, until the registry names another champion" in output
    assert "  faults    none\n" in output


def test_requests_write_no_log_lines(live: ServerSettings, client: TorchServe) -> None:
    logs = live.server_home / "logs"
    before = sum(path.stat().st_size for path in logs.glob("*.log"))
    for _ in range(100):
        serving(client)
        post(live, b'{"k": ')
    assert sum(path.stat().st_size for path in logs.glob("*.log")) - before < 1000
    lines = [
        json.loads(line) for name in ("server", "worker") for line in (logs / f"{name}.log").open(encoding="utf-8")
    ]
    assert "loaded in" in " ".join(line["event"] for line in lines if line["logger"] == "MODEL_LOG")
    assert {"time", "level", "logger", "event"} <= set.intersection(*map(set, lines))
