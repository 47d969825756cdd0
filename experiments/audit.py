"""VERB audit: does anything that a model saw lie in its future? Findings with an offending row each."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import params
from command import exits_cleanly
from data.columns import EVENT_ID, ITEM, PART, USER
from data.products import SPLIT, read_json, read_table
from features import store
from features.featurize import microseconds
from features.sequences import Cases, Log, batches
from features.store import Features
from features.trends import TrendLog
from training import validate

REPORT = Path("experiments/out/audit.json")
PROBED_CASES = 64


@dataclass(frozen=True)
class Finding:
    """One promise that does not hold."""

    check: str
    rows: int
    example: str


def future_events(past: Log, cut_us: int) -> list[Finding]:
    """Events that training may read must have happened, and been known, before the cut."""
    late = np.flatnonzero((past.times >= cut_us) | (past.known > cut_us))
    if not len(late):
        return []
    return [Finding("training holds an event after the cut", len(late), f"time {past.times[late[0]]}, cut {cut_us}")]


def duplicates(events: pd.DataFrame, repeats: str) -> list[Finding]:
    """No event twice, and no (user, item) pair twice unless repeats are kept."""
    found = []
    keys = {"an event occurs twice": [EVENT_ID]}
    if repeats != "all":
        keys["a user has an item twice"] = [USER, ITEM]
    for check, columns in keys.items():
        twice = events[events.duplicated(columns)]
        if len(twice):
            found.append(Finding(check, len(twice), ", ".join(f"{c} {twice[c].iloc[0]}" for c in columns)))
    return found


def misplaced_parts(events: pd.DataFrame, manifest: dict) -> list[Finding]:
    """Each event's part is the one that its time says."""
    cuts = [manifest["valid_start_us"], manifest["test_start_us"]]
    expected = np.array(["train", "valid", "test"])[np.searchsorted(cuts, microseconds(events["event_time"]), "right")]
    wrong = events[events[PART].to_numpy() != expected]
    return (
        [Finding("an event lies in another part than its time", len(wrong), str(wrong[EVENT_ID].iloc[0]))]
        if len(wrong)
        else []
    )


def unseen_items(features: Features) -> list[Finding]:
    """Every item of the vocabulary was seen before the cut."""
    seen = np.zeros(len(features.vocabulary), dtype=bool)
    seen[features.past.items] = True
    unseen = np.flatnonzero(~seen[1:])
    if not len(unseen):
        return []
    return [Finding("the vocabulary holds an item of the future", len(unseen), features.vocabulary.ids[unseen[0]])]


def time_travel(features: Features, cases: Cases, seed: int) -> list[Finding]:
    """What a model reads at a moment must not change when everything from that moment on is taken away."""
    channels = tuple(features.description["channels"])
    findings = []
    for row in np.random.default_rng(seed).permutation(len(cases))[:PROBED_CASES]:
        one = cases.take(np.array([row]))
        cut = features.log.before(int(one.time[0]))
        shortened = replace(one, end=cut.offsets[one.user + 1])
        whole = _batch(features.log, one, features, channels)
        past = _batch(cut, shortened, features, channels)
        for field in fields(whole):
            if field.name == "traits":  # learned at the first event, which may be this one
                continue
            one_way, other = getattr(whole, field.name), getattr(past, field.name)
            if one_way is not other and not torch.equal(one_way, other):  # what is kept beside a batch may be None
                findings.append(f"{field.name} of {features.users[int(one.user[0])]} at {int(one.time[0])}")
    return [Finding("a feature reads its own moment or later", len(findings), findings[0])] if findings else []


def _batch(log: Log, case: Cases, features: Features, channels: tuple[str, ...]):
    trends = TrendLog(log.items, log.times, log.known, len(features.vocabulary))
    at = validate.moments(case, features.description["refresh_minutes"])
    return next(batches(log, case, trends, channels, at, 1, None))[1]


def audit(events: pd.DataFrame, manifest: dict, features: Features, seed: int) -> list[Finding]:
    """All checks of one cut; an empty list is a pass."""
    return [
        *future_events(features.past, features.cut_us),
        *duplicates(events, features.description["repeats"]),
        *misplaced_parts(events, manifest),
        *unseen_items(features),
        *time_travel(features, validate.cases(features)["next"], seed),
    ]


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m experiments.audit", description=__doc__).parse_args(argv)
    settings = params.load()
    events = read_table(SPLIT / "events.parquet", "python -m data.split")
    manifest = read_json(SPLIT / "manifest.json", "python -m data.split")
    findings = []
    for cut in ("valid", "test"):
        features = store.load(f"features/out/{cut}")
        findings += audit(events, manifest, features, settings.seed)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps([asdict(finding) for finding in findings], indent=1))
    for finding in findings:
        print(f"audit: {finding.check}: {finding.rows} rows, such as {finding.example}", file=sys.stderr)
    print(f"audit: {len(findings)} findings over both cuts -> {REPORT}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
