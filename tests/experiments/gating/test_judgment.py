"""The judgment: looks, refusals, promotion, and what a signed registry allows."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_artifact
from gate_policy import POLICY, SHIPPED
from made_features import checkerboard
from small_pipeline import inside

from config import params
from experiments import gate
from experiments.evaluation import bootstrap
from experiments.gating import evidence, judgment, looks
from experiments.gating.judgment import GateCase
from experiments.gating.preconditions import CodeState
from experiments.gating.report_page import page
from experiments.gating.verdict import HOLD, INSUFFICIENT_DATA, REJECT
from serving.deployment import promotion, registry
from serving.deployment.registry import CHAMPION, RegistryError, registry_client
from serving.worker.recommender import Recommender
from training.models.artifact import MANIFEST, hash_file

COMMITTED = CodeState("0123", None, None)
CLEAN: dict[str, Any] = {"clean": True, "audited": "a", "checks": []}


def manifested(folder: Path, **stated: object) -> Path:
    """State more in an artifact's manifest, with the hashes of its files as they are."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    files = {name: hash_file(folder / name) for name in manifest["files"]}
    (folder / MANIFEST).write_text(json.dumps(manifest | {"files": files} | stated), encoding="utf-8")
    return folder


@pytest.fixture
def tiny_gate(tracked: Path, monkeypatch: pytest.MonkeyPatch):
    """A gate for two tiny artifacts, with a change planted in one of them. Looks at the holdout are counted."""

    def judge(
        candidate=lambda folder: None, champion=lambda folder: None, code: CodeState = COMMITTED, override: bool = False,
        audit: dict = CLEAN, skew: dict | None = None,
        policy: params.Gate = POLICY, fit_until_us: int | None = tiny_artifact.CUT_US,
    ) -> dict:  # fmt: skip
        versions = []
        for seed, change in ((1, champion), (2, candidate)):
            folder = tiny_artifact.write(tracked / f"artifact-{seed}", seed)
            change(folder)
            stated = {"fit_until_us": fit_until_us, "fit_until": "2026-01-01"} if fit_until_us else {}
            versions.append(
                registry.find_version("tiny", registry.register_version("tiny", manifested(folder, **stated)))
            )
        description = {"split_id": "s", "dataset_hash": "d", "cut_us": tiny_artifact.CUT_US,
                       "until_us": tiny_artifact.CUT_US + 10**9}  # fmt: skip
        features: Any = SimpleNamespace(description=description, cut_us=tiny_artifact.CUT_US)
        settings = SHIPPED.model_copy(update={"gate": policy, "dataset": "tiny"})
        return judgment.judge(
            GateCase(settings, features, "item_knn", versions[1], versions[0], "item_knn", None, code, audit, override,
                     tiny_artifact.CUT_US + 2 * 10**9, skew)
        )  # fmt: skip

    looked: list[int] = []
    sound = {"comparisons": {}, "looks": 1, "age_days": 0.0, "start_us": tiny_artifact.CUT_US}
    monkeypatch.setattr(judgment, "look_at_holdout", lambda *_: looked.append(1) or dict(sound))
    return SimpleNamespace(judge=judge, looked=looked)


def test_a_look_and_its_report_are_recorded(tiny_gate) -> None:
    report = tiny_gate.judge()

    assert tiny_gate.looked == [1]
    (look,) = looks.read("tiny").at("s")
    stated = looks.read("tiny").statements[look]
    question = looks.Question(*(stated[field] for field in looks.Question._fields))
    assert looks.earlier_report("tiny", question) == report
    assert stated["policy_hash"] == report["policy_hash"] == judgment.policy_hash(POLICY)
    assert {"by", "date"} <= set(stated)


def test_a_look_is_recorded_before_the_holdout_is_scored(tiny_gate, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(judgment, "look_at_holdout", killed)
        with pytest.raises(KeyboardInterrupt):
            tiny_gate.judge()
    assert len(looks.read("tiny").at("s")) == 1


def no_look(tiny_gate, report: dict, verdict: str, reason: str) -> None:
    assert report["verdict"] == verdict
    assert report["reason"].startswith(reason), report["reason"]
    assert tiny_gate.looked == []
    assert looks.read("tiny").at("s") == []


def measured(matched: int, compared: int) -> dict[str, Any]:
    """A record of skew: histories that match so often, and nothing of trends."""
    low, high = bootstrap.wilson_interval(matched, compared)
    rate = matched / compared
    history = {"compared": compared, "matched": matched, "match_rate": rate, "low": low, "high": high}
    trends = {"compared": 0, "matched": 0, "match_rate": None, "low": 0.0, "high": 1.0}
    return {"date": "2026-11-26T00:00:00Z", "dataset_hash": "d", "answers": compared, "secret": "s",
            "groups": {"history": history, "trends": trends}}  # fmt: skip


def test_skew_refuses_the_judgment(tiny_gate) -> None:
    report = tiny_gate.judge(skew=measured(850, 1000))

    no_look(
        tiny_gate, report, HOLD, "refused: serving reads other features than the dataset holds: history 85.0% [82.7%, "
    )
    assert "experiments.skew --since" in report["advice"]


@pytest.mark.parametrize("skew", [None, measured(1000, 1000), measured(940, 1000), measured(0, 1) | {"groups": {}}])
def test_skew_that_is_not_shown_or_not_measured_refuses_nothing(tiny_gate, skew: dict | None) -> None:
    report = tiny_gate.judge(skew=skew)

    assert tiny_gate.looked == [1]
    assert report["skew"] == (skew and {name: skew[name] for name in ("date", "dataset_hash", "answers", "groups")})


def test_an_artifact_that_is_too_large_is_rejected_before_the_look(tiny_gate) -> None:
    def pad(folder: Path) -> None:
        titles = json.loads((folder / "items.json").read_text(encoding="utf-8"))
        (folder / "items.json").write_text(json.dumps([titles[0] + "x" * 200_000, *titles[1:]]), encoding="utf-8")
        golden = (folder / "golden.jsonl").read_text(encoding="utf-8")
        (folder / "golden.jsonl").write_text(golden, encoding="utf-8")

    small = POLICY.budgets.model_copy(update={"size_mb": 0.2})
    report = tiny_gate.judge(candidate=pad, policy=POLICY.model_copy(update={"budgets": small}))

    no_look(tiny_gate, report, REJECT, "over budget: size is 0.2")


def test_a_slower_model_is_rejected_before_the_look(tiny_gate, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Recommender.recommend

    def slower(self, bodies, now_us=None):
        if self.manifest["dataset_hash"] == "dataset-2":
            until = time.process_time() + 0.04
            while time.process_time() < until:
                pass
        return answer(self, bodies, now_us)

    monkeypatch.setattr(Recommender, "recommend", slower)
    report = tiny_gate.judge()

    no_look(tiny_gate, report, REJECT, "over budget: latency is 4")
    latency = report["evidence"]["budgets"][1]
    assert latency["candidate"] > 40 > latency["champion"]
    assert latency["limit"] == POLICY.budgets.latency_free_ms


def test_a_champion_that_answers_differently_refuses_the_judgment(tiny_gate) -> None:
    def forge(folder: Path) -> None:
        lines = (folder / "golden.jsonl").read_text(encoding="utf-8").splitlines()
        first = json.loads(lines[0])
        first["answer"]["items"][0]["score"] += 1
        (folder / "golden.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n", encoding="utf-8")

    report = tiny_gate.judge(champion=forge)

    no_look(tiny_gate, report, HOLD, "refused: the champion, version 1, does not answer as at export: golden request 0")


def test_a_candidate_that_answers_differently_is_rejected(tiny_gate) -> None:
    report = tiny_gate.judge(candidate=lambda folder: (folder / "golden.jsonl").write_text("", encoding="utf-8"))

    no_look(tiny_gate, report, REJECT, "the candidate does not answer as at export: it holds no golden answers")


def test_without_unseen_events_there_is_insufficient_data(tiny_gate) -> None:
    report = tiny_gate.judge(fit_until_us=tiny_artifact.CUT_US + 10**9)

    no_look(tiny_gate, report, INSUFFICIENT_DATA, "refused: the candidate was fitted on all known events, until ")


def test_an_artifact_without_fit_until_is_refused(tiny_gate) -> None:
    no_look(tiny_gate, tiny_gate.judge(fit_until_us=None), HOLD, "refused: the candidate's manifest lacks fit_until_us")


def test_the_holdout_begins_where_the_last_fit_ends() -> None:
    features = checkerboard(cut="test")
    later = features.cut_us + 86_400_000_000
    manifests = {"candidate": {"fit_until_us": features.cut_us}, "champion": {"fit_until_us": later}}

    assert evidence.holdout_start(features, manifests) == later


CHANGED = CodeState("0123+changes", "training/losses.py", None)


def test_a_leak_refuses_the_judgment(tiny_gate) -> None:
    found = {"what": "an event after the cut", "rows": 3, "examples": [], "fails": True}
    leaking = {"clean": False, "audited": "a", "checks": [{"check": "future", "cut": "test", "findings": [found]}]}

    no_look(
        tiny_gate,
        tiny_gate.judge(audit=leaking),
        HOLD,
        "refused: the leakage audit fails: future (test): an event after",
    )


def test_uncommitted_code_refuses_the_judgment(tiny_gate) -> None:
    no_look(
        tiny_gate, tiny_gate.judge(code=CHANGED), HOLD, "refused: the code has uncommitted changes: training/losses.py"
    )


def test_an_override_judges_uncommitted_code_and_shows_in_the_report(tiny_gate) -> None:
    report = tiny_gate.judge(code=CHANGED, override=True)

    assert tiny_gate.looked == [1]
    assert report["overrides"] == ["judged with uncommitted code: training/losses.py"]
    assert "OVERRIDE: judged with uncommitted code: training/losses.py" in page(report)


# These tests allow uncommitted code: whether this clone's is, is nothing that they ask.
REASON = "the champion shows nothing at all"


@pytest.fixture
def settings(pipeline: Path, tmp_path: Path):
    """Those of a copy of the products, in which the test works."""
    shutil.copytree(pipeline, tmp_path, dirs_exist_ok=True)
    with inside(tmp_path):
        yield params.load(tmp_path / "params.yaml")


@pytest.mark.slow
def test_a_champion_from_before_decisions_were_signed_is_judged_again(settings: params.Params) -> None:
    version = judgment.register(settings.dataset, "two_tower")
    registry_client().set_registered_model_alias(settings.dataset, CHAMPION, version)
    reports = judgment.run(settings, "two_tower", override=True)
    assert [report["verdict"] for report in reports] == ["PROMOTE", "PROMOTE"]
    assert promotion.serving_target(settings.dataset).version.version == version


@pytest.mark.slow
def test_an_alias_set_by_hand_refuses_the_judgment(settings: params.Params) -> None:
    judgment.run(settings, "two_tower", override=True)
    registry_client().delete_registered_model_alias(settings.dataset, CHAMPION)
    with pytest.raises(
        RegistryError, match="champion was changed by hand: it names nothing, the last signed decision names"
    ):
        judgment.run(settings, "two_tower", override=True)


@pytest.mark.slow
def test_every_report_shows_an_override_until_a_promotion_ends_it(settings: params.Params, capsys) -> None:
    label = judgment.best_label(settings, learned=False)
    assert label is not None
    other = next(each for each in settings.train.models if each not in (label, "two_tower"))
    judgment.promote_first_champion(settings, label, override=True)
    promotion.override(settings.dataset, judgment.register(settings.dataset, other), REASON)

    assert (
        gate.main(["--model", other, "--allow-uncommitted"]) == 0
    )  # against the champion before, since it is champion itself
    printed = capsys.readouterr().out
    assert f"OVERRIDE: {settings.dataset} " in printed
    assert REASON in printed
    assert REASON in Path("out/experiments/gate.html").read_text(encoding="utf-8")

    (report,) = judgment.run(settings, "two_tower", override=True)
    assert report["verdict"] == "PROMOTE", report["reason"]
    assert [text for text in report["overrides"] if REASON in text], "it stood while the gate judged"
    (report,) = judgment.run(settings, "two_tower", override=True)
    assert report["decided_before"]
    assert not [text for text in report["overrides"] if REASON in text]


@pytest.mark.slow
def test_a_gate_run_after_a_rollback_promotes_the_same_artifact_only_with_an_explicit_again(
    settings: params.Params, capsys
) -> None:
    _, promoted = judgment.run(settings, "two_tower", override=True)
    promotion.roll_back_aliases(settings.dataset, "it lists nonsense")
    before = promotion.serving_target(settings.dataset).version

    (report,) = judgment.run(settings, "two_tower", override=True)
    assert report["verdict"] == HOLD
    assert "refused: the candidate was rolled back on " in report["reason"]
    assert "(it lists nonsense); it needs evidence on events after " in report["reason"]
    assert "looks" not in report, "it spends no look"
    assert promotion.serving_target(settings.dataset).version == before

    assert gate.main(["--model", "two_tower", "--again", "--allow-uncommitted"]) == 2
    assert "--again needs --reason" in capsys.readouterr().err
    (report,) = judgment.run(settings, "two_tower", override=True, again="the store was at fault")
    assert (report["verdict"], report["again"]) == ("PROMOTE", "the store was at fault")
    assert promotion.serving_target(settings.dataset).version.version == promoted["version"]


@pytest.mark.slow
def test_a_gate_that_was_killed_before_it_promoted_promotes_without_another_look(
    settings: params.Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = judgment.best_label(settings, learned=False)
    assert label is not None
    judgment.promote_first_champion(settings, label, override=True)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(judgment, "settle", killed)
        with pytest.raises(KeyboardInterrupt):
            judgment.run(settings, "two_tower", override=True)
    before = looks.read(settings.dataset).statements

    monkeypatch.setattr(judgment, "look_at_holdout", killed)
    (report,) = judgment.run(settings, "two_tower", override=True)
    assert report["verdict"] == "PROMOTE"
    assert looks.read(settings.dataset).statements == before
    assert promotion.serving_target(settings.dataset).version.version == report["version"]
