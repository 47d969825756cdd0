"""STAGE featurize: split events -> vocabulary, log, item and user features, all fitted before one cut."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from config import params
from config.command import exits_cleanly
from config.paths import FEATURES, INGESTED, SPLIT
from data.columns import EVENT_ID, EVENT_TIME, ITEM, KNOWN_TIME, TITLE, TRAINING_CONSENT, USER
from data.products import read_json, read_table
from features import attributes
from features.attributes import item_features
from features.sequences import Log
from features.trends import ALL, half_life, window
from features.vocabulary import Vocabulary

CUTS = ("valid", "test")
FULL = "full"  # after the last event: the cut of a refit, which nothing is left to judge


def moment_of(cut: str, manifest: Mapping[str, Any]) -> int:
    """Where a cut lies, in microseconds, by the split's manifest."""
    return manifest["end_us"] + 1 if cut == FULL else manifest[f"{cut}_start_us"]


def microseconds(times: pd.Series) -> np.ndarray:
    """(n,) int64 microseconds since 1970 of a UTC column."""
    return times.dt.as_unit("us").astype("int64").to_numpy()


def order_items(events: pd.DataFrame) -> list[str]:
    """Item ids, most popular first; equals by a hash of who took them and when.

    The order breaks ties between equal scores everywhere, so it must not depend on how items are numbered.
    """
    moments = pd.DataFrame({"user": events[USER], "time": microseconds(events[EVENT_TIME])})
    signature = pd.util.hash_pandas_object(moments, index=False).to_numpy()
    table = pd.DataFrame({ITEM: events[ITEM].to_numpy(), "signature": signature, "count": 1})
    totals = table.groupby(ITEM, as_index=False).sum()
    return totals.sort_values(["count", "signature", ITEM], ascending=[False, True, True])[ITEM].tolist()


def build_log(events: pd.DataFrame, users: pd.DataFrame, vocabulary: Vocabulary, encoders: dict) -> Log:
    """All events, grouped by user in the order of `users`."""
    position = pd.Series(np.arange(len(users)), index=users[USER].to_numpy())
    owner = position.loc[events[USER]].to_numpy()
    order = np.lexsort([events[EVENT_ID].to_numpy().astype(str), microseconds(events[EVENT_TIME]), owner])
    events, owner = events.iloc[order], owner[order]
    counts = np.bincount(owner, minlength=len(users))
    return Log(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        items=vocabulary.indices(events[ITEM]),
        times=microseconds(events[EVENT_TIME]),
        known=microseconds(events[KNOWN_TIME]),
        context=attributes.encode(events, encoders["context"]),
        traits=attributes.encode(users, encoders["traits"]),
    )


def catalogue(items: pd.DataFrame, vocabulary: Vocabulary) -> pd.DataFrame:
    """Side information of the vocabulary's items, in its order."""
    return items.set_index(ITEM).reindex(vocabulary.ids).rename_axis(ITEM).reset_index()


def titles_of(listed: pd.DataFrame) -> list[str | None]:
    """One title per item, None where unknown."""
    titles = listed[TITLE] if TITLE in listed else [None] * len(listed)
    return [None if pd.isna(title) else str(title) for title in titles]


def featurize(events, users, items, cut_us: int, settings: params.Featurize, seed: int) -> dict:
    """Everything that a model needs, fitted on what was known before `cut_us`.

    Returns:
        {"vocabulary", "log", "item_features" (N, V), "users" (user ids), "description"}.
    """
    time = microseconds(events[EVENT_TIME])
    past = events[(time < cut_us) & (microseconds(events[KNOWN_TIME]) <= cut_us)]
    vocabulary = Vocabulary(order_items(past))
    trait_columns = [
        column
        for column in users.columns
        if column not in (USER, TRAINING_CONSENT) and not pd.api.types.is_datetime64_any_dtype(users[column])
    ]
    context_columns = [column for column in settings.context if column in events]
    limits = settings.max_trait_values, settings.trait_buckets
    encoders = {
        "traits": attributes.fit(users[users[USER].isin(past[USER])], trait_columns, *limits),
        "context": attributes.fit(past, context_columns, *limits),
    }
    listed = catalogue(items, vocabulary)
    content, widths = item_features(listed, settings.text_dimensions, seed)
    trends = settings.trends
    channels = [ALL, *map(window, trends.windows_days), *map(half_life, trends.half_lives_days)]
    description = {
        "cut_us": cut_us,
        "num_items": len(vocabulary),
        "encoders": encoders,
        "trait_sizes": [attributes.size(encoder) for encoder in encoders["traits"]],
        "context_sizes": [attributes.size(encoder) for encoder in encoders["context"]],
        "content_widths": widths,
        "channels": channels,
        "refresh_minutes": trends.refresh_minutes,
    }
    return {
        "vocabulary": vocabulary,
        "log": build_log(events, users, vocabulary, encoders),
        "item_features": content,
        "users": users[USER].tolist(),
        "titles": titles_of(listed),
        "description": description,
    }  # fmt: skip


def origin(manifest: dict, repeats: str, cut: str, until_us: int) -> dict:
    """What a description says of the data it is of, and of the period that follows the cut."""
    known = {key: manifest[key] for key in ("dataset", "dataset_hash", "split_id")}
    return known | {"cut": cut, "repeats": repeats, "until_us": until_us, "horizon_days": manifest["horizon_days"]}


def write(folder: Path, features: dict) -> None:
    """Write what `featurize` returned; `features.feature_files.load` reads it back."""
    folder.mkdir(parents=True, exist_ok=True)
    features["vocabulary"].save(folder / "vocabulary.json")
    features["log"].save(folder / "log.safetensors")
    save_file({"item_features": features["item_features"]}, folder / "items.safetensors")
    for name in ("users", "titles", "description"):
        (folder / f"{name}.json").write_text(json.dumps(features[name], ensure_ascii=False))


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cut", choices=(*CUTS, FULL), required=True, help="fit on events before valid_start or test_start, or on all"
    )
    cut = parser.parse_args(argv).cut
    settings = params.load()
    manifest = read_json(SPLIT / "manifest.json", "python -m data.split")
    features = featurize(
        read_table(SPLIT / "events.parquet", "python -m data.split"),
        read_table(INGESTED / "users.parquet", "python -m data.ingest"),
        read_table(INGESTED / "items.parquet", "python -m data.ingest"),
        moment_of(cut, manifest),
        settings.featurize,
        settings.seed,
    )
    until = manifest["test_start_us"] if cut == "valid" else manifest["end_us"] + 1
    features["description"] |= origin(manifest, settings.ingest.repeats, cut, until)
    folder = FEATURES / cut
    write(folder, features)
    print(f"featurize: {len(features['vocabulary']) - 1} items before the {cut} cut -> {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
