"""The command as a person runs it: several processes, one address, counts on another."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import reach
from fake_torchserve import FakeTorchServe
from running import wait_until

from benchmarks._load import free_ports
from config.paths import ROOT
from features.online.connect import StoreSettings, connect
from features.online.store import Policy
from serving.edge import keys
from web.keys import add_key

pytestmark = pytest.mark.slow


@pytest.fixture
def running(torchserve: FakeTorchServe, artifacts: dict[int, Path], tmp_path: Path) -> Iterator[tuple]:
    """Two processes: the parent's handle, and the ports of answers and of counts."""
    port, counts = free_ports(2)
    own = {
        "UPSTREAM": torchserve.url,
        "DATASET": "tiny",
        "HOME": str(tmp_path),
        "METRICS_PORT": str(counts),
        "ARTIFACT": str(artifacts[1]),
        "TOKEN_FILE": str(tmp_path / "no-tokens"),
        "DEADLINE_MS": "5000",
        "STORE_MS": "4000",  # else a busy machine makes an answer that is not personalized
    }
    nobody = {"TIDEGATE_STORE": f"sqlite:///{tmp_path}/none.db"}  # in which nobody has answered
    store = connect("tiny", StoreSettings(nobody["TIDEGATE_STORE"]), writing=True)
    store.configure(Policy(50, None))
    store.close()
    environment = {**os.environ, **nobody, **{f"TIDEGATE_EDGE_{name}": value for name, value in own.items()}}
    command = [sys.executable, "-m", "serving.edge.serve", "--port", str(port), "--workers", "2"]
    with (tmp_path / "edge.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log)
    yield process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{counts}"
    process.send_signal(signal.SIGINT)
    process.wait(60)


def alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def look_at(parent: psutil.Process) -> tuple[set[str], str]:
    """The addresses at which a process and its children listen, and what they have mapped into memory."""
    listening, mapped = set(), []
    for each in (parent, *parent.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, FileNotFoundError):  # one that has just ended
            listening |= {at.laddr.ip for at in each.net_connections() if at.status == psutil.CONN_LISTEN}
            mapped.append(Path(f"/proc/{each.pid}/maps").read_text(encoding="utf-8"))
    return listening, "".join(mapped)


def test_two_processes_answer_and_are_counted_together(running, tmp_path: Path) -> None:
    process, url, counts = running
    wait_until(lambda: alive(url), 300)
    text, stored = keys.create_key()
    add_key(tmp_path / "keys.json", stored)

    def ask() -> httpx.Response:  # a connection of its own each, so that both processes meet some
        headers = {"Authorization": f"Bearer {text}"}
        return httpx.get(f"{url}/v1/recommendations?user_id=ann", headers=headers, trust_env=False, timeout=30)

    wait_until(lambda: ask().status_code == 200, 60)
    answers = [ask() for _ in range(20)]
    assert {answer.status_code for answer in answers if answer.status_code != 401} == {200}
    given = sum(answer.status_code == 200 for answer in answers) + 1
    page = httpx.get(f"{counts}/metrics", trust_env=False).text
    counted = re.findall(r'^tidegate_edge_answers_total\{.*source="personalized".*\} (\d+)', page, re.MULTILINE)
    assert sum(map(int, counted)) == given

    listening, mapped = look_at(psutil.Process(process.pid))
    assert listening == {"127.0.0.1"}
    assert reach.open_beyond_loopback(int(each.rsplit(":", 1)[1]) for each in (url, counts)) == set()
    assert "uvloop" in mapped
    assert "libtorch" not in mapped


def test_the_log_is_one_json_object_a_line(running, tmp_path: Path) -> None:
    _, url, _ = running
    wait_until(lambda: alive(url), 300)
    spoken, *lines = (tmp_path / "edge.log").read_text(encoding="utf-8").splitlines()
    assert spoken.startswith("no API key exists yet")  # to whom started it
    assert "uvicorn.error" in {json.loads(line)["logger"] for line in lines}


def test_a_port_that_is_open_to_everybody_would_be_noticed() -> None:
    if not reach.addresses():
        pytest.skip("this machine has no address beyond loopback")
    with socket.create_server(("", 0)) as everybodys, socket.create_server(("127.0.0.1", 0)) as ours:
        open_one, closed_one = everybodys.getsockname()[1], ours.getsockname()[1]
        assert reach.open_beyond_loopback([open_one, closed_one]) == {open_one}
