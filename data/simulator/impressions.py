"""What was shown: a slate of titles at the start of sampled sessions. S slates, N items."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data import columns
from data.columns import MICROSECONDS
from data.simulator.clock import timestamps
from data.simulator.preference import Preference

SLATE = 8
MOST_SLATES = 75_000  # sessions sampled at most
CANDIDATES = 24  # drawn for each slate, of which the first distinct ones not yet played are shown
TEMPER = 0.6  # below 1, so that slates hold more than the very hottest titles


def make_impressions(events: pd.DataFrame, preference: Preference, item_ids, rng: np.random.Generator) -> pd.DataFrame:
    """A log derived after the choices: each sampled session's first play, and other hot titles around it.

    What is shown has no influence on what is played; the play stands near the top by construction (position
    p with weight 1 / p), a position bias for models of clicks to find. Every slate holds exactly one click.

    Returns:
        impression_id, session_id, user_id, item_id, event_time (shortly before the play), position (from 1),
        clicked.
    """
    opening = events.drop_duplicates(columns.SESSION)
    if len(opening) > MOST_SLATES:
        opening = opening.iloc[np.sort(rng.choice(len(opening), MOST_SLATES, replace=False))]
    times = opening[columns.EVENT_TIME].astype("int64").to_numpy()
    played = _index(item_ids, opening[columns.ITEM])
    candidates = _hot_candidates(preference, preference.clock.quarter(times), rng)
    keep = _worth_showing(candidates, played, opening, times, events, item_ids)
    rank = np.cumsum(keep, axis=1)
    shown = keep & (rank < SLATE)
    slate, place = np.nonzero(shown)
    spot = _positions(shown.sum(axis=1) + 1, rng)
    position = rank[slate, place]
    position = position + (position >= spot[slate])
    return _table(
        opening,
        times,
        rng,
        np.append(slate, np.arange(len(opening))),
        np.append(candidates[slate, place], played),
        np.append(position, spot),
        item_ids,
    )


def _index(item_ids: np.ndarray, names: pd.Series) -> np.ndarray:
    return pd.Index(item_ids).get_indexer(names)


def _hot_candidates(preference: Preference, quarter_S, rng: np.random.Generator) -> np.ndarray:
    """(S, CANDIDATES) items by quality and heat at the time, with repeats."""
    quality = preference.features[:, preference.latents.shape[1]]
    candidates = np.zeros((len(quarter_S), CANDIDATES), dtype=np.int64)
    draws = rng.random(candidates.shape)
    for quarter in np.unique(quarter_S):
        running = np.cumsum(np.exp(TEMPER * (quality + preference.heat[quarter])))
        here = quarter_S == quarter
        candidates[here] = np.searchsorted(running, draws[here] * running[-1], side="right").clip(max=len(quality) - 1)
    return candidates


def _worth_showing(candidates, played, opening, times, events, item_ids) -> np.ndarray:
    """(S, CANDIDATES) first of its kind in the slate, not the play itself, not played before."""
    order = np.argsort(candidates, axis=1, kind="stable")
    ordered = np.take_along_axis(candidates, order, axis=1)
    again = np.zeros(candidates.shape, dtype=bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    users, names = pd.factorize(events[columns.USER])
    past = pd.Series(
        events[columns.EVENT_TIME].astype("int64").to_numpy(),
        index=users * len(item_ids) + _index(item_ids, events[columns.ITEM]),
    )
    pairs = names.get_indexer(opening[columns.USER])[:, None] * len(item_ids) + candidates
    seen_at = past.reindex(pairs.ravel()).to_numpy().reshape(pairs.shape)  # NaN where never played
    return ~again & (candidates != played[:, None]) & ~(seen_at < times[:, None])


def _positions(sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(S,) where the play stands in slates of these sizes: position p with weight 1 / p."""
    running = np.append(0.0, np.cumsum(1.0 / np.arange(1, SLATE + 1)))
    draws = rng.random(len(sizes)) * running[sizes]
    return np.searchsorted(running, draws, side="right").clip(1, sizes)


def _table(opening, times, rng, slate, item, position, item_ids) -> pd.DataFrame:
    shown_at = times - rng.integers(5, 60, len(times)) * MICROSECONDS
    order = np.lexsort((position, slate))
    slate, item, position = slate[order], item[order], position[order]
    return pd.DataFrame(
        {
            "impression_id": [f"i{index:07d}" for index in range(len(slate))],
            columns.SESSION: opening[columns.SESSION].to_numpy()[slate],
            columns.USER: opening[columns.USER].to_numpy()[slate],
            columns.ITEM: item_ids.astype(object)[item],
            columns.EVENT_TIME: timestamps(shown_at[slate]),
            "position": position.astype(np.int64),
            "clicked": item == _index(item_ids, opening[columns.ITEM])[slate],
        }
    )
