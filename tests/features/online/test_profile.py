"""However events arrive, the same profile comes of them."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.columns import DAY
from data.consent import NEVER_ASKED, Answer, ConsentRecord
from data.time_columns import EARLIEST, LATEST
from features.online.errors import NewerRecord, ProfileError, RecordError
from features.online.profile import EARLIEST_US, LATEST_US, Event, Profile, TimedValue, join_profiles, make_profile
from features.online.records import decode_consent, decode_profile, encode_consent, encode_profile

T = 1_700_000_000_000_000
MOST = 5
GOOD = Event(T, "e", T, "i", "play")
few = st.integers(0, 6)
# So few values that ids, times and items often meet, as in no honest log: ties are where orders differ.
times = st.tuples(few, st.integers(0, 2)).map(lambda pair: (T + pair[0], T + sum(pair)))
events = st.builds(
    lambda when, name, item: Event(when[0], f"e{name}", when[1], f"i{item}", "play"), times, few, st.integers(0, 3)
)
traits = st.builds(
    lambda when, name, value: TimedValue(when[0], f"e{name}", when[1], value),
    times, st.integers(0, 2), st.sampled_from(["free", "paid", 3, 3.0, True, None]),
)  # fmt: skip
answers = st.builds(
    lambda value, when, source, expires: Answer(value, T + when, source, expires),
    st.booleans(), few, st.sampled_from(["page", "\ud800"]), st.none() | few.map(lambda days: T + days * DAY),
)  # fmt: skip
consents = st.dictionaries(st.sampled_from(["model_training", "personalization"]), answers, max_size=2)
changes = st.builds(
    lambda listed, words, agreed: make_profile("u", listed, words, agreed),
    st.lists(events, max_size=3),
    st.dictionaries(st.sampled_from(["plan", "age"]), traits, max_size=2),
    st.none() | consents,
)
profiles = st.lists(changes, max_size=4).map(lambda parts: merged(parts))


def merged(parts: list[Profile]) -> Profile:
    return reduce(lambda one, other: join_profiles(one, other, MOST), parts, Profile("u"))


@given(st.lists(changes, max_size=12), st.data())
@settings(max_examples=100, deadline=None)
def test_shuffled_repeated_and_late_arrival_give_the_same_profile(parts: list[Profile], data: st.DataObject) -> None:
    again = data.draw(st.lists(st.sampled_from(parts), max_size=6)) if parts else []
    arrived = data.draw(st.permutations(parts + again))

    assert merged(arrived) == merged(parts)
    assert encode_profile(merged(arrived)) == encode_profile(merged(parts))


@given(profiles, profiles, profiles)
@settings(max_examples=100, deadline=None)
def test_profiles_join_in_any_grouping(one: Profile, other: Profile, third: Profile) -> None:
    assert join_profiles(one, other, MOST) == join_profiles(other, one, MOST)
    assert join_profiles(join_profiles(one, other, MOST), third, MOST) == join_profiles(
        one, join_profiles(other, third, MOST), MOST
    )
    assert join_profiles(one, one, MOST) == one


@given(st.lists(changes, max_size=12))
@settings(max_examples=100, deadline=None)
def test_a_profile_keeps_the_newest_events_and_is_marked_truncated_if_it_dropped_some(parts: list[Profile]) -> None:
    everything = {event[:2] for part in parts for event in part.events}
    kept = merged(parts)

    assert [event[:2] for event in kept.events] == sorted(everything)[-MOST:]
    assert kept.truncated == (len(everything) > MOST)


@given(st.lists(changes, min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_feature_time_never_goes_back(parts: list[Profile]) -> None:
    so_far = Profile("u")
    for part in parts:
        grown = join_profiles(so_far, part, MOST)
        assert grown.feature_time_us >= max(so_far.feature_time_us, part.feature_time_us)
        so_far = grown
    known = [event.known_us for part in parts for event in part.events]
    assert so_far.feature_time_us >= max(known, default=0)


def test_the_latest_word_holds_whenever_it_arrives() -> None:
    old = make_profile("u", traits={"plan": TimedValue(T, "b", T + 9, "free")})
    new = make_profile("u", traits={"plan": TimedValue(T + 1, "a", T + 1, "paid")})

    assert merged([new, old]).traits["plan"].value == "paid"


def test_of_a_yes_and_a_no_at_the_same_moment_the_no_holds() -> None:
    yes, no = (make_profile("u", consent={"model_training": Answer(agreed, T, "page")}) for agreed in (True, False))

    assert merged([yes, no]).consent == merged([no, yes]).consent == no.consent


def test_an_event_that_arrives_again_keeps_the_time_at_which_it_was_first_known() -> None:
    first, again = (make_profile("u", [Event(T, "a", T + lag, "i", "play")]) for lag in (1, DAY))

    assert merged([again, first]).events == first.events


def test_a_repeated_trait_keeps_the_time_at_which_it_was_first_known() -> None:
    first, again = (make_profile("u", traits={"plan": TimedValue(T, "a", T + lag, "free")}) for lag in (1, DAY))

    assert merged([again, first]).traits == merged([first, again]).traits == first.traits


def test_a_gap_in_either_account_is_a_gap_in_both() -> None:
    whole, broken = make_profile("u", [GOOD]), replace(make_profile("u", [GOOD]), truncated=True)

    assert join_profiles(whole, broken, MOST).truncated
    assert join_profiles(broken, whole, MOST).truncated


def test_profiles_of_two_users_do_not_join() -> None:
    with pytest.raises(ValueError, match="two users"):
        join_profiles(Profile("u"), Profile("v"), MOST)


def test_times_are_bounded_as_ingest_bounds_them() -> None:
    assert (EARLIEST.value // 1000, LATEST.value // 1000) == (EARLIEST_US, LATEST_US)


@pytest.mark.parametrize(
    ("field", "given_parts"),
    [
        ("user_id", {"user_id": " "}),
        ("user_id", {"user_id": "u" * 257}),
        ("item_id", {"events": [GOOD._replace(item_id=7)]}),
        ("event_id", {"events": [GOOD._replace(event_id="")]}),
        ("event_type", {"events": [GOOD._replace(event_type=None)]}),
        ("event_time", {"events": [GOOD._replace(time_us=float(T))]}),
        ("event_time", {"events": [GOOD._replace(time_us=5)]}),
        ("known_time", {"events": [GOOD._replace(known_us=T - 1)]}),
        ("traits.age", {"traits": {"age": TimedValue(T, "e", T, float("nan"))}}),
        ("traits.age", {"traits": {"age": TimedValue(T, "e", T, [7])}}),
        ("traits", {"traits": {"": TimedValue(T, "e", T, 7)}}),
        ("traits.plan", {"traits": {"plan": TimedValue(T, "e", T, 2**63)}}),
        ("consent.model_training", {"consent": {"model_training": Answer("yes", T, "page")}}),
        ("consent", {"consent": {" ": Answer(True, T, "page")}}),
        ("event_time", {"consent": {"model_training": Answer(True, True, "page")}}),
        ("source", {"consent": {"model_training": Answer(True, T, "")}}),
        ("expires", {"consent": {"model_training": Answer(True, T, "page", 5)}}),
    ],
)
def test_what_is_malformed_is_refused_by_its_field(field: str, given_parts: dict) -> None:
    with pytest.raises(ProfileError) as refused:
        make_profile(**{"user_id": "u", **given_parts})

    assert str(refused.value).startswith(f"{field}: ")


# Profiles as bytes


@given(profiles)
@settings(max_examples=200, deadline=None)
def test_a_record_gives_back_the_profile_without_its_consent(profile: Profile) -> None:
    assert decode_profile(encode_profile(profile), "u") == replace(profile, consent=None)
    for name, stated in decode_profile(encode_profile(profile), "u").traits.items():
        assert type(stated.value) is type(profile.traits[name].value)  # 3 and 3.0 are other rows of a table


def test_half_a_surrogate_pair_is_text_too() -> None:
    profile = make_profile("\ud800", [GOOD._replace(item_id="\udfff")])

    assert decode_profile(encode_profile(profile), "\ud800") == profile


@given(profiles, st.data())
@settings(max_examples=200, deadline=None)
def test_a_changed_byte_is_noticed(profile: Profile, data: st.DataObject) -> None:
    raw = bytearray(encode_profile(profile))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))

    with pytest.raises(RecordError):
        decode_profile(bytes(raw), "u")


@given(st.binary(max_size=40))
def test_arbitrary_bytes_are_not_a_record(raw: bytes) -> None:
    with pytest.raises(RecordError):
        decode_profile(raw, "u")


def test_another_users_record_is_refused() -> None:
    with pytest.raises(RecordError, match="a profile record lies under the key of another user"):
        decode_profile(encode_profile(make_profile("u", [GOOD])), "v")
    with pytest.raises(RecordError, match="a consent record lies under the key of another user"):
        decode_consent(encode_consent(NEVER_ASKED, "u"), "v")


def test_a_later_format_is_named() -> None:
    raw = bytearray(encode_profile(replace(make_profile("u", [GOOD]), truncated=True)))
    raw[3] = 3

    with pytest.raises(NewerRecord, match="format 3"):
        decode_profile(bytes(raw), "u")
    with pytest.raises(NewerRecord, match="format 2"):
        decode_consent(b"TGC\x02" + encode_consent(NEVER_ASKED, "u")[4:], "u")


# Consent as bytes


@given(st.builds(ConsentRecord, consents, few))
def test_a_record_gives_back_the_consent(record: ConsentRecord) -> None:
    assert decode_consent(encode_consent(record, "\ud800"), "\ud800") == record


@given(st.builds(ConsentRecord, consents, few), st.data())
@settings(max_examples=200, deadline=None)
def test_a_changed_or_missing_byte_of_consent_is_noticed(record: ConsentRecord, data: st.DataObject) -> None:
    raw = bytearray(encode_consent(record, "u"))
    at = data.draw(st.integers(0, len(raw) - 1))
    shorter = bytes(raw[:at])
    raw[at] ^= data.draw(st.integers(1, 255))

    for damaged in (bytes(raw), shorter):
        with pytest.raises(RecordError):
            decode_consent(damaged, "u")


@pytest.mark.parametrize(
    "answer", [["yes", T, "page", None], [1, T, "page", None], [True, "now", "page", None], [True]]
)
def test_an_answer_of_another_type_is_no_record(answer: list) -> None:
    record = ConsentRecord({"model_training": tuple(answer)})  # type: ignore[dict-item]

    with pytest.raises(RecordError, match="a consent record is corrupt"):
        decode_consent(encode_consent(record, "u"), "u")
