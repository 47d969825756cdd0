"""Measure skew over a served log, and report it: match rates for the gate, differences for people."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from config import params
from config.command import UserError
from config.paths import EXPERIMENTS
from data.times import from_iso, now_iso, to_iso
from experiments.evaluation import bootstrap
from experiments.lineage import report, skew, upstream
from experiments.lineage.report import ReportPart
from experiments.lineage.served_log import Line, LineageError, ServedLines
from experiments.lineage.skew import (
    COMPARED,
    DIFFERENT,
    GROUPS,
    MATCHED,
    MISSING_IN_ANSWER,
    MISSING_IN_DATASET,
    NOT_COMPARABLE,
    NOTHING,
    ComparedAnswer,
    SkewEffect,
    SkewOutcome,
)
from training import provenance

REPORT, PAGE = EXPERIMENTS / "skew.json", EXPERIMENTS / "skew.html"
REQUIRED_KEYS = {"dataset", "dataset_hash", "date", "answers", "groups"}
METHOD = {
    "by digest": "whether a group matches: the log holds digests of what was read, under the edge's secret",
    "by value": "how it differs, if the dataset or the online store still has what was read; and the scores",
    "as of": "the answer's time: what had happened before it and was known by then",
    "compared": "answers where either side has something; the interval treats answers as independent",
}
FACTS = {  # name in the report -> key of the record
    "compared": "answers", "in the log": "of", "since": "since", "drawn with seed": "seed",
    "oldest": "oldest", "newest": "newest", "dataset version": "dataset_hash",
    "dataset known until": "dataset_known_until", "measured": "date",
}  # fmt: skip
COUNTS = {  # kind -> key of a group's tally
    MATCHED: "matched", DIFFERENT: "different", MISSING_IN_ANSWER: "missing_in_answer",
    MISSING_IN_DATASET: "missing_in_dataset",
}  # fmt: skip


# --- measuring


def measure(
    log: ServedLines, secret: bytes | None, settings: params.Params, max_answers: int, since: str | None, since_us: int
) -> dict[str, Any]:
    """Compare a sample of the answers of a served log with the dataset; the record as plain data.

    Raises:
        LineageError: the log holds no answer since then.
    """
    recent = (line for line in log.each() if from_iso(answered_at(line)) >= since_us)
    lines, total = sample(recent, max_answers, settings.seed)
    if not lines:
        raise LineageError(f"no answer to compare with the dataset: {log.describe()}")
    times = sorted(map(answered_at, lines))
    return {
        "dataset": settings.dataset,
        "dataset_hash": upstream.local_dataset_hash(),
        "commit": provenance.commit(),
        "date": now_iso(),
        "answers": len(lines),
        "of": total,
        "since": since,
        "seed": settings.seed,
        "oldest": times[0],
        "newest": times[-1],
        **compare_lines(lines, log.folder, secret, settings),
    }


def sample(lines: Iterable[Line], count: int, seed: int) -> tuple[list[Line], int]:
    """(a uniform sample of the lines, in their order; how many there are). Holds at most `count` (Vitter 1985, R)."""
    rng, total = random.Random(seed), 0
    kept: list[tuple[int, Line]] = []
    for total, line in enumerate(lines, start=1):
        if len(kept) < count:
            kept.append((total, line))
        elif (place := rng.randrange(total)) < count:
            kept[place] = total, line
    return [line for _, line in sorted(kept, key=lambda one: one[0])], total


def answered_at(line: Line) -> str:
    """When an answer was given. `time` may be older: that of a list that the edge had."""
    return line.get("request_time") or line["time"]


def compare_lines(lines: Sequence[Line], folder: Path, secret: bytes | None, settings: params.Params) -> dict[str, Any]:
    """The result for these lines of a served log, as plain data."""
    with skew.open_sources(lines, folder, secret, settings) as sources:
        answers = [skew.compare_answer(line, sources) for line in lines]
        skewed = [at for at, answer in enumerate(answers) if answer.skewed][: settings.skew.recomputed]
        effects = {at: effect for at in skewed if (effect := skew.measure_effect(answers[at], sources)) is not None}
        known_until_us = sources.known_until_us
    return {
        "groups": {group: tally([answer.outcomes[group] for answer in answers]) for group in GROUPS},
        "cost": _summarize_effects(answers, effects),
        "differences": _difference_rows(answers, effects),
        "dataset_known_until": to_iso(known_until_us) if known_until_us else None,
    }


def tally(outcomes: Sequence[SkewOutcome]) -> dict[str, Any]:
    """Counts of one group, and the match rate of what was compared with its interval; None if nothing was."""
    counts = Counter(outcome.kind for outcome in outcomes)
    compared = sum(counts[kind] for kind in COMPARED)
    low, high = bootstrap.wilson_interval(counts[MATCHED], compared)
    reasons = Counter(outcome.why for outcome in outcomes if outcome.kind == NOT_COMPARABLE)
    return {
        "compared": compared,
        **{key: counts[kind] for kind, key in COUNTS.items()},
        "match_rate": counts[MATCHED] / compared if compared else None,
        "low": low,
        "high": high,
        "nothing_on_either_side": counts[NOTHING],
        "not_comparable": dict(reasons.most_common()),
    }


def _difference_rows(answers: Sequence[ComparedAnswer], effects: Mapping[int, SkewEffect]) -> list[dict[str, Any]]:
    """One row per skewed group of an answer; effects are by position of the answer."""
    return [
        {"request_id": answer.line["request_id"], "time": answer.line["time"], "version": answer.line["model_version"],
         "group": group, "what": outcome.kind, "why": outcome.why,
         "score_difference": effects[at].difference if at in effects else None,
         "list_kept": effects[at].kept if at in effects else None}
        for at, answer in enumerate(answers) for group, outcome in answer.outcomes.items() if outcome.skewed
    ]  # fmt: skip


def _summarize_effects(answers: Sequence[ComparedAnswer], effects: Mapping[int, SkewEffect]) -> dict[str, Any]:
    differences = {at: effect.difference for at, effect in effects.items() if effect.difference is not None}
    worst = max(differences, key=lambda at: differences[at], default=None)
    return {
        "skewed_answers": sum(answer.skewed for answer in answers),
        "computed_again": len(effects),
        "largest_score_difference": None if worst is None else differences[worst],
        "of_request": None if worst is None else answers[worst].line["request_id"],
        "from_other_source": sum(effect.source != answers[at].line["source"] for at, effect in effects.items()),
        "mean_share_of_list_kept": sum(one.kept for one in effects.values()) / len(effects) if effects else None,
    }


# --- reporting


def write(record: Mapping[str, Any]) -> None:
    """Write skew.json and skew.html."""
    EXPERIMENTS.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    PAGE.write_text(report.page(title(record), parts(record)), encoding="utf-8")


def last(dataset: str) -> dict[str, Any] | None:
    """The last record; None if there is none of this dataset.

    Raises:
        UserError: the file is not a record.
    """
    if not REPORT.is_file():
        return None
    try:
        record = json.loads(REPORT.read_text(encoding="utf-8"))
        valid = record.keys() >= REQUIRED_KEYS and all(
            isinstance(group[key], int | float) for group in record["groups"].values() for key in ("compared", "high")
        )
    except (ValueError, AttributeError, KeyError, TypeError):
        valid = False
    if not valid:
        raise UserError(f"{REPORT} is not a record of skew; run `python -m experiments.skew`, or remove it")
    return record if record["dataset"] == dataset else None


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
    rows = [{_words(key): value for key, value in row.items() if key != "time"} for row in record["differences"]]
    return [
        ReportPart("answers", {name: record[key] for name, key in FACTS.items()}),
        ReportPart("method", METHOD),
        *(_group_part(group, record["groups"][group]) for group in GROUPS),
        ReportPart("cost", {_words(key): value for key, value in record["cost"].items()}),
        ReportPart("differences", {"found": len(rows)}, rows),
    ]


def _group_part(name: str, group: Mapping[str, Any]) -> ReportPart:
    compared, reasons = max(group["compared"], 1), group["not_comparable"]
    facts = {"match rate": match_rate(group), "compared": group["compared"]}
    facts |= {kind: f"{group[key]:,} ({group[key] / compared:.1%})" for kind, key in COUNTS.items()}
    facts |= {NOTHING: group["nothing_on_either_side"], NOT_COMPARABLE: sum(reasons.values())}
    return ReportPart(name, facts, [{NOT_COMPARABLE: why, "answers": count} for why, count in reasons.items()])


def _words(key: str) -> str:
    return key.replace("_", " ")
