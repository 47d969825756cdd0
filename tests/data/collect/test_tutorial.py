"""The commands of docs/collection.md, run as they stand there, on ports and a folder of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks._load import free_ports
from config.paths import ROOT
from data.collect.schema import Item, View, decode_events
from data.collect.sqlite_log import SqliteLogReader

PAGE = (ROOT / "docs" / "collection.md").read_text(encoding="utf-8")
DOCUMENTED = "http://127.0.0.1:8070"
WAIT = f"for i in $(seq 300); do curl -sf {DOCUMENTED}/readyz >/dev/null && break; sleep 0.1; done"
STOP = "kill $!; wait"


def blocks(section: str, language: str) -> list[str]:
    """The code blocks of a section."""
    text = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_first_events_are_sent_as_the_page_says(tmp_path: Path) -> None:
    port, metrics_port = free_ports(2)
    url = f"http://127.0.0.1:{port}"
    environ = os.environ | {
        "TIDEGATE_COLLECT_HOME": str(tmp_path / "collect"),
        "TIDEGATE_COLLECT_PORT": str(port),
        "TIDEGATE_COLLECT_METRICS_PORT": str(metrics_port),
    }
    make, serve, send = blocks("Send your first event", "sh")[0].splitlines()
    people = blocks("Users, items and other sources", "sh")[0]
    script = tmp_path / "sdk.py"
    snippet = f"import os\nKEY = os.environ['KEY']\n{blocks('Send your first event', 'python')[0]}"
    script.write_text(snippet.replace(DOCUMENTED, url), encoding="utf-8")
    commands = "\n".join(
        [make, serve, WAIT, send, "echo", send, "echo", f"KEY=$KEY .venv/bin/python {script}", people, STOP]
    )
    commands = commands.replace(DOCUMENTED, url).replace(".venv/bin/python", sys.executable)
    ran = subprocess.run(
        ["bash", "-c", commands], cwd=ROOT, env=environ, capture_output=True, encoding="utf-8", timeout=120
    )
    answers = [json.loads(line) for line in ran.stdout.replace("}{", "}\n{").splitlines() if line.startswith("{")]
    (shown,) = [json.loads(block) for block in blocks("Send your first event", "json")]
    assert answers[0] == shown, (ran.stdout, ran.stderr)
    assert answers[1]["results"]["m1"]["status"] == "duplicate"
    assert [row["status"] for answer in answers[2:] for row in answer["results"]] == ["accepted"] * 2
    logged = [decode_events(message.events)[0] for message in SqliteLogReader(tmp_path / "collect" / "log").read()]
    assert [event.user_id for event in logged if isinstance(event, View)] == ["ann", "ann"]
    assert [event.title for event in logged if isinstance(event, Item)] == ["Wings"]
