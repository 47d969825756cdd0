"""One candidate judged: what must hold first, the look at the window, the decision, and the report that tells all of it."""

from __future__ import annotations

import getpass
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from config import params
from config.paths import INGESTED, SPLIT, gate_ledger
from data.columns import DAY
from data.times import to_iso
from experiments.evaluation.scoring import cases_from
from experiments.evaluation.slices import Segments
from experiments.gating import evidence, preconditions, same_data_refit, verdict
from experiments.gating.evidence import CANDIDATE
from experiments.gating.preconditions import Checkout
from experiments.gating.verdict import BASELINE, CHAMPION, Decision
from features.feature_files import Features
from serving.deployment import registry
from serving.deployment.registry import Version
from serving.worker.recommender import Recommender
from training.models import artifact
from training.threads import one_thread


def entries(split_id: str, path: Path | None = None) -> list[dict]:
    """Looks at one window, oldest first."""
    path = path or gate_ledger()
    if not path.exists():
        return []
    every = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [entry for entry in every if entry["split_id"] == split_id]


def known(split_id: str, candidate: str, champion: str, policy_hash: str, path: Path | None = None) -> dict | None:
    """The report of an earlier look at the same two artifacts under the same policy: nothing to look at anew."""
    for entry in entries(split_id, path):
        of = entry["candidate"], entry["champion"], entry["report"].get("policy_hash")
        if of == (candidate, champion, policy_hash):
            return entry["report"]
    return None


def append(split_id: str, candidate: str, champion: str, report: dict[str, Any], path: Path | None = None) -> None:
    """Write a look down."""
    path = path or gate_ledger()
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {"split_id": split_id, "candidate": candidate, "champion": champion, "who": _who(), "date": report["date"],
             "report": report}  # fmt: skip
    with path.open("a") as stream:
        stream.write(json.dumps(entry, sort_keys=True) + "\n")


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def policy_hash(policy: params.Gate) -> str:
    """blake2b of the policy as canonical JSON: two reports with the same hash were decided by the same rule."""
    text = json.dumps(policy.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Question:
    """What the gate is asked.

    Attributes:
        baseline: folder of the best cheap baseline's artifact; None where no model only counts.
        audit: the report of the leakage audit on the products that the window is cut from.
        override: judge although the code is not committed.
        now_us: when it is asked.
        skew: the last record of `experiments.skew` on this data set's answers; None where nothing was measured.
        instead: why the champion is not the version that serves; None where it is.
    """

    settings: params.Params
    features: Features
    label: str
    candidate: Version
    champion: Version
    champion_label: str
    baseline: Path | None
    code: Checkout
    audit: dict[str, Any]
    override: bool
    now_us: int
    skew: dict[str, Any] | None = None
    instead: str | None = None

    @property
    def split_id(self) -> str:
        return self.features.description["split_id"]


def judge(asked: Question) -> dict[str, Any]:
    """The report. A look at the window is in the ledger before anybody reads it."""
    policy = asked.settings.gate
    if (refusal := preconditions.uncommitted(asked.code)) and not asked.override:
        return report(asked, refusal, {})
    if refusal := preconditions.leaking(asked.audit) or preconditions.skewed(asked.skew, policy):
        return report(asked, refusal, {})
    with artifacts(asked) as folders:
        manifests = {role: artifact.verify(folder) for role, folder in folders.items()}
        known = {"artifacts": {role: about(manifest) for role, manifest in manifests.items()}}
        until = asked.features.description["until_us"]
        if decided := preconditions.overlap(manifests, until) or preconditions.poor_index(manifests[CANDIDATE], policy):
            return report(asked, decided, {}) | known
        recommenders = {role: Recommender.load(folder) for role, folder in folders.items()}
        if decided := (
            preconditions.irreproducible(recommenders[CHAMPION], asked.champion.version)
            or preconditions.altered(recommenders[CANDIDATE])
        ):
            return report(asked, decided, {}) | known
        spent = costs(folders, recommenders, policy)
        if decided := verdict.over_budget(spent):
            return report(asked, decided, {"budgets": spent}) | known
        golden = len(recommenders[CHAMPION].golden_cases())
        found: dict[str, Any] = {
            "budgets": spent,
            "golden_answers": golden,
            "leakage_checks": len(asked.audit["checks"]),
        } | _look(asked, recommenders, manifests)
    told = report(asked, verdict.conclude(found, policy), found) | known
    told |= {"looks": found["looks"], "window_start": to_iso(found["start_us"]), "window_end": to_iso(until)}
    append(asked.split_id, asked.candidate.artifact, asked.champion.artifact, told)
    return told


def _look(asked: Question, recommenders: Mapping[str, Recommender], manifests: Mapping[str, dict]) -> dict[str, Any]:
    """Everything that the window says."""
    settings, features = asked.settings, asked.features
    begun = time.perf_counter()
    start = evidence.window_start(features, manifests)
    cases = cases_from(features, start)
    looks = len(entries(asked.split_id)) + 1
    events, users = pd.read_parquet(SPLIT / "events.parquet"), pd.read_parquet(INGESTED / "users.parquet")
    scores = evidence.score_all(recommenders, features, cases, events, users, settings.train.eval_batch_size)
    parts = evidence.parts_of(features, cases, Segments.of(settings.segments.plain(), features))
    found = evidence.weigh(scores, cases, parts, features, settings.gate, settings.seed, looks)
    reason = same_data_refit.why_not(manifests[CANDIDATE], manifests[CHAMPION], features, settings.gate.refit)
    again: dict[str, Any] = {"reason": reason}
    if reason is None:
        ndcg = {role: {t: of.ndcg for t, of in scores[role].items()} for role in (CANDIDATE, CHAMPION)}
        again |= same_data_refit.refit(
            manifests[CHAMPION]["params"], ndcg[CANDIDATE], ndcg[CHAMPION], cases, features, settings, looks
        )
    age = (asked.now_us - features.description["until_us"]) / DAY
    seconds = round(time.perf_counter() - begun, 1)
    return found | {"refit": again, "start_us": start, "age_days": age, "seconds": seconds}


def report(asked: Question, decided: Decision, found: dict[str, Any]) -> dict[str, Any]:
    """Plain data: what was decided, why, what is next, and everything that it rests on."""
    policy, description = asked.settings.gate, asked.features.description
    overrides = [f"judged with uncommitted code: {asked.code.changed}"] if asked.code.changed and asked.override else []
    return {
        "verdict": decided.verdict,
        "reason": decided.reason,
        "advice": decided.advice,
        "overrides": overrides,
        "dataset": asked.settings.dataset,
        "label": asked.label,
        "against_version": asked.champion.version,
        "against_label": asked.champion_label,
        "instead": asked.instead,
        "primary": policy.primary,
        "policy": policy.model_dump(mode="json"),
        "policy_hash": policy_hash(policy),
        "evidence": found,
        "split_id": description["split_id"],
        "dataset_hash": description["dataset_hash"],
        "newest_event": to_iso(description["until_us"]),
        "code": asked.code._asdict(),
        "audited": asked.audit.get("audited"),
        "skew": asked.skew and {key: asked.skew[key] for key in ("date", "dataset_hash", "answers", "groups")},
        "date": datetime.fromtimestamp(asked.now_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def costs(folders: Mapping[str, Path], recommenders: Mapping[str, Recommender], policy: params.Gate) -> list[dict]:
    """Rows of the budgets, measured on candidate and champion."""
    roles = (CANDIDATE, CHAMPION)
    sizes = {role: evidence.size_mb(folders[role]) for role in roles}
    with one_thread():
        speeds = evidence.latencies({role: recommenders[role] for role in roles})
    return evidence.budgets(sizes, speeds, policy.budgets)


@contextmanager
def artifacts(asked: Question) -> Iterator[dict[str, Path]]:
    """Role -> folder of the artifact, as registered; the baseline's as exported."""
    scratch = Path(tempfile.mkdtemp(prefix="tidegate-gate-"))
    try:
        folders = {}
        for role, version in ((CANDIDATE, asked.candidate), (CHAMPION, asked.champion)):
            (scratch / role).mkdir()
            folders[role] = registry.download(version.dataset, version.version, scratch / role)
        yield folders | ({BASELINE: asked.baseline} if asked.baseline else {})
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def about(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says of an artifact."""
    return {key: manifest.get(key) for key in ("label", "model", "commit", "dataset_hash", "fit_until", "run_id")}
