"""A simulated streaming platform whose true preferences are known: the default dataset.

Users join and leave, and watch by weekday and hour. Their tastes depend on their traits in part, and drift. They follow
what is new and trending, continue series, and stay in the mood of their latest plays. No user plays an item twice. Each
play is one draw from the softmax of the true utilities over the released items not yet played, so the oracle is exactly
the distribution of the data. All randomness comes from the seed.

Legend: B cases, N items, D latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from config import params
from data import columns
from data.columns import DAY, HOUR, MICROSECONDS, MINUTE
from data.simulator import world
from data.simulator.audience import DEVICES, Preference, Tastes, make_audience, make_preference
from data.simulator.plays import Past, Plan, choose, make_heat, make_impressions, make_plan
from data.simulator.world import DAYPARTS, QUARTER, Clock, SimulatedCatalog, daypart, make_catalog, make_space
from data.tables import timestamps

TABLES = ("events", "users", "items", "impressions")
INSTANTS = 8  # moments of the horizon at which probabilities are summed


@dataclass(frozen=True)
class Simulation:
    """Four tables and the true preferences behind them. Events are in total order; their value is the watched share."""

    events: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame
    impressions: pd.DataFrame
    oracle: Oracle


def simulate(settings: params.Simulate, seed: int) -> Simulation:
    """Simulate a platform. The same settings and seed give the same bytes.

    Raises SimulationError if `settings.events` is more than these users can play.
    """
    rngs = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(8)]
    clock = Clock.from_settings(settings)
    space = make_space(rngs[0])
    catalog = make_catalog(settings, clock, space, rngs[1])
    audience = make_audience(settings, clock, space, rngs[2])
    heat = make_heat(catalog.release, clock, rngs[3])
    preference = make_preference(clock, catalog, audience.tastes, heat, rngs[4])
    plan = make_plan(settings, clock, audience, catalog.release, rngs[5])
    items, match = choose(preference, plan, rngs[6])
    item_ids = catalog.frame[columns.ITEM].to_numpy().astype(str)
    user_ids = audience.frame[columns.USER].to_numpy().astype(str)
    events = _events(plan, items, match, catalog, audience.frame, rngs[7])
    impressions = make_impressions(events, preference, item_ids, rngs[7])
    return Simulation(events, audience.frame, catalog.frame, impressions, Oracle(user_ids, item_ids, preference))


def _events(plan: Plan, items, match, catalog: SimulatedCatalog, users: pd.DataFrame, rng) -> pd.DataFrame:
    order = np.lexsort((plan.user, plan.time))
    known = plan.time + _lateness(plan.device, rng)
    value = _watched_share(plan, items, match, catalog, rng)
    session, _ = pd.factorize(plan.session[order])  # numbered by the session's first play
    return pd.DataFrame(
        {
            columns.EVENT_ID: [f"e{index:07d}" for index in range(len(order))],
            columns.USER: users[columns.USER].to_numpy()[plan.user[order]],
            columns.ITEM: catalog.frame[columns.ITEM].to_numpy()[items[order]],
            columns.EVENT_TIME: timestamps(plan.time[order]),
            columns.KNOWN_TIME: timestamps(known[order]),
            columns.EVENT_TYPE: "play",
            columns.VALUE: value[order],
            columns.SESSION: np.array([f"s{index:07d}" for index in range(session.max() + 1)], dtype=object)[session],
            "device": np.array(DEVICES, dtype=object)[plan.device[order]],
        }
    )


def _lateness(device: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Microseconds until an event is known: phones and tablets are sometimes offline, for minutes to a day."""
    portable = np.isin(device, [DEVICES.index("phone"), DEVICES.index("tablet")])
    offline = portable & (rng.random(len(device)) < world.LATE_SHARE)
    delay = (90 * MINUTE * rng.lognormal(0.0, 1.2, len(device))).clip(2 * MINUTE, 24 * HOUR)
    return np.where(offline, delay, 0).astype(np.int64) // MICROSECONDS * MICROSECONDS


def _watched_share(plan: Plan, items, match, catalog: SimulatedCatalog, rng: np.random.Generator) -> np.ndarray:
    """0 to 1: items that match the taste are watched to the end, unless the next play starts earlier."""
    fit = 0.9 + 0.8 * (match - match.mean()) / (match.std() + 1e-9)
    mean = 1 / (1 + np.exp(-fit))
    share = rng.beta(3 * mean, 3 * (1 - mean))
    same_user = np.append(plan.user[1:] == plan.user[:-1], False)
    until_next = np.where(same_user, np.append(np.diff(plan.time), 0), np.iinfo(np.int64).max)
    length = catalog.frame["duration_minutes"].to_numpy()[items] * MINUTE
    return np.minimum(share, until_next / length).round(3)


@dataclass(frozen=True)
class Oracle:
    """The true distribution of plays. No ranking can be expected to predict the next play better."""

    user_ids: np.ndarray
    item_ids: np.ndarray
    preference: Preference

    def scores(
        self,
        user_ids: Sequence[str],
        times_us: np.ndarray,
        histories: Sequence[Sequence[str]],
        devices: Sequence[str] | None = None,
    ) -> np.ndarray:
        """True log probability that each item is the user's next play.

        Args:
            user_ids: B ids; one never simulated gets the population's average taste.
            times_us: (B,) microseconds since 1970.
            histories: B lists of item ids played strictly before, in time order; unknown ids are skipped.
            devices: B names of DEVICES; None averages over the devices that the user has at that time of day.

        Returns:
            (B, N) float32 over `item_ids`; -inf for items not yet released and for those in the history.
        """
        users, times = self._user_indices(user_ids), np.asarray(times_us, dtype=np.int64)
        if devices is None:
            shares = self.preference.tastes.device[users, daypart(times)]
        else:
            shares = np.eye(len(DEVICES))[[DEVICES.index(name) for name in devices]]
        with np.errstate(divide="ignore"):  # log 0 = -inf for items that cannot be played
            return np.log(self._probabilities(users, times, self._replay(histories), shares)).astype(np.float32)

    def horizon_scores(
        self, user_ids: Sequence[str], time_us: int, days: float, histories: Sequence[Sequence[str]]
    ) -> np.ndarray:
        """Log of the choice probability summed over INSTANTS moments of the coming days, by the user's usual hours.

        The history stays as it is at `time_us`. Its mood counts at the first moment only, since each play changes it.
        So this is a close approximation, where `scores` is exact. Arguments as for `scores`, with one time for all.

        Returns:
            (B, N) float32; -inf for items seen or not yet released at `time_us`.
        """
        users, past = self._user_indices(user_ids), self._replay(histories)
        total = np.zeros((len(users), len(self.item_ids)))
        for instant in range(INSTANTS):
            moment = int(time_us + (instant + 0.5) * days * DAY / INSTANTS)
            part = instant % DAYPARTS
            times = np.full(len(users), moment - moment % DAY + part * QUARTER + 3 * HOUR)
            shares = self.preference.tastes.device[users, part] * self.preference.tastes.hours[users, part, None]
            total += self._probabilities(users, times, past, shares)
            past.mood[:] = 0.0
        quarter = self.preference.clock.quarter(np.array([time_us]))
        total[:, np.isinf(self.preference.heat[quarter[0]])] = 0.0
        with np.errstate(divide="ignore"):
            return np.log(total).astype(np.float32)

    def save(self, path: Path | str) -> None:
        """Write one .npz of plain arrays."""
        arrays = asdict(self.preference)
        clock, tastes = arrays.pop("clock"), arrays.pop("tastes")
        arrays |= {f"tastes_{name}": array for name, array in tastes.items()}
        times = np.array([clock["start"], clock["end"]])
        np.savez_compressed(path, user_ids=self.user_ids, item_ids=self.item_ids, clock=times, **arrays)

    @classmethod
    def load(cls, path: Path | str) -> Oracle:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        clock = Clock(*(int(moment) for moment in arrays.pop("clock")))
        tastes = Tastes(**{field.name: arrays.pop(f"tastes_{field.name}") for field in fields(Tastes)})
        return cls(arrays.pop("user_ids"), arrays.pop("item_ids"), Preference(clock, tastes, **arrays))

    def _user_indices(self, user_ids: Sequence[str]) -> np.ndarray:
        """-1, the last row of all tastes, is the average user."""
        return pd.Index(self.user_ids).get_indexer(list(user_ids))

    def _replay(self, histories: Sequence[Sequence[str]]) -> Past:
        """The effect of whole histories."""
        items = pd.Index(self.item_ids)
        known = [codes[codes >= 0] for codes in map(items.get_indexer, map(list, histories))]
        past = Past(self.preference, len(known))
        for play in range(max(map(len, known), default=0)):
            rows = np.array([row for row, history in enumerate(known) if len(history) > play])
            past.play(rows, np.array([known[row][play] for row in rows]))
        return past

    def _probabilities(self, users, times, past: Past, shares) -> np.ndarray:
        """(B, N) choice probabilities, summed over devices with these shares (B, devices)."""
        total = np.zeros((len(users), len(self.item_ids)))
        for device in np.flatnonzero(shares.any(axis=0)):
            on_device = np.full(len(users), device)
            weights = self.preference.coefficients(users, times, on_device, past.mood)
            utilities = self.preference.utilities(weights, users, times)
            past.add_to(utilities)
            odds = np.exp(utilities, out=utilities)
            odds *= (shares[:, device] / np.maximum(odds.sum(axis=1), np.finfo(float).tiny))[:, None]
            total += odds
        return total
