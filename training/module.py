"""One network, its loss and its optimizer, for Lightning.

Legend: P targets, M negatives of each.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training import losses
from training.datamodule import TrainBatch, TrainingBatches, shard_batch
from training.losses import NegativeSampler, StreamingFrequency, Targets, factored_softmax
from training.models.network import Network

EPOCH_SEED_STEP = 1_000_003  # between the seeds of two epochs
RANK_SEED_STEP = 7_368_787  # between the seeds of two processes
FREQUENCY_RATE = 0.05  # of the moving average of item frequencies


class TrainModule(pl.LightningModule):
    """Trains `model` and keeps `average`, the exponential moving average of its weights; `counts` (N,) are events per item.

    The average is what is validated and kept. It replaces a falling learning rate, whose schedule would have to know
    how long training will take (Polyak and Juditsky 1992).
    """

    def __init__(self, model: Network, batches: TrainingBatches, counts: np.ndarray) -> None:
        super().__init__()
        self.batches, seed = batches, batches.seed
        self.model, self.hyperparameters = model, model.hyperparameters
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.sampler = NegativeSampler(counts, getattr(self.hyperparameters, "alpha", 0.0), seed)
        share = counts / max(1, counts.sum())
        in_a_batch = 1 - (1 - share) ** self.hyperparameters.batch_size
        self.frequency = StreamingFrequency(in_a_batch, FREQUENCY_RATE)
        self.seed, self._seeded_epoch, self.last_loss = seed, -1, torch.tensor(float("nan"))
        self._trends: Tensor | None = None

    def on_train_batch_start(self, batch: TrainBatch, batch_idx: int) -> None:
        """Seed by (seed, epoch) alone, so that a resumed run takes the path of an uninterrupted one.

        By our own count of epochs: after a resume Lightning skips on_train_epoch_start and continues counting batches.
        """
        if self.epoch == self._seeded_epoch:
            return
        self._seeded_epoch = self.epoch
        torch.manual_seed(self.seed + EPOCH_SEED_STEP * self.epoch + RANK_SEED_STEP * self.global_rank)  # of dropout
        self.sampler.begin_epoch(self.epoch)

    @property
    def epoch(self) -> int:
        """Passes over the events begun so far. Lightning's own count is one short after a resume."""
        return self.batches.epoch

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint |= {"frequency": self.frequency.state(), "events_epoch": self.epoch}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.frequency.restore(checkpoint["frequency"])
        self.batches.epoch = checkpoint["events_epoch"]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None)

    def transfer_batch_to_device(self, batch: TrainBatch, device, dataloader_idx: int) -> TrainBatch:
        """This process's share. The trends of all moments are one table, the same in all batches: it moves once."""
        batch = shard_batch(batch, self.global_rank, self.trainer.world_size)
        if self._trends is None:
            self._trends = batch.query.trends.to(device)
        return replace(batch, query=replace(batch.query, trends=self._trends)).to(device)

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        """The loss whose gradient, averaged over the processes, is that of the whole batch.

        The weights of all shares sum to about 1, so the shares' losses add up to the batch's; DDP averages instead.
        """
        loss = self.loss(batch)
        self.last_loss = loss.detach()
        return loss * self.trainer.world_size

    def loss(self, batch: TrainBatch) -> Tensor:
        """The loss of a batch, by the hyperparameter `loss`."""
        match self.hyperparameters.loss:
            case "full_softmax":
                targets = Targets(batch.target_query, batch.target_item, batch.weight, batch.seen)
                return factored_softmax(
                    self.model.factors(batch.query), batch.query.trends, batch.query.moment, targets
                )
            case "in_batch" | "in_batch_uncorrected" as loss:  # without the correction popular items are pushed down
                by_target = self._in_batch_softmax(batch, corrected=loss == "in_batch")
            case "sampled_softmax":
                positive, negatives, drawn = self._score_samples(batch)
                log_expected = self.sampler.log_expected(drawn, drawn.shape[1])
                by_target = losses.sampled_softmax(positive, negatives, log_expected)
            case "bce":
                positive, negatives, _ = self._score_samples(batch)
                by_target = losses.binary_cross_entropy(positive, negatives)
            case other:
                raise ValueError(f"loss is {other!r}, which the trainer does not know")
        return (by_target * batch.weight).sum()

    def _in_batch_softmax(self, batch: TrainBatch, corrected: bool) -> Tensor:
        candidates = torch.unique(batch.batch_items)
        column = torch.searchsorted(candidates, batch.target_item)
        self.frequency.update(candidates)
        seen_column = torch.searchsorted(candidates, batch.seen[1]).clamp(max=len(candidates) - 1)
        is_candidate = candidates[seen_column] == batch.seen[1]
        masked = torch.stack([batch.seen[0][is_candidate], seen_column[is_candidate]])
        scores = self.model.score_shared(batch.query, candidates)
        log_probability = self.frequency.log_probability(candidates) * corrected
        return losses.in_batch_softmax(scores, log_probability, masked, batch.target_query, column)

    def _score_samples(self, batch: TrainBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of the true items (P,) and of sampled ones (P, M), seen items masked; the (P, M) sampled items."""
        # Every process draws for the whole batch from one seed, so negatives do not depend on how it is shared.
        drawn = self.sampler.draw(len(batch.batch_items), self.hyperparameters.num_negatives)
        drawn = drawn[batch.batch_position.cpu()].to(batch.target_item.device)
        candidates = torch.cat([batch.target_item[:, None], drawn], dim=1)
        scores = self.model.score_pairs(batch.query, batch.target_query, candidates)
        excluded = torch.cat([batch.seen, torch.stack([batch.target_query, batch.target_item])], dim=1)
        num_items = self.model.sizes.num_items
        is_excluded = torch.isin(batch.target_query[:, None] * num_items + drawn, excluded[0] * num_items + excluded[1])
        return scores[:, 0], scores[:, 1:].masked_fill(is_excluded, losses.MASKED), drawn

    def configure_optimizers(self):
        groups = parameter_groups(self.model, self.hyperparameters.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.hyperparameters.learning_rate)
        warmup_steps = self.hyperparameters.warmup_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_end(self, *_) -> None:
        update_average(self.average, self.model, self.global_step, self.hyperparameters.ema_decay)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay; biases and norms do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, ema_decay: float) -> None:
    """Move `average` towards the weights after `step` steps. It keeps at most the share `ema_decay` of itself."""
    decay = min(ema_decay, step / (step + 10))  # early weights are soon forgotten
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
