"""Evaluation cases of one target, ready to measure: checked, in one order, the same for every seed of a
model.

Shapes: C cases, T true items of all cases, K length of the longest ranked list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from config.command import UserError
from training.metrics import NOT_RANKED, TrueRanks

HEAD_SHARE = 0.2  # of the catalogue's items, most popular first


class RankingsError(UserError):
    """A rankings or items table that cannot be measured; the message names the column, the value and the
    bound."""


@dataclass(frozen=True)
class Catalog:
    """What the metrics need to know of each item.

    Attributes:
        ids: (I,) item ids.
        member: (I,) whether the item belongs to the catalogue; only then can it be recommended.
        popularity: (I,) training events.
        percentile: (I,) share of the catalogue with fewer training events, plus half of the share with as
            many: [0, 1].
        novelty: (I,) -log2(max(events, 1) / all training events), bits.
        head: (I,) whether the item is among the most popular 20% of the catalogue (ties by item id).
        age_days: (I,) age at test_start; NaN where unknown.
        unit: (I, D) content vectors of length 1 (0 where an item has no content), or None without any
            content.
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
    def of(cls, items: pd.DataFrame) -> Catalog:
        """Read the columns item_id, popularity, catalogue and, where there, age_days and vector.

        Raises:
            RankingsError: a column is missing, an id occurs twice, or no item belongs to the catalogue.
        """
        missing = [name for name in ("item_id", "popularity", "catalogue") if name not in items]
        if missing:
            raise RankingsError(f"items: the column {missing[0]} is missing")
        ids = pd.Index(items["item_id"])
        if ids.has_duplicates:
            raise RankingsError(f"items: item_id {ids[ids.duplicated()][0]!r} occurs twice")
        member = items["catalogue"].to_numpy(bool)
        if not member.any():
            raise RankingsError("items: no row has catalogue = true; expected at least one")
        popularity = items["popularity"].to_numpy(float)
        age = items["age_days"].to_numpy(float) if "age_days" in items else np.full(len(ids), np.nan)
        share = np.maximum(popularity, 1) / max(popularity.sum(), 1)
        return cls(ids, member, popularity, _percentile(popularity, member), -np.log2(share),
                   _head(ids, popularity, member), age, _unit(items))  # fmt: skip

    def rows(self, lists: Sequence[Sequence[str]] | np.ndarray, column: str) -> np.ndarray:
        """The row of each id in all lists, joined end to end.

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
    below, upto = np.searchsorted(known, popularity, "left"), np.searchsorted(known, popularity, "right")
    return (below + upto) / 2 / len(known)


def _head(ids: pd.Index, popularity: np.ndarray, member: np.ndarray) -> np.ndarray:
    order = np.lexsort((ids.astype(str).to_numpy(str), -popularity, ~member))
    head = np.zeros(len(ids), bool)
    head[order[: int(np.ceil(HEAD_SHARE * member.sum()))]] = True
    return head


def _unit(items: pd.DataFrame) -> np.ndarray | None:
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


TARGETS = ("horizon", "next_item")
RANKED_LENGTH = 100  # ids kept of each ranking; metrics read no further
SEGMENT = "segment:"  # begins the name of a segment's slice
COLUMNS = (  # and, where segments are asked for, `segments`: a list of names
    "case_id",
    "user_id",
    "target",
    "time",
    "history_length",
    "activity",
    "ranked",
    "truth",
    "true_ranks",
)


@dataclass(frozen=True)
class Ranked:
    """One seed's rankings of the cases.

    Attributes:
        lists: (C, K) rows of the catalogue in rank order, -1 where a list is shorter.
        truth: ranks of the true items.
        truth_rows: (T,) rows of the catalogue, -1 for an item that items.parquet does not know.
    """

    lists: np.ndarray
    truth: TrueRanks
    truth_rows: np.ndarray


@dataclass(frozen=True)
class RankedCases:
    """The cases of one target in the order of case_id.

    Attributes:
        user: (C,) row of the user in [0, num_users), users in the order of their ids.
        last: (C,) whether this is the user's last case in time.
        history_length, activity: (C,) slice columns.
        seeds: one Ranked per seed.
        segments: (C,) masks by slice name; empty where the rankings name none.
    """

    user: np.ndarray
    num_users: int
    last: np.ndarray
    history_length: np.ndarray
    activity: np.ndarray
    seeds: list[Ranked]
    segments: dict[str, np.ndarray] = field(default_factory=dict)


def gather(frames: Sequence[pd.DataFrame], target: str, catalogue: Catalog) -> RankedCases | None:
    """The cases of one target out of one rankings table per seed; None where the tables hold none.

    Raises:
        RankingsError: a column is missing, a case occurs twice or has no truth, the seeds' cases differ, or
            `ranked` and `true_ranks` contradict each other.
    """
    for name in COLUMNS:
        if any(name not in frame for frame in frames):
            raise RankingsError(f"rankings: the column {name} is missing")
    aligned = align(frames, target)
    table = aligned[0]
    if table.empty:
        return None
    users, user = np.unique(table["user_id"].to_numpy(str), return_inverse=True)
    if target == "horizon" and len(users) < len(table):
        raise RankingsError(f"rankings: {len(table)} horizon cases of {len(users)} users; expected one a user")
    segments = _segment_masks(table["segments"]) if "segments" in table else {}
    return RankedCases(user, len(users), _last(user, table), table["history_length"].to_numpy(),
                 table["activity"].to_numpy(), [_ranked(frame, catalogue) for frame in aligned], segments)  # fmt: skip


def align(frames: Sequence[pd.DataFrame], target: str) -> list[pd.DataFrame]:
    """Each table's rows of one target, sorted by case_id: row n of every table is then the same case.

    Raises:
        RankingsError: a case occurs twice, or the tables hold different cases.
    """
    aligned = []
    for frame in frames:
        rows = frame[frame["target"] == target]
        if rows["case_id"].duplicated().any():
            twice = rows.loc[rows["case_id"].duplicated(), "case_id"].iloc[0]
            raise RankingsError(f"rankings: {target} case {twice!r} occurs twice")
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


def _last(user: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    order = np.lexsort((np.arange(len(user)), table["time"].astype("int64").to_numpy(), user))
    last = np.zeros(len(user), bool)
    last[order[np.append(np.diff(user[order]) > 0, True)]] = True
    return last


def _segment_masks(column: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """(C,) masks by slice name, out of a rankings column."""
    lengths = np.fromiter(map(len, column), np.int64, len(column))
    owner = np.repeat(np.arange(len(column)), lengths)
    found = np.array([name for names in column for name in names], dtype=object)
    inside = {}
    for name in sorted(set(found)):
        mask = np.zeros(len(column), dtype=bool)
        mask[owner[found == name]] = True
        inside[SEGMENT + name] = mask
    return inside


def _ranked(table: pd.DataFrame, catalogue: Catalog) -> Ranked:
    lists = _matrix(table["ranked"].to_numpy(), catalogue)
    truth = true_ranks(table)
    sizes = np.fromiter((len(case) for case in table["truth"]), np.int64, len(table))
    if (sizes != truth.size).any():
        bad = table["case_id"][int(np.argmax(sizes != truth.size))]
        raise RankingsError(f"rankings: case {bad!r} has another number of truth than of true_ranks")
    joined = np.concatenate([np.asarray(case, object) for case in table["truth"]])
    rows = catalogue.ids.get_indexer(joined)
    _must_agree(table, lists, truth, rows)
    return Ranked(lists, truth, rows)


def _matrix(lists: np.ndarray, catalogue: Catalog) -> np.ndarray:
    lengths = np.fromiter((len(case) for case in lists), np.int64, len(lists))
    matrix = np.full((len(lists), max(lengths.max(initial=0), 1)), -1, np.int64)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = catalogue.rows(lists, "ranked")
    return matrix


def _must_agree(table: pd.DataFrame, lists: np.ndarray, truth: TrueRanks, rows: np.ndarray) -> None:
    """`ranked` and `true_ranks` are written apart, and whoever recomputes a metric reads only the first."""
    inside = truth.rank <= (lists >= 0).sum(axis=1)[truth.case]
    beyond = ~inside & (truth.rank <= RANKED_LENGTH)
    if beyond.any():
        at = int(np.argmax(beyond))
        raise RankingsError(
            f"rankings: case {table['case_id'][int(truth.case[at])]!r} has true rank {truth.rank[at]}, "
            f"beyond the end of its list; expected {NOT_RANKED} for an item that the ranking does not hold"
        )
    place = np.where(inside, truth.rank - 1, 0)
    stated = (lists[truth.case, place] == rows) & (rows >= 0)
    found = np.zeros(len(rows), bool)
    for column in range(lists.shape[1]):  # a column at a time: (T,) memory, not (T, K)
        found |= (lists[truth.case, column] == rows) & (rows >= 0)
    wrong = np.where(inside, ~stated, found)
    if wrong.any():
        case = table["case_id"][int(truth.case[np.argmax(wrong)])]
        raise RankingsError(f"rankings: case {case!r}: ranked and true_ranks disagree")
