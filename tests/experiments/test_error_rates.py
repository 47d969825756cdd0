"""The gate's simulated error rates: worlds with a known truth, judged as the gate judges, read off honestly."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from config import params
from config.command import UserError
from experiments.evaluation import bootstrap
from experiments.gating import error_simulation
from experiments.gating.error_rates_page import chart, markdown, statement
from experiments.gating.error_simulation import (
    ALONE,
    BETTER,
    EQUAL,
    WORSE,
    Population,
    errors_hold_from,
    min_users,
    pooled,
    population,
    users_needed,
)

POLICY = params.load().gate
RNG = np.random.default_rng(0)


def world(users: int = 400) -> Population:
    """Users with 1 to 5 cases of each target and gains that are noise about nothing in particular."""
    count = RNG.integers(1, 6, (users, 2)).astype(float)
    base = RNG.gamma(2, 0.1, (users, 2)) * count
    return Population(RNG.normal(0.01, 0.05, (users, 2)) * np.sqrt(count), base, count)


def rankings(ranks: dict[tuple[str, str, str], int]) -> pd.DataFrame:
    """(target, user, case) -> rank of the one true item."""
    return pd.DataFrame([
        {"case_id": case, "user_id": user, "target": target, "true_ranks": [rank]}
        for (target, user, case), rank in ranks.items()
    ])  # fmt: skip


CASES = [("horizon", "ann", "w1"), ("next_item", "ann", "n1"), ("next_item", "ann", "n2"), ("next_item", "bob", "n3")]


def test_a_population_holds_each_users_sums() -> None:
    champion = rankings(dict(zip(CASES, (1, 1, 11, 3), strict=True)))
    candidate = rankings(dict(zip(CASES, (3, 1, 1, 1), strict=True)))

    found = population(champion, candidate)

    half = 1 / np.log2(3 + 1)  # NDCG of one true item at rank 3; at rank 1 it is 1, beyond 10 nothing
    np.testing.assert_allclose(found.base, [[1, 1], [0, half]])
    np.testing.assert_allclose(found.gain, [[half - 1, 1], [0, 1 - half]])
    np.testing.assert_array_equal(found.count, [[1, 2], [0, 1]])


def test_other_cases_are_refused() -> None:
    ours = rankings(dict.fromkeys(CASES, 1))
    with pytest.raises(UserError, match="hold other next_item cases"):
        population(ours, rankings(dict.fromkeys([*CASES[:3], ("next_item", "cy", "n3")], 1)))
    with pytest.raises(UserError, match="hold no horizon cases"):
        population(ours[ours["target"] == "next_item"], ours)


def test_an_effect_is_exactly_what_was_asked_and_leaves_the_noise() -> None:
    plain = world()
    made = plain.with_effect([0.1, -0.02])

    np.testing.assert_allclose(made.effect, [0.1, -0.02])
    shift = (made.gain - plain.gain) / plain.base
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape))


def test_a_simulated_look_is_judged_by_the_intervals_of_a_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    people, seen = world(30), []
    monkeypatch.setattr(
        error_simulation.verdict, "decide", lambda targets, policy: (seen.append(targets), ("HOLD", ""))[1]
    )
    drawn = np.arange(30)[:, None]  # everybody once
    weights = np.concatenate(list(bootstrap.weights(30, 200, 7)))
    error_simulation._judge(people, drawn, weights, POLICY)

    for at, target in enumerate(("horizon", "next_item")):
        user = np.repeat(np.arange(30), people.count[:, at].astype(int))
        share = people.count[user, at]
        theirs, gain = people.base[user, at] / share, people.gain[user, at] / share
        real = bootstrap.paired(theirs + gain, theirs, user, 7, 200, error_simulation.verdict.level(POLICY, 1))
        assert seen[0][target]["users"] == 30
        for name, value in vars(real).items():
            assert seen[0][target][name] == pytest.approx(value, rel=1e-9), (target, name)


def test_the_truth_of_a_world_shows_in_its_verdicts() -> None:
    people = world()

    def promoted(*effect: float) -> float:
        told = error_simulation.verdicts(people.with_effect(effect), 150, 400, POLICY, 200, seed=1)
        assert sum(told.values()) == 400
        return told["PROMOTE"] / 400

    assert promoted(0.5, 0.5) > 0.99
    assert promoted(0.0, 0.0) < 0.05
    assert promoted(-0.02, 0.5) < 0.1  # worse by the margin on `horizon`: alpha, and what 400 looks leave open
    assert promoted(0.5, -0.5) == 0


def test_the_same_seed_gives_the_same_verdicts() -> None:
    people = world(60)
    first, again, other = (error_simulation.verdicts(people, 50, 100, POLICY, 100, seed) for seed in (3, 3, 4))

    assert first == again
    assert first != other


def point(what: str, users: int, promoted: int, effect: float = 0.0, of: int = 1000) -> dict:
    return {"what": what, "users": users, "looks": of, "effect": {"next_item": effect, "horizon": 0.0},
            "verdicts": {"PROMOTE": promoted, "HOLD": of - promoted}}  # fmt: skip


def test_users_are_enough_only_if_more_are_too() -> None:
    points = [point(BETTER, users, n, 0.1) for users, n in ((100, 850), (200, 700), (400, 820), (800, 990))]

    assert users_needed(points, BETTER, 0.1, 0.8) == 400
    assert users_needed(points, BETTER, 0.1, 0.995) is None
    assert users_needed(points, ALONE, 0.1, 0.8) is None


def test_an_error_rate_holds_from_where_it_is_never_passed_again() -> None:
    assert errors_hold_from([point(WORSE, 50, 40), point(WORSE, 100, 51), point(WORSE, 200, 50)], 0.05) == 200
    assert errors_hold_from([point(WORSE, 100, 10), point(WORSE, 200, 90)], 0.05) is None


def test_points_of_several_pairs_add_up() -> None:
    (one,) = pooled([point(EQUAL, 50, 10), point(EQUAL, 50, 30)])

    assert (one["users"], one["looks"], one["verdicts"]) == (50, 2000, {"PROMOTE": 40, "HOLD": 1960})


def facts(worse: int = 40) -> dict:
    points = [point(EQUAL, users, 20) for users in (50, 100)]
    points += [point(WORSE, 50, 90), point(WORSE, 100, worse)]
    points += [point(what, users, 900, 0.5) for what in (BETTER, ALONE) for users in (50, 100)]
    made = {
        "dataset": "made", "split_id": "s", "labels": ["ours", "theirs"], "seed": 0, "commit": "c", "date": "d",
        "command": "python -m experiments.error_rates", "policy": POLICY.model_dump(),
        "settings": {"looks": 1000, "power_looks": 1000, "users": [50, 100], "effects": [0.5], "detectable": 0.5},
        "pairs": [{"pair": "ours against theirs", "kind": "models", "users": 9, "points": points}],
    }  # fmt: skip
    return made | {"min_users": min_users(made)}


def test_min_users_keeps_both_errors_and_sees_the_effect() -> None:
    assert facts()["min_users"] == 100
    assert facts(worse=90)["min_users"] is None


def test_the_statement_says_what_was_reached_and_what_was_not() -> None:
    assert "from 100 users on equals are promoted in 2.0% of windows" in statement(facts())
    assert "worse by the margin in 4.0%" in statement(facts())
    assert "no simulated number of users keeps both errors at 5%" in statement(facts(worse=90))


def test_the_page_shows_every_figure_and_the_chart_every_line() -> None:
    text, drawn = markdown(facts()), ElementTree.fromstring(chart(facts()))
    lines = drawn.findall("{http://www.w3.org/2000/svg}polyline")

    assert "| 100 | 1,000 | 4.0% |" in text
    assert re.search(r"\| \+50% \| 50 \| 50 \|", text)
    assert len(lines) == 3  # equal, better on both, better on the primary alone
    assert all(len(line.get("points", "").split()) == 2 for line in lines)
