"""Each fault that the gate is there for, planted in a sound candidate: it must end as it should, and spend no look in vain."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import params
from experiments.evaluation import proportion
from experiments.evaluation.scoring import Scored
from experiments.gating import checkout, evidence, judgement, ledger
from experiments.gating.checkout import Checkout
from experiments.gating.judgement import Question
from experiments.gating.page import page
from experiments.gating.verdict import HOLD, INSUFFICIENT_DATA, PROMOTE, REJECT, conclude
from serving import registry
from serving.recommender import Recommender
from tests.serving import tiny_artifact
from tests.training.made_features import ITEMS, checkerboard
from training.models.artifact import MANIFEST, hash_file

SHIPPED = params.load(params.ROOT / "params.yaml")
POLICY = SHIPPED.gate.model_copy(update={"alpha": 0.05, "margin": 0.02, "segment_margin": 0.02, "min_users": 100})
USERS, EACH = 300, 8
COMMITTED = Checkout("0123", None, None)
CLEAN: dict[str, Any] = {"clean": True, "audited": "a", "checks": []}


class World:
    """Sound evidence on made cases: a candidate 10% better for everybody; a test plants what is wrong with it."""

    def __init__(self, users: int = USERS, gain: float = 0.1) -> None:
        rng = np.random.default_rng(0)
        self.user = np.repeat(np.arange(users), EACH)
        self.theirs = rng.uniform(0.2, 0.6, len(self.user))
        self.noise = rng.normal(0, 0.1, len(self.user))
        self.ours = self.theirs * (1 + gain) + self.noise
        self.baseline = self.theirs * 0.8
        self.parts = {"cold": self.user % 10 == 0, "warm": self.user % 10 > 0, "segment:lapsed": self.user % 4 == 1}
        self.lists = rng.integers(0, ITEMS, (len(self.user), 10))

    def decided(self, looks: int = 1, policy: params.Gate = POLICY, **facts: Any):
        of = {"candidate": self.ours, "champion": self.theirs, "baseline": self.baseline}
        scores = {role: {t: Scored(ndcg, self.lists) for t in ("window", "next")} for role, ndcg in of.items()}
        cases: Any = {target: SimpleNamespace(user=self.user) for target in ("window", "next")}
        parts = dict.fromkeys(cases, self.parts)
        found = evidence.weigh(scores, cases, parts, checkerboard(cut="test"), policy, 0, looks)
        return conclude(found | {"age_days": 1.0} | facts, policy)


def test_a_sound_candidate_is_promoted() -> None:
    assert World().decided().verdict == PROMOTE


def test_a_model_that_is_worse_in_one_segment_only_is_rejected_and_the_segment_named() -> None:
    world = World()
    inside = world.parts["segment:lapsed"]
    world.ours[inside] = world.theirs[inside] * 0.85 + world.noise[inside]
    decided = world.decided()

    assert (world.ours - world.theirs).mean() > 0
    assert decided.verdict == REJECT
    assert "worse for some by more than 2%: lapsed on" in decided.reason
    assert "cold" not in decided.reason


def test_a_model_that_is_better_on_average_but_worse_for_cold_users_is_rejected() -> None:
    world = World()
    cold = world.parts["cold"]
    world.ours[cold] = world.theirs[cold] * 0.7 + world.noise[cold]
    decided = world.decided(policy=POLICY.model_copy(update={"segment_min_users": 10_000}))

    assert (world.ours - world.theirs).mean() > 0
    assert decided.verdict == REJECT, "cold users are tested however few they are"
    assert "cold on" in decided.reason


def test_a_model_below_the_best_cheap_baseline_is_rejected_though_it_beats_a_weak_champion() -> None:
    world = World()
    world.baseline = world.theirs * 1.3
    decided = world.decided()

    assert decided.verdict == REJECT
    assert decided.reason.startswith("worse than the best cheap baseline on next")


def test_a_model_that_shows_everybody_the_same_is_rejected() -> None:
    world = World()
    sound = world.lists
    of = {"candidate": np.tile(np.arange(10), (len(sound), 1)), "champion": sound}
    shown = evidence.rails_of(of, checkerboard(cut="test"), POLICY)
    decided = world.decided(guard_rails=shown)

    assert decided.verdict == REJECT
    assert decided.reason.startswith("guard rail: coverage 0.250, at least 0.500 (champion 1.000)")


def test_what_passes_at_the_first_look_may_fail_at_the_third() -> None:
    world = World(gain=0.006)

    assert world.decided(looks=1).verdict == PROMOTE
    third = world.decided(looks=3)
    assert third.verdict == HOLD
    assert third.reason.startswith("not shown to be better on next")


def test_too_few_users_are_told_how_many_would_decide() -> None:
    decided = World(users=40, gain=0.005).decided()

    assert decided.verdict == INSUFFICIENT_DATA
    assert decided.reason.startswith("40 users act in the next window; at least 100 are needed; by their spread about ")
    assert "would decide" in decided.reason


def test_a_stale_data_set_is_held() -> None:
    decided = World().decided(age_days=31.0, policy=POLICY.model_copy(update={"max_age_days": 30.0}))

    assert decided.verdict == HOLD
    assert decided.reason.startswith("stale: the newest event is 31.0 days old")


# What is found before anybody looks at the window, asked of real artifacts in a real registry.


def manifested(folder: Path, **stated: object) -> Path:
    """State more in an artifact's manifest, with the hashes of its files as they are."""
    manifest = json.loads((folder / MANIFEST).read_text())
    files = {name: hash_file(folder / name) for name in manifest["files"]}
    (folder / MANIFEST).write_text(json.dumps(manifest | {"files": files} | stated))
    return folder


@pytest.fixture
def asked(tracked: Path, monkeypatch: pytest.MonkeyPatch):
    """Ask the gate of two tiny artifacts, a change planted in one of them; nobody may look at the window."""

    def ask(
        candidate=lambda folder: None, champion=lambda folder: None, code: Checkout = COMMITTED, override: bool = False,
        audit: dict = CLEAN, skew: dict | None = None,
        policy: params.Gate = POLICY, fit_until_us: int | None = tiny_artifact.CUT_US,
    ) -> dict:  # fmt: skip
        versions = []
        for seed, change in ((1, champion), (2, candidate)):
            folder = tiny_artifact.write(tracked / f"artifact-{seed}", seed)
            change(folder)
            stated = {"fit_until_us": fit_until_us, "fit_until": "2026-01-01"} if fit_until_us else {}
            versions.append(registry.find("tiny", registry.create_version("tiny", manifested(folder, **stated))))
        description = {"split_id": "s", "dataset_hash": "d", "cut_us": tiny_artifact.CUT_US,
                       "until_us": tiny_artifact.CUT_US + 10**9}  # fmt: skip
        features: Any = SimpleNamespace(description=description, cut_us=tiny_artifact.CUT_US)
        settings = SHIPPED.model_copy(update={"gate": policy, "dataset": "tiny"})
        return judgement.judge(
            Question(settings, features, "item_knn", versions[1], versions[0], "item_knn", None, code, audit, override,
                     tiny_artifact.CUT_US + 2 * 10**9, skew)
        )  # fmt: skip

    looked: list[int] = []
    sound = {"comparisons": {}, "looks": 1, "age_days": 0.0, "start_us": tiny_artifact.CUT_US}
    monkeypatch.setattr(judgement, "_look", lambda *_: looked.append(1) or dict(sound))
    return SimpleNamespace(ask=ask, looked=looked)


def test_two_sound_artifacts_are_looked_at_and_the_look_is_in_the_ledger(asked) -> None:
    report = asked.ask()

    assert asked.looked == [1]
    (entry,) = ledger.entries("s")
    assert entry["report"] == report
    assert {"who", "date", "candidate", "champion"} <= set(entry)
    assert report["policy_hash"] == judgement.policy_hash(POLICY)


def no_look(asked, report: dict, verdict: str, reason: str) -> None:
    assert report["verdict"] == verdict
    assert report["reason"].startswith(reason), report["reason"]
    assert asked.looked == []
    assert ledger.entries("s") == []


def measured(matched: int, compared: int) -> dict[str, Any]:
    """A record of skew: histories that match so often, and nothing of trends."""
    low, high = proportion.interval(matched, compared)
    rate = matched / compared
    history = {"compared": compared, "matched": matched, "match_rate": rate, "low": low, "high": high}
    trends = {"compared": 0, "matched": 0, "match_rate": None, "low": 0.0, "high": 1.0}
    return {"date": "2026-11-26T00:00:00Z", "dataset_hash": "d", "answers": compared, "secret": "s",
            "groups": {"history": history, "trends": trends}}  # fmt: skip


def test_a_platform_that_serves_other_features_than_were_fitted_judges_nobody(asked) -> None:
    report = asked.ask(skew=measured(850, 1000))

    no_look(
        asked, report, HOLD, "refused: what is served does not read what the data set tells: history 85.0% [82.7%, "
    )
    assert "experiments.skew --since" in report["advice"]


@pytest.mark.parametrize("skew", [None, measured(1000, 1000), measured(940, 1000), measured(0, 1) | {"groups": {}}])
def test_skew_that_is_not_shown_or_not_measured_refuses_nobody_and_is_in_the_report(asked, skew: dict | None) -> None:
    report = asked.ask(skew=skew)

    assert asked.looked == [1]
    assert report["skew"] == (skew and {name: skew[name] for name in ("date", "dataset_hash", "answers", "groups")})


def test_an_artifact_that_is_too_large_is_rejected_unseen(asked) -> None:
    def pad(folder: Path) -> None:
        titles = json.loads((folder / "items.json").read_text())
        (folder / "items.json").write_text(json.dumps([titles[0] + "x" * 200_000, *titles[1:]]))
        golden = (folder / "golden.jsonl").read_text()
        (folder / "golden.jsonl").write_text(golden)

    small = POLICY.budgets.model_copy(update={"size_mb": 0.2})
    report = asked.ask(candidate=pad, policy=POLICY.model_copy(update={"budgets": small}))

    no_look(asked, report, REJECT, "over budget: size 0.2")


def test_a_slower_model_is_rejected_unseen(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Recommender.recommend

    def slower(self, bodies, now_us=None):
        if self.manifest["dataset_hash"] == "dataset-2":
            until = time.process_time() + 0.04
            while time.process_time() < until:
                pass
        return answer(self, bodies, now_us)

    monkeypatch.setattr(Recommender, "recommend", slower)
    report = asked.ask()

    no_look(asked, report, REJECT, "over budget: latency 4")
    latency = report["evidence"]["budgets"][1]
    assert latency["candidate"] > 40 > latency["champion"]
    assert latency["limit"] == POLICY.budgets.latency_free_ms


def test_a_champion_whose_golden_answers_cannot_be_reproduced_refuses_to_be_judged(asked) -> None:
    def forge(folder: Path) -> None:
        lines = (folder / "golden.jsonl").read_text().splitlines()
        first = json.loads(lines[0])
        first["answer"]["items"][0]["score"] += 1
        (folder / "golden.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")

    report = asked.ask(champion=forge)

    no_look(asked, report, HOLD, "refused: the champion, version 1, does not answer as at export: golden request 0")


def test_a_candidate_that_answers_otherwise_than_at_export_is_rejected(asked) -> None:
    report = asked.ask(candidate=lambda folder: (folder / "golden.jsonl").write_text(""))

    no_look(asked, report, REJECT, "the candidate does not answer as at export: it holds no golden answers")


def test_a_window_that_overlaps_what_either_was_fitted_on_is_refused(asked) -> None:
    report = asked.ask(fit_until_us=tiny_artifact.CUT_US + 10**9)

    no_look(asked, report, INSUFFICIENT_DATA, "refused: the whole window overlaps what the candidate was fitted on")


def test_an_artifact_that_does_not_say_until_when_it_was_fitted_is_refused(asked) -> None:
    no_look(asked, asked.ask(fit_until_us=None), HOLD, "refused: the candidate's manifest does not state fit_until_us")


def test_the_window_begins_where_the_last_fit_ends() -> None:
    features = checkerboard(cut="test")
    later = features.cut_us + 86_400_000_000
    manifests = {"candidate": {"fit_until_us": features.cut_us}, "champion": {"fit_until_us": later}}

    assert evidence.window_start(features, manifests) == later


CHANGED = Checkout("0123+changes", "training/losses.py", None)


def test_data_that_leak_refuse_to_be_judged(asked) -> None:
    found = {"what": "an event after the cut", "rows": 3, "examples": [], "fails": True}
    leaking = {"clean": False, "audited": "a", "checks": [{"check": "future", "cut": "test", "findings": [found]}]}

    no_look(asked, asked.ask(audit=leaking), HOLD, "refused: the leakage audit fails: future (test): an event after")


def test_uncommitted_code_is_refused(asked) -> None:
    no_look(asked, asked.ask(code=CHANGED), HOLD, "refused: the code is not committed: training/losses.py")


def test_an_override_judges_uncommitted_code_and_stays_loud_in_the_report(asked) -> None:
    report = asked.ask(code=CHANGED, override=True)

    assert asked.looked == [1]
    assert report["overrides"] == ["judged with uncommitted code: training/losses.py"]
    assert "OVERRIDE: judged with uncommitted code: training/losses.py" in page(report)


def test_a_clone_names_what_is_changed_and_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("params.py", "requirements.lock", "notes.txt"):
        (tmp_path / name).write_text("1\n")
    stated = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*stated, *command], cwd=tmp_path, check=True)
    monkeypatch.delenv("TIDEGATE_COMMIT", raising=False)
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    monkeypatch.setattr(params, "ROOT", tmp_path)

    (tmp_path / "notes.txt").write_text("2\n")
    (tmp_path / "new.py").write_text("1\n")
    assert checkout.state()[1:] == (None, None)
    (tmp_path / "requirements.lock").write_text("2\n")
    assert checkout.state().changed == "requirements.lock"


@pytest.mark.parametrize("path", ["", "git"])
def test_without_git_the_report_says_that_the_code_is_unknown(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIDEGATE_COMMIT", raising=False)
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    monkeypatch.setattr(params, "ROOT", tmp_path)
    if not path:
        monkeypatch.setenv("PATH", str(tmp_path))

    state = checkout.state()

    assert state.changed is None
    assert state.unknown is not None
    assert "git is not here" in state.unknown


def test_a_workspace_believes_the_commit_that_its_maker_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_COMMIT", "0123+changes")
    assert checkout.state().changed is not None
    monkeypatch.setenv("TIDEGATE_COMMIT", "0123")
    assert checkout.state() == Checkout("0123", None, None)
