"""What came of holding one group of an answer's features against the data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from config.command import UserError
from data.times import from_iso, to_iso
from experiments.lineage import offline_features
from experiments.lineage.offline_features import FEATURES, OfflineTrends
from experiments.lineage.recompute import Found
from experiments.serving_skew.sources import Asking, Sources, asking_of
from features.trends import TrendSnapshot
from serving.edge import wire
from serving.worker.fallback import PERSONALISED, SEGMENT
from serving.worker.item_trends import LiveTrends
from serving.worker.recommender import Recommender
from serving.worker.request import MAX_K
from serving.worker.users import NO_CONSENT, User, user_from_reading

HISTORY, TRAITS, TRENDS = GROUPS = ("history", "traits", "trends")  # the parts of serving.worker.response
MATCHED, DIFFERENT = "matched", "different"
NOT_SERVED, ONLY_SERVED = "missing in the answer", "missing in the data set"
COMPARED = (MATCHED, DIFFERENT, NOT_SERVED, ONLY_SERVED)
NOTHING, NOT_COMPARABLE = "nothing on either side", "not comparable"


class Outcome(NamedTuple):
    """`why` is, of what is not comparable, the reason; of what does not match, what it looks like."""

    kind: str
    why: str = ""

    @property
    def skewed(self) -> bool:
        return self.kind in COMPARED and self.kind != MATCHED


def not_comparable(why: str, groups: Sequence[str] = GROUPS) -> dict[str, Outcome]:
    return {group: Outcome(NOT_COMPARABLE, why) for group in groups}


def kind_of(served: str, due: str, nothing: str) -> str:
    """By digests: of what was read, of what the data set tells, and of nothing."""
    if served == due:
        return NOTHING if due == nothing else MATCHED
    if served == nothing:
        return NOT_SERVED
    return ONLY_SERVED if due == nothing else DIFFERENT


def not_computed(line: Mapping[str, Any]) -> str | None:
    """Why no feature of an answer can be compared; None where some can."""
    if line.get("cache") == "none" or line["rung"] in ("cached", "static"):
        return "no worker computed it: the edge gave a list that it had"
    if not line.get("inputs") or "basis" not in line:
        return "its line states no digest of what was read: it is of an older worker or edge"
    return None


UNKNOWN = "by digest alone: what was read is neither in the data set nor in the online store as it is now"


def cause(group: str, kind: str, due: User, asking: Asking, sources: Sources) -> str:
    """In words: what was missing, or by how much two accounts differ and who has the one that was read."""
    if kind == NOT_SERVED:
        said = "" if asking.line["rung"] == PERSONALISED else f"; the answer says: {asking.line['reason']}"
        return f"{_told(group, due)} due{said}"
    for where, person in _accounts(asking, sources):
        if asking.as_served(group, person):
            return f"{_apart(group, person, due)}; {where}"
    return UNKNOWN


def _accounts(asking: Asking, sources: Sources) -> Iterator[tuple[str, User]]:
    """What may have been read instead."""
    assert asking.user is not None
    assert sources.people is not None
    if learned := asking.line.get("feature_time"):
        person = sources.people.person(asking.user, asking.time_us, asking.repeats, from_iso(learned) + 1)
        yield f"the store was behind: it had last learned of the user at {learned}", person
    if (reading := sources.stored(asking.user, asking.time_us)) is not None:
        yield "as the online store has it now", user_from_reading(reading, asking.time_us, asking.repeats)


def _told(group: str, person: User) -> str:
    return _events(len(person.items)) if group == HISTORY else ", ".join(sorted(person.traits))


def _events(count: int) -> str:
    return f"{count:,} event{'s' * (count != 1)}"


def _apart(group: str, read: User, due: User) -> str:
    """In what two accounts of a user differ."""
    if group == TRAITS:
        names = {name for name in {**read.traits, **due.traits} if read.traits.get(name) != due.traits.get(name)}
        return f"other values of {', '.join(sorted(names))}"
    had, should = (Counter(zip(person.items, person.times, strict=True)) for person in (read, due))
    more, less = (had - should).total(), (should - had).total()
    parts = ([f"{_events(more)} not due"] if more else []) + ([f"{_events(less)} missing"] if less else [])
    return " and ".join(parts) or "the same events in another order"


OF_USER = (HISTORY, TRAITS)
STATED = "the request states its own history"
NOBODY = "the request names no user"
NO_KEY = "the key of the pseudonyms is not here (user.key beside the served log, or TIDEGATE_EDGE_USER_SECRET)"
NO_EVENTS = "the data set's events are not here (`dvc pull`)"
STRANGER = "no such user in the data set here: unknown to it, erased, or without consent to training"
NEWER = "the platform has learned of the user since the data set ends: ingest again"


def of_user(line: Mapping[str, Any], repeats: str, sources: Sources) -> tuple[dict[str, Outcome], User | None]:
    """(the outcome of each group, what should have been read of the user; None where that is not known).

    Args:
        repeats: as the artifact's config has it.
    """
    if why := _why_not(line, sources):
        return not_comparable(why, OF_USER), None
    assert sources.people is not None  # or there were a reason
    asking = asking_of(line, repeats, sources)
    due = User() if asking.user is None else sources.people.person(asking.user, asking.time_us, repeats)
    told, nothing = asking.digests(due), asking.digests(User())
    kinds = {group: kind_of(line["inputs"].get(group), told[group], nothing[group]) for group in OF_USER}
    found = {group: _outcome(group, kind, due, asking, sources) for group, kind in kinds.items()}
    known = asking.user is not None or set(kinds.values()) == {NOTHING}
    return found, due if known else None


def _why_not(line: Mapping[str, Any], sources: Sources) -> str | None:
    """Why nothing of the user can be compared."""
    if line["basis"] == wire.WITHHELD:
        return f"consent {line['consent']}: the worker was told nothing of the user"
    if line["basis"] != wire.STORED:
        return STATED if line["basis"] == wire.STATED else NOBODY
    if sources.secret is None or sources.people is None:
        return NO_KEY if sources.secret is None else NO_EVENTS
    if line["reason"].startswith(NO_CONSENT):
        return "consent denied: the worker read nothing of the user"
    learned_us = from_iso(line["feature_time"]) if line.get("feature_time") else 0
    return NEWER if min(learned_us, from_iso(line["time"])) > sources.horizon_us else None


def _outcome(group: str, kind: str, due: User, asking: Asking, sources: Sources) -> Outcome:
    if group == TRAITS and asking.unknown:
        return Outcome(NOT_COMPARABLE, asking.unknown)
    if kind in (MATCHED, NOTHING):
        return Outcome(kind)
    if asking.user is None:
        return Outcome(NOT_COMPARABLE, STRANGER)
    return Outcome(kind, cause(group, kind, due, asking, sources))


NO_CHANNELS = "the model reads no trends"
OWN_MOMENT = "the request states its own moment, and a worker keeps the newest trends alone"
NOT_HERE = f"{FEATURES} is not here (`dvc pull`)"
OTHER_VERSION = f"the model is of another data set version than {FEATURES}"
NEWER_TRENDS = "the trends are newer than the data set: ingest again"


def of_trends(
    line: Mapping[str, Any], model: Recommender, sources: Sources
) -> tuple[Outcome, TrendSnapshot | None]:  # fmt: skip
    """(the outcome, the trends that were due; None where that is not known, or where they were read)."""
    trends = sources.trends
    why = _why_not_trends(line, model, trends)
    if why is not None or trends is None:
        return Outcome(NOT_COMPARABLE, why or NOT_HERE), None
    due_us = trends.due(from_iso(line["time"]))
    found = _outcome_trends(line, model, trends, due_us, sources)
    return found, trends.at(model.vocabulary, due_us) if found.skewed else None


def _why_not_trends(line: Mapping[str, Any], model: Recommender, trends: OfflineTrends | None) -> str | None:
    channels = model.model.channels
    if not channels:
        return NO_CHANNELS
    if line["asked"] == line["time"]:  # else the worker's clock told the time, some microseconds after the edge's
        return OWN_MOMENT
    if trends is None:
        return NOT_HERE
    if line["dataset_version"] != trends.dataset_hash:
        return OTHER_VERSION
    if absent := set(channels) - set(trends.channels):
        return f"{FEATURES} has no trend {', '.join(sorted(absent))}"
    return NEWER_TRENDS if from_iso(line["trends_time"]) > trends.until_us else None


def _outcome_trends(
    line: Mapping[str, Any], model: Recommender, trends: OfflineTrends, due_us: int, sources: Sources
) -> Outcome:  # fmt: skip
    read_us = from_iso(line["trends_time"])
    if sources.trends_digest(trends, model, read_us) != line["inputs"].get("trends"):
        return Outcome(DIFFERENT, f"other values than the data set's as of {line['trends_time']}")
    if due_us - trends.refresh_us <= read_us <= from_iso(line["time"]):  # the last refresh may still be on its way
        return Outcome(MATCHED)
    if read_us == model.artifact.trends.time_us:
        return Outcome(NOT_SERVED, f"the export's own, of {line['trends_time']}; those of {to_iso(due_us)} were due")
    return Outcome(DIFFERENT, f"stale: of {line['trends_time']}; those of {to_iso(due_us)} were due")


@dataclass(frozen=True)
class Held:
    """A line held against the data set.

    Attributes:
        outcomes: by group.
        person, snapshot: what should have been read; None where that is not known, or is what was read.
    """

    line: Mapping[str, Any]
    outcomes: dict[str, Outcome]
    person: User | None = None
    snapshot: TrendSnapshot | None = None

    @property
    def skewed(self) -> bool:
        return any(outcome.skewed for outcome in self.outcomes.values())


@dataclass(frozen=True)
class Cost:
    """Attributes:
    difference: largest of the served scores to the recomputed ones, over the items of both; None where there are none,
        or they are of two rungs or of segments, whose scores are no measure of each other.
    kept: share of the served items that the recomputed list holds too.
    rung: of the recomputed answer.
    """

    difference: float | None
    kept: float
    rung: str


def cost(held: Held, sources: Sources) -> Cost | None:
    """None where the answer cannot be computed again."""
    line, stated = held.line, sources.stated(held.line)
    stored = line["basis"] == wire.STORED
    if stated is None or (stored and (held.person is None or "history" in stated)):
        return None
    body = {"time": line["time"]} | ({"user_id": sources.owners.get(line["user"], line["user"])} if stored else {})
    if not stored and "history" not in stated:
        body["history"] = []  # withheld, or of nobody
    try:
        model = sources.model(line)
        snapshot = held.snapshot or offline_features.find(line, model, sources.chosen)[1]
    except UserError:
        return None
    return _set_against(line, _recomputed(model, body | stated, held.person or User(), snapshot, line))


def _recomputed(
    model: Recommender, body: dict[str, Any], person: User, snapshot: TrendSnapshot | None, line: Mapping[str, Any]
) -> list[Any]:
    """The answer of the same length, and one that is as long as may be."""
    model.lookup = Found(person, snapshot)
    # The last line's trends are no longer to be seen, nor is anybody to wait before these are.
    model.trends = LiveTrends(model.artifact.trends, model.vocabulary, model.model.channels)
    return model.recommend([body | {"k": k} for k in (line["k"], MAX_K)], now_us=from_iso(line["time"]))


def _set_against(line: Mapping[str, Any], recomputed: list[Any]) -> Cost | None:
    short, long = recomputed
    if isinstance(short, Exception) or isinstance(long, Exception) or not line["items"]:
        return None
    listed = {item["item_id"] for item in short["items"]}
    kept = sum(item in listed for item in line["items"]) / len(line["items"])
    if short["rung"] != line["rung"] or line["rung"] == SEGMENT or line.get("scores") is None:
        return Cost(None, kept, short["rung"])
    now = {item["item_id"]: item["score"] for item in long["items"]}
    served = zip(line["items"], line["scores"], strict=True)
    apart = [abs(score - now[item]) for item, score in served if score is not None and item in now]
    return Cost(max(apart, default=None), kept, short["rung"])
