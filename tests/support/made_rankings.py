"""Small rankings made the way evaluate makes them, from scores with many ties."""

from __future__ import annotations

import numpy as np
import pandas as pd

NOT_RANKED = 2**31 - 1


def made_items(rng: np.random.Generator, items: int, new: int = 2, content: bool = True) -> pd.DataFrame:
    """Items of the catalog, then `new` items that appear later; some lack an age, some lack content."""
    known = np.arange(items + new) < items
    vectors = [None if not content or rng.random() < 0.1 else rng.normal(size=4) for _ in known]
    return pd.DataFrame(
        {
            "item_id": [f"{n:03d}" for n in rng.permutation(len(known))],
            "popularity": np.where(known, rng.integers(1, 30, len(known)), 0),
            "vector": vectors,
            "age_days": np.where(known & (rng.random(len(known)) < 0.9), rng.random(len(known)) * 300, np.nan),
            "catalog": known,
        }
    )


def made_cases(rng: np.random.Generator, items: pd.DataFrame, users: int, cases: int) -> list[dict]:
    """One `horizon` case a user and `cases` `next_item` cases: who, when, what was seen, what is true."""
    catalog = items.loc[items["catalog"], "item_id"].to_numpy()
    of_user = rng.integers(0, users, cases)
    wanted = [("horizon", user, int(rng.integers(1, 13))) for user in range(users)]
    wanted += [("next_item", int(user), 1) for user in of_user]
    rows = []
    for number, (target, user, size) in enumerate(wanted):
        seen = rng.choice(catalog, int(rng.integers(0, len(catalog) // 2 + 1)), replace=False)
        possible = np.setdiff1d(items["item_id"].to_numpy(), seen)
        rows.append(
            {
                "case_id": f"{target}-{number}",
                "user_id": f"u{user}",
                "target": target,
                "time": pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(minutes=int(rng.integers(0, 50))),
                "history_length": int(rng.choice([0, 1, 4, 5, 30, 200])),
                "activity": 1 if target == "horizon" else int((of_user == user).sum()),
                "segments": [name for name, every in (("odd", 2), ("third", 3)) if number % every == 1],
                "seen": set(seen),
                "truth": list(rng.choice(possible, min(size, len(possible)), replace=False)),
            }
        )
    return rows


def rank(rng: np.random.Generator, items: pd.DataFrame, cases: list[dict], skill: float = 1.0) -> pd.DataFrame:
    """Rank the catalog for each case; true items get `skill` more than chance, and stand last among equals."""
    catalog = list(items.loc[items["catalog"], "item_id"])
    rows = []
    for case in cases:
        scores = {
            item: int(rng.integers(0, 6)) + (rng.random() < 0.5) * skill * (item in case["truth"]) for item in catalog
        }
        unseen = [item for item in catalog if item not in case["seen"]]
        order = sorted(unseen, key=lambda item: (-scores[item], item in case["truth"], item))
        place = {item: at for at, item in enumerate(order, start=1)}
        ranks = np.array([place.get(item, NOT_RANKED) for item in case["truth"]], np.int32)
        kept = {key: value for key, value in case.items() if key != "seen"}
        rows.append(kept | {"ranked": order[:100], "true_ranks": ranks})
    return pd.DataFrame(rows)


def made_rankings(
    seed: int = 0, items: int = 40, users: int = 12, cases: int = 60, seeds: int = 1, **options
) -> tuple[list[pd.DataFrame], pd.DataFrame]:
    """One rankings table per seed of the same cases, and the items table; `options` go to `made_items`."""
    rng = np.random.default_rng(seed)
    table = made_items(rng, items, **options)
    wanted = made_cases(rng, table, users, cases)
    return [rank(rng, table, wanted, skill=3) for _ in range(seeds)], table
