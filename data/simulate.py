"""A seeded streaming platform whose true preferences are known: the offline default data set.

Users join and leave, watch by week and by hour, have tastes that their traits explain in part and that
drift, follow what is new and talked about, continue series, and stay in the mood of what they watched last.
No user plays an item twice. Each play is one draw from the softmax of the true utilities over the released
items not yet played, so the oracle is exactly the law of the data. All randomness comes from the seed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import ValidationError

from config import params
from config.command import describe_fault, exits_cleanly
from data import columns
from data.columns import HOUR, MICROSECONDS, MINUTE
from data.simulator import strengths
from data.simulator.activity import Plan, SimulationError, make_plan
from data.simulator.audience import DEVICES, make_audience, make_preference
from data.simulator.catalog import Catalogue, make_catalogue, make_space
from data.simulator.choices import Choices, choose, make_heat, make_impressions
from data.simulator.clock import Clock, timestamps
from data.simulator.oracle import Oracle

TABLES = ("events", "users", "items", "impressions")


@dataclass(frozen=True)
class Simulation:
    """Four tables and the law behind them.

    Attributes:
        events: data.columns.EVENT_COLUMNS and `device`, sorted by (event_time, event_id); value is the
            watched share.
        users: user_id, age_band, gender, country, plan, joined, consent_training.
        items: item_id, title, genres, description, release_time, kind, duration_minutes, year, maturity,
            language.
        impressions: what was shown, see `impressions.make_impressions`.
        oracle: true preferences.
    """

    events: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame
    impressions: pd.DataFrame
    oracle: Oracle


def simulate(settings: params.Simulate, seed: int) -> Simulation:
    """Make a world of these sizes; the same settings and seed give the same bytes.

    Raises:
        SimulationError: `settings.events` is more than these users can play.
    """
    rngs = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(8)]
    clock = Clock.of(settings)
    space = make_space(rngs[0])
    catalogue = make_catalogue(settings, clock, space, rngs[1])
    audience = make_audience(settings, clock, space, rngs[2])
    heat = make_heat(catalogue.release, clock, rngs[3])
    preference = make_preference(clock, space, catalogue, audience.tastes, heat, rngs[4])
    plan = make_plan(settings, clock, audience, catalogue.release, rngs[5])
    choices = choose(preference, plan, rngs[6])
    item_ids = catalogue.frame[columns.ITEM].to_numpy().astype(str)
    user_ids = audience.frame[columns.USER].to_numpy().astype(str)
    events = _events(plan, choices, catalogue, audience.frame, rngs[7])
    impressions = make_impressions(events, preference, item_ids, rngs[7])
    return Simulation(events, audience.frame, catalogue.frame, impressions, Oracle(user_ids, item_ids, preference))


def _events(plan: Plan, choices: Choices, catalogue: Catalogue, users: pd.DataFrame, rng) -> pd.DataFrame:
    order = np.lexsort((plan.user, plan.time))
    known = plan.time + _lateness(plan.device, rng)
    value = _watched_share(plan, choices, catalogue, rng)
    session, _ = pd.factorize(plan.session[order])  # numbered by the session's first play
    return pd.DataFrame(
        {
            columns.EVENT_ID: [f"e{index:07d}" for index in range(len(order))],
            columns.USER: users[columns.USER].to_numpy()[plan.user[order]],
            columns.ITEM: catalogue.frame[columns.ITEM].to_numpy()[choices.item[order]],
            columns.EVENT_TIME: timestamps(plan.time[order]),
            columns.KNOWN_TIME: timestamps(known[order]),
            columns.EVENT_TYPE: "play",
            columns.VALUE: value[order],
            columns.SESSION: np.array([f"s{index:07d}" for index in range(session.max() + 1)], dtype=object)[session],
            "device": np.array(DEVICES, dtype=object)[plan.device[order]],
        }
    )


def _lateness(device: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Microseconds: phones and tablets are sometimes offline, for minutes to a day."""
    portable = np.isin(device, [DEVICES.index("phone"), DEVICES.index("tablet")])
    offline = portable & (rng.random(len(device)) < strengths.LATE_SHARE)
    delay = (90 * MINUTE * rng.lognormal(0.0, 1.2, len(device))).clip(2 * MINUTE, 24 * HOUR)
    return np.where(offline, delay, 0).astype(np.int64) // MICROSECONDS * MICROSECONDS


def _watched_share(plan: Plan, choices: Choices, catalogue: Catalogue, rng: np.random.Generator) -> np.ndarray:
    """0 to 1: what matches is watched to its end, unless the user's next play begins before it."""
    fit = 0.9 + 0.8 * (choices.match - choices.match.mean()) / (choices.match.std() + 1e-9)
    mean = 1 / (1 + np.exp(-fit))
    share = rng.beta(3 * mean, 3 * (1 - mean))
    same_user = np.append(plan.user[1:] == plan.user[:-1], False)
    until_next = np.where(same_user, np.append(np.diff(plan.time), 0), np.iinfo(np.int64).max)
    length = catalogue.frame["duration_minutes"].to_numpy()[choices.item] * MINUTE
    return np.minimum(share, until_next / length).round(3)


def write(simulation: Simulation, folder: Path) -> None:
    """Parquet files of the tables and oracle.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        getattr(simulation, name).to_parquet(folder / f"{name}.parquet", index=False)
    simulation.oracle.save(folder / "oracle.npz")


def _settings(arguments: argparse.Namespace, defaults: params.Simulate) -> params.Simulate:
    named = {name: getattr(arguments, name) for name in params.Simulate.model_fields}
    given = {name: value for name, value in named.items() if value is not None}
    try:
        return params.Simulate.model_validate(defaults.model_dump() | given)
    except ValidationError as error:
        fault = error.errors()[0]
        raise SimulationError(describe_fault(f"--{fault['loc'][0]}", fault)) from None


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data.simulate", description=__doc__.splitlines()[0])
    parser.add_argument("--params", default="params.yaml", help="file that holds what is not given here")
    parser.add_argument("--out", type=Path, required=True, help="folder for the Parquet files and oracle.npz")
    for name in params.Simulate.model_fields:
        parser.add_argument(f"--{name}", help=f"instead of simulate.{name}")
    parser.add_argument("--seed", type=int, help="instead of seed")
    arguments = parser.parse_args(argv)
    settings = params.load(arguments.params)
    seed = settings.seed if arguments.seed is None else arguments.seed
    simulation = simulate(_settings(arguments, settings.simulate), seed)
    write(simulation, arguments.out)
    print(
        f"simulated {len(simulation.events)} plays of {len(simulation.items)} items "
        f"by {len(simulation.users)} users "
        f"(seed {seed}) in {arguments.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
