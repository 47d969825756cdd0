"""Evaluation cases of one target in one order, the same for every seed of a model, their catalog, and their slices.

Shapes: C cases, T true items of all cases together, I items, K length of the longest ranked list, D content width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from config.command import UserError
from config.paths import INGESTED
from data.tables import read_table
from features.feature_files import Features
from features.segment_membership import SegmentInputs, collect_inputs, membership
from features.segment_rules import Rule, describe_rule
from features.sequences import EvaluationCases
from training.metrics import TrueRanks, accuracy

TARGETS = ("horizon", "next_item")
HEADLINE = 10  # k of the headline metrics
PRIMARY = f"ndcg@{HEADLINE}"  # the metric by which models are chosen and compared
RANKED_LENGTH = 100  # item ids that are kept of each ranking
HEAD_SHARE = 0.2  # of the catalog's items, most popular first
SEGMENT = "segment:"  # prefix of the slice name of a segment


@dataclass(frozen=True)
class Catalog:
    """What the metrics need to know about each item.

    Attributes:
        ids: (I,) item ids.
        member: (I,) whether the item belongs to the catalog; only then can it be recommended.
        popularity: (I,) training events.
        percentile: (I,) share of the catalog with fewer training events plus half of the share with equally many,
            in [0, 1].
        novelty: (I,) -log2(max(events, 1) / all training events), bits.
        head: (I,) whether the item is among the most popular 20% of the catalog; ties are broken by item id.
        age_days: (I,) age at test_start; NaN where unknown.
        unit: (I, D) content vectors of length 1, 0 for an item without content; None if no item has content.
    """

    ids: pd.Index
    member: np.ndarray
    popularity: np.ndarray
    percentile: np.ndarray
    novelty: np.ndarray
    head: np.ndarray
    age_days: np.ndarray
    unit: np.ndarray | None

    @classmethod
    def from_items(cls, items: pd.DataFrame) -> Catalog:
        """Read the columns item_id, popularity and catalog, and the optional age_days and vector."""
        ids, member = pd.Index(items["item_id"]), items["catalog"].to_numpy(bool)
        popularity = items["popularity"].to_numpy(float)
        share = np.maximum(popularity, 1) / max(popularity.sum(), 1)
        return cls(
            ids=ids,
            member=member,
            popularity=popularity,
            percentile=_percentile(popularity, member),
            novelty=-np.log2(share),
            head=_head(ids, popularity, member),
            age_days=items["age_days"].to_numpy(float) if "age_days" in items else np.full(len(ids), np.nan),
            unit=_unit_vectors(items["vector"]) if "vector" in items else None,
        )

    def rows(self, lists: Sequence[Sequence[str]] | np.ndarray) -> np.ndarray:
        """The row of each id of all lists, concatenated; -1 for an id that the items table does not hold."""
        return self.ids.get_indexer(np.concatenate([np.asarray(ids, object) for ids in lists]))


def _percentile(popularity: np.ndarray, member: np.ndarray) -> np.ndarray:
    known = np.sort(popularity[member])
    below, up_to = np.searchsorted(known, popularity, "left"), np.searchsorted(known, popularity, "right")
    return (below + up_to) / 2 / len(known)


def _head(ids: pd.Index, popularity: np.ndarray, member: np.ndarray) -> np.ndarray:
    order = np.lexsort((ids.astype(str).to_numpy(str), -popularity, ~member))
    head = np.zeros(len(ids), bool)
    head[order[: int(np.ceil(HEAD_SHARE * member.sum()))]] = True
    return head


def _unit_vectors(vectors: pd.Series) -> np.ndarray | None:
    width = max((len(vector) for vector in vectors if vector is not None), default=0)
    if width == 0:
        return None
    matrix = np.stack([np.zeros(width) if vector is None else np.asarray(vector, float) for vector in vectors])
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.divide(matrix, length, out=np.zeros_like(matrix), where=length > 0)


@dataclass(frozen=True)
class SeedRankings:
    """One seed's rankings of the cases.

    Attributes:
        lists: (C, K) catalog rows in rank order, -1 where a list is shorter.
        truth: ranks of the true items.
        truth_rows: (T,) catalog rows of the true items, -1 for an item that the items table does not hold.
    """

    lists: np.ndarray
    truth: TrueRanks
    truth_rows: np.ndarray


@dataclass(frozen=True)
class RankedCases:
    """The cases of one target in the order of case_id.

    Attributes:
        user: (C,) row of the user in [0, num_users), in the order of user ids.
        last: (C,) whether this is the user's last case in time.
        history_length, activity: (C,) columns that define slices.
        seeds: the rankings of each seed.
        segments: slice name -> (C,) mask; empty where the rankings hold no segments.
    """

    user: np.ndarray
    num_users: int
    last: np.ndarray
    history_length: np.ndarray
    activity: np.ndarray
    seeds: list[SeedRankings]
    segments: dict[str, np.ndarray] = field(default_factory=dict)


def collect_cases(frames: Sequence[pd.DataFrame], target: str, catalog: Catalog) -> RankedCases | None:
    """Collect the cases of one target from one rankings table per seed; None without any.

    Args:
        frames: tables as `ranking.rankings_table` makes them, with a column `segments` (lists of names) where segments
            are configured.

    Raises:
        UserError: the seeds hold different cases.
    """
    aligned = align_cases(frames, target)
    table = aligned[0]
    if table.empty:
        return None
    users, user = np.unique(table["user_id"].to_numpy(str), return_inverse=True)
    return RankedCases(
        user=user,
        num_users=len(users),
        last=_is_last_case(user, table),
        history_length=table["history_length"].to_numpy(),
        activity=table["activity"].to_numpy(),
        seeds=[_seed_rankings(frame, catalog) for frame in aligned],
        segments=_segment_masks(table["segments"]) if "segments" in table else {},
    )


def align_cases(frames: Sequence[pd.DataFrame], target: str) -> list[pd.DataFrame]:
    """Rows of one target of each table, sorted by case_id, so that row n is the same case in all.

    Raises UserError if the tables hold different cases.
    """
    aligned = [frame[frame["target"] == target].sort_values("case_id", ignore_index=True) for frame in frames]
    if any(not same_cases(aligned[0], other) for other in aligned[1:]):
        raise UserError(f"rankings: the seeds of one model hold different {target} cases")
    return aligned


def same_cases(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Whether two aligned tables hold the same cases of the same users."""
    return len(a) == len(b) and all((a[name].to_numpy() == b[name].to_numpy()).all() for name in ("case_id", "user_id"))


def true_ranks(table: pd.DataFrame) -> TrueRanks:
    """The ranks of the true items of a rankings table."""
    return TrueRanks.of(table["true_ranks"].to_numpy())


def _is_last_case(user: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    order = np.lexsort((np.arange(len(user)), table["time"].astype("int64").to_numpy(), user))
    last = np.zeros(len(user), bool)
    last[order[np.append(np.diff(user[order]) > 0, True)]] = True
    return last


def _segment_masks(column: pd.Series) -> dict[str, np.ndarray]:
    """Slice name -> (C,) mask, from the `segments` column of a rankings table."""
    names = sorted(column.explode().dropna().unique())
    return {SEGMENT + name: np.array([name in inside for inside in column], dtype=bool) for name in names}


def _seed_rankings(table: pd.DataFrame, catalog: Catalog) -> SeedRankings:
    lengths = table["ranked"].map(len).to_numpy()
    lists = np.full((len(table), max(lengths.max(), 1)), -1, np.int64)
    lists[np.arange(lists.shape[1]) < lengths[:, None]] = catalog.rows(table["ranked"].to_numpy())
    return SeedRankings(lists, true_ranks(table), catalog.rows(table["truth"].to_numpy()))


# --- slices
#
# A slice of cases (cold, warm, history length, activity, segment) keeps whole cases. A slice of items (head, tail, new,
# age) keeps of each case's truth only the items of the slice: their ranks stay those of the full ranking, |truth|
# becomes the number kept, and a case that keeps none is outside the slice.

# Name -> the least and the first value beyond.
HISTORY = {"history_1_4": (1, 5), "history_5_19": (5, 20), "history_20_99": (20, 100), "history_100_up": (100, np.inf)}
ACTIVITY = {"activity_1": (1, 2), "activity_2_9": (2, 10), "activity_10_49": (10, 50), "activity_50_up": (50, np.inf)}
AGE_DAYS = {
    "item_age_0_6": (0, 7),
    "item_age_7_29": (7, 30),
    "item_age_30_179": (30, 180),
    "item_age_180_up": (180, np.inf),
}

SLICE_DEFINITIONS = {
    "cold": "no event of the user is known at that moment",
    "warm": "at least one event of the user is known at that moment",
    "history": "events of the user known at that moment",
    "activity": "cases of the user in this target",
    "segment": "the user is in the segment at that moment, by its rule and what was known then",
    "head_items": "true items among the 20% of the catalog with the most training events",
    "tail_items": "true items of the other 80% of the catalog",
    "new_items": "true items that first appear after test_start: not in the catalog, so never hit",
    "item_age": "days between the item's first event and test_start",
}


def case_slices(cases: RankedCases) -> dict[str, np.ndarray]:
    """Slice name -> (C,) mask: cold, warm and segments always, a family of ranges if more than one is in use."""
    cold = cases.history_length == 0
    histories, activities = _ranges(cases.history_length, HISTORY), _ranges(cases.activity, ACTIVITY)
    return {"cold": cold, "warm": ~cold} | histories | activities | cases.segments


def item_slices(rankings: SeedRankings, catalog: Catalog) -> dict[str, np.ndarray]:
    """Slice name -> (T,) mask of true items."""
    rows = rankings.truth_rows
    member = (rows >= 0) & catalog.member[rows]
    head = member & catalog.head[rows]
    ages = _ranges(np.where(member, catalog.age_days[rows], np.nan), AGE_DAYS)
    return {"head_items": head, "tail_items": member & ~head, "new_items": ~member} | ages


def _ranges(values: np.ndarray, family: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray]:
    masks = {name: (values >= low) & (values < high) for name, (low, high) in family.items()}
    return masks if sum(mask.any() for mask in masks.values()) > 1 else {}


def sliced_metrics(
    cases: RankedCases, catalog: Catalog, k: int, metrics: tuple[str, ...]
) -> dict[str, dict[str, np.ndarray]]:
    """Slice name -> metric key -> (C,) values averaged over seeds, NaN outside the slice. Empty slices are left out."""
    each_seed: list[dict[str, dict[str, np.ndarray]]] = []
    for rankings in cases.seeds:
        values = accuracy(rankings.truth, [k])
        slices = {
            name: {key: np.where(mask, values[key], np.nan) for key in metrics}
            for name, mask in case_slices(cases).items()
        }
        for name, mask in item_slices(rankings, catalog).items():
            part = accuracy(rankings.truth.keep(mask), [k])
            slices[name] = {key: part[key] for key in metrics}
        each_seed.append(slices)
    return {
        name: {key: np.mean([seed[name][key] for seed in each_seed], axis=0) for key in metrics}
        for name in each_seed[0]
        if not np.isnan(each_seed[0][name][metrics[0]]).all()
    }


@dataclass(frozen=True)
class SegmentSlices:
    """Segment rules, and the facts about this dataset's users and items that they need."""

    rules: Sequence[Rule]
    facts: SegmentInputs

    @classmethod
    def of(cls, rules: Sequence[Rule], features: Features, folder: Path = INGESTED) -> SegmentSlices:
        """Read the ingested tables. Raises UserError if a table is missing, or lacks a column that a rule needs.

        An item that first appears after the cut counts as an event without values, since the model's catalog ends at
        the cut too.
        """
        users, items = (read_table(folder / f"{name}.parquet", "python -m data.ingest") for name in ("users", "items"))
        return cls(rules, collect_inputs(rules, users, items, features.users, features.vocabulary.ids))

    def column(self, features: Features, cases: EvaluationCases) -> list[list[str]]:
        """The names of each case's segments, in the order of the rules."""
        inside = membership(self.rules, features.log, self.facts, cases.user, cases.time)
        names = np.array([rule["name"] for rule in self.rules], dtype=object)
        return [names[row].tolist() for row in inside]

    def meanings(self) -> dict[str, str]:
        """Slice name -> its rule in words."""
        return {SEGMENT + rule["name"]: describe_rule(rule) for rule in self.rules}
