"""A small platform without leaks: 40 users walk through 120 items in their order, some events share a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from config import params
from config.paths import INGESTED, ROOT, SPLIT
from data import tables
from data.columns import DAY, HOUR
from data.files import write_json
from data.tables import write_table
from experiments.leakage.cut import AuditedCut
from features import feature_files, fit
from features.feature_files import Features

SETTINGS = params.load(ROOT / "params.yaml")
START = 1_700_006_400_000_000
VALID, TEST, END = START + 50 * DAY, START + 60 * DAY, START + 80 * DAY
USERS, ITEMS, PER_USER = 40, 120, 30
MANIFEST = {
    "dataset": "made", "dataset_hash": "d", "split_id": "s", "numeric_ids": [], "valid_start": "v", "test_start": "t",
    "valid_start_us": VALID, "test_start_us": TEST, "end_us": END, "horizon_days": 10,
}  # fmt: skip


def moments(times_us: np.ndarray) -> pd.Series:
    return pd.to_datetime(pd.Series(times_us), unit="us", utc=True).astype("datetime64[us, UTC]")


def made_events() -> pd.DataFrame:
    """1,200 events in total order. Item i119 comes up only after the test cut."""
    generator = np.random.default_rng(0)
    times = np.sort(generator.integers(START // HOUR, END // HOUR, size=(USERS, PER_USER)), axis=1) * HOUR
    times[:, 5], times[:, 27] = times[:, 4], times[:, 26]
    walked = (generator.integers(0, ITEMS - 1, USERS)[:, None] + np.arange(PER_USER)) % (ITEMS - 1)
    walked[0, -1], times[0, -1] = ITEMS - 1, TEST + 15 * DAY
    flat = times.ravel()
    events = pd.DataFrame({
        "event_id": [f"e{number:04d}" for number in generator.permutation(len(flat))],
        "user_id": np.repeat([f"u{number:02d}" for number in range(USERS)], PER_USER),
        "item_id": [f"i{item:03d}" for item in walked.ravel()],
        "event_time": moments(flat),
        "known_time": moments(flat),
        "device": generator.choice(["phone", "tv"], len(flat)),
    })  # fmt: skip
    return split(events)


def split(events: pd.DataFrame) -> pd.DataFrame:
    """Events in total order, each in its part."""
    events = events.sort_values(["event_time", "event_id"], ignore_index=True)
    part = np.searchsorted([VALID, TEST], tables.microseconds(events["event_time"]), side="right")
    return events.assign(part=np.array(["train", "valid", "test"], dtype=object)[part])


def made_users() -> pd.DataFrame:
    """u38 and u39 are old and on a plan of their own."""
    ages, plans = [20 + number for number in range(USERS - 2)], ["free", "paid"] * (USERS // 2 - 1)
    return pd.DataFrame({"user_id": [f"u{n:02d}" for n in range(USERS)], "age": [*ages, 90, 95],
                         "plan": [*plans, "trial", "trial"]})  # fmt: skip


def made_items() -> pd.DataFrame:
    """i119 weighs far more than all others, and is alone in its genre."""
    return pd.DataFrame({
        "item_id": [f"i{n:03d}" for n in range(ITEMS)],
        "title": [f"{('red', 'blue')[n % 2]} {('house', 'river', 'road')[n % 3]}" for n in range(ITEMS)],
        "genres": [*(("drama", "comedy|drama")[n % 2] for n in range(ITEMS - 1)), "western"],
        "weight": [*map(float, range(ITEMS - 1)), 1e6],
    })  # fmt: skip


def features_of(events: pd.DataFrame, name: str = "test", users: pd.DataFrame | None = None) -> Features:
    """What featurize makes of them at a cut."""
    people = made_users() if users is None else users
    start = MANIFEST[f"{name}_start_us"]
    made = fit.fit_features(events, people, made_items(), start, SETTINGS.featurize, SETTINGS.seed)
    until = TEST if name == "valid" else END + 1
    made.description |= fit.describe_origin(MANIFEST, "first", name, until)
    return made


def cut_of(events: pd.DataFrame, features: Features | None = None, name: str = "test", **changes) -> AuditedCut:
    """The cut of a platform of these events, and of these features instead of those that featurize makes."""
    made = AuditedCut(
        name, events, made_users(), made_items(), MANIFEST, features or features_of(events, name), SETTINGS
    )
    return replace(made, **changes)


def lay(folder: Path, events: pd.DataFrame) -> None:
    """Write the products into a folder, as the stages would."""
    for part in (INGESTED, SPLIT):
        (folder / part).mkdir(parents=True)
    write_table(folder / SPLIT / "events.parquet", events)
    write_json(folder / SPLIT / "manifest.json", MANIFEST)
    write_table(folder / INGESTED / "users.parquet", made_users())
    write_table(folder / INGESTED / "items.parquet", made_items())
    for name in feature_files.CUTS:
        feature_files.save_features(folder / "out/features" / name, features_of(events, name))
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
