"""Who is in which segment at a moment, and that many at once are what they are one by one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from segment_reference import RuleEvent, RuleProfile, matching_segments

from config.command import UserError
from config.params import SegmentRules, load
from config.paths import ROOT
from data.columns import DAY
from features.segment_membership import collect_inputs, membership
from features.segment_rules import describe_rule
from features.sequences import InteractionLog

ITEMS = {
    "scream": {"genres": frozenset({"Horror", "Thriller"})},
    "up": {"genres": frozenset({"Comedy"})},
    "bare": {"genres": frozenset()},
}
IDS = list(ITEMS)


def rules(*conditions: dict, name: str = "it", kind: str = "all") -> list[dict]:
    return SegmentRules.model_validate({"rules": [{"name": name, kind: list(conditions)}]}).plain()


def holds(condition: dict, *events: tuple, day: float = 100, **profile: object) -> bool:
    """Whether a condition holds on a day for (day, item) events, known at once or on a third day."""
    made = happened(*events)
    return matching_segments(rules(condition), RuleProfile(made, **profile), round(day * DAY), ITEMS) == ["it"]


def happened(*events: tuple) -> list[RuleEvent]:
    return [RuleEvent(item, round(at * DAY), round((known[0] if known else at) * DAY)) for at, item, *known in events]


def item_table() -> pd.DataFrame:
    return pd.DataFrame({"item_id": IDS, "genres": ["|".join(sorted(ITEMS[name]["genres"])) or None for name in IDS]})


def log_of(people: list[list[RuleEvent]]) -> InteractionLog:
    """The same events as a log; an item that IDS does not hold has row 0."""
    flat = [(event.time_us, event.known_us, IDS.index(event.item_id) + 1 if event.item_id in IDS else 0)
            for events in people for event in events]  # fmt: skip
    column = np.array(flat, dtype=np.int64).reshape(-1, 3)
    offsets = np.concatenate([[0], np.cumsum([len(events) for events in people])]).astype(np.int64)
    nothing = np.zeros((len(flat), 0), dtype=np.int64)
    return InteractionLog(
        offsets, column[:, 2], column[:, 0], column[:, 1], nothing, np.zeros((len(people), 0), dtype=np.int64)
    )


# One profile


@pytest.mark.parametrize(
    ("condition", "events", "expected"),
    [
        ({"fact": "events", "at_least": 2}, [(1, "up"), (2, "up")], True),
        ({"fact": "events", "at_least": 2}, [(1, "up"), (100, "up")], False),  # at the moment is not before it
        ({"fact": "events", "at_least": 2}, [(1, "up"), (2, "up", 101)], False),  # not known yet
        ({"fact": "events", "at_least": 2}, [(1, "up"), (2, "up", 100)], True),  # known just now
        ({"fact": "events", "at_most": 0}, [], True),
        ({"fact": "events", "last_days": 7, "at_least": 1}, [(93, "up")], True),
        ({"fact": "events", "last_days": 7, "at_least": 1}, [(92.9, "up")], False),
        ({"fact": "events", "last_days": 7, "at_least": 1}, [(92.9, "up", 99)], False),  # late, and old by then
        ({"fact": "events", "last_days": 7, "at_least": 1}, [(92, "up", 101), (99, "up")], True),  # old before known
        ({"fact": "days_since_last", "above": 28}, [(1, "up"), (71.9, "up")], True),
        ({"fact": "days_since_last", "above": 28}, [(1, "up"), (72, "up")], False),
        ({"fact": "days_since_last", "above": 28}, [], False),  # days since what?
        ({"fact": "days_since_first", "below": 7}, [(93.1, "up"), (99, "up")], True),
        ({"fact": "days_since_first", "below": 7}, [(93, "up"), (99, "up")], False),
        ({"fact": "days_since_first", "below": 7}, [(50, "up", 101), (99, "up")], True),
        ({"share_of": {"field": "genres", "value": "Horror"}, "at_least": 0.5}, [(1, "scream"), (2, "up")], True),
        ({"share_of": {"field": "genres", "value": "Horror"}, "above": 0.5}, [(1, "scream"), (2, "lost")], False),
        ({"share_of": {"field": "genres", "value": "Horror"}, "at_most": 0}, [(1, "bare")], True),
        ({"share_of": {"field": "genres", "value": "Horror"}, "at_most": 1}, [], False),  # a share of nothing
    ],
)
def test_a_condition_rests_on_what_was_known_before_the_moment(condition, events, expected) -> None:
    assert holds(condition, *events) is expected
    plain, log = rules(condition), log_of([happened(*events)])
    facts = collect_inputs(plain, pd.DataFrame({"user_id": ["u0"]}), item_table(), ["u0"], IDS)
    assert membership(plain, log, facts, np.array([0]), np.array([100 * DAY])).tolist() == [[expected]]


@pytest.mark.parametrize(
    ("condition", "value", "expected"),
    [
        ({"trait": "age", "equals": 25}, 25.0, True),
        ({"trait": "age", "equals": "25"}, 25, True),
        ({"trait": "plan", "in": ["free", "trial"]}, "trial", True),
        ({"trait": "plan", "in": ["free", "trial"]}, "paid", False),
        ({"trait": "code", "equals": 7}, "007", False),
        ({"trait": "adult", "equals": True}, True, True),
        ({"trait": "plan", "equals": "nan"}, float("nan"), False),
        ({"trait": "plan", "equals": "None"}, None, False),
    ],
)
def test_a_trait_has_one_of_some_values(condition, value, expected) -> None:
    name = condition["trait"]

    assert holds(condition, traits={name: value}, traits_known_us=0) is expected
    assert holds(condition, traits={name: value}, traits_known_us=101 * DAY) is False
    assert holds(condition, traits={name: value}) is False
    assert holds(condition, traits_known_us=0) is False


def test_all_conditions_must_hold_and_of_any_one_is_enough() -> None:
    few, new = {"fact": "events", "at_most": 1}, {"fact": "days_since_first", "below": 7}
    profile = RuleProfile([RuleEvent("up", 50 * DAY, 50 * DAY)])

    def found(rule: dict) -> list[str]:
        plain = SegmentRules.model_validate({"rules": [{"name": "it", **rule}]}).plain()
        return matching_segments(plain, profile, 100 * DAY, ITEMS)

    assert found({"any": [few, new]}) == ["it"]
    assert found({"all": [few, new]}) == []
    assert found({"all": [few], "any": [new]}) == []
    assert found({"all": [few], "any": [few, new]}) == ["it"]


def test_the_shipped_rules_say_what_their_names_say() -> None:
    shipped = load(ROOT / "params.yaml").segments.plain()

    def found(*days: float) -> list[str]:
        events = [RuleEvent("up", round(day * DAY), round(day * DAY)) for day in days]
        return matching_segments(shipped, RuleProfile(events), 100 * DAY, {})

    assert found() == []
    assert found(99) == ["new"]
    assert found(*np.linspace(98, 99, 5)) == ["new", "active"]
    assert found(10, 80, 85, 90, 91) == ["regular"]
    assert found(*np.linspace(1, 60, 50)) == ["lapsed", "heavy"]


# Many at once

MOMENTS = st.integers(0, 12)  # few distinct ones, in quarters of a day: ties and bounds are met exactly
BOUND = st.dictionaries(
    st.sampled_from(["at_least", "at_most", "above", "below"]), st.sampled_from([0, 0.25, 0.5, 1, 2, 3]), min_size=1
)
CONDITION = st.one_of(
    st.builds(lambda bounds: {"fact": "events", **bounds}, BOUND),
    st.builds(lambda days, bounds: {"fact": "events", "last_days": days, **bounds}, st.sampled_from([0.25, 1, 2]), BOUND),
    st.builds(lambda bounds: {"fact": "days_since_first", **bounds}, BOUND),
    st.builds(lambda bounds: {"fact": "days_since_last", **bounds}, BOUND),
    st.builds(lambda value, bounds: {"share_of": {"field": "genres", "value": value}, **bounds},
              st.sampled_from(["Horror", "Comedy", "Western"]), BOUND),
    st.builds(lambda value: {"trait": "age", "equals": value}, st.sampled_from([18, "18", 30.5])),
    st.builds(lambda values: {"trait": "plan", "in": values}, st.lists(st.sampled_from(["free", "paid"]), min_size=1)),
)  # fmt: skip
RULE = st.one_of(
    st.fixed_dictionaries({"all": st.lists(CONDITION, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"any": st.lists(CONDITION, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"all": st.lists(CONDITION, min_size=1), "any": st.lists(CONDITION, min_size=1)}),
)
EVENTS = st.lists(st.tuples(MOMENTS, st.one_of(st.just(0), st.integers(0, 12)), st.sampled_from([0, 1, 2, 3])))
USER = st.tuples(EVENTS, st.sampled_from([18.0, 30.5, None]), st.sampled_from(["free", "paid", None]))


def tables(people: list) -> tuple[InteractionLog, pd.DataFrame, pd.DataFrame, list[RuleProfile]]:
    """The same people as a log with its tables, and as one profile each."""
    quarter = DAY // 4
    profiles = []
    for events, age, plan in people:
        own = sorted((at * quarter, (at + late) * quarter, item) for at, late, item in events)
        known = min((max(time, seen) for time, seen, _ in own), default=None)
        made = [RuleEvent("lost" if item == 0 else IDS[item - 1], time, seen) for time, seen, item in own]
        profiles.append(RuleProfile(made, {"age": age, "plan": plan}, known))
    log = log_of([list(profile.events) for profile in profiles])
    users = pd.DataFrame({"user_id": [f"u{n}" for n in range(len(people))],
                          "age": [age for _, age, _ in people], "plan": [plan for *_, plan in people]})  # fmt: skip
    return log, users, item_table(), profiles


@settings(max_examples=150, deadline=None)
@given(
    people=st.lists(USER, min_size=1, max_size=5),
    written=st.lists(RULE, min_size=1, max_size=4),
    pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), max_size=20),
)
def test_membership_equals_the_rules_evaluated_one_by_one(people, written, pairs) -> None:
    named = [{"name": f"s{n}", **rule} for n, rule in enumerate(written)]
    log, users, items, profiles = tables(people)
    user = np.array([who % len(people) for who, _ in pairs], dtype=np.int64)
    time_us = np.array([at * (DAY // 4) for _, at in pairs], dtype=np.int64)
    facts = collect_inputs(named, users, items, users["user_id"].tolist(), IDS)

    found = membership(named, log, facts, user, time_us)

    expected = [matching_segments(named, profiles[who], int(at), ITEMS) for who, at in zip(user, time_us, strict=True)]
    names = np.array([rule["name"] for rule in named])
    assert [names[row].tolist() for row in found] == expected


def test_a_log_without_events_has_no_members() -> None:
    log, users, items, _ = tables([([], None, None)])
    plain = rules({"fact": "days_since_first", "below": 7}, {"trait": "age", "equals": 1})
    facts = collect_inputs(plain, users, items, ["u0"], IDS)

    assert not membership(plain, log, facts, np.zeros(1, np.int64), np.array([DAY])).any()


def test_a_missing_column_is_named() -> None:
    _, users, items, _ = tables([([], None, None)])

    with pytest.raises(UserError, match=r"^segments\.rules: it uses income, which the users do not have; theirs: age"):
        collect_inputs(rules({"trait": "income", "equals": 1}), users, items, ["u0"], IDS)
    with pytest.raises(UserError, match=r"it uses mood, which the items do not have; theirs: genres$"):
        collect_inputs(rules({"share_of": {"field": "mood", "value": "sad"}, "above": 0}), users, items, ["u0"], IDS)


# Rules as they are written


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"all": [{"fact": "events"}]}, "expected at_least, at_most, above or below"),
        ({"all": [{"fact": "events", "at_least": 5, "below": 2}]}, "no number is above 5 and below 2"),
        ({"all": [{"fact": "days_since_last", "last_days": 3, "above": 1}]}, "last_days belongs to fact: events only"),
        ({"all": [{"trait": "plan", "fact": "events", "above": 1}]}, "expected one of fact, share_of and trait"),
        ({"all": [{"trait": "plan"}]}, "trait plan needs either equals or in"),
        ({"all": [{"trait": "plan", "equals": "a", "in": ["b"]}]}, "trait plan needs either equals or in"),
        ({}, "segment it has no conditions; expected all or any"),
        ({"all": []}, "at least 1 item"),
        ({"all": [{"fact": "visits", "above": 1}]}, "'events', 'days_since_first' or 'days_since_last'"),
        ({"all": [{"genre": "Horror", "above": 1}]}, "Extra inputs are not permitted"),
    ],
)
def test_an_invalid_rule_is_refused(rule, message) -> None:
    with pytest.raises(ValidationError, match=message):
        SegmentRules.model_validate({"rules": [{"name": "it", **rule}]})


def test_two_segments_of_one_name_are_refused() -> None:
    rule = {"name": "it", "all": [{"fact": "events", "at_least": 1}]}

    with pytest.raises(ValidationError, match="two segments are called it"):
        SegmentRules.model_validate({"rules": [rule, rule]})


def test_a_rule_is_described_in_words() -> None:
    plain = SegmentRules.model_validate({"rules": [{"name": "it", "all": [
        {"fact": "events", "last_days": 7, "at_least": 3}, {"trait": "plan", "in": ["trial", "free"]}],
        "any": [{"share_of": {"field": "genres", "value": "Horror"}, "at_least": 0.3},
                {"fact": "days_since_first", "below": 7}]}]}).plain()  # fmt: skip

    assert describe_rule(plain[0]) == (
        "events of the last 7 days at least 3 and plan is free or trial; and share of events with genres Horror at "
        "least 0.3 or days since the first event below 7"
    )
