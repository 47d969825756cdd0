"""What nobody can know of a real platform: the true preferences. B cases, N items, D latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from data.columns import DAY, HOUR
from data.simulator import strengths
from data.simulator.audience import DEVICES, Preference, Tastes
from data.simulator.catalog import NONE
from data.simulator.clock import DAYPARTS, QUARTER, Clock, daypart

INSTANTS = 8  # moments of a window at which its plays are weighed
MOOD_PLAYS = 64  # 0.6 ** 64 is below double precision's notice


@dataclass(frozen=True)
class Oracle:
    """The law that made the events: for the next play, no ranking can be expected to do better."""

    user_ids: np.ndarray
    item_ids: np.ndarray
    preference: Preference

    @cached_property
    def _users(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.user_ids.tolist())}

    @cached_property
    def _items(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.item_ids.tolist())}

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
            devices: B names of DEVICES. With them the probability is exactly the one drawn from; without, it
                is averaged over the devices that the user has at hand at that time of day.

        Returns:
            (B, N) float32 over `item_ids`; -inf for items not yet released and for those in the history.

        Raises:
            ValueError: lengths differ, or a device is not one of DEVICES.
        """
        if not len(user_ids) == len(times_us) == len(histories):
            raise ValueError(
                f"{len(user_ids)} user_ids, {len(times_us)} times_us, {len(histories)} histories; "
                "expected as many of each"
            )
        users, times = self._user_indices(user_ids), np.asarray(times_us, dtype=np.int64)
        shares = self.preference.tastes.device[users, daypart(times)] if devices is None else _one_hot(devices)
        with np.errstate(divide="ignore"):  # log 0 is the -inf of what cannot be played
            return np.log(self._probabilities(users, times, _Past(self, histories), shares)).astype(np.float32)

    def horizon_scores(
        self, user_ids: Sequence[str], time_us: int, days: float, histories: Sequence[Sequence[str]]
    ) -> np.ndarray:
        """Log of the choice probability summed over INSTANTS moments of the window ahead.

        Moments weigh by the user's usual hours. The history stays as it is at `time_us`; the mood it left
        holds at the first moment only, since it passes with each play: a close approximation of what the
        window will hold, where `scores` is exact. Arguments as for `scores`, but one time for all.

        Returns:
            (B, N) float32; -inf for items seen or not yet released at `time_us`.
        """
        users, past = self._user_indices(user_ids), _Past(self, histories)
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
        law = self.preference
        arrays = {
            field.name: getattr(law, field.name) for field in fields(law) if field.name not in ("clock", "tastes")
        }
        tastes = {f"tastes_{name}": array for name, array in asdict(law.tastes).items()}
        clock = np.array([law.clock.start, law.clock.end])
        np.savez_compressed(path, user_ids=self.user_ids, item_ids=self.item_ids, clock=clock, **arrays, **tastes)

    @classmethod
    def load(cls, path: Path | str) -> Oracle:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            tastes = Tastes(**{field.name: stored[f"tastes_{field.name}"] for field in fields(Tastes)})
            arrays = {
                field.name: stored[field.name] for field in fields(Preference) if field.name not in ("clock", "tastes")
            }
            clock = Clock(*(int(moment) for moment in stored["clock"]))
            return cls(stored["user_ids"], stored["item_ids"], Preference(clock, tastes, **arrays))

    def _user_indices(self, user_ids: Sequence[str]) -> np.ndarray:
        average = len(self.user_ids)
        return np.array([self._users.get(name, average) for name in user_ids], dtype=np.int64)

    def _probabilities(self, users, times, past: _Past, shares) -> np.ndarray:
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


class _Past:
    """What B histories change in the utilities, as `choice.Past`, but from whole histories."""

    def __init__(self, oracle: Oracle, histories: Sequence[Sequence[str]]):
        items = oracle._items
        known = [[items[name] for name in history if name in items] for history in histories]
        lengths = np.array([len(history) for history in known], dtype=np.int64)
        self._row = np.repeat(np.arange(len(known)), lengths)
        self._item = np.array([item for history in known for item in history], dtype=np.int64)
        since = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(len(self._item))  # plays since this one
        self._sequel = oracle.preference.sequel[self._item]
        bonus = np.append(strengths.SEQUEL_NEXT, 0.0)[np.minimum(since, len(strengths.SEQUEL_NEXT))]
        self._bonus = strengths.SEQUEL_WITHOUT_START + bonus
        latest = np.full((len(known), MOOD_PLAYS), NONE)  # newest first; NONE picks the row of zeros below
        late = since < MOOD_PLAYS
        latest[self._row[late], since[late]] = self._item[late]
        latents = np.concatenate([oracle.preference.latents, np.zeros((1, strengths.LATENTS))])
        self.mood = np.einsum("k,bkd->bd", strengths.MOOD_MEMORY ** np.arange(MOOD_PLAYS), latents[latest])

    def add_to(self, utilities_BN: np.ndarray) -> None:
        follows = self._sequel != NONE
        utilities_BN[self._row[follows], self._sequel[follows]] += self._bonus[follows]
        utilities_BN[self._row, self._item] = -np.inf


def _one_hot(devices: Sequence[str]) -> np.ndarray:
    unknown = set(devices) - set(DEVICES)
    if unknown:
        raise ValueError(f"devices holds {sorted(unknown)[0]!r}; expected one of {', '.join(DEVICES)}")
    return np.eye(len(DEVICES))[[DEVICES.index(name) for name in devices]]
