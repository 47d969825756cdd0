"""One model, its loss and its optimizer, for Lightning."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from training import losses
from training.datamodule import TrainBatch, share
from training.losses import Targets, factored_softmax
from training.models.network import LearnedModel
from training.negative_sampling import NegativeSampler, StreamingFrequency

OF_RANK = 7_368_787  # between the seeds of two processes


class TrainModule(pl.LightningModule):
    """Trains `model` and keeps `average`, the exponential moving average of its weights.

    The average is what is validated and kept: it stands in for a falling learning rate, whose schedule
    would have to know how long training is going to take (Polyak and Juditsky 1992).

    Args:
        counts: (N,) events per item before the cut.
        seed: of the negatives.
    """

    def __init__(self, model: LearnedModel, params: dict, counts, seed: int) -> None:
        super().__init__()
        self.model, self.params = model, params
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.sampler = NegativeSampler(counts, params.get("alpha", 0.0), seed)
        share = counts / max(1, counts.sum())
        self.frequency = StreamingFrequency(1 - (1 - share) ** params["batch_size"], rate=0.05)
        self.seed, self._seeded, self.last_loss = seed, -1, torch.tensor(float("nan"))
        self._trends: Tensor | None = None

    def on_train_batch_start(self, batch: TrainBatch, batch_idx: int) -> None:
        """Chance follows from (seed, epoch) alone, so that a resumed run takes the path of one never stopped.

        By our own count: after a resume Lightning leaves out on_train_epoch_start, and counts batches on.
        """
        if self.epoch == self._seeded:
            return
        self._seeded = self.epoch
        torch.manual_seed(self.seed + 1_000_003 * self.epoch + OF_RANK * self.global_rank)  # of dropout
        self.sampler.begin_epoch(self.epoch)

    @property
    def epoch(self) -> int:
        """Passes over the events begun so far. Lightning's own count is one short after a resume."""
        return self.trainer.datamodule.windows.epoch  # type: ignore[attr-defined]

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["frequency"] = self.frequency.state()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.frequency.restore(checkpoint["frequency"])

    def transfer_batch_to_device(self, batch: TrainBatch, device, dataloader_idx: int) -> TrainBatch:
        """This process's share. The trends of all moments are one table, the same in all batches: it moves once."""
        batch = share(batch, self.global_rank, self.trainer.world_size)
        if self._trends is None:
            self._trends = batch.query.trends.to(device)
        return replace(batch, query=replace(batch.query, trends=self._trends)).to(device)

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        """The loss whose gradient is the whole batch's, once it is averaged over the processes.

        The weights of all shares together sum to about 1, so the shares' losses add up to the batch's; DDP takes
        the mean of the gradients instead.
        """
        loss = getattr(self, f"_{self.params['loss']}")(batch)
        self.last_loss = loss.detach()
        return loss * self.trainer.world_size

    def _full_softmax(self, batch: TrainBatch) -> Tensor:
        targets = Targets(batch.question, batch.item, batch.weight, batch.seen)
        query = batch.query
        return factored_softmax(self.model.factors(query), query.trends, query.moment, targets)

    def _in_batch(self, batch: TrainBatch) -> Tensor:
        return self._over_the_batch(batch, corrected=True)

    def _in_batch_uncorrected(self, batch: TrainBatch) -> Tensor:
        """What the correction is measured against: popular items, oftener in a batch, are pushed down oftener."""
        return self._over_the_batch(batch, corrected=False)

    def _over_the_batch(self, batch: TrainBatch, corrected: bool) -> Tensor:
        candidates = torch.unique(batch.among)
        column = torch.searchsorted(candidates, batch.item)
        self.frequency.update(candidates)
        where = torch.searchsorted(candidates, batch.seen[1]).clamp(max=len(candidates) - 1)
        held = candidates[where] == batch.seen[1]
        masked = torch.stack([batch.seen[0][held], where[held]])
        scores = self.model.score_shared(batch.query, candidates)
        log_probability = self.frequency.log_probability(candidates) * corrected
        each = losses.in_batch_softmax(scores, log_probability, masked, batch.question, column)
        return (each * batch.weight).sum()

    def _sampled(self, batch: TrainBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of the true items (P,) and of sampled ones (P, M), those in the history masked; the draws."""
        # Every process draws for the whole batch, from one seed: negatives do not depend on how it is shared.
        drawn = self.sampler.draw(len(batch.among), self.params["num_negatives"])[batch.drawn.cpu()].to(
            batch.item.device
        )
        scores = self.model.score_pairs(batch.query, batch.question, torch.cat([batch.item[:, None], drawn], dim=1))
        taken = torch.cat([batch.seen, torch.stack([batch.question, batch.item])], dim=1)
        size = self.model.sizes.num_items
        bad = torch.isin(batch.question[:, None] * size + drawn, taken[0] * size + taken[1])
        return scores[:, 0], scores[:, 1:].masked_fill(bad, losses.MASKED), drawn

    def _sampled_softmax(self, batch: TrainBatch) -> Tensor:
        positive, negatives, drawn = self._sampled(batch)
        each = losses.sampled_softmax(positive, negatives, self.sampler.log_expected(drawn, drawn.shape[1]))
        return (each * batch.weight).sum()

    def _bce(self, batch: TrainBatch) -> Tensor:
        positive, negatives, _ = self._sampled(batch)
        return (losses.binary_cross_entropy(positive, negatives) * batch.weight).sum()

    def configure_optimizers(self):
        groups = parameter_groups(self.model, self.params["weight_decay"])
        optimizer = torch.optim.AdamW(groups, lr=self.params["learning_rate"])
        warm_up = self.params["warmup_steps"]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm_up))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_end(self, *_) -> None:
        move_average(self.average, self.model, self.global_step, self.params["ema_decay"])


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay; biases and norms do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, step: int, most: float) -> None:
    """Move `average` towards the weights after `step` steps; `most` is the share of itself that it ever keeps."""
    decay = min(most, step / (step + 10))  # early weights are soon forgotten
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
