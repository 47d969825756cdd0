"""Only a report of this version and artifact that the gate signed, unchanged, lets a version serve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from signed_archives import TRUSTED
from signing import OPERATOR_SEED, STRANGER_SEED, signed

from config import params
from config.paths import ROOT
from serving.deployment import policy, promotion, registry, signature
from serving.deployment.promotion import REPORT_TAG, SIGNATURE_TAG
from serving.deployment.registry import RegistryError, registry_client
from serving.deployment.status import registry_lines

pytestmark = pytest.mark.slow

DATASET = params.load(ROOT / "params.yaml").dataset
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
    promotion.promote("tiny", two[0], REPORT)
    return two[0]


def signed_tag(version: str) -> dict:
    return json.loads(registry_client().get_model_version("tiny", version).tags[SIGNATURE_TAG])


def set_tag(version: str, envelope: dict) -> None:
    registry_client().set_model_version_tag("tiny", version, SIGNATURE_TAG, json.dumps(envelope))


def assert_refused(message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        promotion.serving_target("tiny")


def test_the_signature_covers_verdict_version_artifact_policy_and_date(promoted: str) -> None:
    signed = signed_tag(promoted)["signed"]
    target = promotion.serving_target("tiny")
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
@pytest.mark.parametrize("updates_hash", [False, True])
def test_a_tampered_report_is_refused_even_if_its_hash_is_updated(
    promoted: str, registry_folder: Path, what: str, updates_hash: bool
) -> None:
    (path,) = registry_folder.rglob(f"gate-v{promoted}/*/report.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    CHANGES[what](report)
    path.write_text(json.dumps(report), encoding="utf-8")
    if not updates_hash:
        assert_refused(r"tiny 1: its gate report was changed after the gate signed it \(the hash differs\)")
        return
    envelope = signed_tag(promoted)
    envelope["signed"] |= {"verdict": report["verdict"], "sha256": sha256(path.read_bytes()).hexdigest()}
    set_tag(promoted, envelope)
    assert_refused(r"tiny 1: its gate report was changed after it was signed \(the signature differs\)")


@pytest.mark.parametrize(
    ("seed", "problem"),
    [
        (STRANGER_SEED, "the key .*; this machine .* trusts"),
        (OPERATOR_SEED, "the operator key .*, which may not sign a gate report"),
    ],
)
def test_a_report_that_the_gate_did_not_sign_is_refused(promoted: str, seed: bytes, problem: str) -> None:
    envelope = signed_tag(promoted)
    statement = {key: value for key, value in envelope["signed"].items() if key not in ("kind", "key")}
    set_tag(promoted, json.loads(signed(seed, promotion.SIGNED_KIND, statement)))
    assert_refused(f"tiny 1: its gate report was signed by {problem}")


def test_public_keys_alone_verify_all_that_deployment_and_status_read(promoted: str, monkeypatch) -> None:
    monkeypatch.setenv("TIDEGATE_TRUSTED_KEYS", TRUSTED)
    for role in ("GATE", "OPERATOR"):
        monkeypatch.delenv(f"TIDEGATE_{role}_KEY")
    target = promotion.serving_target("tiny")
    assert target.version.version == promoted
    assert promotion.justification(target.version)
    assert registry_lines("tiny")[3].startswith("registry  decision    1: promotion of 1")
    with pytest.raises(RegistryError, match="there is no gate key at"):
        promotion.store_report(target.version, REPORT, None)


def test_the_report_of_another_version_is_refused(two) -> None:
    promotion.promote("tiny", two[0], REPORT)
    promotion.promote("tiny", two[1], REPORT)
    set_tag(two[1], signed_tag(two[0]))
    assert_refused("tiny 2: its gate report is of tiny 1")


def test_a_signed_verdict_other_than_promote_lets_nothing_serve(promoted: str) -> None:
    version = registry.find_version("tiny", promoted)
    subject = {"dataset": "tiny", "version": promoted, "artifact": version.artifact}
    promotion.store_report(version, REPORT | subject | {"verdict": "HOLD"}, None)
    assert_refused("tiny 1: its gate report says HOLD, not PROMOTE")


def test_a_report_without_a_signature_says_what_to_do(promoted: str) -> None:
    registry_client().delete_model_version_tag("tiny", promoted, SIGNATURE_TAG)
    assert_refused(
        "tiny 1: its gate report is not signed; judge it with `python -m experiments.gate`, or.*--override 1"
    )
    registry_client().delete_model_version_tag("tiny", promoted, REPORT_TAG)
    assert_refused("tiny 1: it has no gate report; judge it")


def test_an_unsigned_newer_report_does_not_replace_the_signed_one(promoted: str, monkeypatch) -> None:
    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(signature, "sign", killed)  # the new report is written, and not yet signed
        with pytest.raises(KeyboardInterrupt):
            promotion.promote("tiny", promoted, REPORT | {"reason": "better still"})
    assert promotion.serving_target("tiny").report["reason"] == "better by 5%"
    promotion.promote("tiny", promoted, REPORT | {"reason": "better still"})
    assert promotion.serving_target("tiny").report["reason"] == "better still"


def test_a_policy_difference_is_named_with_both_values() -> None:
    report = {"dataset": "tiny", "version": "3", "policy": {"alpha": 0.04, "margin": 0.5, "refit": True}}
    now = {"alpha": 0.04, "margin": 0.02, "refit": False, "power": 0.8}
    message = (
        "tiny 3 passed the gate under another policy than that of params.yaml: margin 0.5 -> 0.02, power None -> 0.8"
    )
    assert policy.policy_difference(report, now) == message
    assert policy.policy_difference(report | {"policy": now}, now) is None
    assert policy.policy_difference(report, None) is None
    assert policy.policy_difference(report | {"policy": {}}, now) is None, "an override has no policy"


def test_the_current_policy_is_read_from_the_datasets_own_params(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    own = tmp_path / "out" / "workspaces" / "shop" / "params.yaml"
    own.parent.mkdir(parents=True)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    own.write_text(
        text.replace(f"dataset: {DATASET} ", "dataset: shop ").replace("margin: 0.02", "margin: 0.03", 1),
        encoding="utf-8",
    )
    project, workspace = policy.committed_policy(DATASET, tmp_path), policy.committed_policy("shop", tmp_path)
    assert project is not None
    assert workspace is not None
    assert (project["margin"], workspace["margin"]) == (0.02, 0.03)
    assert policy.committed_policy("nobody", tmp_path) is None
    own.write_text("gate: [", encoding="utf-8")
    assert policy.committed_policy("shop", tmp_path) is None


def test_the_status_shows_a_champion_that_passed_under_a_looser_policy(artifacts, registry_folder: Path) -> None:
    now = policy.committed_policy(DATASET)
    assert now is not None
    version = registry.register_version(DATASET, artifacts[1])
    promotion.promote(DATASET, version, {"verdict": "PROMOTE", "policy": now})
    assert not [line for line in registry_lines(DATASET) if "ATTENTION" in line]
    promotion.promote(DATASET, version, {"verdict": "PROMOTE", "policy": now | {"margin": 0.5}})
    assert f"margin 0.5 -> {now['margin']}" in registry_lines(DATASET)[-1]
