"""Training cases as batches for Lightning, and the share of a batch that each process takes.

Legend: R rows, Q cases (queries of the model), P targets, S seen pairs, T moments, C trend channels, N item rows,
W targets of all processes together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from data.columns import HOUR
from features.feature_files import Features
from features.ragged import offsets_of, pad_left, ranges, row_numbers
from training.models.network import NetworkHyperparameters
from training.models.query import Query, log_trends
from training.timeline import HorizonTargetSampler, Rows, Timeline, TrainingCases, cut_rows

MAX_TREND_BYTES = 512 * 2**20  # of the trends that training reads; if more moments would not fit, the step doubles
MOMENTS_AT_A_TIME = 64  # whose trends are computed at once


@dataclass
class TrainBatch:
    """Queries, the items that each should predict, and those that it cannot recommend."""

    query: Query
    target_query: Tensor  # (P,) rows of the query
    target_item: Tensor  # (P,) item rows
    weight: Tensor  # (P,) of each target in the loss; sums to about 1
    seen: Tensor  # (2, S): (row of the query, item row) of the visible history
    batch_items: Tensor  # (W,) target items of the whole batch, of which this may be one process's share
    batch_position: Tensor  # (P,) which of them these targets are

    def to(self, device: torch.device | str) -> TrainBatch:
        return TrainBatch(*(getattr(self, part.name).to(device) for part in fields(self)))


class TrendTable:
    """Log trends every `step_hours` of the training time; a case reads the last ones before it."""

    def __init__(self, features: Features, channels: tuple[str, ...], times: np.ndarray, step_hours: int) -> None:
        self.step = step_hours * HOUR
        moment_bytes = len(features.vocabulary) * len(channels) * 2
        while len(moments := np.unique(times // self.step)) * moment_bytes > MAX_TREND_BYTES and len(moments) > 1:
            self.step *= 2
        self.moments = moments * self.step
        self.values = torch.empty(len(moments), len(channels), len(features.vocabulary), dtype=torch.float16)
        trends = features.trend_log()
        for begin in range(0, len(moments), MOMENTS_AT_A_TIME):
            part = slice(begin, begin + MOMENTS_AT_A_TIME)
            self.values[part] = log_trends(torch.from_numpy(trends.at(self.moments[part], channels)))

    def rows(self, time_us: np.ndarray) -> np.ndarray:
        """(n,) the last moment at or before each time."""
        return np.searchsorted(self.moments, time_us, side="right") - 1


class TrainingBatches(IterableDataset):
    """Endless epochs. Each iteration is one pass over all cases, shuffled by (seed, epoch)."""

    def __init__(
        self, features: Features, channels: tuple[str, ...], hyperparameters: NetworkHyperparameters, seed: int
    ) -> None:
        self.timeline = Timeline(features.past)
        self.hyperparameters, self.seed, self.epoch = hyperparameters, seed, 0
        self.horizon_days = features.description["horizon_days"]
        self.next_item_cases = self.timeline.next_item_cases()
        times = self.timeline.times
        self.sampler = HorizonTargetSampler(
            self.timeline.users, times, self.horizon_days, hyperparameters.horizon_half_life_days
        )
        every_hour = np.arange(times.min(), times.max() + 1, HOUR)
        moments = np.concatenate([times, every_hour])
        self.table = TrendTable(features, channels, moments, hyperparameters.trend_step_hours)

    def __iter__(self) -> Iterator[TrainBatch]:
        generator = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        cases = self.next_item_cases
        if self.hyperparameters.horizon_weight > 0:
            cases = cases.joined(self._horizon_cases(generator))
        rows = cut_rows(self.timeline, cases, self.hyperparameters.max_history, generator)
        order = self.timeline.shuffled_ties(generator)
        by_row = np.argsort(rows.of_case, kind="stable")
        counts = np.bincount(rows.of_case, minlength=len(rows.begin))
        bounds = offsets_of(counts)
        for chosen in self._batches(rows, counts, generator):
            in_batch = by_row[ranges(bounds[chosen], counts[chosen])]
            batch_row = row_numbers(counts[chosen])
            yield self._collate(rows, chosen, cases.take(in_batch), batch_row, rows.position[in_batch], order)

    def _horizon_cases(self, generator: np.random.Generator) -> TrainingCases:
        """`horizon_samples` per user on average, drawn as an evaluation of `horizon` would meet them."""
        users = int((np.diff(self.timeline.offsets) > 0).sum())
        drawn = self.sampler.draw(self.hyperparameters.horizon_samples * users, generator)
        cases = self.timeline.horizon_cases(*drawn, self.horizon_days)
        return cases.take(np.flatnonzero((cases.stop > cases.first) & (cases.time >= self.timeline.times.min())))

    def _batches(self, rows: Rows, num_cases: np.ndarray, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """Rows of similar length together, about `batch_size` events per batch, in random order."""
        useful = np.flatnonzero(num_cases > 0)
        noise = generator.uniform(0.8, 1.25, size=len(useful))
        useful = useful[np.argsort(rows.length[useful] * noise + noise)]
        total = np.cumsum(np.maximum(rows.length[useful], 1))
        batch_size = self.hyperparameters.batch_size
        parts = np.searchsorted(total, np.arange(batch_size, total[-1], batch_size))
        batches = np.split(useful, np.unique(parts))
        for position in generator.permutation(len(batches)):
            if len(batches[position]):
                yield batches[position]

    def _collate(self, rows: Rows, chosen, cases: TrainingCases, batch_row, position, order) -> TrainBatch:
        timeline = self.timeline
        lengths = rows.length[chosen]
        events = order[ranges(rows.begin[chosen], lengths)]
        width = max(1, int(lengths.max()))
        known = timeline.first_time[cases.user] <= cases.time
        query = Query(
            items=_left_aligned(timeline.items[events], lengths, width),
            item_times=_left_aligned(timeline.times[events], lengths, width),
            row=torch.from_numpy(batch_row),
            position=torch.from_numpy(position),
            length=torch.from_numpy(cases.visible),
            time=torch.from_numpy(cases.time),
            traits=torch.from_numpy(np.where(known[:, None], timeline.traits[cases.user], 0)),
            context=torch.from_numpy(cases.context),
            trends=self.table.values,
            moment=torch.from_numpy(self.table.rows(cases.time)),
        )
        target_query, target, weight = self._targets(cases)
        begin = rows.begin[chosen][batch_row]
        seen_items = timeline.items[order[ranges(begin, position)]]
        item = torch.from_numpy(timeline.items[target])
        return TrainBatch(
            query,
            torch.from_numpy(target_query),
            item,
            torch.from_numpy(weight.astype(np.float32)),
            torch.from_numpy(np.stack([np.repeat(np.arange(len(cases)), position), seen_items])),
            batch_items=item,
            batch_position=torch.arange(len(item)),
        )

    def _targets(self, cases: TrainingCases) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Case, event row and weight of every target.

        Targets of `next_item` cases weigh the same, as each is a case of its own in an evaluation. Those of a `horizon`
        case share a weight, as an evaluation counts its user once.
        """
        lengths = cases.stop - cases.first
        case, target = row_numbers(lengths), ranges(cases.first, lengths)
        kept = self.timeline.first_of_pair[target]
        case, target = case[kept], target[kept]
        is_horizon = cases.is_horizon[case]
        targets_of_case = np.bincount(case, minlength=len(cases))[case]
        share = self.hyperparameters.horizon_weight
        horizon = share * is_horizon / targets_of_case / max(1, len(np.unique(case[is_horizon])))
        return case, target, np.where(is_horizon, horizon, (1 - share) / max(1, (~is_horizon).sum()))


def _left_aligned(flat: np.ndarray, lengths: np.ndarray, width: int) -> Tensor:
    """(B, width) rows of a ragged array, padded on the right."""
    return torch.from_numpy(np.ascontiguousarray(pad_left([flat[::-1]], lengths[::-1], width)[0][::-1, ::-1]))


def shard_batch(batch: TrainBatch, rank: int, num_processes: int) -> TrainBatch:
    """Every `num_processes`-th history from the `rank`-th on, the queries on it and their targets.

    Weights stay those of the whole batch, so the losses of all shares add up to its loss however uneven they are.
    Where there are more processes than histories, the last ones take the first history with weight 0: every layer then
    has a gradient to exchange, and it is zero.
    """
    if num_processes == 1:
        return batch
    histories = torch.zeros(len(batch.query.items), dtype=torch.bool)
    histories[rank::num_processes] = True
    nothing_left = not histories.any()
    histories[0] |= nothing_left
    queries = histories[batch.query.row]
    targets, seen = queries[batch.target_query], queries[batch.seen[0]]
    query = batch.query
    of_query = {
        name: getattr(query, name)[queries] for name in ("position", "length", "time", "traits", "context", "moment")
    }
    row = _new_rows(histories)[query.row[queries]]
    items, item_times = query.items[histories], query.item_times[histories]
    return replace(
        batch,
        query=replace(query, items=items, item_times=item_times, row=row, **of_query),
        target_query=_new_rows(queries)[batch.target_query[targets]],
        target_item=batch.target_item[targets],
        weight=batch.weight[targets] * (not nothing_left),
        seen=torch.stack([_new_rows(queries)[batch.seen[0, seen]], batch.seen[1, seen]]),
        batch_position=batch.batch_position[targets],
    )


def _new_rows(kept: Tensor) -> Tensor:
    """The row that each marked element gets among the marked ones."""
    return kept.cumsum(0) - 1
