"""A few users, what they took lately, and what the live endpoint would give them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from data.columns import EVENT_TIME, ITEM, TITLE, USER


def showcase(folder: Path, ask: Callable[[dict], dict], users: int, events_shown: int, k: int) -> str:
    """Text for people: the latest users with a history of some length, and their answers.

    Args:
        folder: the project or workspace that holds data/out.
        ask: sends one prediction request.
    """
    events = pd.read_parquet(folder / "data/out/split/events.parquet")
    items = pd.read_parquet(folder / "data/out/ingest/items.parquet").set_index(ITEM)
    titles = items[TITLE].fillna("") if TITLE in items else pd.Series("", index=items.index)
    now = events[EVENT_TIME].max() + pd.Timedelta(seconds=1)
    counts = events[USER].value_counts()
    latest = events[events[USER].isin(counts[counts >= min(5, counts.max())].index)].drop_duplicates(USER, keep="last")
    lines = []
    for user in latest[USER].tail(users)[::-1]:
        own = events[events[USER] == user]
        answer = ask({"user_id": user, "k": k, "time": now.isoformat()})  # who the user is, the online store knows
        recent = [_named(item, titles) for item in own[ITEM].tail(events_shown)[::-1]]
        lines.append(f"User {user} lately: {', '.join(recent)}")
        lines.append(f"  {answer['rung']} by version {answer['model_version']}: {answer['reason']}")
        lines += [
            f"  {place}. {found['title'] or found['item_id']}  ({found['score']:.3f})"
            for place, found in enumerate(answer["items"], start=1)
        ]
    return "\n".join(lines)


def _named(item: str, titles: pd.Series) -> str:
    return titles.get(item, "") or item
