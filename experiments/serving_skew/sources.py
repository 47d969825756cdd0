"""What served answers are held against, read once for all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config import params
from config.command import UserError
from data.times import from_iso
from experiments.lineage import offline_features, served_log
from experiments.lineage.offline_features import Offline, OfflineTrends
from experiments.lineage.recompute import that_answered
from experiments.lineage.served_log import LineageError
from features.online.connect import connect_to_read, settings
from features.online.errors import StoreError
from features.online.store import ProfileStore, Reading
from serving.edge.pseudonym import hidden, pseudonym
from serving.export import one_thread
from serving.worker import response
from serving.worker.recommender import Recommender
from serving.worker.request import Request
from serving.worker.users import User


@dataclass(frozen=True)
class Sources:
    """Attributes:
    secret: that the served log's digests are under; None where it is not here.
    owners: pseudonym -> user, of everybody in the data set.
    people: what the data set tells of those who asked; None where its events are not here.
    horizon_us: of what was learned later the data set holds nothing.
    trends: None where the features are not here.
    scratch: an empty folder for artifacts.
    kept: (request id, asked) -> what the request stated, where the edge kept it.
    store: the online store as it is now; None where there is none.
    """

    chosen: params.Params
    secret: bytes | None
    owners: Mapping[str, str]
    people: Offline | None
    horizon_us: int
    trends: OfflineTrends | None
    scratch: Path
    kept: Mapping[tuple[str, str], dict[str, Any]]
    store: ProfileStore | None
    _models: dict[tuple, Recommender | str] = field(default_factory=dict)
    _digests: dict[tuple, str] = field(default_factory=dict)

    def model(self, line: Mapping[str, Any]) -> Recommender:
        """The version that answered, loaded once. Raises LineageError: it is not to be had."""
        key = line.get("dataset"), line["model_version"], line["dataset_version"]
        if key not in self._models:
            self._models[key] = self._load(line)
        found = self._models[key]
        if isinstance(found, str):
            raise LineageError(found)
        return found

    def _load(self, line: Mapping[str, Any]) -> Recommender | str:
        try:
            folder = tempfile.mkdtemp(dir=self.scratch)
            return that_answered(line, self.chosen.dataset, Path(folder))
        except UserError as error:
            return str(error)

    def trends_digest(self, trends: OfflineTrends, model: Recommender, moment_us: int) -> str:
        """Of the item trends of a moment, as an answer of the model states it."""
        key = model.artifact.digest, moment_us
        if key not in self._digests:
            self._digests[key] = response.digest_of_trends(trends.at(model.vocabulary, moment_us), model.model.channels)
        return self._digests[key]

    def stored(self, user: str, time_us: int) -> Reading | None:
        """The user in the online store as it is now."""
        try:
            return self.store.read([user], [time_us])[0] if self.store is not None else None
        except StoreError:
            return None

    def stated(self, line: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the request stated beyond its line; None where that was not kept."""
        return self.kept.get((line["request_id"], line["asked"])) if line["unlogged"] else {}


@contextmanager
def opened(
    lines: Sequence[Mapping[str, Any]], folder: Path, secret: bytes | None, chosen: params.Params
) -> Iterator[Sources]:
    """Everything that these lines of a served log in `folder` need."""
    owners = {pseudonym(secret, user): user for user in offline_features.users()} if secret is not None else {}
    asked = {owners[line["user"]] for line in lines if line.get("user") in owners}
    people = Offline.of(asked, chosen.online)
    with ExitStack() as stack:
        stack.enter_context(one_thread())  # as a worker has it
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-skew-")))
        yield Sources(
            chosen, secret, owners, people, offline_features.horizon() if people else 0, OfflineTrends.here(), scratch,
            served_log.bodies(folder, lines), _store(stack, chosen.dataset),
        )  # fmt: skip


def _store(stack: ExitStack, dataset: str) -> ProfileStore | None:
    try:
        store = connect_to_read(dataset, settings())
    except StoreError:
        return None
    stack.callback(store.close)
    return store


CONTEXT_GONE = "the request states a context, which was not kept (TIDEGATE_EDGE_KEEP_REQUESTS)"
CONTEXT_MIXED = "the edge told the worker traits and the request's context as one"


@dataclass(frozen=True)
class Asking:
    """Whom an answer is about and when.

    Attributes:
        context: that the request states; None where that is not known, for the reason `unknown`.
    """

    line: Mapping[str, Any]
    secret: bytes
    user: str | None
    repeats: str
    context: Mapping[str, object] | None
    unknown: str

    @property
    def time_us(self) -> int:
        return from_iso(self.line["time"])

    def digests(self, person: User) -> dict[str, str]:
        """As the line would state them, had the worker read this."""
        request = Request(self.user, [], False, self.line["k"], self.time_us, dict(self.context or {}), None)
        return hidden(self.secret, response.input_digests(request, person, "")) or {}

    def as_served(self, group: str, person: User) -> bool:
        return self.digests(person)[group] == self.line["inputs"].get(group)


def asking_of(line: Mapping[str, Any], repeats: str, sources: Sources) -> Asking:
    assert sources.secret is not None  # or there is nobody to ask about
    stated = sources.stated(line)
    unknown = ""
    if "history" in line["unlogged"]:  # of a store that the edge reads, and the worker cannot
        unknown = CONTEXT_MIXED
    elif stated is None and "context" in line["unlogged"]:
        unknown = CONTEXT_GONE
    context = None if unknown else (stated or {}).get("context") or {}
    return Asking(line, sources.secret, sources.owners.get(line["user"]), repeats, context, unknown)
