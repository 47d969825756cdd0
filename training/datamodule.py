"""Training windows as batches, for Lightning.

Legend: R rows, Q questions, P targets, S seen pairs, T moments, C trend channels, N item rows,
W targets of all processes together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from data.columns import HOUR
from features.encode import pad_left
from features.feature_files import Features
from training.models.query import Query, log_trends
from training.windows import AheadPool, Questions, Rows, Timeline, cut_rows

TABLE_BYTES = 512 * 2**20  # of the trends that training reads; more moments than fit are taken further apart


@dataclass
class TrainBatch:
    """Questions, what each should have foretold, and what it may not foretell."""

    query: Query
    question: Tensor  # (P,) rows of the query
    item: Tensor  # (P,) true item rows
    weight: Tensor  # (P,) sums to about 1
    seen: Tensor  # (2, S): (question, item row) of the visible history
    among: Tensor  # (W,) true item rows of the whole batch, of which this may be one process's share
    drawn: Tensor  # (P,) which of them these are

    def to(self, device: torch.device | str) -> TrainBatch:
        return TrainBatch(
            self.query.to(device),
            *(part.to(device) for part in (self.question, self.item, self.weight, self.seen, self.among, self.drawn)),
        )


class TrendTable:
    """Log trends at evenly spaced moments of the training time, looked up by the last one before a question.

    Args:
        hours: between two moments.
    """

    def __init__(self, features: Features, channels: tuple[str, ...], times: np.ndarray, hours: int) -> None:
        self.step = hours * HOUR
        width = len(features.vocabulary) * len(channels) * 2
        while len(moments := np.unique(times // self.step)) * width > TABLE_BYTES and len(moments) > 1:
            self.step *= 2
        self.moments = moments * self.step
        self.values = torch.empty(len(moments), len(channels), len(features.vocabulary), dtype=torch.float16)
        trends = features.trend_log()
        for begin in range(0, len(moments), 64):
            part = slice(begin, begin + 64)
            self.values[part] = log_trends(torch.from_numpy(trends.at(self.moments[part], channels)))

    def rows(self, time_us: np.ndarray) -> np.ndarray:
        """(n,) the last moment at or before each time."""
        return np.searchsorted(self.moments, time_us, side="right") - 1


class Windows(IterableDataset):
    """Endless epochs: each iteration is one pass over all questions, shuffled by (seed, epoch)."""

    def __init__(self, features: Features, channels: tuple[str, ...], params: dict, seed: int) -> None:
        self.timeline = Timeline(features.past)
        self.params, self.seed, self.epoch = params, seed, 0
        self.days = features.description["horizon_days"]
        self.next = self.timeline.next_item_questions()
        self.pool = AheadPool(self.timeline.users, self.timeline.times, self.days, params["horizon_half_life_days"])
        times = self.timeline.times
        self.table = TrendTable(features, channels, self._all_times(times), params["trend_step_hours"])

    def _all_times(self, times: np.ndarray) -> np.ndarray:
        first, last = times.min(initial=0), times.max(initial=0)
        hours = np.arange(times.min() if len(times) else 0, last + 1, HOUR)
        return np.concatenate([times, hours[hours >= first]])

    def __iter__(self) -> Iterator[TrainBatch]:
        generator = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        questions = self.next
        if self.params["horizon_weight"] > 0:
            questions = questions.joined(self._ahead(generator))
        rows = cut_rows(self.timeline, questions, self.params["max_history"], generator)
        order = self.timeline.shuffled_ties(generator)
        by_row = np.argsort(rows.of_question, kind="stable")
        bounds = np.searchsorted(rows.of_question[by_row], np.arange(len(rows.begin) + 1))
        for chosen in self._batches(rows, np.diff(bounds), generator):
            asked = by_row[_ranges(bounds[chosen], bounds[chosen + 1])]
            place = np.repeat(np.arange(len(chosen)), bounds[chosen + 1] - bounds[chosen])
            yield self._collate(rows, chosen, questions.take(asked), place, rows.position[asked], order)

    def _ahead(self, generator: np.random.Generator) -> Questions:
        """`horizon_samples` per user on average, as an evaluation of `horizon` would ask them."""
        count = self.params["horizon_samples"] * int((np.diff(self.timeline.offsets) > 0).sum())
        asked = self.timeline.horizon_questions(*self.pool.draw(count, generator), self.days)
        return asked.take(np.flatnonzero((asked.stop > asked.first) & (asked.time >= self.timeline.times.min())))

    def _batches(self, rows: Rows, asked: np.ndarray, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """Rows of similar length together, about `batch_size` events each, in random order."""
        useful = np.flatnonzero(asked > 0)
        noise = generator.uniform(0.8, 1.25, size=len(useful))
        useful = useful[np.argsort(rows.length[useful] * noise + noise)]
        total = np.cumsum(np.maximum(rows.length[useful], 1))
        parts = np.searchsorted(total, np.arange(self.params["batch_size"], total[-1], self.params["batch_size"]))
        batches = np.split(useful, np.unique(parts))
        for position in generator.permutation(len(batches)):
            if len(batches[position]):
                yield batches[position]

    def _collate(self, rows, chosen, asked: Questions, place, position, order) -> TrainBatch:
        timeline = self.timeline
        lengths = rows.length[chosen]
        events = order[_ranges(rows.begin[chosen], rows.begin[chosen] + lengths)]
        width = max(1, int(lengths.max()))
        known = timeline.first_time[asked.user] <= asked.time
        query = Query(
            items=_left_aligned(timeline.items[events], lengths, width),
            item_times=_left_aligned(timeline.times[events], lengths, width),
            row=torch.from_numpy(place),
            position=torch.from_numpy(position),
            length=torch.from_numpy(asked.visible),
            time=torch.from_numpy(asked.time),
            traits=torch.from_numpy(np.where(known[:, None], timeline.traits[asked.user], 0)),
            context=torch.from_numpy(asked.context),
            trends=self.table.values,
            moment=torch.from_numpy(self.table.rows(asked.time)),
        )
        question, target, weight = self._targets(asked)
        seen_at = _ranges(rows.begin[chosen][place], rows.begin[chosen][place] + position)
        seen = np.stack([np.repeat(np.arange(len(asked)), position), timeline.items[order[seen_at]]])
        item = torch.from_numpy(timeline.items[target])
        return TrainBatch(
            query,
            torch.from_numpy(question),
            item,
            torch.from_numpy(weight.astype(np.float32)),
            torch.from_numpy(seen),
            among=item,
            drawn=torch.arange(len(item)),
        )

    def _targets(self, asked: Questions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Question, event row and weight of every target.

        Each target of a `next_item` question weighs the same, as each is a case of its own; a stale question's
        share a weight, as its user counts once.
        """
        lengths = asked.stop - asked.first
        question, target = np.repeat(np.arange(len(asked)), lengths), _ranges(asked.first, asked.stop)
        kept = self.timeline.fresh[target]
        question, target = question[kept], target[kept]
        stale = asked.stale[question]
        of_each = np.bincount(question, minlength=len(asked))[question]
        share = self.params["horizon_weight"]
        ahead = share * stale / of_each / max(1, len(np.unique(question[stale])))
        return question, target, np.where(stale, ahead, (1 - share) / max(1, (~stale).sum()))


class TrainData(pl.LightningDataModule):
    """Feeds `Windows` to the trainer; one epoch is one pass over the training events."""

    def __init__(self, windows: Windows) -> None:
        super().__init__()
        self.windows = windows

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.windows.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.windows.epoch = state["epoch"]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.windows, batch_size=None)


def _ranges(begin: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """begin[0]..stop[0]-1, begin[1]..stop[1]-1, ... one after the other."""
    lengths = stop - begin
    shift = np.repeat(begin - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return shift + np.arange(lengths.sum())


def _left_aligned(flat: np.ndarray, lengths: np.ndarray, width: int) -> Tensor:
    """(B, width) rows of a ragged array, padded on the right."""
    return torch.from_numpy(np.ascontiguousarray(pad_left([flat[::-1]], lengths[::-1], width)[0][::-1, ::-1]))


def share(batch: TrainBatch, rank: int, size: int) -> TrainBatch:
    """Every `size`-th history from the `rank`-th on, the questions on it and their targets.

    Weights stay those of the whole batch, so that the losses of all shares add up to its loss, however uneven the
    shares are. Where there are more processes than histories, the last ones take the first history at weight 0:
    every layer then has a gradient to bring to the others, and it is zero.
    """
    if size == 1:
        return batch
    own = torch.zeros(len(batch.query.items), dtype=torch.bool)
    own[rank::size] = True
    spare = not own.any()
    own[0] |= spare
    asked = own[batch.query.row]
    wanted, seen = asked[batch.question], asked[batch.seen[0]]
    return replace(
        batch,
        query=_of_histories(batch.query, own, asked),
        question=_place(asked)[batch.question[wanted]],
        item=batch.item[wanted],
        weight=batch.weight[wanted] * (not spare),
        seen=torch.stack([_place(asked)[batch.seen[0, seen]], batch.seen[1, seen]]),
        drawn=batch.drawn[wanted],
    )


def _of_histories(query: Query, own: Tensor, asked: Tensor) -> Query:
    """The histories marked in `own` (R,), and of the questions those marked in `asked` (Q,)."""
    by_question = ("position", "length", "time", "traits", "context", "moment")
    return replace(
        query,
        items=query.items[own],
        item_times=query.item_times[own],
        row=_place(own)[query.row[asked]],
        **{name: getattr(query, name)[asked] for name in by_question},
    )


def _place(kept: Tensor) -> Tensor:
    """Where each marked element stands among the marked ones."""
    return kept.cumsum(0) - 1
