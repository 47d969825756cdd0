"""When people watch: how many plays each user has, in which sessions, at what times, on which device.

U users, S sessions, E events. Nothing here depends on what is played.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from config.command import UserError
from data.columns import DAY, HOUR, MICROSECONDS, MINUTE
from data.simulator.audience import DEVICES, Audience
from data.simulator.clock import DAYPARTS, QUARTER, Clock, daypart, is_weekend

WEEKEND = 1.5  # sessions on a day of the weekend, relative to a weekday
HOURS = (
    (1, 0.6, 0.3, 0.15, 0.1, 0.15),
    (0.3, 0.7, 1, 1, 1, 1),
    (1, 0.9, 0.8, 0.9, 1.1, 1.3),
    (1.2, 1.6, 2.2, 2.4, 1.9, 1.3),
)
NEW_SESSION = 0.6  # probability that a play opens a session
KEEN = 0.25  # sessions of a user who has just joined
KEEN_DAYS = 5.0
BETWEEN = 55 * MINUTE  # median from one play's start to the next within a session
LEAST_GAP = MINUTE  # no two plays of a user share a time, so their order is never in doubt
PLAYS_PER_DAY = 24  # at most, on average over a user's active days
PLAYED_SHARE = 3  # a user plays at most one in so many of the items there at the start


class SimulationError(UserError):
    """A size that no world can have."""


@dataclass(frozen=True)
class Plan:
    """Plays to come, sorted by user and time.

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


def make_plan(settings, clock: Clock, audience: Audience, release: np.ndarray, rng: np.random.Generator) -> Plan:
    """Exactly `settings.events` plays.

    Raises:
        SimulationError: more events than the users could play in their days and from this catalogue.
    """
    counts = _counts(settings, clock, audience, int((release <= clock.start).sum()), rng)
    user = np.repeat(np.arange(settings.users), counts)
    first = np.append(True, user[1:] != user[:-1])
    opens = first | (rng.random(len(user)) < NEW_SESSION)
    session = np.cumsum(opens) - 1
    start = _session_starts(user[opens], first[opens], clock, audience, rng)
    device = _devices(user[opens], start, audience, rng)[session]
    time = _spread(start[session] + _offsets(opens, session, rng), user, counts, clock)
    return Plan(user, time, device, session, counts)


def _counts(settings, clock: Clock, audience: Audience, released: int, rng: np.random.Generator) -> np.ndarray:
    """Plays in proportion to rate and active days, at least one each if they suffice, within bounds."""
    days = (audience.left - np.maximum(audience.joined, clock.start)) / DAY
    most = np.minimum(released // PLAYED_SHARE, (PLAYS_PER_DAY * days).astype(np.int64))
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
    """(S,) sorted within each user; a user who joins during the period watches at once."""
    joined = np.maximum(audience.joined, clock.start)[user_S]
    stay = audience.left[user_S] - joined
    is_new = (audience.joined > clock.start)[user_S]
    keen = is_new & (rng.random(len(user_S)) < KEEN)
    moment = joined + np.where(keen, np.minimum(rng.exponential(KEEN_DAYS * DAY, len(user_S)), stay - 1), 0)
    moment = np.where(keen, moment, _by_week(joined, stay, clock, rng))
    start = _at_usual_hours(user_S, moment.astype(np.int64), audience, rng)
    start = np.where(start < joined, start + DAY, start)
    start = np.where(first_S & is_new, joined + rng.integers(1, 30, len(user_S)) * MINUTE, start)
    return start[np.lexsort((start, user_S))]


def _by_week(joined, stay, clock: Clock, rng: np.random.Generator) -> np.ndarray:
    """Days of the stay, weekends WEEKEND times as often: the inverse of the weights' running sum."""
    days = clock.origin + np.arange((clock.end - clock.origin) // DAY + 2) * DAY
    running = np.append(0.0, np.cumsum(np.where(is_weekend(days), WEEKEND, 1.0)))[:-1]
    low, high = np.interp(joined, days, running), np.interp(joined + stay, days, running)
    return np.interp(low + rng.random(len(joined)) * (high - low), running, days)


def _at_usual_hours(user_S, moment_S, audience: Audience, rng: np.random.Generator) -> np.ndarray:
    """Keep the day, draw the time of day from the user's habit."""
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
    """Microseconds, whole seconds, since the session's first play."""
    gaps = np.where(opens_E, 0.0, BETWEEN * rng.lognormal(0.0, 0.5, len(opens_E)))
    running = np.cumsum(gaps.astype(np.int64) // MICROSECONDS * MICROSECONDS)
    return running - running[opens_E][session_E]


def _spread(time_E, user_E, counts, clock: Clock) -> np.ndarray:
    """Push apart what overlaps, so that times increase strictly within a user and stay inside the period."""
    place = np.arange(len(time_E)) - np.repeat(np.cumsum(counts) - counts, counts)
    apart = 4 * (clock.end - clock.origin) // MICROSECONDS * user_E  # seconds; keeps users from touching each other
    since = (time_E - clock.origin - place * LEAST_GAP) // MICROSECONDS
    since = np.maximum.accumulate(since + apart) - apart
    left_after = counts[user_E] - place
    return np.minimum(clock.origin + since * MICROSECONDS + place * LEAST_GAP, clock.end - left_after * LEAST_GAP)
