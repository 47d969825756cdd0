"""The deployment log reads as a table, and each line is plain JSON."""

from __future__ import annotations

import json
from pathlib import Path

from serving.deployment import deployment_log
from serving.deployment.deployment_log import DeploymentEvent

SHADOW = DeploymentEvent("2026-01-02T03:04:05+00:00", "tiny", "shadow", "1.0", "2.0", "a test", "me@host", "begun")


def test_the_log_reads_as_a_table(tmp_path: Path) -> None:
    log = tmp_path / "tiny.jsonl"
    deployment_log.append_once(log, SHADOW)
    table = deployment_log.render_table(deployment_log.read_events(log, "tiny")).splitlines()
    assert table[0].split() == ["when", "(UTC)", "event", "from", "to", "result", "by", "reason"]
    assert table[1].split()[2:] == ["shadow", "1.0", "2.0", "begun", "me@host", "a", "test"]
    assert list(json.loads(log.read_text())) == ["time", "dataset", "event", "from", "to", "reason", "by", "result"]


def test_an_event_is_logged_once(tmp_path: Path) -> None:
    log = tmp_path / "tiny.jsonl"
    for _ in range(2):
        deployment_log.append_once(log, SHADOW)
    assert deployment_log.read_events(log, "tiny") == [SHADOW]
    assert deployment_log.read_events(log, "other") == []
