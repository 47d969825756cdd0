"""Looks at the holdout, signed in the registry, because each one makes the next test stricter.

A look is recorded before the holdout is scored, and its report before anybody sees it. Each entry is a tag of the registered
model with a name of its own, so two gates at once overwrite nothing, and each counts the other's look or is counted by it. An
entry names the hashes of the entries that no other one follows yet: a changed or removed entry is noticed by those that
follow it, and a removed last one by each machine that has seen it.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from config import files
from config.current_user import current_user
from config.paths import DEPLOYMENTS, state
from data.times import now_iso
from serving.deployment import registry, signature
from serving.deployment.errors import UntrustedKeyError
from serving.deployment.registry import RegisteredVersion, RegistryError, registry_client
from training.tracking import tracking_uri

SIGNED_KIND = "holdout look"
TAG = re.compile(r"holdout_look\.([0-9a-f]{16})")
LOOK, REPORT = "look", "report"  # the two events


class Question(NamedTuple):
    """What a look answers; the artifacts by their digests."""

    split_id: str
    candidate: str
    champion: str
    policy_hash: str


class Look(NamedTuple):
    """A look that has begun."""

    id: str
    number: int  # of this look among those at the split, 1 for the first


@dataclass(frozen=True)
class Record:
    """The verified looks of a dataset."""

    dataset: str
    statements: dict[str, dict]  # id -> what was signed
    hashes: dict[str, str]  # id -> hash of the signed text
    untrusted: frozenset[str]  # ids of entries whose key is not trusted any more

    @property
    def heads(self) -> list[str]:
        """Hashes of the entries that no other one follows."""
        followed = {previous for statement in self.statements.values() for previous in statement["previous"]}
        return sorted(set(self.hashes.values()) - followed)

    def at(self, split_id: str) -> list[str]:
        """Ids of the looks at a split. One whose key is not trusted any more counts at every split."""
        looks = {
            id_ for id_, each in self.statements.items() if (each["event"], each.get("split_id")) == (LOOK, split_id)
        }
        return sorted(looks | self.untrusted)

    def answering(self, question: Question) -> Iterator[tuple[str, list[dict]]]:
        """Each look at a question, with what was signed about its reports."""
        for id_, each in self.statements.items():
            if each["event"] == LOOK and all(each[field] == value for field, value in question._asdict().items()):
                yield id_, [other for other in self.statements.values() if other.get("look") == id_]


def read(dataset: str) -> Record:
    """The record of a dataset, and remember it on this machine.

    Raises:
        RegistryError: an entry was changed or is gone.
    """
    model = registry.registered_model(dataset)
    texts = {match[1]: text for name, text in (model.tags if model else {}).items() if (match := TAG.fullmatch(name))}
    statements, untrusted = {}, set()
    for id_, text in texts.items():
        subject = f"{dataset}: its tag holdout_look.{id_}"
        try:
            statements[id_] = signature.verify(SIGNED_KIND, text, subject)
        except UntrustedKeyError:
            untrusted.add(id_)
        else:
            if (statements[id_]["dataset"], statements[id_]["id"]) != (dataset, id_):
                raise RegistryError(f"{subject} is of {statements[id_]['dataset']} {statements[id_]['id']}")
    record = Record(dataset, statements, {id_: _hash(text) for id_, text in texts.items()}, frozenset(untrusted))
    memory, key = _read_memory(), _hash(f"{tracking_uri().partition('?')[0]} {dataset}")[:32]
    named = {previous for statement in statements.values() for previous in statement["previous"]}
    if lost := (named | set(memory.get(key, ()))) - set(record.hashes.values()):
        raise RegistryError(
            f"{dataset}: {len(lost)} of its looks at the holdout were removed or changed in the registry; restore its "
            f"newest backup. To accept the loss, remove the tags `holdout_look.` of the model and {_memory_path()}"
        )
    if record.heads != memory.get(key, []):
        files.write_bytes(_memory_path(), json.dumps(memory | {key: record.heads}, indent=1).encode())
    return record


def begin(dataset: str, question: Question) -> Look:
    """Record a look before the holdout is scored. One that was begun and never reported is taken up again."""
    record = read(dataset)
    begun = [id_ for id_, reports in record.answering(question) if not reports]
    id_ = begun[0] if begun else _append(record, {"event": LOOK, "by": current_user(), **question._asdict()})
    return Look(id_, len(read(dataset).at(question.split_id)))  # after it is written: of two at once, one counts both


def finish(look: Look, version: RegisteredVersion, report: dict[str, Any]) -> None:
    """Log the report of a look to the candidate's run, and sign it."""
    text = json.dumps(report, indent=1, sort_keys=True)
    digest, mlflow = _hash(text), registry_client()
    folder = f"holdout-looks/{look.id}-{digest[:12]}"
    mlflow.log_text(version.run_id, text, f"{folder}/report.json")
    registry.sync_logged(mlflow, version.run_id, folder)
    uri = f"runs:/{version.run_id}/{folder}/report.json"
    stated = {"event": REPORT, "look": look.id, "version": version.version, "sha256": digest, "uri": uri}
    _append(read(version.dataset), stated)


def earlier_report(dataset: str, question: Question) -> dict | None:
    """The first report of a look at the same question; None if there is none.

    Raises:
        RegistryError: the report was changed.
    """
    stated = [each for _, reports in read(dataset).answering(question) for each in reports]
    for each in sorted(stated, key=itemgetter("date")):
        try:
            text = registry.read_text(registry.find_version(dataset, each["version"]), each["uri"])
        except RegistryError:  # the version was deleted, and its report with it
            continue
        if _hash(text) != each["sha256"]:
            raise RegistryError(f"{dataset}: {each['uri']} was changed after the gate signed it (the hash differs)")
        return json.loads(text)
    return None


def _append(record: Record, stated: dict[str, Any]) -> str:
    id_ = uuid.uuid4().hex[:16]
    statement = {"dataset": record.dataset, "id": id_, "date": now_iso(), "previous": record.heads, **stated}
    text = signature.sign(SIGNED_KIND, statement)
    registry_client().set_registered_model_tag(record.dataset, f"holdout_look.{id_}", text)
    return id_


def _memory_path() -> Path:
    """The file in which this machine remembers the newest looks of each dataset and registry."""
    return state() / DEPLOYMENTS / "newest_looks.json"


def _read_memory() -> dict[str, list[str]]:
    try:
        return json.loads(_memory_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()
