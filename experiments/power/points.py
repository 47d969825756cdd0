"""What simulated looks came to: one point for each pair of models, true effect and number of users."""

from __future__ import annotations

from collections.abc import Iterable

from experiments.gating import verdict

BAR = 0.05  # of either error: what the protocol promises, whatever alpha the policy spends to keep it
EQUAL = "equal on average"
AS_THEY_ARE = "as they are"
WORSE = "better on the primary target, worse by the margin on the other"
BETTER = "better on both"
ALONE = "better on the primary target alone"


def share(point: dict) -> float:
    """Of the looks those that promoted."""
    return point["verdicts"].get(verdict.PROMOTE, 0) / point["looks"]


def of_kind(facts: dict, kind: str, what: str) -> list[dict]:
    """The points of all pairs of a kind."""
    return [
        point for pair in facts["pairs"] if pair["kind"] == kind for point in pair["points"] if point["what"] == what
    ]


def curve(points: Iterable[dict], what: str, effect: float) -> list[tuple[int, float]]:
    """(users, share promoted), by users, of a true effect on the primary target."""
    return sorted(
        (point["users"], share(point))
        for point in points
        if point["what"] == what and max(point["effect"].values()) == effect
    )


def users_needed(points: Iterable[dict], what: str, effect: float, power: float) -> int | None:
    """The least simulated number of users from which on an effect is promoted as often as `power`; None where none is
    enough."""
    reached = None
    for users, promoted in reversed(curve(points, what, effect)):
        if promoted < power:
            break
        reached = users
    return reached


def errors_hold_from(points: Iterable[dict], alpha: float) -> int | None:
    """The least simulated number of users from which on none of these points errs more often than alpha; None where
    the largest does."""
    reached = None
    for point in sorted(points, key=lambda point: -point["users"]):
        if share(point) > alpha:
            break
        reached = point["users"]
    return reached


def pooled(points: Iterable[dict]) -> list[dict]:
    """Points of several pairs as one for each number of users."""
    found: dict[int, dict] = {}
    for point in points:
        into = found.setdefault(point["users"], {"users": point["users"], "looks": 0, "verdicts": {}})
        into["looks"] += point["looks"]
        for name, count in point["verdicts"].items():
            into["verdicts"][name] = into["verdicts"].get(name, 0) + count
    return [found[users] for users in sorted(found)]


def first(facts: dict) -> dict:
    """The pair that the power is read off: of two models, the first."""
    return next(pair for pair in facts["pairs"] if pair["kind"] == "models")


def errors(facts: dict, what: str) -> list[dict]:
    """The points of what should not be promoted; equals are seeds of one recipe where there are several."""
    return of_kind(facts, "seeds", what) or of_kind(facts, "models", what)


def min_users(facts: dict) -> int | None:
    """The least simulated number of users that keeps both errors at BAR and shows the detectable effect."""
    asked = facts["settings"]
    found = [
        errors_hold_from(pooled(errors(facts, EQUAL)), BAR),
        errors_hold_from(pooled(errors(facts, WORSE)), BAR),
        users_needed(first(facts)["points"], BETTER, asked["detectable"], facts["policy"]["power"]),
    ]
    return None if None in found else max(filter(None, found))
