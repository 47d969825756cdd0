"""Evaluation cases of one target, checked and in one order, the same for every seed of a model.

Shapes: C cases, T true items of all cases together, I items, K length of the longest ranked list, D content width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from config.command import UserError
from training.metrics import NOT_RANKED, TrueRanks

TARGETS = ("horizon", "next_item")
HEADLINE = 10  # k of the headline metrics
PRIMARY = f"ndcg@{HEADLINE}"  # the metric by which models are chosen and compared
RANKED_LENGTH = 100  # item ids that are kept of each ranking
HEAD_SHARE = 0.2  # of the catalog's items, most popular first
SEGMENT = "segment:"  # prefix of the slice name of a segment
# Of a rankings table. Where segments are configured, it also has `segments`: a list of names.
COLUMNS = ("case_id", "user_id", "target", "time", "history_length", "activity", "ranked", "truth", "true_ranks")


class RankingsError(UserError):
    """A rankings or items table cannot be measured. The message names the column, the value and the bound."""


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
        """Read the columns item_id, popularity and catalog, and the optional age_days and vector.

        Raises:
            RankingsError: a column is missing, an id occurs twice, or no item belongs to the catalog.
        """
        for name in ("item_id", "popularity", "catalog"):
            if name not in items:
                raise RankingsError(f"items: the column {name} is missing")
        ids = pd.Index(items["item_id"])
        if ids.has_duplicates:
            raise RankingsError(f"items: item_id {ids[ids.duplicated()][0]!r} occurs twice")
        member = items["catalog"].to_numpy(bool)
        if not member.any():
            raise RankingsError("items: no row has catalog = true; expected at least one")
        popularity = items["popularity"].to_numpy(float)
        age = items["age_days"].to_numpy(float) if "age_days" in items else np.full(len(ids), np.nan)
        share = np.maximum(popularity, 1) / max(popularity.sum(), 1)
        return cls(
            ids=ids,
            member=member,
            popularity=popularity,
            percentile=_percentile(popularity, member),
            novelty=-np.log2(share),
            head=_head(ids, popularity, member),
            age_days=age,
            unit=_unit_vectors(items),
        )

    def rows(self, lists: Sequence[Sequence[str]] | np.ndarray, column: str) -> np.ndarray:
        """The row of each id of all lists, concatenated.

        Raises:
            RankingsError: an id is not in items.
        """
        joined = np.concatenate([np.asarray(ids, object) for ids in lists] or [np.zeros(0, object)])
        rows = self.ids.get_indexer(joined)
        if (rows < 0).any():
            raise RankingsError(f"rankings: {column} holds {joined[rows < 0][0]!r}, which is not in items")
        return rows


def _percentile(popularity: np.ndarray, member: np.ndarray) -> np.ndarray:
    known = np.sort(popularity[member])
    below, up_to = np.searchsorted(known, popularity, "left"), np.searchsorted(known, popularity, "right")
    return (below + up_to) / 2 / len(known)


def _head(ids: pd.Index, popularity: np.ndarray, member: np.ndarray) -> np.ndarray:
    order = np.lexsort((ids.astype(str).to_numpy(str), -popularity, ~member))
    head = np.zeros(len(ids), bool)
    head[order[: int(np.ceil(HEAD_SHARE * member.sum()))]] = True
    return head


def _unit_vectors(items: pd.DataFrame) -> np.ndarray | None:
    vectors = items["vector"] if "vector" in items else pd.Series([None] * len(items))
    width = max((len(vector) for vector in vectors if vector is not None), default=0)
    if width == 0:
        return None
    matrix = np.zeros((len(items), width))
    for row, vector in enumerate(vectors):
        if vector is not None and len(vector):
            matrix[row] = vector
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

    Raises:
        RankingsError: a column is missing, a case occurs twice or has no truth, the seeds hold different cases, or
            `ranked` and `true_ranks` contradict each other.
    """
    for name in COLUMNS:
        if any(name not in frame for frame in frames):
            raise RankingsError(f"rankings: the column {name} is missing")
    aligned = align_cases(frames, target)
    table = aligned[0]
    if table.empty:
        return None
    users, user = np.unique(table["user_id"].to_numpy(str), return_inverse=True)
    if target == "horizon" and len(users) < len(table):
        raise RankingsError(f"rankings: {len(table)} horizon cases of {len(users)} users; expected one per user")
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

    Raises:
        RankingsError: a case occurs twice, or the tables hold different cases.
    """
    aligned = []
    for frame in frames:
        rows = frame[frame["target"] == target]
        repeated = rows["case_id"].duplicated()
        if repeated.any():
            raise RankingsError(f"rankings: {target} case {rows.loc[repeated, 'case_id'].iloc[0]!r} occurs twice")
        aligned.append(rows.sort_values("case_id").reset_index(drop=True))
    if any(not same_cases(aligned[0], other) for other in aligned[1:]):
        raise RankingsError(f"rankings: the seeds of one model hold different {target} cases")
    return aligned


def same_cases(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Whether two aligned tables hold the same cases of the same users."""
    return len(a) == len(b) and all((a[name].to_numpy() == b[name].to_numpy()).all() for name in ("case_id", "user_id"))


def true_ranks(table: pd.DataFrame) -> TrueRanks:
    """The ranks of the true items.

    Raises:
        RankingsError: a case has no true item, or a rank is below 1.
    """
    try:
        truth = TrueRanks.of(table["true_ranks"].to_numpy())
    except ValueError as error:
        raise RankingsError(f"rankings: true_ranks: {error}") from None
    if (truth.size == 0).any():
        raise RankingsError(f"rankings: case {table['case_id'][int(np.argmin(truth.size))]!r} has no true item")
    return truth


def _is_last_case(user: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    order = np.lexsort((np.arange(len(user)), table["time"].astype("int64").to_numpy(), user))
    last = np.zeros(len(user), bool)
    last[order[np.append(np.diff(user[order]) > 0, True)]] = True
    return last


def _segment_masks(column: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Slice name -> (C,) mask, from the `segments` column of a rankings table."""
    lengths = np.fromiter(map(len, column), np.int64, len(column))
    owner = np.repeat(np.arange(len(column)), lengths)
    joined = np.array([name for names in column for name in names], dtype=object)
    masks = {}
    for name in sorted(set(joined)):
        mask = np.zeros(len(column), dtype=bool)
        mask[owner[joined == name]] = True
        masks[SEGMENT + name] = mask
    return masks


def _seed_rankings(table: pd.DataFrame, catalog: Catalog) -> SeedRankings:
    lengths = np.fromiter(map(len, table["ranked"]), np.int64, len(table))
    lists = np.full((len(table), max(lengths.max(initial=0), 1)), -1, np.int64)
    lists[np.arange(lists.shape[1]) < lengths[:, None]] = catalog.rows(table["ranked"].to_numpy(), "ranked")
    truth = true_ranks(table)
    sizes = np.fromiter(map(len, table["truth"]), np.int64, len(table))
    if (sizes != truth.size).any():
        case = table["case_id"][int(np.argmax(sizes != truth.size))]
        raise RankingsError(f"rankings: case {case!r} has a different number of items in truth and true_ranks")
    rows = catalog.ids.get_indexer(np.concatenate([np.asarray(case, object) for case in table["truth"]]))
    _check_ranks(table, lists, truth, rows)
    return SeedRankings(lists, truth, rows)


def _check_ranks(table: pd.DataFrame, lists: np.ndarray, truth: TrueRanks, rows: np.ndarray) -> None:
    """Compare `ranked` with `true_ranks`: they are written separately, and others recompute metrics from `ranked`."""
    inside = truth.rank <= (lists >= 0).sum(axis=1)[truth.case]
    beyond = ~inside & (truth.rank <= RANKED_LENGTH)
    if beyond.any():
        at = int(np.argmax(beyond))
        raise RankingsError(
            f"rankings: case {table['case_id'][int(truth.case[at])]!r} has true rank {truth.rank[at]}, "
            f"beyond the end of its list; expected {NOT_RANKED} for an item that the ranking does not hold"
        )
    known = rows >= 0
    at_rank = (lists[truth.case, np.where(inside, truth.rank - 1, 0)] == rows) & known
    listed = np.zeros(len(rows), bool)
    for column in range(lists.shape[1]):  # a column at a time: (T,) memory, not (T, K)
        listed |= (lists[truth.case, column] == rows) & known
    wrong = np.where(inside, ~at_rank, listed)
    if wrong.any():
        case = table["case_id"][int(truth.case[np.argmax(wrong)])]
        raise RankingsError(f"rankings: case {case!r}: ranked and true_ranks disagree")
