"""Evaluation cases of one target, ready to measure: checked, in one order, the same for every seed of a
model.

Shapes: C cases, T true items of all cases, K length of the longest ranked list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from experiments.evaluation.catalogue import Catalogue, RankingsError
from training.metrics import NOT_RANKED, TrueRanks

TARGETS = ("window", "next")
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
class Cases:
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


def gather(frames: Sequence[pd.DataFrame], target: str, catalogue: Catalogue) -> Cases | None:
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
    if target == "window" and len(users) < len(table):
        raise RankingsError(f"rankings: {len(table)} window cases of {len(users)} users; expected one a user")
    segments = _segment_masks(table["segments"]) if "segments" in table else {}
    return Cases(user, len(users), _last(user, table), table["history_length"].to_numpy(),
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


def _ranked(table: pd.DataFrame, catalogue: Catalogue) -> Ranked:
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


def _matrix(lists: np.ndarray, catalogue: Catalogue) -> np.ndarray:
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
