"""The simulated world keeps its promises, and its oracle is the law that made it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from config import params
from data import columns
from data.columns import DAY, HOUR
from data.simulate import main
from data.simulator.audience import DEVICES
from data.simulator.plays import SimulationError, draw
from data.simulator.simulation import TABLES, Oracle, simulate

START = datetime(2026, 1, 1, 9, 30, tzinfo=UTC)  # not at midnight: the period's first day is a part of one


def settings(**changes) -> params.Simulate:
    sizes = {"users": 400, "items": 200, "events": 12_000, "days": 60, "start": START}
    return params.Simulate.model_validate(sizes | changes)


@pytest.fixture(scope="module")
def world():
    return simulate(settings(), seed=3)


@pytest.fixture(scope="module")
def tiny():
    """Few items and many plays of each, so that frequencies can be told from chance."""
    return simulate(settings(users=600, items=60, events=6_000), seed=5)


def microseconds(times: pd.Series) -> np.ndarray:
    return times.astype("int64").to_numpy()


def histories(events: pd.DataFrame) -> list[list[str]]:
    """What the user of each event played strictly before it; events are in time order."""
    past: dict[str, list[str]] = {}
    found = []
    for user, item in zip(events.user_id, events.item_id, strict=True):
        found.append(list(past.setdefault(user, [])))
        past[user].append(item)
    return found


def true_scores(world, events: pd.DataFrame, past: list[list[str]]) -> np.ndarray:
    return world.oracle.scores(events.user_id.tolist(), microseconds(events.event_time), past, events.device.tolist())


def parts(world, cut) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Events before the cut, and those from it on."""
    late = world.events.event_time >= cut
    return world.events[~late], world.events[late]


def item_indices(world, names) -> np.ndarray:
    return pd.Index(world.oracle.item_ids).get_indexer(names)


def ndcg_at_10(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean over cases of one truth each: 1 / log2(rank + 1) up to rank 10, ties against the model."""
    rank = (scores >= scores[np.arange(len(truth)), truth][:, None]).sum(axis=1)
    return float(np.where(rank <= 10, 1 / np.log2(rank + 1), 0).mean())


# --- the frames ---


def test_the_same_seed_gives_the_same_bytes(world):
    again = simulate(settings(), seed=3)
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(world, name), getattr(again, name), check_exact=True)


def test_another_seed_gives_another_world(world):
    other = simulate(settings(), seed=4)
    assert not world.events.item_id.equals(other.events.item_id)
    assert not world.items.title.equals(other.items.title)


def test_sizes_are_the_settings(world):
    assert (len(world.events), len(world.users), len(world.items)) == (12_000, 400, 200)
    assert set(columns.EVENT_COLUMNS) | {"device"} == set(world.events.columns)
    for table, name in (
        ("users", "user_id"),
        ("items", "item_id"),
        ("items", "title"),
        ("events", "event_id"),
    ):
        assert getattr(world, table)[name].is_unique
    assert world.events.event_time.dtype == "datetime64[us, UTC]"


def test_events_are_in_the_total_order_and_inside_the_period(world):
    times = microseconds(world.events.event_time)
    order = np.lexsort((world.events.event_id, times))
    assert (order == np.arange(len(times))).all()
    start = int(START.timestamp()) * columns.MICROSECONDS
    assert start <= times.min() <= times.max() < start + 60 * DAY


def test_no_item_is_played_before_its_release(world):
    played = world.events.merge(world.items, on="item_id")
    assert (played.event_time >= played.release_time).all()
    assert (world.items.release_time > START).any()  # or the line above would say nothing


def test_no_user_plays_before_joining_or_an_item_twice_or_two_at_a_time(world):
    played = world.events.merge(world.users, on="user_id")
    assert (played.event_time >= played.joined).all()
    assert not world.events.duplicated(["user_id", "item_id"]).any()
    assert not world.events.duplicated(["user_id", "event_time"]).any()


def test_a_few_plays_are_known_late_and_none_early(world):
    late = world.events.known_time - world.events.event_time
    assert (late >= pd.Timedelta(0)).all()
    assert 0.003 < (late > pd.Timedelta(0)).mean() < 0.03
    assert set(world.events.device[late > pd.Timedelta(0)]) <= {"phone", "tablet"}


def test_watched_shares_lie_between_0_and_1_and_fit_before_the_next_play(world):
    assert world.events.value.between(0, 1).all()
    played = world.events.merge(world.items, on="item_id").sort_values(["user_id", "event_time"])
    watched = pd.to_timedelta(played.value * played.duration_minutes, unit="min")
    same_user = played.user_id.eq(played.user_id.shift(-1))
    gap = played.event_time.shift(-1) - played.event_time
    assert (watched[same_user] <= gap[same_user] + pd.Timedelta(minutes=1)).all()


def test_about_four_in_a_hundred_withhold_consent_to_training():
    users = simulate(settings(users=4_000, items=60, events=4_000), seed=0).users
    assert 0.03 < 1 - users.consent_training.mean() < 0.05


def test_the_last_tenth_holds_warm_and_cold_users(world):
    cut = world.events.event_time.quantile(0.9)
    before, after = parts(world, cut)
    warm = after.user_id.drop_duplicates().isin(before.user_id).mean()
    assert 0.6 < warm < 0.99


def test_descriptions_tell_what_people_like(world):
    """Items that share words are nearer in the taste space than items that do not."""
    words = [set(text.lower().replace(",", "").replace(".", "").split()) for text in world.items.description]
    latents = world.oracle.preference.latents
    pairs = np.random.default_rng(0).integers(200, size=(4_000, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    shared = np.array([len(words[a] & words[b]) / len(words[a] | words[b]) for a, b in pairs])
    alike = (latents[pairs[:, 0]] * latents[pairs[:, 1]]).sum(axis=1)
    assert np.corrcoef(shared, alike)[0, 1] > 0.25


def test_evenings_and_weekends_are_busier(world):
    times = world.events.event_time
    assert (times.dt.hour >= 18).mean() > 1.5 * times.dt.hour.between(6, 11).mean()
    per_day = times.dt.dayofweek.value_counts()
    assert per_day[[5, 6]].mean() > 1.2 * per_day[[0, 1, 2, 3, 4]].mean()


def test_each_slate_holds_the_session_s_first_play_once_near_the_top(world):
    shown = world.impressions
    slates = shown.groupby("session_id")
    assert (slates.clicked.sum() == 1).all()
    assert (slates.position.max() == slates.size()).all()
    assert slates.size().max() <= 8
    assert not shown.duplicated(["session_id", "item_id"]).any()
    clicked = shown[shown.clicked].set_index("session_id")
    opening = world.events.drop_duplicates("session_id").set_index("session_id").loc[clicked.index]
    assert clicked.item_id.equals(opening.item_id)
    assert (clicked.event_time < opening.event_time).all()
    assert (clicked.position == 1).mean() > 2 * (clicked.position == 8).mean()


def test_no_slate_shows_what_the_user_has_played_before(world):
    pairs = world.impressions.merge(world.events, on=["user_id", "item_id"], suffixes=("", "_played"))
    assert (pairs.event_time_played > pairs.event_time).all()


# --- the oracle ---


def test_the_oracle_ranks_far_better_than_popularity(world):
    cut = world.events.event_time.quantile(0.9)
    test = (world.events.event_time >= cut).to_numpy()
    past = [history for history, chosen in zip(histories(world.events), test, strict=True) if chosen]
    cases = world.events[test]
    truth = item_indices(world, cases.item_id)
    oracle = true_scores(world, cases, past)
    counts = np.bincount(item_indices(world, world.events.item_id[~test]), minlength=200)
    popularity = np.where(np.isinf(oracle), -np.inf, counts)  # the oracle's own exclusions, to be fair
    assert ndcg_at_10(oracle, truth) > 1.8 * ndcg_at_10(popularity, truth)


def law_distances(world, scores: np.ndarray) -> tuple[float, float]:
    """How far the choices are from these log probabilities, in standard errors, if the latter were the law.

    By the sum over items of squared standardised (observed - expected) counts, and by the choices' log
    probability against the negative entropy. Both hold for draws whose law depends on the draws before.
    """
    chosen = item_indices(world, world.events.item_id)
    log_p = scores.astype(float)
    p = np.exp(log_p)
    p /= p.sum(axis=1, keepdims=True)
    observed, expected = np.bincount(chosen, minlength=p.shape[1]), p.sum(axis=0)
    squares = ((observed - expected) ** 2 / (p * (1 - p)).sum(axis=0)).sum()
    log_p = np.log(p, where=p > 0, out=np.zeros_like(p))
    mean = (p * log_p).sum(axis=1)
    variance = (p * log_p**2).sum(axis=1) - mean**2
    surprise = (log_p[np.arange(len(p)), chosen] - mean).sum() / np.sqrt(variance.sum())
    return (squares - p.shape[1]) / np.sqrt(2 * p.shape[1]), surprise


def test_choices_follow_the_softmax_of_the_true_preferences(tiny):
    scores = true_scores(tiny, tiny.events, histories(tiny.events))
    assert np.abs(law_distances(tiny, scores)).max() < 3.5


@pytest.mark.parametrize("flaw", ["colder", "no order", "no clock"])
def test_the_check_of_the_law_sees_a_wrong_law(tiny, flaw):
    past, events = histories(tiny.events), tiny.events
    if flaw == "no order":
        past = [history[::-1] for history in past]
    if flaw == "no clock":
        events = events.assign(event_time=events.event_time.max())
    scores = true_scores(tiny, events, past) * (0.8 if flaw == "colder" else 1.0)
    assert np.abs(law_distances(tiny, scores)).max() > 5


def test_draws_follow_the_softmax_and_never_take_what_is_ruled_out():
    utilities = np.log(np.array([0.0001, 1.0, 2.0, 1.0, 0.0001])) + np.array([-np.inf, 0, 0, 0, -np.inf])
    uniforms = (np.arange(1_000) + 0.5) / 1_000
    items = draw(np.tile(utilities, (1_000, 1)), uniforms)
    assert np.bincount(items, minlength=5).tolist() == [0, 250, 500, 250, 0]


def test_scores_are_log_probabilities_over_released_items_not_yet_played(world):
    event = world.events.iloc[[-1]]
    past = [histories(world.events)[-1]]
    scores = true_scores(world, event, past)
    without_device = world.oracle.scores(event.user_id.tolist(), microseconds(event.event_time), past)
    released = (world.items.release_time <= event.event_time.iloc[0]).to_numpy()
    possible = released & ~world.items.item_id.isin(past[0]).to_numpy()
    for found in (scores, without_device):
        assert (found.shape, found.dtype) == ((1, 200), np.float32)
        assert np.exp(found.astype(float)).sum() == pytest.approx(1, abs=1e-5)
        assert (np.isfinite(found[0]) == possible).all()


def test_without_devices_the_scores_average_over_the_users_devices(world):
    event = world.events.iloc[[5_000]]
    user, time, past = (
        event.user_id.tolist(),
        microseconds(event.event_time),
        [histories(world.events)[5_000]],
    )
    each = np.exp([world.oracle.scores(user, time, past, [device])[0] for device in DEVICES]).astype(float)
    share = world.oracle.preference.tastes.device[int(user[0][1:]), int(time[0] % DAY // (6 * HOUR))]
    assert np.allclose(np.exp(world.oracle.scores(user, time, past)[0]), share @ each, atol=1e-6)


def test_a_case_scores_the_same_alone_as_among_others(world):
    events = world.events.iloc[[100, 6_000, 11_000]]
    past = [histories(world.events)[row] for row in (100, 6_000, 11_000)]
    together = true_scores(world, events, past)
    for row in range(3):
        alone = true_scores(world, events.iloc[[row]], [past[row]])[0]
        assert np.allclose(alone, together[row], atol=1e-5)


def test_unknown_users_get_the_average_taste_and_unknown_items_are_skipped(world):
    time = microseconds(world.events.event_time)[-1:]
    scores = world.oracle.scores(["nobody"], time, [["no such item"]])
    assert np.array_equal(scores, world.oracle.scores(["somebody else"], time, [[]]))
    assert not np.array_equal(scores, world.oracle.scores(["u000000"], time, [[]]))


def test_the_next_part_is_likelier_right_after_its_predecessor(world):
    sequel = world.oracle.preference.sequel
    first = int(np.flatnonzero(sequel >= 0)[0])
    names = world.oracle.item_ids
    time = microseconds(world.events.event_time)[-1:]
    others = [name for index, name in enumerate(names) if index not in (first, sequel[first])][:20]
    fresh, stale = ([*others, names[first]], [names[first], *others])
    scores = {
        key: world.oracle.scores(["u000000"], time, [past])[0, sequel[first]]
        for key, past in {"fresh": fresh, "stale": stale, "never": others}.items()
    }
    assert scores["fresh"] > scores["stale"] > scores["never"]


def test_horizon_scores_leave_out_seen_items_and_later_releases(world):
    at = int(START.timestamp()) * columns.MICROSECONDS + 20 * DAY
    seen = world.items.item_id.iloc[:5].tolist()
    scores = world.oracle.horizon_scores(["u000001", "nobody"], at, 28, [seen, []])
    released = microseconds(world.items.release_time) <= at
    assert (scores.shape, scores.dtype) == ((2, 200), np.float32)
    assert (np.isfinite(scores[1]) == released).all()
    assert np.isinf(scores[0, :5]).all()
    assert (np.isfinite(scores[0, 5:]) == released[5:]).all()


def test_horizon_scores_find_the_plays_of_the_horizon_better_than_popularity(world):
    cut = world.events.event_time.quantile(0.9)
    before, after = parts(world, cut)
    users = after.user_id.unique().tolist()
    past = before.groupby("user_id").item_id.agg(list)
    lists = [past.get(user, []) for user in users]
    oracle = world.oracle.horizon_scores(users, int(cut.timestamp() * 1e6), 6, lists)
    counts = before.item_id.value_counts().reindex(world.oracle.item_ids).fillna(0).to_numpy()
    popularity = np.where(np.isinf(oracle), -np.inf, counts)
    rows = pd.Index(users).get_indexer(after.user_id)
    truth = item_indices(world, after.item_id)
    assert ndcg_at_10(oracle[rows], truth) > 1.5 * ndcg_at_10(popularity[rows], truth)


def test_a_stored_oracle_answers_as_the_one_stored(world, tmp_path):
    world.oracle.save(tmp_path / "oracle.npz")
    stored = Oracle.load(tmp_path / "oracle.npz")
    events = world.events.tail(50)
    past = histories(world.events)[-50:]
    arguments = (events.user_id.tolist(), microseconds(events.event_time), past)
    assert np.array_equal(stored.scores(*arguments), world.oracle.scores(*arguments))
    assert stored.item_ids.tolist() == world.items.item_id.tolist()
    stored.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "oracle.npz").read_bytes()


# --- sizes at the edge and the command ---


def test_more_events_than_can_be_played_are_refused_with_the_bound():
    with pytest.raises(SimulationError, match=r"simulate.events is 1000000; .* at most \d+"):
        simulate(settings(events=1_000_000), seed=0)


@pytest.mark.parametrize(("users", "items", "events"), [(1, 30, 5), (50, 12, 20)])
def test_the_smallest_worlds_work(users, items, events):
    small = simulate(settings(users=users, items=items, events=events), seed=1)
    assert len(small.events) == events
    assert (small.impressions.groupby("session_id").clicked.sum() == 1).all()


def test_the_command_writes_what_it_simulates(world, tmp_path, capsys):
    text = (Path(__file__).parents[3] / "params.yaml").read_text(encoding="utf-8")
    written = yaml.safe_load(text) | {"seed": 3, "simulate": settings().model_dump(mode="json")}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")

    assert main(["--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "new")]) == 0
    assert "12,000 plays" in capsys.readouterr().out
    for name in TABLES:
        written = pd.read_parquet(tmp_path / "new" / f"{name}.parquet")
        pd.testing.assert_frame_equal(written, getattr(world, name))
    assert Oracle.load(tmp_path / "new" / "oracle.npz").user_ids.tolist() == world.users.user_id.tolist()
