"""The simulated plays: when users watch, what they choose, and which items they are shown.

Legend: U users, S sessions, E events, B users of a chunk, N items, D latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from config.command import UserError
from config.params import Simulate
from data import columns
from data.columns import DAY, HOUR, MICROSECONDS, MINUTE
from data.simulator import world
from data.simulator.audience import DEVICES, Audience, Preference
from data.simulator.world import DAYPARTS, NO_SEQUEL, QUARTER, Clock, daypart, is_weekend
from data.tables import microseconds, timestamps

WEEKEND = 1.5  # sessions on a weekend day, relative to a weekday
HOURS = (
    (1, 0.6, 0.3, 0.15, 0.1, 0.15),
    (0.3, 0.7, 1, 1, 1, 1),
    (1, 0.9, 0.8, 0.9, 1.1, 1.3),
    (1.2, 1.6, 2.2, 2.4, 1.9, 1.3),
)
NEW_SESSION = 0.6  # probability that a play starts a session
EAGER_SHARE = 0.25  # share of a new user's sessions that come soon after joining
EAGER_DAYS = 5.0
PLAY_GAP = 55 * MINUTE  # median time between plays in a session
MIN_GAP = MINUTE  # plays of a user never share a time, so their order is clear
PLAYS_PER_DAY = 24  # maximum, on average over a user's active days
ITEMS_PER_PLAY = 3  # a user plays at most one in this many of the items present at the start


class SimulationError(UserError):
    """The configured sizes are impossible."""


@dataclass(frozen=True)
class Plan:
    """The plays to simulate, sorted by user and time.

    Attributes:
        user, time, device, session: (E,) user index; int64 microseconds, strictly increasing within a user;
            device index; session number, in order of user and time.
        counts: (U,) plays of each user.
    """

    user: np.ndarray
    time: np.ndarray
    device: np.ndarray
    session: np.ndarray
    counts: np.ndarray


def make_plan(
    settings: Simulate, clock: Clock, audience: Audience, release: np.ndarray, rng: np.random.Generator
) -> Plan:
    """Plan exactly `settings.events` plays. Nothing in the plan depends on what is played."""
    counts = _counts(settings, clock, audience, int((release <= clock.start).sum()), rng)
    user = np.repeat(np.arange(settings.users), counts)
    first = np.append(True, user[1:] != user[:-1])
    opens = first | (rng.random(len(user)) < NEW_SESSION)
    session = np.cumsum(opens) - 1
    start = _session_starts(user[opens], first[opens], clock, audience, rng)
    device = _devices(user[opens], start, audience, rng)[session]
    time = _spread(start[session] + _offsets(opens, session, rng), user, counts, clock)
    return Plan(user, time, device, session, counts)


def _counts(
    settings: Simulate, clock: Clock, audience: Audience, released: int, rng: np.random.Generator
) -> np.ndarray:
    """(U,) plays in proportion to rate and active days, within bounds, at least one each if there are enough."""
    days = (audience.left - np.maximum(audience.joined, clock.start)) / DAY
    most = np.minimum(released // ITEMS_PER_PLAY, (PLAYS_PER_DAY * days).astype(np.int64))
    if settings.events > most.sum():
        raise SimulationError(
            f"simulate.events is {settings.events}; {settings.users} users and {settings.items} "
            f"items allow at most {most.sum()} (nobody plays an item twice)"
        )
    counts = np.full(settings.users, int(settings.events >= settings.users))
    weights = audience.rate * days
    while (missing := settings.events - counts.sum()) > 0:
        open_ = weights * (counts < most)
        counts = np.minimum(counts + rng.multinomial(missing, open_ / open_.sum()), most)
    return counts


def _session_starts(user_S, first_S, clock: Clock, audience: Audience, rng: np.random.Generator) -> np.ndarray:
    """(S,) sorted within each user. A user who joins during the period starts at once."""
    joined = np.maximum(audience.joined, clock.start)[user_S]
    stay = audience.left[user_S] - joined
    is_new = (audience.joined > clock.start)[user_S]
    keen = is_new & (rng.random(len(user_S)) < EAGER_SHARE)
    moment = joined + np.where(keen, np.minimum(rng.exponential(EAGER_DAYS * DAY, len(user_S)), stay - 1), 0)
    moment = np.where(keen, moment, _by_week(joined, stay, clock, rng))
    start = _at_usual_hours(user_S, moment.astype(np.int64), audience, rng)
    start = np.where(start < joined, start + DAY, start)
    start = np.where(first_S & is_new, joined + rng.integers(1, 30, len(user_S)) * MINUTE, start)
    return start[np.lexsort((start, user_S))]


def _by_week(joined, stay, clock: Clock, rng: np.random.Generator) -> np.ndarray:
    """Draw days of the stay, weekends WEEKEND times as often, by inverting the cumulative weights."""
    days = clock.origin + np.arange((clock.end - clock.origin) // DAY + 2) * DAY
    running = np.append(0.0, np.cumsum(np.where(is_weekend(days), WEEKEND, 1.0)))[:-1]
    low, high = np.interp(joined, days, running), np.interp(joined + stay, days, running)
    return np.interp(low + rng.random(len(joined)) * (high - low), running, days)


def _at_usual_hours(user_S, moment_S, audience: Audience, rng: np.random.Generator) -> np.ndarray:
    """Keep the day, and draw the time of day from the user's habits."""
    habit = np.cumsum(audience.tastes.hours[user_S], axis=1)
    part = np.minimum((habit < rng.random(len(user_S))[:, None]).sum(axis=1), DAYPARTS - 1)
    hours = np.cumsum(np.array(HOURS), axis=1)
    draw = rng.random(len(user_S)) * hours[part, -1]
    hour = (hours[part] < draw[:, None]).sum(axis=1)
    seconds = rng.integers(3600, size=len(user_S))
    return moment_S - moment_S % DAY + part * QUARTER + hour * HOUR + seconds * MICROSECONDS


def _devices(user_S, start_S, audience: Audience, rng: np.random.Generator) -> np.ndarray:
    running = np.cumsum(audience.tastes.device[user_S, daypart(start_S)], axis=1)
    return np.minimum((running < rng.random(len(user_S))[:, None]).sum(axis=1), len(DEVICES) - 1)


def _offsets(opens_E, session_E, rng: np.random.Generator) -> np.ndarray:
    """(E,) microseconds, in whole seconds, since the session's first play."""
    gaps = np.where(opens_E, 0.0, PLAY_GAP * rng.lognormal(0.0, 0.5, len(opens_E)))
    running = np.cumsum(gaps.astype(np.int64) // MICROSECONDS * MICROSECONDS)
    return running - running[opens_E][session_E]


def _spread(time_E, user_E, counts, clock: Clock) -> np.ndarray:
    """Separate overlapping plays, so that times increase strictly within a user and stay inside the period."""
    place = np.arange(len(time_E)) - np.repeat(np.cumsum(counts) - counts, counts)
    apart = 4 * (clock.end - clock.origin) // MICROSECONDS * user_E  # seconds; keeps users from touching each other
    since = (time_E - clock.origin - place * MIN_GAP) // MICROSECONDS
    since = np.maximum.accumulate(since + apart) - apart
    left_after = counts[user_E] - place
    return np.minimum(clock.origin + since * MICROSECONDS + place * MIN_GAP, clock.end - left_after * MIN_GAP)


CHUNK = 256  # users at a time: (256, N) utilities fit in the processor's cache


def choose(preference: Preference, plan: Plan, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(E,) item index of every play, and (E,) how well it matches the user's taste and mood (log preference).

    Users do not influence each other, so chunks of them are independent.
    """
    draws = rng.random(len(plan.user))  # one per event, so that results do not depend on the chunk size
    offsets = np.cumsum(plan.counts) - plan.counts
    by_count = np.argsort(-plan.counts, kind="stable")
    items, match = np.zeros(len(plan.user), dtype=np.int64), np.zeros(len(plan.user))
    for users in np.split(by_count, range(CHUNK, len(by_count), CHUNK)):
        past = Past(preference, len(users))
        for play in range(plan.counts[users[0]]):
            playing = users[plan.counts[users] > play]  # the first ones of the chunk
            event = offsets[playing] + play
            weights = preference.coefficients(playing, plan.time[event], plan.device[event], past.mood[: len(playing)])
            utilities = preference.utilities(weights, playing, plan.time[event])
            past.add_to(utilities)
            item = draw(utilities, draws[event])
            items[event] = item
            match[event] = np.einsum("bd,bd->b", weights[:, : world.LATENTS], preference.latents[item])
            past.play(np.arange(len(playing)), item)
    return items, match


def draw(utilities_BN: np.ndarray, uniform_B: np.ndarray) -> np.ndarray:
    """(B,) items drawn from the softmax of each row, by inverting the cumulative sum. Overwrites the utilities."""
    running_BN = np.cumsum(np.exp(utilities_BN, out=utilities_BN), axis=1, out=utilities_BN)
    return np.argmax(running_BN > (uniform_B * running_BN[:, -1])[:, None], axis=1)


class Past:
    """The effect of earlier plays on the utilities of some users, each a row.

    Attributes:
        mood: (B, D) sum of the latents of the plays, each worth MOOD_MEMORY of the one after it.
    """

    def __init__(self, preference: Preference, num_users: int):
        self._preference = preference
        self._own = np.zeros((num_users, len(preference.sequel)))
        self._sequels = np.full((num_users, len(world.SEQUEL_NEXT)), NO_SEQUEL)  # of the latest plays, newest first
        self.mood = np.zeros((num_users, world.LATENTS))

    def add_to(self, utilities_BN: np.ndarray) -> None:
        """Add the effect to the utilities of the first B rows."""
        active = len(utilities_BN)
        utilities_BN += self._own[:active]
        row, place = np.nonzero(self._sequels[:active] != NO_SEQUEL)
        utilities_BN[row, self._sequels[row, place]] += np.array(world.SEQUEL_NEXT)[place]

    def play(self, rows: np.ndarray, items: np.ndarray) -> None:
        """Each of the rows plays an item: it is never played again, and its next part becomes likelier."""
        self._own[rows, items] = -np.inf
        sequel = self._preference.sequel[items]
        follows = sequel != NO_SEQUEL
        self._own[rows[follows], sequel[follows]] += world.SEQUEL_WITHOUT_START
        self._sequels[rows, 1:] = self._sequels[rows, :-1]
        self._sequels[rows, 0] = sequel
        self.mood[rows] = world.MOOD_MEMORY * self.mood[rows] + self._preference.latents[items]


def make_heat(release: np.ndarray, clock: Clock, rng: np.random.Generator) -> np.ndarray:
    """(quarters of a day, N) log appeal of items: novelty, aging, slow waves, bursts; -inf before release."""
    quarters = np.arange(clock.quarters)
    age = (clock.origin + quarters[:, None] * QUARTER + QUARTER // 2 - release) / DAY
    hype = rng.gamma(4.0, world.NEW_BOOST / 4.0, len(release))
    known_age = np.maximum(age, 0.0)
    heat = hype * np.exp(-known_age / world.NEW_DAYS)
    heat -= world.AGE_COST * np.log1p(known_age / world.AGE_DAYS)
    # Waves of some months, so that last month predicts more than last year.
    wave = rng.uniform(*world.SWING_DAYS, len(release)) * DAY / QUARTER
    heat += world.SWING * np.sin(2 * np.pi * (quarters[:, None] / wave + rng.random(len(release))))
    count = rng.poisson(world.BURSTS * (clock.end - clock.start) / DAY * len(release) / 2000)
    items = rng.integers(len(release), size=count)
    begins = rng.integers(clock.quarters, size=count)
    boosts = rng.gamma(6.0, world.BURST_BOOST / 6.0, size=count)
    cooling = rng.uniform(*world.BURST_DAYS, size=count) * DAY / QUARTER
    for item, begin, boost, quarters_to_cool in zip(items, begins, boosts, cooling, strict=True):
        heat[begin:, item] += boost * np.exp(-np.arange(clock.quarters - begin) / quarters_to_cool)
    heat[age < 0] = -np.inf
    return heat


SLATE = 8
MAX_SLATES = 75_000  # maximum number of sampled sessions
CANDIDATES = 24  # drawn per slate; the first distinct ones not yet played are shown
TEMPERATURE = 0.6  # below 1, so that slates hold more than the most popular titles


def make_impressions(events: pd.DataFrame, preference: Preference, item_ids, rng: np.random.Generator) -> pd.DataFrame:
    """Derive impressions from the plays: the first play of each sampled session, among other popular titles.

    Impressions do not influence plays. The play is near the top by construction (position p with weight 1 / p): a
    position bias that click models can find. Every slate holds exactly one click.
    """
    rows = np.flatnonzero(~events.duplicated(columns.SESSION))
    if len(rows) > MAX_SLATES:
        rows = np.sort(rng.choice(rows, MAX_SLATES, replace=False))
    times, user = microseconds(events[columns.EVENT_TIME]), pd.factorize(events[columns.USER])[0]
    item = pd.Index(item_ids).get_indexer(events[columns.ITEM])
    candidates = _hot_candidates(preference, preference.clock.quarter(times[rows]), rng)
    slates = pd.DataFrame({"slate": np.repeat(np.arange(len(rows)), CANDIDATES), "item": candidates.ravel()})
    slates = slates.drop_duplicates()
    played_at = pd.Series(times, index=user * len(item_ids) + item)
    seen_at = played_at.reindex(user[rows][slates["slate"]] * len(item_ids) + slates["item"])  # NaN where never played
    slates = slates[~(seen_at.to_numpy() <= times[rows][slates["slate"]])]  # neither played before nor the play itself
    slates = slates.groupby("slate").head(SLATE - 1)
    running = np.append(0.0, np.cumsum(1.0 / np.arange(1, SLATE + 1)))
    sizes = np.bincount(slates["slate"], minlength=len(rows)) + 1
    draws = rng.random(len(rows)) * running[sizes]
    spot = np.searchsorted(running, draws, side="right").clip(1, sizes)  # position of the play
    rank = slates.groupby("slate").cumcount() + 1
    slates = slates.assign(position=rank + (rank >= spot[slates["slate"]]), clicked=False)
    plays = pd.DataFrame({"slate": np.arange(len(rows)), "item": item[rows], "position": spot, "clicked": True})
    slates = pd.concat([slates, plays]).sort_values(["slate", "position"], ignore_index=True)
    event = rows[slates["slate"]]
    shown_at = timestamps(times[rows] - rng.integers(5, 60, len(rows)) * MICROSECONDS)
    return pd.DataFrame(
        {
            "impression_id": [f"i{index:07d}" for index in range(len(slates))],
            columns.SESSION: events[columns.SESSION].to_numpy()[event],
            columns.USER: events[columns.USER].to_numpy()[event],
            columns.ITEM: item_ids.astype(object)[slates["item"]],
            columns.EVENT_TIME: shown_at[slates["slate"]],
            "position": slates["position"].astype("int64"),
            "clicked": slates["clicked"],
        }
    )


def _hot_candidates(preference: Preference, quarter_S, rng: np.random.Generator) -> np.ndarray:
    """(S, CANDIDATES) items drawn by quality and heat at the time, with repeats."""
    quality = preference.features[:, world.LATENTS]
    candidates = np.zeros((len(quarter_S), CANDIDATES), dtype=np.int64)
    draws = rng.random(candidates.shape)
    for quarter in np.unique(quarter_S):
        running = np.cumsum(np.exp(TEMPERATURE * (quality + preference.heat[quarter])))
        now = quarter_S == quarter
        candidates[now] = np.searchsorted(running, draws[now] * running[-1], side="right").clip(max=len(quality) - 1)
    return candidates
