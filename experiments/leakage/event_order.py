"""Time order: one order of events, each in the part that its time says, and training ends at the cut."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data.columns import EVENT_ID, EVENT_TIME, ITEM, KNOWN_TIME, PART, PARTS, USER
from data.times import to_iso
from experiments.evaluation.holdout_protocols import session_numbers
from experiments.leakage.cut import Cut, Finding, Outcome, Row
from features.featurize import microseconds
from features.sequences import batches
from features.vocabulary import PAD
from training import validation
from training.windows import Timeline

SPLIT_AGAIN = "Run `python -m data.split` again; if it comes back, the fault lies in data/split.py or data/cleaning.py."
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
                "See `ingest.repeats` in params.yaml and data/cleaning.py; ingest, split and featurize again.",
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
    remedy = "Look at `Log.before` in features/sequences.py and at the cut in out/features; refit everything."
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


def astride(at: Cut) -> Outcome:
    """Of a session that spans the cut, training reads nothing of what lies after it."""
    events, minutes = at.ordered, at.settings.audit.session_minutes
    number = pd.Series(session_numbers(events, minutes), index=events.index)
    time = pd.Series(microseconds(events[EVENT_TIME]), index=events.index)
    after = time >= at.start_us
    begun = (time.groupby(number).transform("min") < at.start_us) & after
    spanning = number[begun].unique()
    findings = []
    if begun.any():
        findings.append(Finding(
            f"{len(spanning):,} of {number.nunique():,} sessions span the cut, with {begun.sum() / after.sum():.2%} "
            f"of the events after it",
            int(begun.sum()), _sessions(at, events[USER], number, time, spanning),
            "Their first part is learned and their last is asked after, as on a live platform whose model was fitted "
            "in the middle of a session. It makes the first minutes after the cut easier than the rest.",
            "Nothing to do; where the share is large, set `split.test_start` to a quiet hour.", fails=False,
        ))  # fmt: skip
    leaked = events[begun & (_filed_before(at, events) | _read(at, events, time))]
    if len(leaked):
        findings.append(Finding(
            "training holds the later part of sessions that span the cut", len(leaked), at.shown(leaked),
            "A session is of one mood: who has learned its end foretells its middle.", SPLIT_AGAIN,
        ))  # fmt: skip
    return Outcome(int(number.nunique()), f"sessions (pauses under {minutes} minutes)", findings)


def _filed_before(at: Cut, events: pd.DataFrame) -> np.ndarray:
    """(E,) bool: the part that an event is filed under is one that the model of this cut learns from."""
    return events[PART].isin(PARTS[: PARTS.index(at.name)]).to_numpy()


def _read(at: Cut, events: pd.DataFrame, time: pd.Series) -> np.ndarray:
    """(E,) bool: what training reads holds an event of this user and time."""
    past = at.features.past
    held = pd.MultiIndex.from_arrays([np.array(at.features.users, dtype=object)[past.users], past.times])
    return pd.MultiIndex.from_arrays([events[USER], time]).isin(held)


def _sessions(at: Cut, users: pd.Series, number: pd.Series, time: pd.Series, spanning: np.ndarray) -> list[Row]:
    rows = []
    for one in spanning[: at.settings.audit.examples]:
        of = time[number == one]
        counts = {"events before": str((of < at.start_us).sum()), "after": str((of >= at.start_us).sum())}
        rows.append({USER: str(users[of.index[0]]), "from": to_iso(of.min()), "to": to_iso(of.max())} | counts)
    return rows


ENCODED_AT_ONCE = 256
TIES_MEANING = (
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
    found = Finding(
        "histories hold an event of their own moment or later", late, _first(at, examples), TIES_MEANING, remedy
    )
    return Outcome(looked, "cases", [found] if late else [])


def encoded(at: Cut) -> Outcome:
    """What a model is given of a case that shares its time with other events of the user holds none of them."""
    log, every = at.features.log, at.cases["next_item"]
    tied = np.isin(every.event, _tied(log.users, log.times))
    cases = every.take(np.flatnonzero(tied))
    cases = validation.sample(cases, at.settings.audit.tied_cases, at.settings.seed)
    examples: list[Row] = []
    refreshed = validation.moments(cases, at.features.description["refresh_minutes"])
    for rows, batch in batches(log, cases, at.features.trend_log(), (), refreshed, ENCODED_AT_ONCE, None):
        where, column = np.nonzero((batch.items != PAD).numpy() & (batch.item_times >= batch.time[:, None]).numpy())
        for row, place in zip(where, column, strict=True):
            case = rows[row]
            item, time = batch.items[row, place], batch.item_times[row, place]
            examples.append(_seen(at, int(cases.user[case]), cases.time[case], int(item), int(time)))
    remedy = "Look at `encode_cases` in features/sequences.py and `assemble` in features/encode.py."
    found = Finding("encoded histories hold an event of their own moment", len(examples), _first(at, examples), TIES_MEANING,
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
    asked = timeline.next_item_questions()
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
    found = Finding("training shows a question what came with it or after it", len(wrong), _first(at, examples), TIES_MEANING,
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
