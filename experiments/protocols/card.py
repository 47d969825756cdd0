"""What a split-sensitivity card states: models by protocols, with ranks, and how alike the orderings are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiments.evaluation.bootstrap import Totals, intervals
from experiments.evaluation.measure import number
from experiments.protocols.holdouts import MEANINGS, TEMPORAL
from experiments.protocols.orderings import ranks, tau, tau_interval

NO_GATE = (
    "Only the temporal cut, with its targets next and window, asks what a platform has to answer: what people will "
    "take after all that was learned. The gate asks it again, on the test window. Every other protocol on this page is "
    "a diagnostic and cannot feed a gate."
)
Values = Mapping[str, tuple[np.ndarray, np.ndarray]]  # label -> (n, 1) NDCG@10 of the cases, (n,) rows of their users


def build(found: Mapping[str, Values], num_users: int, seed: int, resamples: int) -> dict:
    """The card.

    Args:
        found: column -> what each model reached, every model on the same cases.

    Returns:
        {"protocols": {column: {"meaning", "can_feed_a_gate", "cases", "users", "tau": {"next" | "window": {"tau",
        "low", "high"}}}}, "models": {label: {column: {"mean", "low", "high", "rank"}}}}; models in the order of
        the temporal cut's `next`. A column without cases is left out.
    """
    columns = {name: of for name, of in found.items() if len(next(iter(of.values()))[0])}
    totals = {name: _totals(of, num_users) for name, of in columns.items()}
    protocols = {
        name: {
            "meaning": MEANINGS[name],
            "can_feed_a_gate": name in TEMPORAL,
            "cases": len(next(iter(of.values()))[0]),
            "users": len(np.unique(next(iter(of.values()))[1])),
            "tau": {to: _tau(totals[name], totals[to], seed, resamples) for to in TEMPORAL if to in totals},
        }
        for name, of in columns.items()
    }
    entries = {name: _entries(of, seed, resamples) for name, of in columns.items()}
    by_next = sorted(next(iter(entries.values())).items(), key=lambda entry: entry[1]["rank"])
    models = {label: {name: entries[name][label] for name in columns} for label, _ in by_next}
    return {"protocols": protocols, "models": models}


def best(card: dict, column: str) -> str:
    """The model that a protocol puts first."""
    return min(card["models"], key=lambda label: card["models"][label][column]["rank"])


def _totals(of: Values, num_users: int) -> Totals:
    """(U, M) of all users, so that the same ones are drawn under every protocol."""
    user = next(iter(of.values()))[1]
    return Totals.of(np.concatenate([values for values, _ in of.values()], axis=1), user, num_users)


def _entries(of: Values, seed: int, resamples: int) -> dict[str, dict]:
    """Mean, 95% interval by user and rank of each model; here only users that have cases are drawn."""
    users, row = np.unique(next(iter(of.values()))[1], return_inverse=True)
    table = np.concatenate([values for values, _ in of.values()], axis=1)
    measured = intervals(Totals.of(table, row, len(users)), seed, resamples)
    order = ranks(measured.mean)
    return {
        label: {"mean": number(mean), "low": number(low), "high": number(high), "rank": int(rank)}
        for label, mean, low, high, rank in zip(of, *measured, order, strict=True)
    }


def _tau(one: Totals, other: Totals, seed: int, resamples: int) -> dict[str, float | None]:
    means = [totals.sums.sum(axis=0) / totals.counts.sum(axis=0) for totals in (one, other)]
    low, high = tau_interval(one, other, seed, resamples)
    return {"tau": float(tau(*means)), "low": number(low), "high": number(high)}
