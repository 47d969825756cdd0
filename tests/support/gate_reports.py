"""Gate reports and their parts, typed in, for tests of the verdict, the page and the pull-request comment."""

from __future__ import annotations

from config import params
from config.paths import ROOT

POLICY = params.load(ROOT / "params.yaml").gate.model_dump(mode="json") | {"alpha": 0.05}


def found(low: float, high: float, users: int = 200) -> dict:
    """Evidence whose champion reaches 1, so that absolute and relative differences are alike."""
    middle = (low + high) / 2
    return {
        "users": users,
        "difference": middle,
        "low": low,
        "high": high,
        "relative": middle,
        "relative_low": low,
        "relative_high": high,
        "relative_spread": (high - low) / 2 / 1.645,
    }


def contrast(low: float, high: float) -> dict:
    return found(low, high) | {"cases": 900, "candidate": 0.11, "against": 0.10}


def report(**changes: object) -> dict:
    """The report of a sound candidate, changed."""
    both = {"horizon": contrast(-0.01, 0.03), "next_item": contrast(0.01, 0.05)}
    cold = contrast(-0.5, -0.2) | {"segment": "cold", "target": "next_item", "tested": True, "p_holm": 0.001}
    few = contrast(-0.9, 0.9) | {"segment": "lapsed", "target": "next_item", "tested": False}
    plain = {
        "verdict": "REJECT", "reason": "worse for <some>", "advice": "fit again: `dvc repro`", "dataset": "made",
        "label": "two_tower", "version": "7", "against_version": "3", "against_label": "ease", "primary": "next_item",
        "policy": POLICY, "policy_hash": "0a1b", "overrides": [], "looks": 2, "date": "2026-11-26T00:00:00Z",
        "holdout_start": "2026-06-01T00:00:00Z", "holdout_end": "2026-06-30T23:59:59Z", "split_id": "s1",
        "dataset_hash": "d1", "newest_event": "2026-06-30T23:59:59Z",
        "code": {"commit": "0123", "changed": None, "unknown": None},
        "artifacts": {"candidate": {"label": "two_tower", "fit_until": "2026-06-01", "dataset_hash": "d1", "commit": "c"}},
        "evidence": {
            "looks": 2, "age_days": 3.0, "golden_answers": 16,
            "comparisons": {"champion": both, "baseline": None}, "segments": [cold, few],
            "guard_rails": [{"name": "coverage", "candidate": 0.5, "champion": 0.6, "kind": "at least", "limit": 0.3, "within": True}],
            "budgets": [{"name": "size", "unit": "MB", "candidate": 2.0, "champion": 1.0, "limit": 1000.0, "within": True}],
            "refit": {"reason": None, "seconds": 3.2, "data": both, "idea": both},
        },
    }  # fmt: skip
    return plain | changes
