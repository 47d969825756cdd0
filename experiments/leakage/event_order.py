"""Audit time: one order of events, parts that follow time, training that ends at the cut, no event of a case's own time."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data.columns import EVENT_ID, EVENT_TIME, ITEM, KNOWN_TIME, PART, PARTS, USER
from data.tables import microseconds
from data.times import to_iso
from experiments.evaluation.holdout_protocols import session_numbers
from experiments.leakage.cut import AuditedCut, Finding, Outcome, Row, outcome
from features.sequences import batches
from features.vocabulary import PAD
from training import validation
from training.timeline import Timeline

BATCH_SIZE = 256
SPLIT_AGAIN = (
    "Run `python -m data.split` again. If the finding stays, the fault is in data/split.py or data/cleaning.py."
)
FEATURIZE_AGAIN = "Run `python -m features.featurize` at both cuts, then fit again what was fitted on the old features."
TIES_MEANING = (
    "The order of events that share a time is arbitrary, and they often come together. A model that sees one of them "
    "predicts the others, which no live request can."
)


# --- the split


def total_order(cut: AuditedCut) -> Outcome:
    """Events are ordered by time and then by id."""
    ids, steps = cut.events[EVENT_ID].to_numpy(), np.diff(cut.times)
    tied = np.flatnonzero(steps == 0)
    wrong = 1 + np.sort(np.concatenate([np.flatnonzero(steps < 0), tied[ids[tied] > ids[tied + 1]]]))
    return outcome(len(cut.events), "events", Finding(
        "events come after a later one", len(wrong), cut.show(cut.events.iloc[wrong]),
        "Code that relies on the order (first and last events, ties) reads the future before the past.", SPLIT_AGAIN,
    ))  # fmt: skip


def duplicates(cut: AuditedCut) -> Outcome:
    """No event appears twice, and no (user, item) pair where repeats are dropped."""
    keys = {"an event appears twice": [EVENT_ID]}
    if cut.features.description["repeats"] != "all":
        keys["a user has an item twice"] = [USER, ITEM]
    findings = []
    for what, columns in keys.items():
        twice = cut.events[cut.events.duplicated(columns, keep=False)]
        findings.append(Finding(
            what, int(cut.events.duplicated(columns).sum()), cut.show(twice.sort_values([*columns, EVENT_TIME])),
            "The same event on both sides of a cut is first learned and then asked for: memory is measured as foresight.",
            "See `ingest.repeats` in params.yaml and data/cleaning.py; run ingest, split and featurize again.",
        ))  # fmt: skip
    return outcome(len(cut.events), "events", *findings)


def parts(cut: AuditedCut) -> Outcome:
    """Each event is in the part of its time."""
    starts = [cut.manifest[f"{name}_start_us"] for name in ("valid", "test")]
    right = np.array(PARTS)[np.searchsorted(starts, cut.times, side="right")]
    wrong = cut.events[cut.events[PART].to_numpy() != right]
    return outcome(len(cut.events), "events", Finding(
        "events are in another part than that of their time", len(wrong), cut.show(wrong),
        "An event in an earlier part is learned from and then asked for.", SPLIT_AGAIN,
    ))  # fmt: skip


# --- the features of a cut


def same_split(cut: AuditedCut) -> Outcome:
    """The features belong to this split and this cut, and end before anything later begins."""
    stated, manifest = cut.features.description, cut.manifest
    until = manifest["test_start_us"] if cut.name == "valid" else manifest["end_us"] + 1
    facts = [
        ("cut", to_iso(stated["cut_us"]), to_iso(cut.start_us), stated["cut_us"] == cut.start_us),
        ("split_id", stated["split_id"], manifest["split_id"], stated["split_id"] == manifest["split_id"]),
        ("until", to_iso(stated["until_us"]), to_iso(until), stated["until_us"] <= until),
    ]
    wrong = [{"what": what, "features": ours, "split": theirs} for what, ours, theirs, right in facts if not right]
    return outcome(len(facts), "statements", Finding(
        "the features belong to another split, or reach beyond their period", len(wrong), wrong,
        "Models were fitted or chosen on events that this split keeps for later.", FEATURIZE_AGAIN,
    ))  # fmt: skip


def same_log(cut: AuditedCut) -> Outcome:
    """The log that models read holds the events of the split, at their times."""
    log, events = cut.features.log, cut.ordered
    users = pd.Index(cut.features.users).get_indexer(events[USER])
    items = cut.features.vocabulary.indices(events[ITEM])
    expected = (users, microseconds(events[EVENT_TIME]), microseconds(events[KNOWN_TIME]), items)
    both = min(len(log.times), len(events))
    differs = np.ones(max(len(log.times), len(events)), dtype=bool)  # a row that only one of them has differs
    pairs = zip((log.users, log.times, log.known, log.items), expected, strict=True)
    differs[:both] = np.any([ours[:both] != theirs[:both] for ours, theirs in pairs], axis=0)
    wrong = np.flatnonzero(differs)
    examples = cut.show_log(log, wrong[wrong < len(log.times)]) or cut.show(events.iloc[wrong])
    return outcome(len(log.times), "events", Finding(
        "the log differs from the split", len(wrong), examples,
        "Models read something else than what is audited. An event moved back in time is known before it happened.",
        FEATURIZE_AGAIN,
    ))  # fmt: skip


def training(cut: AuditedCut) -> Outcome:
    """Everything that training reads happened before the cut and was known at it."""
    past, time = cut.features.past, to_iso(cut.start_us)
    after = np.flatnonzero(past.times >= cut.start_us)
    unknown = np.flatnonzero((past.times < cut.start_us) & (past.known > cut.start_us))
    remedy = "See `Log.before` in features/sequences.py and the cut in the description of the features; fit everything again."
    findings = [
        Finding(f"training reads events at or after the cut, {time}", len(after), cut.show_log(past, after),
                "Models were fitted on what they are judged on.", remedy),
        Finding(f"training reads events that were not known at the cut, {time}", len(unknown),
                cut.show_log(past, unknown),
                "They happened before the cut, but a live platform could not have trained on them.", remedy),
    ]  # fmt: skip
    if not len(after) and not len(unknown):
        late = cut.events[(cut.times < cut.start_us) & (cut.known > cut.start_us)]
        findings.append(Finding(
            "events before the cut became known only after it", len(late), cut.show(late),
            "Training leaves them out; histories and trends use them once they are known.",
            "Nothing to do. If the share is large, find out why events arrive late.", fails=False,
        ))  # fmt: skip
    return outcome(len(past.times), "events", *findings)


# --- sessions that span the cut


def spanning_sessions(cut: AuditedCut) -> Outcome:
    """Training reads nothing from the later part of a session that spans the cut."""
    events, minutes = cut.ordered, cut.settings.audit.session_minutes
    session = pd.Series(session_numbers(events, minutes), index=events.index)
    time = pd.Series(microseconds(events[EVENT_TIME]), index=events.index)
    after = time >= cut.start_us
    later_part = (time.groupby(session).transform("min") < cut.start_us) & after
    spanning = session[later_part].unique()
    leaked = events[later_part & (_in_earlier_part(cut, events) | _in_training(cut, events, time))]
    share = later_part.sum() / max(after.sum(), 1)
    return outcome(
        int(session.nunique()), f"sessions (pauses under {minutes} minutes)",
        Finding(
            f"{len(spanning):,} of {session.nunique():,} sessions span the cut, with {share:.2%} of the events after it",
            int(later_part.sum()), _show_sessions(cut, events[USER], session, time, spanning),
            "Their first part is learned and their last part is asked for, as on a live platform whose model was fitted "
            "during a session. It makes the first minutes after the cut easier than the rest.",
            "Nothing to do. If the share is large, set `split.test_start` to a quiet hour.", fails=False,
        ),
        Finding(
            "training holds the later part of sessions that span the cut", len(leaked), cut.show(leaked),
            "The events of a session are alike: a model that has learned its end predicts its middle.", SPLIT_AGAIN,
        ),
    )  # fmt: skip


def _in_earlier_part(cut: AuditedCut, events: pd.DataFrame) -> np.ndarray:
    """(E,) bool: the event is in a part that the model of this cut learns from."""
    return events[PART].isin(PARTS[: PARTS.index(cut.name)]).to_numpy()


def _in_training(cut: AuditedCut, events: pd.DataFrame, time: pd.Series) -> np.ndarray:
    """(E,) bool: training reads an event of this user and time."""
    past = cut.features.past
    held = pd.MultiIndex.from_arrays([np.array(cut.features.users, dtype=object)[past.users], past.times])
    return pd.MultiIndex.from_arrays([events[USER], time]).isin(held)


def _show_sessions(
    cut: AuditedCut, users: pd.Series, session: pd.Series, time: pd.Series, spanning: np.ndarray
) -> list[Row]:
    rows = []
    for number in spanning[: cut.settings.audit.examples]:
        times = time[session == number]
        before = int((times < cut.start_us).sum())
        rows.append({
            USER: str(users[times.index[0]]), "from": to_iso(times.min()), "to": to_iso(times.max()),
            "events before": str(before), "after": str(len(times) - before),
        })  # fmt: skip
    return rows


# --- ties: events that share a time


def evaluation_histories(cut: AuditedCut) -> Outcome:
    """A case's history ends strictly before its time: no event of that time, no later one."""
    log, examples, looked = cut.features.log, list[Row](), 0
    for cases in cut.cases.values():
        looked += len(cases)
        newest = log.times[np.maximum(cases.end - 1, 0)]
        wrong = np.flatnonzero((cases.end > log.offsets[cases.user]) & (newest >= cases.time))
        examples += [
            _seen(cut, int(cases.user[row]), cases.time[row], log.items[cases.end[row] - 1], newest[row])
            for row in wrong
        ]
    return outcome(looked, "cases", Finding(
        "histories hold an event of the case's own time or later", len(examples), cut.first(examples), TIES_MEANING,
        "See `history_ends` in features/sequences.py: a history ends before the first event at or after the time.",
    ))  # fmt: skip


def encoded_histories(cut: AuditedCut) -> Outcome:
    """A model's input for a case holds no event that shares the case's time."""
    log, all_cases = cut.features.log, cut.cases["next_item"]
    tied = np.flatnonzero(np.isin(all_cases.event, _tied(log.users, log.times)))
    cases = validation.sample(all_cases.take(tied), cut.settings.audit.tied_cases, cut.settings.seed)
    examples: list[Row] = []
    refreshed = validation.moments(cases, cut.features.description["refresh_minutes"])
    for rows, batch in batches(log, cases, cut.features.trend_log(), (), refreshed, BATCH_SIZE, None):
        held = (batch.items != PAD).numpy() & (batch.item_times >= batch.time[:, None]).numpy()
        for row, place in zip(*np.nonzero(held), strict=True):
            case, item, time = rows[row], int(batch.items[row, place]), int(batch.item_times[row, place])
            examples.append(_seen(cut, int(cases.user[case]), cases.time[case], item, time))
    return outcome(len(cases), "cases with ties", Finding(
        "encoded histories hold an event of the case's own time", len(examples), cut.first(examples), TIES_MEANING,
        "See `encode_cases` in features/sequences.py and `assemble` in features/encode.py.",
    ))  # fmt: skip


def training_questions(cut: AuditedCut) -> Outcome:
    """A training question sees only events that happened before its time and were known by then."""
    past = cut.features.past
    timeline, kept = Timeline(past), past.items != PAD
    asked = timeline.next_item_cases()
    newest = timeline.offsets[asked.user] + asked.visible - 1
    latest_known = _running_maximum(timeline.users, past.known[kept])
    late = (timeline.times[newest] >= asked.time) | (latest_known[newest] > asked.time)
    wrong = np.flatnonzero((asked.visible > 0) & late)
    examples = [
        _seen(cut, int(asked.user[row]), asked.time[row], timeline.items[newest[row]], timeline.times[newest[row]])
        | {KNOWN_TIME: to_iso(latest_known[newest[row]])}
        for row in wrong[: cut.settings.audit.examples]
    ]
    return outcome(len(asked), "questions", Finding(
        "training shows a question events of its own time or later", len(wrong), examples, TIES_MEANING,
        "See `Timeline.visible` in training/windows.py; fit every network again.",
    ))  # fmt: skip


def _tied(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Rows of events that share user and time with another event."""
    same = (np.diff(users) == 0) & (np.diff(times) == 0)
    return np.flatnonzero(np.append(same, False) | np.append(False, same))


def _running_maximum(users: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(E,) the largest value so far of each user; users ascend."""
    distinct, rank = np.unique(values, return_inverse=True)
    base = users * len(distinct)
    return distinct[np.maximum.accumulate(base + rank) - base] if len(values) else values


def _seen(cut: AuditedCut, user: int, asked_us: int, item: int, time_us: int) -> Row:
    return {USER: cut.user(user), "asked at": to_iso(asked_us), ITEM: cut.item(int(item)), EVENT_TIME: to_iso(time_us)}
