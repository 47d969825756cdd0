"""Compare what served answers read with what the dataset says they should have read, and report it.

There are three groups of features: history, traits and item trends. The served log holds digests of what was read, under
the key of the line, so it shows whether a group matches. What should have been read is computed from the dataset as of the
answer's time.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from config import params
from config.command import UserError
from config.paths import EXPERIMENTS
from data import files
from data.times import from_iso, now_iso, to_iso
from experiments.evaluation import bootstrap
from experiments.lineage import inputs, report, served_log, versions
from experiments.lineage.inputs import NO_SECRET, TEST_FEATURES, OfflineTrends, OfflineUsers
from experiments.lineage.report import ReportPart
from experiments.lineage.served_log import FROM_EDGE, NOT_COMPUTED, Line, LineageError
from serving.edge import request_log
from serving.edge.request_log import hash_inputs, pseudonym
from serving.edge.user_keys import UserKey
from serving.worker import response
from serving.worker.fallback_level import PERSONALIZED
from serving.worker.recommender import Recommender
from serving.worker.request import Request
from serving.worker.users import NO_CONSENT, User
from training import provenance
from training.threads import one_thread

REPORT, PAGE = EXPERIMENTS / "skew.json", EXPERIMENTS / "skew.html"
HISTORY, TRAITS, TRENDS = GROUPS = ("history", "traits", "trends")  # the digests of serving.worker.response
USER_GROUPS = (HISTORY, TRAITS)

# Kinds of outcomes. The first four are compared; all of them but MATCHED are skewed.
MATCHED, DIFFERENT = "matched", "different"
MISSING_IN_ANSWER, MISSING_IN_DATASET = "missing in the answer", "missing in the dataset"
COMPARED = (MATCHED, DIFFERENT, MISSING_IN_ANSWER, MISSING_IN_DATASET)
NOTHING, NOT_COMPARABLE = "nothing on either side", "not comparable"

# Reasons why a group is not comparable.
OWN_HISTORY = "the request has its own history"
NO_USER = "the request names no user"
NO_EVENTS = "the dataset's events are not here (`dvc pull`)"
UNKNOWN_USER = "no such user in the dataset here: unknown, erased, or without consent to training"
NEWER_USER = "the platform has learned of the user after the end of the dataset: ingest again"
CONTEXT_MISSING = "the request has a context, which was not kept (TIDEGATE_EDGE_KEEP_REQUESTS)"
CONTEXT_MIXED = "the edge passed traits and the request's context to the worker as one"
NO_CHANNELS = "the model reads no trends"
OWN_TIME = "the request has its own time, and a worker keeps only the newest trends"
NO_FEATURES = f"{TEST_FEATURES} is not here (`dvc pull`)"
OTHER_VERSION = f"the model was fitted on another dataset version than {TEST_FEATURES}"
NEWER_TRENDS = "the trends are newer than the dataset: ingest again"


class SkewOutcome(NamedTuple):
    """The comparison of one group. `why` is the reason if it is not comparable, and the difference if it is skewed."""

    kind: str
    why: str = ""

    @property
    def skewed(self) -> bool:
        return self.kind in COMPARED and self.kind != MATCHED


def _not_comparable(why: str, groups: Sequence[str] = GROUPS) -> dict[str, SkewOutcome]:
    return {group: SkewOutcome(NOT_COMPARABLE, why) for group in groups}


# --- one answer


class SkewComparison:
    """Compares answers of a served log with the dataset, whose tables it reads once for all of them.

    Args:
        lines: the answers.
        folder: of the served log.
        keys: of the log's pseudonyms and digests, as far as they are here.
        scratch: an empty folder for artifacts.
    """

    def __init__(
        self, lines: Sequence[Line], folder: Path, keys: Sequence[UserKey], settings: params.Params, scratch: Path
    ) -> None:
        self.keys, self.scratch = keys, scratch
        used = {report.secret_of(line, keys) for line in lines} - {None}
        self.user_ids = {pseudonym(secret, user): user for user in inputs.dataset_users() for secret in used if secret}
        some = {self.user_ids[line["user"]] for line in lines if line["user"] in self.user_ids}
        self.users = OfflineUsers.load(some, settings.online)
        self.known_until_us = inputs.dataset_known_until() if self.users else 0
        self.trends = OfflineTrends.load()
        self.requests = served_log.kept_requests(folder, lines)
        self._models: dict[tuple, Recommender | str] = {}
        self._digests: dict[tuple, str] = {}

    def compare(self, line: Line) -> dict[str, SkewOutcome]:
        """The outcome of each group of one answer."""
        if line["cache"] == NOT_COMPUTED:
            return _not_comparable(FROM_EDGE)
        model = self._model(line)
        if isinstance(model, str):
            return _not_comparable(f"its version cannot be loaded: {model}")
        repeats = model.artifact.config["repeats"]
        return self._compare_user(line, repeats) | {TRENDS: self._compare_trends(line, model)}

    def _model(self, line: Line) -> Recommender | str:
        """The version that answered, loaded once, or why it cannot be loaded."""
        key = line["dataset"], line["model_version"], line["dataset_version"]
        if key not in self._models:
            try:
                self._models[key] = versions.load_version(line, Path(tempfile.mkdtemp(dir=self.scratch)))
            except UserError as error:
                self._models[key] = str(error)
        return self._models[key]

    def _compare_user(self, line: Line, repeats: str) -> dict[str, SkewOutcome]:
        if why := self._why_user_not_comparable(line):
            return _not_comparable(why, USER_GROUPS)
        assert self.users is not None
        user_id, time_us = self.user_ids.get(line["user"]), from_iso(line["time"])
        context, context_unknown = self._context(line)
        due = User() if user_id is None else self.users.user(user_id, time_us, repeats)
        request = Request(user_id, [], False, line["k"], time_us, context, None)
        secret = report.secret_of(line, self.keys)
        assert secret is not None
        due_digests, empty_digests = (
            hash_inputs(secret, response.input_digests(request, user, "")) or {} for user in (due, User())
        )
        outcomes = {}
        for group in USER_GROUPS:
            kind = compare_digests(line["inputs"].get(group), due_digests[group], empty_digests[group])
            if group == TRAITS and context_unknown:
                outcomes[group] = SkewOutcome(NOT_COMPARABLE, context_unknown)
            elif kind in (MATCHED, NOTHING):
                outcomes[group] = SkewOutcome(kind)
            elif user_id is None:
                outcomes[group] = SkewOutcome(NOT_COMPARABLE, UNKNOWN_USER)
            else:
                outcomes[group] = SkewOutcome(kind, _difference(line, group, kind, due))
        return outcomes

    def _why_user_not_comparable(self, line: Line) -> str | None:
        if line["history_source"] == request_log.WITHHELD:
            return f"consent {line['consent']}: the edge withheld the user from the worker"
        if line["history_source"] != request_log.FROM_STORE:
            return OWN_HISTORY if line["history_source"] == request_log.FROM_REQUEST else NO_USER
        if report.secret_of(line, self.keys) is None:
            return NO_SECRET
        if self.users is None:
            return NO_EVENTS
        if line["reason"].startswith(NO_CONSENT):
            return "consent denied: the worker read nothing of the user"
        learned_us = from_iso(line["feature_time"]) if line["feature_time"] else 0
        return NEWER_USER if min(learned_us, from_iso(line["time"])) > self.known_until_us else None

    def _context(self, line: Line) -> tuple[dict[str, object], str]:
        """(the request's context, "" or why it is unknown)."""
        if "history" in line["unlogged_fields"]:  # sent by an edge that reads the store for its worker
            return {}, CONTEXT_MIXED
        kept = self.requests.get((line["request_id"], line["request_time"]), {})
        unknown = "context" in line["unlogged_fields"] and not kept
        return dict(kept.get("context") or {}), CONTEXT_MISSING if unknown else ""

    def _compare_trends(self, line: Line, model: Recommender) -> SkewOutcome:
        trends = self.trends
        if why := _why_trends_not_comparable(line, model, trends):
            return SkewOutcome(NOT_COMPARABLE, why)
        assert trends is not None
        read_us, due_us = from_iso(line["trends_time"]), trends.due(from_iso(line["time"]))
        key = model.artifact.digest, read_us
        if key not in self._digests:
            self._digests[key] = response.digest_of_trends(trends.at(model.vocabulary, read_us), model.model.channels)
        if self._digests[key] != line["inputs"].get(TRENDS):
            return SkewOutcome(DIFFERENT, f"other values than the dataset's as of {line['trends_time']}")
        if due_us - trends.refresh_us <= read_us <= from_iso(line["time"]):  # the last refresh may still be under way
            return SkewOutcome(MATCHED)
        due = f"those of {to_iso(due_us)} were due"
        if read_us == model.artifact.trends.time_us:
            return SkewOutcome(MISSING_IN_ANSWER, f"the export's own, of {line['trends_time']}; {due}")
        return SkewOutcome(DIFFERENT, f"stale: of {line['trends_time']}; {due}")


def compare_digests(served: str | None, due: str, nothing: str) -> str:
    """The kind of an outcome, from the digests of what was read, what was due, and nothing."""
    if served == due:
        return NOTHING if due == nothing else MATCHED
    if served == nothing:
        return MISSING_IN_ANSWER
    return MISSING_IN_DATASET if due == nothing else DIFFERENT


def _difference(line: Line, group: str, kind: str, due: User) -> str:
    """What was due, or until when the store had learned of the user."""
    if kind != MISSING_IN_ANSWER:
        return f"the store had learned of the user until {line['feature_time']}"
    what = f"{len(due.items):,} events" if group == HISTORY else ", ".join(sorted(due.traits))
    return f"{what} due" + ("" if line["source"] == PERSONALIZED else f"; reason of the answer: {line['reason']}")


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


# --- measuring a served log


def measure(
    folder: Path, keys: Sequence[UserKey], settings: params.Params, since: str | None, since_us: int
) -> dict[str, Any]:
    """Compare a sample of the answers of a served log with the dataset; the record as plain data.

    Raises:
        LineageError: the log holds no answer since then.
    """
    recent = (line for line in served_log.read_lines(folder) if from_iso(line["request_time"]) >= since_us)
    lines, total = sample(recent, settings.skew.answers, settings.seed)
    if not lines:
        raise LineageError(f"{folder} holds no answer to compare with the dataset; --served names another folder")
    times = sorted(line["request_time"] for line in lines)
    with tempfile.TemporaryDirectory(prefix="tidegate-skew-") as scratch, one_thread():  # one thread, as in a worker
        comparison = SkewComparison(lines, folder, keys, settings, Path(scratch))
        answers = [comparison.compare(line) for line in lines]
    return {
        "dataset": settings.dataset,
        "dataset_hash": versions.local_dataset_hash(),
        "dataset_known_until": to_iso(comparison.known_until_us) if comparison.known_until_us else None,
        "commit": provenance.commit(),
        "date": now_iso(),
        "answers": len(lines),
        "of": total,
        "since": since,
        "seed": settings.seed,
        "oldest": times[0],
        "newest": times[-1],
        "groups": {group: tally([outcomes[group] for outcomes in answers]) for group in GROUPS},
        "differences": [
            {"request_id": line["request_id"], "version": line["model_version"], "group": group, "what": outcome.kind,
             "why": outcome.why}
            for line, outcomes in zip(lines, answers, strict=True) for group, outcome in outcomes.items() if outcome.skewed
        ],
    }  # fmt: skip


def sample(lines: Iterable[Line], count: int, seed: int) -> tuple[list[Line], int]:
    """(a uniform sample of the lines, in their order; how many there are). Holds at most `count` of them."""
    rng, number = random.Random(seed), itertools.count()
    drawn = heapq.nsmallest(count, ((rng.random(), next(number), line) for line in lines))
    return [line for _, _, line in sorted(drawn, key=itemgetter(1))], next(number)


def tally(outcomes: Sequence[SkewOutcome]) -> dict[str, Any]:
    """Counts of one group, and the match rate of what was compared with its interval; None if nothing was."""
    counts = Counter(outcome.kind for outcome in outcomes)
    compared = sum(counts[kind] for kind in COMPARED)
    low, high = bootstrap.wilson_interval(counts[MATCHED], compared)
    reasons = Counter(outcome.why for outcome in outcomes if outcome.kind == NOT_COMPARABLE)
    return {
        "compared": compared,
        **{_key(kind): counts[kind] for kind in COMPARED},
        "match_rate": counts[MATCHED] / compared if compared else None,
        "low": low,
        "high": high,
        _key(NOTHING): counts[NOTHING],
        _key(NOT_COMPARABLE): dict(reasons.most_common()),
    }


def _key(kind: str) -> str:
    """The key of a kind in a group's tally: `missing in the answer` is `missing_in_answer`."""
    return kind.replace(" the ", " ").replace(" ", "_")


# --- reporting


def write(record: Mapping[str, Any]) -> None:
    """Write skew.json and skew.html."""
    EXPERIMENTS.mkdir(parents=True, exist_ok=True)
    files.write_text(REPORT, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    files.write_text(PAGE, report.page(title(record), parts(record)))


def last(dataset: str) -> dict[str, Any] | None:
    """The last record; None if there is none of this dataset."""
    record = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.is_file() else None
    return record if record is not None and record["dataset"] == dataset else None


def match_rate(group: Mapping[str, Any]) -> str:
    """`98.0% [96.0%, 99.0%] of 200 match`."""
    if not group["compared"]:
        return "not measured"
    return f"{group['match_rate']:.1%} [{group['low']:.1%}, {group['high']:.1%}] of {group['compared']:,} match"


def title(record: Mapping[str, Any]) -> str:
    rates = "; ".join(f"{name} {match_rate(group)}" for name, group in record["groups"].items())
    return f"skew of {record['dataset']}: {rates}"


def parts(record: Mapping[str, Any]) -> list[ReportPart]:
    """The whole report."""
    facts = {name.replace("_", " "): value for name, value in record.items() if name not in ("groups", "differences")}
    rows = record["differences"]
    groups = [_group_part(name, group) for name, group in record["groups"].items()]
    return [ReportPart("answers", facts), *groups, ReportPart("differences", {"found": len(rows)}, rows)]


def _group_part(name: str, group: Mapping[str, Any]) -> ReportPart:
    reasons = group[_key(NOT_COMPARABLE)]
    facts = {"match rate": match_rate(group), "compared": group["compared"]}
    facts |= {kind: group[_key(kind)] for kind in (*COMPARED, NOTHING)}
    rows = [{NOT_COMPARABLE: why, "answers": count} for why, count in reasons.items()]
    return ReportPart(name, facts | {NOT_COMPARABLE: sum(reasons.values())}, rows)
