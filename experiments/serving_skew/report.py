"""What came of all answers that were held against the data set: counted, and in parts for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from config.command import UserError
from config.paths import EXPERIMENTS
from experiments.evaluation import bootstrap
from experiments.lineage.report import Part
from experiments.serving_skew.comparison import (
    COMPARED,
    DIFFERENT,
    GROUPS,
    MATCHED,
    NOT_COMPARABLE,
    NOT_SERVED,
    NOTHING,
    ONLY_SERVED,
    Cost,
    Held,
    Outcome,
)

KEYS = {"dataset", "dataset_hash", "date", "answers", "groups"}


def write(record: Mapping[str, Any], page: str) -> None:
    """skew.json and skew.html."""
    EXPERIMENTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (EXPERIMENTS / "skew.json").write_text(text, encoding="utf-8")
    (EXPERIMENTS / "skew.html").write_text(page, encoding="utf-8")


def last(dataset: str) -> dict[str, Any] | None:
    """The last measurement; None where there is none of this data set.

    Raises:
        UserError: the file is none of ours.
    """
    path = EXPERIMENTS / "skew.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        sound = record.keys() >= KEYS and all(
            isinstance(found[key], int | float) for found in record["groups"].values() for key in ("compared", "high")
        )
    except (ValueError, AttributeError, KeyError, TypeError):
        sound = False
    if not sound:
        raise UserError(f"{path} is no record of skew; `python -m experiments.skew` writes one, or remove it")
    return record if record["dataset"] == dataset else None


def rate(found: Mapping[str, Any]) -> str:
    """`98.0% [96.0%, 99.0%] of 200 match`."""
    if not found["compared"]:
        return "not measured"
    return f"{found['match_rate']:.1%} [{found['low']:.1%}, {found['high']:.1%}] of {found['compared']:,} match"


HOW = {
    "by digest": "whether a group matches: the log holds digests of what was read, under the edge's key",
    "by value": "how it differs, where the data set or the online store still has what was read; and the scores",
    "as of": "the answer's moment, of what had happened before it and was known by then",
    "compared": "answers where either side has something; the interval takes answers as independent",
}
ABOUT = {
    "held against the data set": "answers", "in the log": "of", "since": "since", "drawn by seed": "seed",
    "oldest": "oldest", "newest": "newest", "data set version": "dataset_hash",
    "data set known until": "data_set_known_until", "measured": "date",
}  # fmt: skip


def tally(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts of one group, and the match rate of what could be compared with its interval; None of nothing."""
    counts = Counter(outcome.kind for outcome in outcomes)
    compared = sum(counts[kind] for kind in COMPARED)
    low, high = bootstrap.interval(counts[MATCHED], compared)
    reasons = Counter(outcome.why for outcome in outcomes if outcome.kind == NOT_COMPARABLE)
    return {
        "compared": compared, "matched": counts[MATCHED], "different": counts[DIFFERENT],
        "missing_in_answer": counts[NOT_SERVED], "missing_in_data_set": counts[ONLY_SERVED],
        "match_rate": counts[MATCHED] / compared if compared else None, "low": low, "high": high,
        "nothing_on_either_side": counts[NOTHING], "not_comparable": dict(reasons.most_common()),
    }  # fmt: skip


def differences(held: Sequence[Held], costs: Mapping[int, Cost]) -> list[dict[str, Any]]:
    """A row for each group of an answer that does not match.

    Args:
        costs: by place in `held`, of those answers that were computed again.
    """
    return [
        {"request_id": one.line["request_id"], "time": one.line["time"], "version": one.line["model_version"],
         "group": group, "what": outcome.kind, "why": outcome.why,
         "score_difference": costs[at].difference if at in costs else None,
         "list_kept": costs[at].kept if at in costs else None}
        for at, one in enumerate(held) for group, outcome in one.outcomes.items() if outcome.skewed
    ]  # fmt: skip


def costs_of(held: Sequence[Held], costs: Mapping[int, Cost]) -> dict[str, Any]:
    """What skew costs the answers."""
    told = {at: one.difference for at, one in costs.items() if one.difference is not None}
    worst = max(told, key=lambda at: told[at], default=None)
    return {
        "skewed_answers": sum(one.skewed for one in held),
        "computed_again": len(costs),
        "largest_score_difference": None if worst is None else told[worst],
        "of_request": None if worst is None else held[worst].line["request_id"],
        "on_another_rung": sum(one.rung != held[at].line["rung"] for at, one in costs.items()),
        "mean_share_of_list_kept": sum(one.kept for one in costs.values()) / len(costs) if costs else None,
    }


def title(record: Mapping[str, Any]) -> str:
    rates = "; ".join(f"{group} {rate(found)}" for group, found in record["groups"].items())
    return f"skew of {record['dataset']}: {rates}"


def parts(record: Mapping[str, Any]) -> list[Part]:
    """The whole report."""
    about = Part("answers", {name: record[key] for name, key in ABOUT.items()})
    rows = [
        {name.replace("_", " "): value for name, value in row.items() if name != "time"}
        for row in record["differences"]
    ]
    cost = Part("cost", {name.replace("_", " "): value for name, value in record["cost"].items()})
    groups = [_group(group, record["groups"][group]) for group in GROUPS]
    return [about, Part("how it was compared", HOW), *groups, cost, Part("differences", {"found": len(rows)}, rows)]


def _group(name: str, found: Mapping[str, Any]) -> Part:
    compared = max(found["compared"], 1)
    share = lambda key: f"{found[key]:,} ({found[key] / compared:.1%})"  # noqa: E731
    facts = {"match rate": rate(found), "compared": found["compared"]}
    facts |= {kind: share(key) for kind, key in (
        (MATCHED, "matched"), (DIFFERENT, "different"), (NOT_SERVED, "missing_in_answer"), (ONLY_SERVED, "missing_in_data_set"),
    )}  # fmt: skip
    facts |= {NOTHING: found["nothing_on_either_side"], NOT_COMPARABLE: sum(found["not_comparable"].values())}
    rows = [{"not comparable": why, "answers": count} for why, count in found["not_comparable"].items()]
    return Part(name, facts, rows)
