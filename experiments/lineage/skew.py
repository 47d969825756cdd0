"""Compare what one served answer read with what the dataset says it should have read.

There are three groups of features: history, traits and item trends. Digests of the served log show whether a group
matches. For groups that differ, values show how, as far as the dataset or the online store still has what was read, and
the answer is computed again to show the effect on its scores.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from config import params
from config.command import UserError
from data.times import from_iso, to_iso
from experiments.lineage import inputs, served_log
from experiments.lineage.inputs import NO_SECRET, TEST_FEATURES, OfflineTrends, OfflineUsers
from experiments.lineage.recompute import FixedLookup, load_version
from experiments.lineage.served_log import FROM_EDGE, NOT_COMPUTED, Line, LineageError
from features.online.connect import connect_to_read
from features.online.connect import read_settings as store_settings
from features.online.errors import StoreError
from features.online.store import ProfileStore, Reading
from features.trends import TrendSnapshot
from serving.edge import request_log
from serving.edge.request_log import hash_inputs, pseudonym
from serving.worker import response
from serving.worker.fallback import PERSONALIZED, SEGMENT
from serving.worker.recommender import Recommender
from serving.worker.request import MAX_K, Request
from serving.worker.scorer import LiveTrends
from serving.worker.users import NO_CONSENT, User, user_from_reading
from training.threads import one_thread

HISTORY, TRAITS, TRENDS = GROUPS = ("history", "traits", "trends")  # the digests of serving.worker.response
USER_GROUPS = (HISTORY, TRAITS)

# Kinds of outcomes. The first four are compared; all of them but MATCHED are skewed.
MATCHED, DIFFERENT = "matched", "different"
MISSING_IN_ANSWER, MISSING_IN_DATASET = "missing in the answer", "missing in the dataset"
COMPARED = (MATCHED, DIFFERENT, MISSING_IN_ANSWER, MISSING_IN_DATASET)
NOTHING, NOT_COMPARABLE = "nothing on either side", "not comparable"

# Reasons why a group is not comparable.
OLD_LINE = "its line holds no digest of what was read: it comes from an older worker or edge"
OWN_HISTORY = "the request states its own history"
NO_USER = "the request names no user"
NO_EVENTS = "the dataset's events are not here (`dvc pull`)"
UNKNOWN_USER = "no such user in the dataset here: unknown, erased, or without consent to training"
NEWER_USER = "the platform has learned of the user after the end of the dataset: ingest again"
CONTEXT_MISSING = "the request states a context, which was not kept (TIDEGATE_EDGE_KEEP_REQUESTS)"
CONTEXT_MIXED = "the edge passed traits and the request's context to the worker as one"
NO_CHANNELS = "the model reads no trends"
OWN_TIME = "the request states its own time, and a worker keeps only the newest trends"
NO_FEATURES = f"{TEST_FEATURES} is not here (`dvc pull`)"
OTHER_VERSION = f"the model was fitted on another dataset version than {TEST_FEATURES}"
NEWER_TRENDS = "the trends are newer than the dataset: ingest again"

UNKNOWN_CAUSE = "by digest only: what was read is neither in the dataset nor in the online store as it is now"


class SkewOutcome(NamedTuple):
    """The comparison of one group. `why` is the reason if it is not comparable, and the difference if it is skewed."""

    kind: str
    why: str = ""

    @property
    def skewed(self) -> bool:
        return self.kind in COMPARED and self.kind != MATCHED


@dataclass(frozen=True)
class ComparedAnswer:
    """A line compared with the dataset.

    Attributes:
        outcomes: by group.
        user, snapshot: what should have been read; None if unknown, or if it is what was read.
    """

    line: Line
    outcomes: dict[str, SkewOutcome]
    user: User | None = None
    snapshot: TrendSnapshot | None = None

    @property
    def skewed(self) -> bool:
        return any(outcome.skewed for outcome in self.outcomes.values())


# --- the sources, read once for all answers


@dataclass(frozen=True)
class SkewSources:
    """What served answers are compared with.

    Attributes:
        secret: of the served log's digests; None if it is not here.
        user_ids: pseudonym -> user id, for everybody in the dataset.
        users: the users who asked, as the dataset knows them; None if its events are not here.
        known_until_us: what was learned later is not in the dataset.
        trends: None if the features are not here.
        scratch: an empty folder for artifacts.
        requests: (request id, asked) -> request fields that the edge kept.
        store: the online store as it is now; None without one.
    """

    settings: params.Params
    secret: bytes | None
    user_ids: Mapping[str, str]
    users: OfflineUsers | None
    known_until_us: int
    trends: OfflineTrends | None
    scratch: Path
    requests: Mapping[tuple[str, str], dict[str, Any]]
    store: ProfileStore | None
    _models: dict[tuple, Recommender | str] = field(default_factory=dict)
    _digests: dict[tuple, str] = field(default_factory=dict)

    def model(self, line: Line) -> Recommender:
        """The version that answered, loaded once. Raises LineageError if it cannot be loaded."""
        key = line.get("dataset"), line["model_version"], line["dataset_version"]
        if key not in self._models:
            try:
                self._models[key] = load_version(line, self.settings.dataset, Path(tempfile.mkdtemp(dir=self.scratch)))
            except UserError as error:
                self._models[key] = str(error)
        found = self._models[key]
        if isinstance(found, str):
            raise LineageError(found)
        return found

    def trends_digest(self, trends: OfflineTrends, model: Recommender, time_us: int) -> str:
        """Digest of the item trends as of a time, as an answer of the model states it."""
        key = model.artifact.digest, time_us
        if key not in self._digests:
            self._digests[key] = response.digest_of_trends(trends.at(model.vocabulary, time_us), model.model.channels)
        return self._digests[key]

    def stored(self, user_id: str, time_us: int) -> Reading | None:
        """The user in the online store as it is now."""
        try:
            return self.store.read([user_id], [time_us])[0] if self.store is not None else None
        except StoreError:
            return None

    def request_fields(self, line: Line) -> dict[str, Any] | None:
        """The request's fields beyond its line; None if they were not kept."""
        return self.requests.get((line["request_id"], line["request_time"])) if line["unlogged_fields"] else {}


@contextmanager
def open_sources(
    lines: Sequence[Line], folder: Path, secret: bytes | None, settings: params.Params
) -> Iterator[SkewSources]:
    """Everything that the comparison of these lines of a served log in `folder` needs."""
    user_ids = {pseudonym(secret, user): user for user in inputs.dataset_users()} if secret is not None else {}
    users = OfflineUsers.load(
        {user_ids[line["user"]] for line in lines if line.get("user") in user_ids}, settings.online
    )
    with ExitStack() as stack:
        stack.enter_context(one_thread())  # as in a worker
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-skew-")))
        try:
            store = connect_to_read(settings.dataset, store_settings())
            stack.callback(store.close)
        except StoreError:
            store = None
        yield SkewSources(
            settings, secret, user_ids, users, inputs.dataset_known_until() if users else 0, OfflineTrends.load(), scratch,
            served_log.kept_requests(folder, lines), store,
        )  # fmt: skip


# --- one answer


def compare_answer(line: Line, sources: SkewSources) -> ComparedAnswer:
    """Compare all groups of one answer with the dataset."""
    if why := _why_not_computed(line):
        return ComparedAnswer(line, _not_comparable(why))
    try:
        model = sources.model(line)
    except LineageError as error:
        return ComparedAnswer(line, _not_comparable(f"its version cannot be loaded: {error}"))
    outcomes, user = compare_user(line, model.artifact.config["repeats"], sources)
    trends, snapshot = compare_trends(line, model, sources)
    return ComparedAnswer(line, outcomes | {TRENDS: trends}, user, snapshot)


def _not_comparable(why: str, groups: Sequence[str] = GROUPS) -> dict[str, SkewOutcome]:
    return {group: SkewOutcome(NOT_COMPARABLE, why) for group in groups}


def _why_not_computed(line: Line) -> str | None:
    if line.get("cache") == NOT_COMPUTED or line["source"] in ("cached", "static"):
        return FROM_EDGE
    return OLD_LINE if not line.get("inputs") or "history_source" not in line else None


# --- history and traits


@dataclass(frozen=True)
class UserQuestion:
    """The user and time of an answer.

    Attributes:
        context: stated by the request; None if unknown, for the reason `context_unknown`.
    """

    line: Line
    secret: bytes
    user_id: str | None
    repeats: str
    context: Mapping[str, object] | None
    context_unknown: str

    @classmethod
    def of(cls, line: Line, repeats: str, sources: SkewSources) -> UserQuestion:
        assert sources.secret is not None
        fields, unknown = sources.request_fields(line), ""
        if "history" in line["unlogged_fields"]:  # stated by an edge that reads the store for its worker
            unknown = CONTEXT_MIXED
        elif fields is None and "context" in line["unlogged_fields"]:
            unknown = CONTEXT_MISSING
        context = None if unknown else (fields or {}).get("context") or {}
        return cls(line, sources.secret, sources.user_ids.get(line["user"]), repeats, context, unknown)

    @property
    def time_us(self) -> int:
        return from_iso(self.line["time"])

    def digests(self, user: User) -> dict[str, str]:
        """The digests of the line if the worker had read this user."""
        request = Request(self.user_id, [], False, self.line["k"], self.time_us, dict(self.context or {}), None)
        return hash_inputs(self.secret, response.input_digests(request, user, "")) or {}


def compare_user(line: Line, repeats: str, sources: SkewSources) -> tuple[dict[str, SkewOutcome], User | None]:
    """(outcome of history and traits, what should have been read; None if unknown).

    Args:
        repeats: of the artifact's config.
    """
    if why := _why_user_not_comparable(line, sources):
        return _not_comparable(why, USER_GROUPS), None
    assert sources.users is not None
    question = UserQuestion.of(line, repeats, sources)
    due = User()
    if question.user_id is not None:
        due = sources.users.user(question.user_id, question.time_us, repeats)
    due_digests, empty_digests = question.digests(due), question.digests(User())
    kinds = {
        group: compare_digests(line["inputs"].get(group), due_digests[group], empty_digests[group])
        for group in USER_GROUPS
    }
    outcomes = {group: _user_outcome(group, kind, due, question, sources) for group, kind in kinds.items()}
    known = question.user_id is not None or set(kinds.values()) == {NOTHING}
    return outcomes, due if known else None


def compare_digests(served: str | None, due: str, nothing: str) -> str:
    """The kind of an outcome, from the digests of what was read, what was due, and nothing."""
    if served == due:
        return NOTHING if due == nothing else MATCHED
    if served == nothing:
        return MISSING_IN_ANSWER
    return MISSING_IN_DATASET if due == nothing else DIFFERENT


def _why_user_not_comparable(line: Line, sources: SkewSources) -> str | None:
    if line["history_source"] == request_log.WITHHELD:
        return f"consent {line['consent']}: the edge withheld the user from the worker"
    if line["history_source"] != request_log.FROM_STORE:
        return OWN_HISTORY if line["history_source"] == request_log.FROM_REQUEST else NO_USER
    if sources.secret is None:
        return NO_SECRET
    if sources.users is None:
        return NO_EVENTS
    if line["reason"].startswith(NO_CONSENT):
        return "consent denied: the worker read nothing of the user"
    learned_us = from_iso(line["feature_time"]) if line.get("feature_time") else 0
    return NEWER_USER if min(learned_us, from_iso(line["time"])) > sources.known_until_us else None


def _user_outcome(group: str, kind: str, due: User, question: UserQuestion, sources: SkewSources) -> SkewOutcome:
    if group == TRAITS and question.context_unknown:
        return SkewOutcome(NOT_COMPARABLE, question.context_unknown)
    if kind in (MATCHED, NOTHING):
        return SkewOutcome(kind)
    if question.user_id is None:
        return SkewOutcome(NOT_COMPARABLE, UNKNOWN_USER)
    return SkewOutcome(kind, _cause(group, kind, due, question, sources))


def _cause(group: str, kind: str, due: User, question: UserQuestion, sources: SkewSources) -> str:
    """What was missing, or how two readings differ and which source has the one that was read."""
    line = question.line
    if kind == MISSING_IN_ANSWER:
        what = _count_events(len(due.items)) if group == HISTORY else ", ".join(sorted(due.traits))
        said = "" if line["source"] == PERSONALIZED else f"; the answer says: {line['reason']}"
        return f"{what} due{said}"
    for source, user in _possible_readings(question, sources):
        if question.digests(user)[group] == line["inputs"].get(group):
            return f"{_difference(group, user, due)}; {source}"
    return UNKNOWN_CAUSE


def _possible_readings(question: UserQuestion, sources: SkewSources) -> Iterator[tuple[str, User]]:
    """What may have been read instead."""
    assert question.user_id is not None
    assert sources.users is not None
    if learned := question.line.get("feature_time"):
        user = sources.users.user(question.user_id, question.time_us, question.repeats, from_iso(learned) + 1)
        yield f"the store was behind: it had last learned of the user at {learned}", user
    if (reading := sources.stored(question.user_id, question.time_us)) is not None:
        yield "as the online store has it now", user_from_reading(reading, question.time_us, question.repeats)


def _difference(group: str, read: User, due: User) -> str:
    """How two readings of a user differ."""
    if group == TRAITS:
        names = {name for name in {**read.traits, **due.traits} if read.traits.get(name) != due.traits.get(name)}
        return f"other values of {', '.join(sorted(names))}"
    had, should = (Counter(zip(user.items, user.times, strict=True)) for user in (read, due))
    more, less = (had - should).total(), (should - had).total()
    parts = ([f"{_count_events(more)} too many"] if more else []) + ([f"{_count_events(less)} missing"] if less else [])
    return " and ".join(parts) or "the same events in another order"


def _count_events(count: int) -> str:
    return f"{count:,} event{'s' * (count != 1)}"


# --- item trends


def compare_trends(line: Line, model: Recommender, sources: SkewSources) -> tuple[SkewOutcome, TrendSnapshot | None]:
    """(outcome, the trends that were due; None if unknown, or if they were read)."""
    why = _why_trends_not_comparable(line, model, sources.trends)
    if why is not None or sources.trends is None:
        return SkewOutcome(NOT_COMPARABLE, why or NO_FEATURES), None
    due_us = sources.trends.due(from_iso(line["time"]))
    outcome = _trends_outcome(line, model, sources.trends, due_us, sources)
    return outcome, sources.trends.at(model.vocabulary, due_us) if outcome.skewed else None


def _why_trends_not_comparable(line: Line, model: Recommender, trends: OfflineTrends | None) -> str | None:
    channels = model.model.channels
    if not channels:
        return NO_CHANNELS
    if line["request_time"] == line["time"]:  # otherwise the worker's clock set the time, microseconds after the edge's
        return OWN_TIME
    if trends is None:
        return NO_FEATURES
    if line["dataset_version"] != trends.dataset_hash:
        return OTHER_VERSION
    if absent := set(channels) - set(trends.channels):
        return f"{TEST_FEATURES} has no trend {', '.join(sorted(absent))}"
    return NEWER_TRENDS if from_iso(line["trends_time"]) > trends.until_us else None


def _trends_outcome(
    line: Line, model: Recommender, trends: OfflineTrends, due_us: int, sources: SkewSources
) -> SkewOutcome:
    read_us = from_iso(line["trends_time"])
    if sources.trends_digest(trends, model, read_us) != line["inputs"].get("trends"):
        return SkewOutcome(DIFFERENT, f"other values than the dataset's as of {line['trends_time']}")
    if due_us - trends.refresh_us <= read_us <= from_iso(line["time"]):  # the last refresh may still be under way
        return SkewOutcome(MATCHED)
    due = f"those of {to_iso(due_us)} were due"
    if read_us == model.artifact.trends.time_us:
        return SkewOutcome(MISSING_IN_ANSWER, f"the export's own, of {line['trends_time']}; {due}")
    return SkewOutcome(DIFFERENT, f"stale: of {line['trends_time']}; {due}")


# --- the effect on the scores


@dataclass(frozen=True)
class SkewEffect:
    """How an answer changes if it reads what the dataset says.

    Attributes:
        difference: largest difference of a score, over the items of both lists; None without such items, and where the
            lists come from two fallback levels or from segments, whose scores cannot be compared.
        kept: share of the served items that the recomputed list holds too.
        source: of the recomputed answer.
    """

    difference: float | None
    kept: float
    source: str


def measure_effect(answer: ComparedAnswer, sources: SkewSources) -> SkewEffect | None:
    """Compute an answer again on what it should have read; None if something is missing."""
    line, stated = answer.line, sources.request_fields(answer.line)
    stored = line["history_source"] == request_log.FROM_STORE
    if stated is None or (stored and (answer.user is None or "history" in stated)):
        return None
    body: dict[str, Any] = {"time": line["time"]}
    if stored:
        body["user_id"] = sources.user_ids.get(line["user"], line["user"])
    elif "history" not in stated:
        body["history"] = []  # withheld, or nobody's
    try:
        model = sources.model(line)
        snapshot = answer.snapshot or inputs.find_trends(line, model, sources.settings)[1]
    except UserError:
        return None
    model.lookup = FixedLookup(answer.user or User(), snapshot)
    # A fresh cache of trends: those of the line before must not be used.
    model.trends = LiveTrends(model.artifact.trends, model.vocabulary, model.model.channels)
    short, long = model.recommend([body | stated | {"k": k} for k in (line["k"], MAX_K)], now_us=from_iso(line["time"]))
    if isinstance(short, Exception) or isinstance(long, Exception) or not line["items"]:
        return None
    return _effect(line, short, long)


def _effect(line: Line, short: Mapping[str, Any], long: Mapping[str, Any]) -> SkewEffect:
    """Compare a line with a recomputed answer of its length, and one of the maximum length."""
    listed = {item["item_id"] for item in short["items"]}
    kept = sum(item in listed for item in line["items"]) / len(line["items"])
    if short["source"] != line["source"] or line["source"] == SEGMENT or line.get("scores") is None:
        return SkewEffect(None, kept, short["source"])
    now = {item["item_id"]: item["score"] for item in long["items"]}
    served = zip(line["items"], line["scores"], strict=True)
    differences = [abs(score - now[item]) for item, score in served if score is not None and item in now]
    return SkewEffect(max(differences, default=None), kept, short["source"])
