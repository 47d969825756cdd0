"""Users and items of a data set: what the side tables tell of those that the events name."""

from __future__ import annotations

import pandas as pd

from data.clean import quarantined
from data.columns import GENRES, ITEM, TITLE, TRAINING_CONSENT, USER
from data.schema import Items, Users, faults


def clean_side(table: pd.DataFrame | None, key: str) -> tuple[pd.DataFrame | None, pd.DataFrame]:
    """A side table without rows that have no id, or an id that stands there already."""
    if table is None:
        return None, quarantined(pd.DataFrame(), pd.Series(dtype=object), "")
    # By content, so that which of two rows of one id stays does not rest on their order in the file.
    order = table.astype("string").sort_values([key, *sorted(set(table.columns) - {key})]).index
    table = table.loc[order]
    reasons = faults(table, Users if key == USER else Items)
    return table.drop(index=reasons.index), quarantined(table, reasons, "users" if key == USER else "items")


def users_of(events: pd.DataFrame, known: pd.DataFrame | None) -> pd.DataFrame:
    """One row per user of the events, with what is known of them."""
    users = pd.DataFrame({USER: sorted(events[USER].unique())})
    if known is None:
        return users
    # After this stage everybody consents, so the column would be a trait that says nothing.
    return users.merge(known.drop(columns=TRAINING_CONSENT, errors="ignore"), on=USER, how="left")


def items_of(events: pd.DataFrame, known: pd.DataFrame | None) -> pd.DataFrame:
    """One row per item of the events or the catalogue, with what is known of it; title and genres always."""
    items = pd.DataFrame({ITEM: events[ITEM].unique()})
    if known is not None:
        items = items.merge(known, on=ITEM, how="outer")
    for name in (GENRES, TITLE):
        if name not in items.columns:
            items.insert(1, name, pd.Series(None, index=items.index, dtype=object))
    return items.sort_values(ITEM, ignore_index=True)
