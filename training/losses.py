"""Losses over a catalogue: full softmax, in-batch softmax with the logQ correction, and two over sampled negatives.

Legend: Q questions, N item rows, M candidates, P targets.

Every loss returns one value per target, (P,), to be weighted by the caller.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from features.vocabulary import PAD

MASKED = -1e9  # not -inf: a row may be masked whole, and inf - inf is not a number


def full_softmax(scores: Tensor, masked: Tensor, question: Tensor, item: Tensor) -> Tensor:
    """(P,) cross-entropy over the whole catalogue: the plain form, to which `factored_softmax` and the rest are held.

    Args:
        scores: (Q, N).
        masked: (2, S) pairs (question, item row) that no ranking of that question may hold: its history.
        question: (P,) rows of `scores`.
        item: (P,) the true item rows.
    """
    scores = scores.clone()
    scores[:, PAD] = MASKED
    scores[masked[0], masked[1]] = MASKED
    # Gathered from each question's one partition: several targets must not copy its row of the catalogue.
    return torch.logsumexp(scores, dim=1)[question] - scores[question, item]


def in_batch_softmax(
    scores: Tensor, log_probability: Tensor, masked: Tensor, question: Tensor, column: Tensor
) -> Tensor:
    """(P,) cross-entropy over the distinct items of the batch, corrected for how they came to be there.

    An item is a candidate with probability p(j), so exp(s_j) / p(j) estimates its part of the full
    partition without bias (Horvitz-Thompson; `s_j - log p(j)` as in Yi et al. 2019, section 3). The true
    item is a candidate with certainty, so its own score is not corrected. Other true items of the same
    question (accidental hits) leave the denominator, as the history does.

    Args:
        scores: (Q, M) of the batch's distinct items.
        log_probability: (M,) log p(j): that a batch holds the item.
        masked: (2, S) pairs (question, column) of histories.
        question: (P,) rows of `scores`.
        column: (P,) columns of the true items.
    """
    corrected = scores - log_probability
    corrected = corrected.index_put((masked[0], masked[1]), corrected.new_tensor(MASKED))
    corrected = corrected.index_put((question, column), corrected.new_tensor(MASKED))
    others = torch.logsumexp(corrected, dim=1)[question]
    positive = scores[question, column]
    return torch.logaddexp(positive, others) - positive


def sampled_softmax(positive: Tensor, negatives: Tensor, log_expected: Tensor) -> Tensor:
    """(P,) cross-entropy of the true item against sampled ones, each corrected by how often it is drawn.

    Args:
        positive: (P,) scores of the true items.
        negatives: (P, M) scores of the sampled items, `MASKED` where a draw does not count.
        log_expected: (P, M) log of the expected number of draws of that item among the M.
    """
    others = torch.logsumexp(negatives - log_expected, dim=1)
    return torch.logaddexp(positive, others) - positive


def binary_cross_entropy(positive: Tensor, negatives: Tensor) -> Tensor:
    """(P,) -log sigmoid(positive) - sum of log sigmoid(-negative) (He et al. 2017, equation 7).

    Args:
        negatives: (P, M), `MASKED` where a draw does not count: its term is then 0.
    """
    return functional.softplus(-positive) + functional.softplus(negatives).sum(dim=1)
