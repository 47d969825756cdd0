"""Looks at the holdout are counted across clones and gates, and one that was removed or changed is noticed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import signing
import tiny_artifact

from experiments.gating import looks
from experiments.gating.looks import Question
from serving.deployment import registry
from serving.deployment.registry import RegisteredVersion, RegistryError, registry_client

ONE, TWO, OTHER = Question("s", "a", "b", "p"), Question("s", "c", "b", "p"), Question("later", "a", "b", "p")
REPORT = {"verdict": "HOLD", "date": "2026-01-01T00:00:00Z"}


@pytest.fixture
def version(tracked: Path) -> RegisteredVersion:
    """The candidate, in an empty registry."""
    return registry.find_version(
        "tiny", registry.register_version("tiny", tiny_artifact.write(tracked / "artifact", 1))
    )


def tags() -> dict[str, str]:
    model = registry.registered_model("tiny")
    assert model is not None
    return {name: text for name, text in model.tags.items() if name.startswith("holdout_look.")}


def judged(question: Question, version: RegisteredVersion) -> int:
    """Look and report; the number of the look."""
    look = looks.begin("tiny", question)
    looks.finish(look, version, REPORT)
    return look.number


def another_clone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_STATE", str(folder / "another"))


def test_looks_are_counted_per_split_also_from_another_clone(version, tmp_path: Path, monkeypatch) -> None:
    assert judged(ONE, version) == 1
    assert judged(OTHER, version) == 1
    another_clone(tmp_path, monkeypatch)
    assert judged(TWO, version) == 2
    assert looks.earlier_report("tiny", ONE) == REPORT


def test_only_the_same_question_finds_a_report(version) -> None:
    judged(ONE, version)
    assert looks.earlier_report("tiny", ONE) == REPORT
    for field in Question._fields:
        assert looks.earlier_report("tiny", ONE._replace(**{field: "another"})) is None


def test_a_look_that_was_never_reported_counts_once_and_is_taken_up_again(version) -> None:
    begun = looks.begin("tiny", ONE)
    assert looks.earlier_report("tiny", ONE) is None
    assert looks.begin("tiny", ONE) == begun
    assert looks.begin("tiny", TWO).number == 2


def test_of_two_gates_at_once_one_counts_both_looks(version) -> None:
    questions = [Question("s", f"candidate {number}", "b", "p") for number in range(4)]
    with ThreadPoolExecutor(4) as gates:
        numbers = list(gates.map(lambda question: looks.begin("tiny", question).number, questions))
    assert len(looks.read("tiny").at("s")) == max(numbers) == 4
    assert all(sorted(numbers)[place] > place for place in range(4))  # none is judged as fewer looks than there were


def test_a_look_that_another_one_follows_cannot_be_removed_or_changed(version, tmp_path: Path, monkeypatch) -> None:
    judged(ONE, version)
    first = dict(tags())
    judged(TWO, version)
    another_clone(tmp_path, monkeypatch)  # which has seen none of them
    for name, text in first.items():
        registry_client().delete_registered_model_tag("tiny", name)
        with pytest.raises(RegistryError, match="tiny: 1 of its looks at the holdout were removed or changed"):
            looks.begin("tiny", OTHER)
        changed = json.loads(text)
        changed["signed"]["date"] = "2020-01-01T00:00:00Z"
        registry_client().set_registered_model_tag("tiny", name, json.dumps(changed))
        with pytest.raises(RegistryError, match="changed after it was signed"):
            looks.begin("tiny", OTHER)
        registry_client().set_registered_model_tag("tiny", name, text)
    assert judged(OTHER, version) == 1


def test_a_machine_that_has_seen_the_last_look_misses_it(version) -> None:
    begun = looks.begin("tiny", ONE)
    registry_client().delete_registered_model_tag("tiny", f"holdout_look.{begun.id}")
    with pytest.raises(RegistryError, match=r"1 of its looks .* remove the tags `holdout_look.` .*newest_looks.json"):
        looks.earlier_report("tiny", ONE)


def test_a_registered_model_that_was_deleted_and_made_anew_is_noticed(version, tmp_path: Path) -> None:
    judged(ONE, version)
    registry_client().delete_registered_model("tiny")
    registry.register_version("tiny", tmp_path / "artifact")
    with pytest.raises(RegistryError, match="1 of its looks at the holdout were removed"):
        looks.begin("tiny", ONE)


@pytest.mark.parametrize("seed", [signing.OPERATOR_SEED, signing.GATE_SEED])
def test_a_look_that_the_gate_did_not_sign_for_this_entry_is_refused(version, seed: bytes) -> None:
    begun = looks.begin("tiny", ONE)
    signed = json.loads(tags()[f"holdout_look.{begun.id}"])["signed"]
    stated = {key: value for key, value in signed.items() if key not in ("kind", "key")}
    registry_client().set_registered_model_tag(
        "tiny", f"holdout_look.{'0' * 16}", signing.signed(seed, looks.SIGNED_KIND, stated)
    )
    problem = "may not sign a holdout look" if seed == signing.OPERATOR_SEED else f"is of tiny {begun.id}"
    with pytest.raises(RegistryError, match=f"its tag holdout_look.{'0' * 16} .*{problem}"):
        looks.read("tiny")


def test_a_look_whose_key_was_forgotten_counts_at_every_split(version, monkeypatch: pytest.MonkeyPatch) -> None:
    looks.begin("tiny", ONE)
    monkeypatch.setenv("TIDEGATE_GATE_KEY", signing.pem(signing.STRANGER_SEED))
    assert looks.begin("tiny", OTHER).number == 2
    assert looks.earlier_report("tiny", ONE) is None


def test_a_report_that_was_changed_is_refused(version, tmp_path: Path) -> None:
    judged(ONE, version)
    (path,) = tmp_path.rglob("holdout-looks/*/report.json")
    path.write_text(json.dumps(REPORT | {"verdict": "REJECT"}), encoding="utf-8")
    with pytest.raises(RegistryError, match="was changed after the gate signed it"):
        looks.earlier_report("tiny", ONE)
