"""Audit time: one order of events, parts that follow time, training that ends at the cut, no event of a case's own time."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data.columns import EVENT_ID, EVENT_TIME, ITEM, KNOWN_TIME, PART, PARTS, USER
from data.tables import microseconds
from data.times import to_iso
from experiments.evaluation.holdout_protocols import session_numbers
from experiments.leakage.cut import AuditedCut, Outcome, outcome
from features.sequences import batches
from features.vocabulary import PAD
from training import validation
from training.timeline import Timeline

BATCH_SIZE = 256


# --- the split


def total_order(cut: AuditedCut) -> Outcome:
    """Events are ordered by time and then by id.

    Code that relies on the order (first and last events, ties) would read the future before the past. Run `python -m
    data.split` again; if the finding stays, the fault is in data/split.py or data/cleaning.py.
    """
    ids, steps = cut.events[EVENT_ID].to_numpy(), np.diff(cut.times)
    wrong = (steps < 0) | ((steps == 0) & (ids[:-1] > ids[1:]))
    return outcome(len(cut.events), "events", cut.finding("events come after a later one", cut.events[1:][wrong]))


def duplicates(cut: AuditedCut) -> Outcome:
    """No event appears twice, and no (user, item) pair where repeats are dropped.

    The same event on both sides of a cut is first learned and then predicted: memory is measured as foresight. See
    `ingest.repeats` in params.yaml and data/cleaning.py; run ingest, split and featurize again.
    """
    keys = {"an event appears twice": [EVENT_ID]}
    if cut.features.description["repeats"] != "all":
        keys["a user has an item twice"] = [USER, ITEM]
    findings = []
    for what, columns in keys.items():
        twice = cut.events[cut.events.duplicated(columns, keep=False)]
        findings.append(cut.finding(what, twice.sort_values([*columns, EVENT_TIME])))
    return outcome(len(cut.events), "events", *findings)


def parts(cut: AuditedCut) -> Outcome:
    """Each event is in the part of its time.

    An event in an earlier part is learned and then predicted. Run `python -m data.split` again.
    """
    starts = [cut.manifest[f"{name}_start_us"] for name in ("valid", "test")]
    right = np.array(PARTS)[np.searchsorted(starts, cut.times, side="right")]
    wrong = cut.events[cut.events[PART].to_numpy() != right]
    finding = cut.finding("events are in another part than that of their time", wrong)
    return outcome(len(cut.events), "events", finding)


# --- the features of a cut


def same_split(cut: AuditedCut) -> Outcome:
    """The features belong to this split and this cut, and end before anything later begins.

    Otherwise models were fitted or chosen on events that this split keeps for later. Run `python -m features.featurize`
    at both cuts, then fit again.
    """
    description, manifest = cut.features.description, cut.manifest
    until = manifest["test_start_us"] if cut.name == "valid" else manifest["end_us"] + 1
    facts = pd.DataFrame([
        ("cut", to_iso(description["cut_us"]), to_iso(cut.start_us), description["cut_us"] == cut.start_us),
        ("split_id", description["split_id"], manifest["split_id"], description["split_id"] == manifest["split_id"]),
        ("until", to_iso(description["until_us"]), to_iso(until), description["until_us"] <= until),
    ], columns=["what", "features", "split", "right"])  # fmt: skip
    what = "the features belong to another split, or reach beyond their period"
    return outcome(len(facts), "facts", cut.finding(what, facts[~facts.pop("right")]))


def same_log(cut: AuditedCut) -> Outcome:
    """The log that models read holds the events of the split, at their times.

    Otherwise models read something else than what is audited: an event moved back in time is known before it happened.
    Run `python -m features.featurize` at both cuts, then fit again.
    """
    log, events = cut.features.log, cut.ordered
    users = pd.Index(cut.features.users).get_indexer(events[USER])
    items = cut.features.vocabulary.indices(events[ITEM])
    ours = np.stack([log.users, log.times, log.known, log.items], axis=1)
    theirs = np.stack([users, microseconds(events[EVENT_TIME]), microseconds(events[KNOWN_TIME]), items], axis=1)
    both = min(len(ours), len(theirs))
    differs = np.ones(max(len(ours), len(theirs)), dtype=bool)  # a row that only one of them has differs
    differs[:both] = (ours[:both] != theirs[:both]).any(axis=1)
    wrong = np.flatnonzero(differs)
    in_log = wrong < len(ours)
    rows = pd.concat([cut.log_rows(log, wrong[in_log]), events.iloc[wrong[~in_log]]])
    return outcome(len(ours), "events", cut.finding("the log differs from the split", rows))


def training(cut: AuditedCut) -> Outcome:
    """Everything that training reads happened before the cut and was known at it.

    Otherwise models were fitted on what they are judged on, or on what a live platform could not have known. See
    `InteractionLog.before` in features/sequences.py and the cut in the description of the features. Events that happened
    before the cut and became known only after it are left out; if their share is large, find out why they arrive late.
    """
    past, time = cut.features.past, to_iso(cut.start_us)
    after = np.flatnonzero(past.times >= cut.start_us)
    unknown = np.flatnonzero((past.times < cut.start_us) & (past.known > cut.start_us))
    findings = [
        cut.finding(f"training reads events at or after the cut, {time}", cut.log_rows(past, after)),
        cut.finding(f"training reads events that were not known at the cut, {time}", cut.log_rows(past, unknown)),
    ]
    if not len(after) and not len(unknown):
        late = cut.events[(cut.times < cut.start_us) & (cut.known > cut.start_us)]
        findings.append(cut.finding("events before the cut became known only after it", late, fails=False))
    return outcome(len(past.times), "events", *findings)


# --- sessions that span the cut


def spanning_sessions(cut: AuditedCut) -> Outcome:
    """Training reads nothing from the later part of a session that spans the cut.

    The events of a session are alike: a model that has learned its end predicts its middle. That the first part is
    learned and the last part predicted is as on a live platform, but it makes the first minutes after the cut easier. If
    the share is large, set `split.test_start` to a quiet hour.
    """
    events, past = cut.ordered, cut.features.past
    session = pd.Series(session_numbers(events, cut.settings.audit.session_minutes), index=events.index)
    time = pd.Series(microseconds(events[EVENT_TIME]), index=events.index)
    after = time >= cut.start_us
    later_part = (time.groupby(session).transform("min") < cut.start_us) & after
    learned_part = events[PART].isin(PARTS[: PARTS.index(cut.name)])
    read = pd.MultiIndex.from_arrays([np.array(cut.features.users, dtype=object)[past.users], past.times])
    in_training = pd.MultiIndex.from_arrays([events[USER], time]).isin(read)
    of_session = pd.DataFrame({"session": session, USER: events[USER], "time": events[EVENT_TIME], "after": after})
    spanning = of_session[session.isin(session[later_part])].groupby("session").agg(**{
        USER: (USER, "first"), "from": ("time", "min"), "to": ("time", "max"),
        "events before": ("after", lambda part: int((~part).sum())), "after": ("after", "sum"),
    })  # fmt: skip
    share = later_part.sum() / max(after.sum(), 1)
    what = f"{len(spanning):,} of {session.nunique():,} sessions span the cut, with {share:.2%} of the events after it"
    leaked = events[later_part & (learned_part | in_training)]
    return outcome(
        int(session.nunique()),
        "sessions",
        cut.finding(what, spanning, fails=False),
        cut.finding("training holds the later part of sessions that span the cut", leaked),
    )


# --- ties: events that share a time


def evaluation_histories(cut: AuditedCut) -> Outcome:
    """A case's history ends strictly before its time: no event of that time, no later one.

    The order of events that share a time is arbitrary, and they often come together: a model that sees one of them
    predicts the others, which no live request can. See `history_ends` in features/sequences.py.
    """
    log, seen = cut.features.log, []
    for cases in cut.cases.values():
        newest = np.maximum(cases.end - 1, 0)
        wrong = (cases.end > log.offsets[cases.user]) & (log.times[newest] >= cases.time)
        seen.append(cut.seen(cases.user[wrong], cases.time[wrong], log.items[newest[wrong]], log.times[newest[wrong]]))
    finding = cut.finding("histories hold an event of the case's own time or later", pd.concat(seen))
    return outcome(sum(map(len, cut.cases.values())), "cases", finding)


def encoded_histories(cut: AuditedCut) -> Outcome:
    """A model's input for a case holds no event that shares the case's time.

    See `encode_cases` in features/sequences.py and `assemble` in features/encode.py.
    """
    log, all_cases = cut.features.log, cut.cases["next_item"]
    same = (np.diff(log.users) == 0) & (np.diff(log.times) == 0)
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))  # events that share user and time
    with_ties = all_cases.take(np.flatnonzero(np.isin(all_cases.event, tied)))
    cases = validation.sample(with_ties, cut.settings.audit.tied_cases, cut.settings.seed)
    refreshed = validation.moments(cases, cut.features.description["refresh_minutes"])
    seen = [cut.log_rows(log, tied[:0])]
    for rows, batch in batches(log, cases, cut.features.trend_log(), (), refreshed, BATCH_SIZE, None):
        held = (batch.items != PAD).numpy() & (batch.item_times >= batch.time[:, None]).numpy()
        case, items, times = rows[held.nonzero()[0]], batch.items.numpy()[held], batch.item_times.numpy()[held]
        seen.append(cut.seen(cases.user[case], cases.time[case], items, times))
    finding = cut.finding("encoded histories hold an event of the case's own time", pd.concat(seen))
    return outcome(len(cases), "cases with ties", finding)


def training_questions(cut: AuditedCut) -> Outcome:
    """A training question sees only events that happened before its time and were known by then.

    See `Timeline.visible` in training/timeline.py; fit every network again.
    """
    past = cut.features.past
    timeline, kept = Timeline(past), past.items != PAD
    cases = timeline.next_item_cases()
    newest = timeline.offsets[cases.user] + cases.visible - 1
    latest_known = pd.Series(past.known[kept]).groupby(timeline.users).cummax().to_numpy()
    late = (timeline.times[newest] >= cases.time) | (latest_known[newest] > cases.time)
    wrong = (cases.visible > 0) & late
    event = newest[wrong]
    seen = cut.seen(
        cases.user[wrong], cases.time[wrong], timeline.items[event], timeline.times[event], latest_known[event]
    )
    finding = cut.finding("training shows a question events of its own time or later", seen)
    return outcome(len(cases), "questions", finding)
