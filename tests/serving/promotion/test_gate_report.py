"""Only the gate's own, unchanged report of this version and artifact lets a version serve."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from serving.deployment import gate_report, registry
from serving.deployment.gate_report import REPORT_TAG, SIGNATURE_TAG
from serving.deployment.model_versions import client
from serving.deployment.registry import RegistryError
from serving.deployment.signature import Keys

REPORT = {
    "verdict": "PROMOTE",
    "reason": "better by 5%",
    "policy": {"margin": 0.02, "alpha": 0.05},
    "evidence": {"targets": {"next_item": {"relative": 0.05}}},
    "date": "2026-11-26T00:00:00Z",
}


@pytest.fixture
def promoted(two) -> str:
    """The champion's version."""
    registry.promote("tiny", two[0], REPORT)
    return two[0]


def signed_tag(version: str) -> dict:
    return json.loads(client().get_model_version("tiny", version).tags[SIGNATURE_TAG])


def set_tag(version: str, envelope: dict) -> None:
    client().set_model_version_tag("tiny", version, SIGNATURE_TAG, json.dumps(envelope))


def refused(said: str) -> None:
    with pytest.raises(RegistryError, match=said):
        registry.serving_target("tiny")


def test_the_signature_covers_what_decides(promoted: str) -> None:
    signed = signed_tag(promoted)["signed"]
    target = registry.serving_target("tiny")
    assert (signed["verdict"], signed["dataset"], signed["version"]) == ("PROMOTE", "tiny", promoted)
    assert (signed["artifact"], signed["date"]) == (target.version.artifact, REPORT["date"])
    assert signed["policy"] == sha256(b'{"alpha":0.05,"margin":0.02}').hexdigest()


CHANGES: dict[str, Callable[[dict], object]] = {
    "verdict": lambda report: report.update(verdict="HOLD"),
    "margin": lambda report: report["policy"].update(margin=0.5),
    "evidence": lambda report: report["evidence"]["targets"]["next_item"].update(relative=0.5),
    "date": lambda report: report.update(date="2027-01-01T00:00:00Z"),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("recomputes", [False, True])
def test_a_tampered_report_is_refused_though_its_hash_is_computed_anew(
    promoted: str, registry_folder: Path, what: str, recomputes: bool
) -> None:
    (path,) = registry_folder.rglob(f"gate-v{promoted}/*/report.json")
    report = json.loads(path.read_text())
    CHANGES[what](report)
    path.write_text(json.dumps(report))
    if not recomputes:
        refused(r"tiny 1: its gate report was changed after the gate signed it \(the hash differs\)")
        return
    envelope = signed_tag(promoted)
    envelope["signed"] |= gate_report._subject(report) | {"sha256": sha256(path.read_bytes()).hexdigest()}
    set_tag(promoted, envelope)
    refused(r"tiny 1: its gate report was changed after it was signed \(the signature differs\)")


def test_a_report_signed_by_a_stranger_is_refused(promoted: str) -> None:
    envelope = signed_tag(promoted)
    stranger = Keys(("s" * 32,), "elsewhere")
    told = {key: value for key, value in envelope["signed"].items() if key not in ("kind", "key")}
    set_tag(promoted, json.loads(stranger.sign(gate_report.KIND, told)))
    refused("tiny 1: its gate report was signed by the key .*; TIDEGATE_GATE_KEY holds")


def test_a_report_borrowed_from_another_version_is_refused(two) -> None:
    registry.promote("tiny", two[0], REPORT)
    registry.promote("tiny", two[1], REPORT)
    set_tag(two[1], signed_tag(two[0]))
    refused("tiny 2: its gate report is of tiny 1")


def test_another_verdict_that_the_gate_signed_lets_nothing_serve(promoted: str) -> None:
    version = registry.find("tiny", promoted)
    stated = {"dataset": "tiny", "version": promoted, "artifact": version.artifact}
    gate_report.keep(version, REPORT | stated | {"verdict": "HOLD"}, None)
    refused("tiny 1: its gate report says HOLD, not PROMOTE")


def test_a_report_without_a_signature_says_what_to_do(promoted: str) -> None:
    client().delete_model_version_tag("tiny", promoted, SIGNATURE_TAG)
    refused("tiny 1: its gate report is not signed; judge anew by `python -m experiments.gate`, or.*--override 1")
    client().delete_model_version_tag("tiny", promoted, REPORT_TAG)
    refused("tiny 1: it has no gate report; judge anew")


def test_a_report_of_another_day_does_not_touch_the_one_that_counts(promoted: str, monkeypatch) -> None:
    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gate_report.signature, "sign", killed)  # the new report is written, and not yet signed
        with pytest.raises(KeyboardInterrupt):
            registry.promote("tiny", promoted, REPORT | {"reason": "better still"})
    assert registry.serving_target("tiny").report["reason"] == "better by 5%"
    registry.promote("tiny", promoted, REPORT | {"reason": "better still"})
    assert registry.serving_target("tiny").report["reason"] == "better still"


@pytest.mark.parametrize("told", [{"policy": "0" * 64}, {"version": "2"}, {"date": "later"}])
def test_a_signature_that_says_something_else_than_the_report_is_refused(promoted: str, told: dict) -> None:
    signed = {key: value for key, value in signed_tag(promoted)["signed"].items() if key not in ("kind", "key")}
    set_tag(promoted, json.loads(gate_report.signature.sign(gate_report.KIND, signed | told)))
    refused("tiny 1: its gate report is of something else than its signature says")
