"""Time order: one order of events, each in the part that its time says, and training ends at the cut."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data.columns import EVENT_ID, EVENT_TIME, ITEM, KNOWN_TIME, PART, PARTS, USER
from data.instants import to_iso
from experiments.leakage.cut import Cut
from experiments.leakage.finding import Finding, Outcome
from features.featurize import microseconds

SPLIT_AGAIN = "Run `python -m data.split` again; if it comes back, the fault lies in data/split.py or data/repeats.py."
FEATURIZE_AGAIN = (
    "Run `python -m features.featurize` at both cuts again, then refit what was fitted on the old features."
)


def total_order(at: Cut) -> Outcome:
    """Events stand in one order, by time and then by id."""
    ids, steps = at.events[EVENT_ID].to_numpy(), np.diff(at.times)
    tied = np.flatnonzero(steps == 0)
    wrong = 1 + np.sort(np.concatenate([np.flatnonzero(steps < 0), tied[ids[tied] > ids[tied + 1]]]))
    found = Finding(
        "events stand before an earlier one",
        len(wrong), at.shown(at.events.iloc[wrong]),
        "Whatever reads the table in its order (first and last events, ties) reads the future before the past.",
        SPLIT_AGAIN,
    )  # fmt: skip
    return Outcome(len(at.events), "events", [found] if len(wrong) else [])


def duplicates(at: Cut) -> Outcome:
    """No event stands twice, and no (user, item) pair where repeats are dropped."""
    keys = {"an event stands twice": [EVENT_ID]}
    if at.features.description["repeats"] != "all":
        keys["a user has an item twice"] = [USER, ITEM]
    findings = []
    for what, columns in keys.items():
        twice = at.events[at.events.duplicated(columns, keep=False)]
        if len(twice):
            findings.append(Finding(
                what, int(at.events.duplicated(columns).sum()), at.shown(twice.sort_values([*columns, EVENT_TIME])),
                "The same event on both sides of a cut is learned, then asked: memory is measured as foresight.",
                "See `ingest.repeats` in params.yaml and data/repeats.py; ingest, split and featurize again.",
            ))  # fmt: skip
    return Outcome(len(at.events), "events", findings)


def parts(at: Cut) -> Outcome:
    """Each event is in the part that its time says."""
    cuts = [at.manifest[f"{name}_start_us"] for name in ("valid", "test")]
    right = np.array(PARTS)[np.searchsorted(cuts, at.times, side="right")]
    wrong = at.events[at.events[PART].to_numpy() != right]
    found = Finding(
        "events lie in another part than their time", len(wrong), at.shown(wrong),
        "An event filed before its time is learned from, and then asked after.", SPLIT_AGAIN,
    )  # fmt: skip
    return Outcome(len(at.events), "events", [found] if len(wrong) else [])


def one_split(at: Cut) -> Outcome:
    """The features are of this split and this cut, and their period ends before anything later begins."""
    stated, end = at.features.description, at.manifest["end_us"] + 1
    rows = [
        ("cut", to_iso(stated["cut_us"]), to_iso(at.start_us), stated["cut_us"] == at.start_us),
        ("split_id", stated["split_id"], at.manifest["split_id"], stated["split_id"] == at.manifest["split_id"]),
    ]
    until = at.manifest["test_start_us"] if at.name == "valid" else end
    rows.append(("until", to_iso(stated["until_us"]), to_iso(until), stated["until_us"] <= until))
    wrong = [{"what": what, "features": ours, "split": theirs} for what, ours, theirs, right in rows if not right]
    found = Finding(
        "the features are of another split, or reach beyond their period", len(wrong), wrong,
        "Models were fitted or chosen on events that this split keeps for later.", FEATURIZE_AGAIN,
    )  # fmt: skip
    return Outcome(len(rows), "statements", [found] if wrong else [])


def log_is_the_split(at: Cut) -> Outcome:
    """The log that models read holds the events of the split, at their times."""
    log, events = at.features.log, at.ordered
    owner = pd.Index(at.features.users).get_indexer(events[USER])
    rows = at.features.vocabulary.indices(events[ITEM])
    theirs = (owner, microseconds(events[EVENT_TIME]), microseconds(events[KNOWN_TIME]), rows)
    both = min(len(log.times), len(events))
    differs = np.ones(max(len(log.times), len(events)), dtype=bool)  # a row that only one of them has does
    pairs = zip((log.users, log.times, log.known, log.items), theirs, strict=True)
    differs[:both] = np.any([ours[:both] != other[:both] for ours, other in pairs], axis=0)
    wrong = np.flatnonzero(differs)
    inside = wrong[wrong < len(log.times)]
    found = Finding(
        "the log differs from the split", len(wrong), at.shown_in(log, inside) or at.shown(events.iloc[wrong]),
        "What models read is not what is audited; an event moved back in time is known before it happened.",
        FEATURIZE_AGAIN,
    )  # fmt: skip
    return Outcome(len(log.times), "events", [found] if len(wrong) else [])


def training(at: Cut) -> Outcome:
    """What training reads happened before the cut, and was known at it."""
    past, cut = at.features.past, to_iso(at.start_us)
    after = np.flatnonzero(past.times >= at.start_us)
    unknown = np.flatnonzero((past.times < at.start_us) & (past.known > at.start_us))
    remedy = "Look at `Log.before` in features/sequences.py and at the cut in features/out; refit everything."
    findings = []
    if len(after):
        findings.append(Finding(
            f"training reads events at or after the cut, {cut}", len(after), at.shown_in(past, after),
            "Models were fitted on what they are judged on.", remedy,
        ))  # fmt: skip
    if len(unknown):
        findings.append(Finding(
            f"training reads events that nobody knew of at the cut, {cut}", len(unknown), at.shown_in(past, unknown),
            "They happened before the cut, but a live platform could not have trained on them.", remedy,
        ))  # fmt: skip
    late = at.events[(at.times < at.start_us) & (at.known > at.start_us)]
    if len(late) and not findings:
        findings.append(Finding(
            "events before the cut were known only after it", len(late), at.shown(late),
            "Training leaves them out; histories and trends take them in when they are known.",
            "Nothing to do; if it is a large share, see why events arrive late.", fails=False,
        ))  # fmt: skip
    return Outcome(len(past.times), "events", findings)
