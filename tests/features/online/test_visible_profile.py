"""What a profile shows as of a moment is what training saw of the same events."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from config.params import SegmentRules
from data.cleaning import resolve_repeats, sort_events
from data.columns import DAY, HOUR
from features.encode import Batch, drop_unknown, encode_values, make_batch
from features.fit import build_log
from features.materialization import profiles_at
from features.online import profile as profile_module
from features.online import records
from features.online.profile import Event, Profile, TimedValue, join_profiles, make_profile
from features.segment_membership import collect_inputs, membership
from features.segment_rules import VisibleProfile, compile_rules, matching_rules
from features.sequences import EvaluationCases, InteractionLog, batches, history_ends
from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary

T = 1_700_000_000_000_000
USERS = pd.DataFrame({"user_id": ["u0", "u1", "u2"], "plan": ["free", None, "paid"], "age": [31.0, 18.0, None]})
ITEMS = pd.DataFrame({"item_id": [f"i{number}" for number in range(6)], "genres": ["A", "A|B", "B", None, "A", "B"]})
VOCABULARY = Vocabulary(["i2", "i0", "i3", "i1"])  # i4 and i5 are unknown to the model
ENCODERS = {
    "traits": [{"column": "plan", "values": ["paid", "free"]}, {"column": "age", "edges": [20.0, 40.0]}],
    "context": [],
}
NO_TRENDS = TrendSnapshot(np.zeros((len(VOCABULARY), 1), np.float32), ["all"], T)
# Many events in few hours: equal times are where orders differ.
event_row = st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 4), st.integers(0, 3))
rows = st.lists(event_row, max_size=25) | st.lists(event_row, min_size=15, max_size=30)
moments = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8)), min_size=3, max_size=8)


def frame(drawn: list, lags: bool, random) -> pd.DataFrame:
    """Events (user, item, hour, lag); ids in no order, so that equal times come in the order of their ids."""
    ids = [f"e{number:02d}" for number in range(len(drawn))]
    random.shuffle(ids)
    users, items, hours, late = zip(*drawn, strict=True) if drawn else ((),) * 4
    happened = np.array(hours, dtype=np.int64) * HOUR + T
    learned = happened + np.array(late, dtype=np.int64) * HOUR * lags

    def column(values: np.ndarray) -> pd.Series:
        return pd.to_datetime(pd.Series(values), unit="us", utc=True).astype("datetime64[us, UTC]")

    return pd.DataFrame({
        "event_id": pd.Series(ids, dtype=object), "user_id": [f"u{user}" for user in users],
        "item_id": [f"i{item}" for item in items], "event_time": column(happened), "known_time": column(learned),
        "event_type": "play",
    })  # fmt: skip


def offline(events: pd.DataFrame, repeats: str) -> InteractionLog:
    return build_log(resolve_repeats(sort_events(events), repeats), USERS, VOCABULARY, ENCODERS)


def live(events: pd.DataFrame, random) -> dict[str, Profile]:
    """The profiles of the same events, arrived in pieces, shuffled and some of them twice."""
    pieces = [event for one in profiles_at(events, USERS, T + 99 * DAY) for event in pieces_of(one)]
    pieces += pieces[:3]
    random.shuffle(pieces)
    start = {user: Profile(user) for user in USERS["user_id"]}
    return {user: reduce(lambda one, other: join_profiles(one, other, 100), [p for p in pieces if p.user_id == user], empty)
            for user, empty in start.items()}  # fmt: skip


def pieces_of(profile: Profile) -> list[Profile]:
    return [make_profile(profile.user_id, [event]) for event in profile.events] + [
        make_profile(profile.user_id, traits=profile.traits)
    ]


def encoded(stored: list[Profile], time_us: np.ndarray, repeats: str, max_history: int | None) -> Batch:
    """Profiles as the worker encodes them."""
    histories = [
        profile_module.visible_events(profile, at, repeats)
        for profile, at in zip(stored, time_us.tolist(), strict=True)
    ]
    items, times, lengths = drop_unknown(
        VOCABULARY.indices(event.item_id for history in histories for event in history),
        np.array([event.time_us for history in histories for event in history], dtype=np.int64),
        np.array([len(history) for history in histories]),
    )
    traits = [
        encode_values(profile_module.visible_traits(profile, at), ENCODERS["traits"])
        for profile, at in zip(stored, time_us.tolist(), strict=True)
    ]
    return make_batch(
        items, times, lengths, time_us, np.array(traits), np.zeros((len(stored), 0)),
        NO_TRENDS.at(time_us[:1], ["all"]), np.zeros(len(stored), np.int64), max_history,
    )  # fmt: skip


@pytest.mark.parametrize("repeats", ["first", "last", "all"])
@given(drawn=rows, asked=moments, max_history=st.sampled_from([None, 3]), random=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_a_stored_history_encodes_to_the_tensors_of_training(repeats, drawn, asked, max_history, random) -> None:
    # Ingest resolves repeats with all that it will ever know, a profile with what is known at the moment. They meet
    # where nothing comes late, and for `last` where nothing is still to come.
    everybody = [(person, 5, 4, 0) for person in range(3)]  # ingest lists no user without an event
    events = frame(drawn + everybody, lags=repeats == "all", random=random)
    log = offline(events, repeats)
    user = np.array([person for person, _ in asked])
    time_us = T + HOUR * np.array([hour + 10 * (repeats == "last") for _, hour in asked], dtype=np.int64)
    nothing = np.zeros(len(user), np.int64)
    cases = EvaluationCases("next_item", user, time_us, history_ends(log, user, time_us), np.zeros((len(user), 0), np.int64),
                  nothing, nothing, np.arange(len(user) + 1))  # fmt: skip
    stored = live(events, random)

    ((order, trained),) = batches(log, cases, NO_TRENDS, ("all",), time_us, 99, max_history)
    served = encoded([stored[f"u{person}"] for person in user[order]], time_us[order], repeats, max_history)

    late = (events["known_time"] > events["event_time"]).any()
    for name in ("items", "item_times", "time", "context", "seen", *(() if late else ("traits",))):
        assert torch.equal(getattr(served, name), getattr(trained, name)), name


RULES = SegmentRules.model_validate({"rules": [
    {"name": "busy", "all": [{"fact": "events", "last_days": 0.1, "at_least": 2}]},
    {"name": "new", "all": [{"fact": "days_since_first", "below": 0.15}]},
    {"name": "gone", "all": [{"fact": "days_since_last", "above": 0.1}]},
    {"name": "fan", "all": [{"share_of": {"field": "genres", "value": "A"}, "at_least": 0.5}]},
    {"name": "payer", "any": [{"trait": "plan", "equals": "paid"}, {"trait": "age", "in": [31]}]},
]}).plain()  # fmt: skip
GENRES = {
    row.item_id: {"genres": frozenset(row.genres.split("|")) if row.genres else frozenset()}
    for row in ITEMS.itertuples()
}


@given(drawn=rows, asked=moments, random=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_segments_of_a_profile_are_those_of_an_evaluation(drawn, asked, random) -> None:
    events = frame(drawn, lags=True, random=random)
    everything = Vocabulary(ITEMS["item_id"])  # an evaluation reads genres by item row
    log = build_log(events, USERS, everything, ENCODERS)
    facts = collect_inputs(RULES, USERS, ITEMS, USERS["user_id"], ITEMS["item_id"])
    user, hours = np.array([person for person, _ in asked]), np.array([hour for _, hour in asked], dtype=np.int64)
    stored = live(events, random)

    belongs = membership(RULES, log, facts, user, T + HOUR * hours)

    for row, (person, hour) in enumerate(asked):
        profile, as_of = stored[f"u{person}"], T + HOUR * hour
        items, times = profile_module.visible_items(profile, as_of, "all")
        traits = profile_module.visible_traits(profile, as_of)
        found = matching_rules(compile_rules(RULES, GENRES), VisibleProfile(items, times, traits, as_of))
        assert found == [rule["name"] for rule, inside in zip(RULES, belongs[row], strict=True) if inside]


def event(hour: int, name: str, item: str = "i0", lag: int = 0) -> Event:
    return Event(T + hour * HOUR, name, T + (hour + lag) * HOUR, item, "play")


def names(profile: Profile, hour: int, repeats: str = "all") -> list[str]:
    return [seen.event_id for seen in profile_module.visible_events(profile, T + hour * HOUR, repeats)]


def test_a_moment_sees_only_what_is_strictly_before_it_and_known() -> None:
    profile = make_profile("u", [event(1, "a"), event(2, "b", lag=3), event(3, "c")])

    assert names(profile, 1) == []
    assert names(profile, 3) == ["a"]
    assert names(profile, 4) == ["a", "c"]
    assert names(profile, 5) == ["a", "b", "c"]


def test_an_id_that_came_with_two_times_counts_once() -> None:
    assert names(make_profile("u", [event(1, "a"), event(2, "a", "i1")]), 9) == ["a"]


def test_repeats_are_resolved_by_rule() -> None:
    profile = make_profile("u", [event(1, "a", "i0"), event(2, "b", "i1"), event(3, "c", "i0")])

    assert [names(profile, 9, rule) for rule in ("first", "last", "all")] == [["a", "b"], ["b", "c"], ["a", "b", "c"]]
    with pytest.raises(ValueError, match="repeats is 'each'"):
        names(profile, 9, "each")


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 2), st.integers(0, 3)), max_size=8),
    st.integers(0, 9), st.sampled_from(["first", "last", "all"]),
)  # fmt: skip
@settings(deadline=None)
def test_what_a_model_reads_of_a_record_is_the_history(given_events: list, hour: int, repeats: str) -> None:
    events = [event(at, str(name), f"i{item}", lag) for at, name, item, lag in given_events]
    stored = records.decode_profile(records.encode_profile(make_profile("u", events)), "u")
    history = profile_module.visible_events(make_profile("u", events), T + hour * HOUR, repeats)

    expected = [seen.item_id for seen in history], [seen.time_us for seen in history]
    assert tuple(map(list, profile_module.visible_items(stored, T + hour * HOUR, repeats))) == expected


def test_a_trait_is_unknown_before_it_was_set_and_after_it_was_removed() -> None:
    profile = make_profile("u", traits={"plan": TimedValue(T, "e", T + 2, "free"), "age": TimedValue(T, "e", T, None)})

    assert [profile_module.visible_traits(profile, T + at) for at in (-1, 1, 2)] == [{}, {}, {"plan": "free"}]
