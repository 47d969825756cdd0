"""Ties: events of one user that share a time never see one another, in evaluation and in training."""

from __future__ import annotations

import numpy as np

from data.columns import EVENT_TIME, ITEM, KNOWN_TIME, USER
from data.instants import to_iso
from experiments.leakage.cut import Cut
from experiments.leakage.finding import Finding, Outcome, Row
from features.sequences import batches
from features.vocabulary import PAD
from training import validate
from training.windows import Timeline

ENCODED_AT_ONCE = 256
MEANING = (
    "Events of one moment come in an arbitrary order, and often together with what is asked: a model that sees one of them "
    "foretells the others in a way that no live request can."
)


def evaluation(at: Cut) -> Outcome:
    """A case's history ends strictly before its moment: no event of that moment, no later one."""
    log, examples, late, looked = at.features.log, list[Row](), 0, 0
    for cases in at.cases.values():
        looked += len(cases)
        newest = log.times[np.maximum(cases.end - 1, 0)]
        wrong = np.flatnonzero((cases.end > log.offsets[cases.user]) & (newest >= cases.time))
        late += len(wrong)
        examples += [
            _seen(at, int(cases.user[row]), cases.time[row], log.items[cases.end[row] - 1], newest[row])
            for row in wrong
        ]
    remedy = "Look at `history_ends` in features/sequences.py: it ends before the first event at or after the moment."
    found = Finding("histories hold an event of their own moment or later", late, _first(at, examples), MEANING, remedy)
    return Outcome(looked, "cases", [found] if late else [])


def encoded(at: Cut) -> Outcome:
    """What a model is given of a case that shares its time with other events of the user holds none of them."""
    log, every = at.features.log, at.cases["next"]
    tied = np.isin(every.event, _tied(log.users, log.times))
    cases = every.take(np.flatnonzero(tied))
    cases = validate.sample(cases, at.settings.audit.tied_cases, at.settings.seed)
    examples: list[Row] = []
    refreshed = validate.moments(cases, at.features.description["refresh_minutes"])
    for rows, batch in batches(log, cases, at.features.trend_log(), (), refreshed, ENCODED_AT_ONCE, None):
        where, column = np.nonzero((batch.items != PAD).numpy() & (batch.item_times >= batch.time[:, None]).numpy())
        for row, place in zip(where, column, strict=True):
            case = rows[row]
            item, time = batch.items[row, place], batch.item_times[row, place]
            examples.append(_seen(at, int(cases.user[case]), cases.time[case], int(item), int(time)))
    remedy = "Look at `encode_cases` in features/sequences.py and `assemble` in features/encode.py."
    found = Finding("encoded histories hold an event of their own moment", len(examples), _first(at, examples), MEANING,
                    remedy)  # fmt: skip
    return Outcome(len(cases), "cases with ties", [found] if examples else [])


def _tied(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Rows of events that share user and time with another."""
    same = (np.diff(users) == 0) & (np.diff(times) == 0)
    return np.flatnonzero(np.append(same, False) | np.append(False, same))


def questions(at: Cut) -> Outcome:
    """A question of training sees only events that happened before its moment and were known by it."""
    past = at.features.past
    timeline, kept = Timeline(past), past.items != PAD
    asked = timeline.next_questions()
    newest = timeline.offsets[asked.user] + asked.visible - 1
    some = asked.visible > 0
    latest_known = _running_maximum(timeline.users, past.known[kept])
    wrong = np.flatnonzero(some & (
        (timeline.times[newest] >= asked.time) | (latest_known[newest] > asked.time)
    ))  # fmt: skip
    examples = [
        _seen(at, int(asked.user[row]), asked.time[row], timeline.items[newest[row]], timeline.times[newest[row]],
              latest_known[newest[row]])
        for row in wrong
    ]  # fmt: skip
    remedy = "Look at `Timeline.visible` in training/windows.py; refit every network."
    found = Finding("training shows a question what came with it or after it", len(wrong), _first(at, examples), MEANING,
                    remedy)  # fmt: skip
    return Outcome(len(asked), "questions", [found] if len(wrong) else [])


def _running_maximum(users: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(E,) the greatest value so far of each user; users ascend."""
    distinct, rank = np.unique(values, return_inverse=True)
    base = users * len(distinct)
    return distinct[np.maximum.accumulate(base + rank) - base] if len(values) else values


def _seen(at: Cut, user: int, asked_us: int, item: int, time_us: int, known_us: int | None = None) -> Row:
    row = {USER: at.user(user), "asked at": to_iso(asked_us), ITEM: at.item(int(item)), EVENT_TIME: to_iso(time_us)}
    return row if known_us is None else row | {KNOWN_TIME: to_iso(known_us)}


def _first(at: Cut, examples: list[Row]) -> list[Row]:
    return examples[: at.settings.audit.examples]
