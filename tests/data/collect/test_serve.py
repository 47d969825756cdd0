"""The collector as a process: it starts by its command, survives kill -9 without loss, and one folder has one collector."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from benchmarks import collect_kills
from benchmarks._load import free_ports
from config.paths import ROOT

SERVE = [sys.executable, "-m", "data.collect.serve"]


def environment(home: Path) -> dict[str, str]:
    port, metrics_port = free_ports(2)
    return os.environ | {
        "TIDEGATE_COLLECT_HOME": str(home),
        "TIDEGATE_COLLECT_PORT": str(port),
        "TIDEGATE_COLLECT_METRICS_PORT": str(metrics_port),
    }


@pytest.mark.slow
def test_it_serves_metrics_and_a_second_one_is_refused(tmp_path: Path) -> None:
    environ = environment(tmp_path)
    process = subprocess.Popen(SERVE, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{environ['TIDEGATE_COLLECT_PORT']}"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError):
                assert httpx.get(f"{url}/readyz", trust_env=False).json()["status"] == "ready"
                break
            time.sleep(0.1)
        httpx.post(f"{url}/v1/batch", content=b"{}", trust_env=False)
        metrics = httpx.get(f"http://127.0.0.1:{environ['TIDEGATE_COLLECT_METRICS_PORT']}", trust_env=False).text
        assert 'tidegate_collect_refusals_total{reason="malformed",status="400"} 1.0' in metrics
        other = environment(tmp_path)
        second = subprocess.run(SERVE, cwd=ROOT, env=other, capture_output=True, encoding="utf-8", timeout=60)
        assert (second.returncode, second.stderr.count("\n")) == (2, 1)
        assert "another collector runs" in second.stderr
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"Traceback" not in output


@pytest.mark.slow
def test_kills_and_a_refusing_disk_lose_no_acknowledged_event(tmp_path: Path) -> None:
    figures = collect_kills.run(tmp_path, kills=3, refusals=1, seconds=12, seed=1)
    assert figures["acknowledged"] > 0
    assert figures["acknowledged_and_not_in_the_log"] == figures["in_the_log_twice"] == 0
    assert set(figures["requests_by_status"]) <= {"200", "429", "503", "no answer"}
