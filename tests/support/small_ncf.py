"""Small hyperparameters for the networks of benchmarks.ncf_paper."""

from __future__ import annotations

from benchmarks import ncf_paper

BY_HISTORY = ncf_paper.BY_HISTORY | {
    "embedding_dim": 16,
    "hidden_dim": 8,
    "num_negatives": 60,
    "batch_size": 16,
    "learning_rate": 0.01,
}
BY_ID = ncf_paper.DEEP | {"embedding_dim": 16, "hidden_dim": 8, "batch_size": 30, "learning_rate": 0.05}
