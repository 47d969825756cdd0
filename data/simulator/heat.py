"""What is new and talked about: the part of an item's appeal that changes with time."""

from __future__ import annotations

import numpy as np

from data.columns import DAY
from data.simulator import strengths
from data.simulator.clock import QUARTER, Clock


def make_heat(release: np.ndarray, clock: Clock, rng: np.random.Generator) -> np.ndarray:
    """(quarters of a day, N) log appeal: release, ageing, slow swings, bursts; -inf before release."""
    middle = clock.origin + np.arange(clock.quarters)[:, None] * QUARTER + QUARTER // 2
    age = (middle - release[None, :]) / DAY
    hype = rng.gamma(4.0, strengths.NEW_BOOST / 4.0, len(release))
    known_age = np.maximum(age, 0.0)
    heat = hype * np.exp(-known_age / strengths.NEW_DAYS)
    heat -= strengths.AGE_COST * np.log1p(known_age / strengths.AGE_DAYS)
    heat += _swings(heat.shape, rng)
    _add_bursts(heat, clock, rng)
    heat[age < 0] = -np.inf
    return heat


def _swings(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Waves of some months, so that what was liked last month tells more than what was liked last year."""
    quarters, num_items = shape
    length = rng.uniform(*strengths.SWING_DAYS, num_items) * DAY / QUARTER
    phase = rng.random(num_items)
    return strengths.SWING * np.sin(2 * np.pi * (np.arange(quarters)[:, None] / length + phase))


def _add_bursts(heat: np.ndarray, clock: Clock, rng: np.random.Generator) -> None:
    """Items that begin to trend out of nothing and cool down again within days."""
    quarters, num_items = heat.shape
    days = (clock.end - clock.start) / DAY
    count = rng.poisson(strengths.BURSTS * days * num_items / 2000)
    items = rng.integers(num_items, size=count)
    begins = rng.integers(quarters, size=count)
    boosts = rng.gamma(6.0, strengths.BURST_BOOST / 6.0, size=count)
    cooling = rng.uniform(*strengths.BURST_DAYS, size=count) * DAY / QUARTER
    for item, begin, boost, quarters_to_cool in zip(items, begins, boosts, cooling, strict=True):
        heat[begin:, item] += boost * np.exp(-np.arange(quarters - begin) / quarters_to_cool)
