"""A loaded model that scores what it is asked. Knows no server, loads no pandas: this runs inside the worker.

Legend: B batch, N item rows, C trend channels, k list length.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from features.encode import Batch, assemble, known, trait_row
from features.trends import TrendSnapshot
from serving.worker.person import Person, people_of
from serving.worker.request import Request
from training.models import artifact
from training.models.artifact import Artifact
from training.models.query import log_trends
from training.models.rank import exclude, rank

ONE = np.zeros(1, dtype=np.int64)  # a snapshot is of one moment, whichever is asked for


class Scorer:
    """A model with its vocabulary and encoders.

    Args:
        loaded: a verified artifact.
        version: of the registry.
        folder: where the artifact lies.
    """

    def __init__(self, loaded: Artifact, version: str = "unregistered", folder: Path | None = None) -> None:
        self.artifact, self.version, self.folder = loaded, version, folder
        self.model, self.vocabulary = loaded.model, loaded.vocabulary
        self.manifest = loaded.manifest
        self._read: list[tuple[TrendSnapshot, np.ndarray, Tensor | None]] = []
        with torch.inference_mode():
            self.model.freeze()

    @classmethod
    def load(cls, folder: Path | str, version: str = "unregistered") -> Self:
        """Load and verify an artifact folder.

        Raises:
            ArtifactError: a file is missing, changed or does not fit.
        """
        return cls(artifact.load(folder), version, Path(folder))

    @torch.inference_mode()
    def scores(self, batch: Batch) -> Tensor:
        """(B, N) scores, seen items and padding at -inf."""
        return exclude(self.model.scores(batch), batch.seen)

    def rank(self, batch: Batch, truth: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See `training.models.rank.rank`; evaluation asks this, with the scores that requests get."""
        return rank(self.scores(batch), truth, k)

    def encode(
        self, requests: list[Request], people: list[Person] | None = None, trends: TrendSnapshot | None = None
    ) -> Batch:
        """Requests as the tensors that training saw.

        Args:
            people: whoever asks, one for each request; None takes what the requests state.
            trends: of the items; None takes those of the artifact.
        """
        config = self.artifact.config
        people = people_of(requests, config["repeats"], None) if people is None else people
        items, times, lengths = known(
            self.vocabulary.indices([item for person in people for item in person.items]),
            np.array([moment for person in people for moment in person.times], dtype=np.int64),
            np.array([len(person.items) for person in people], dtype=np.int64),
        )
        trends_NC, logs = self.as_read(trends or self.artifact.trends)
        batch = assemble(
            items,
            times,
            lengths,
            np.array([request.time_us for request in requests], dtype=np.int64),
            self._rows(
                [{**person.traits, **one.context} for one, person in zip(requests, people, strict=True)], "traits"
            ),
            self._rows([request.context for request in requests], "context"),
            trends_NC,
            np.zeros(len(requests), dtype=np.int64),
            self.model.max_history,
        )
        batch.log_trends = logs
        return batch

    def as_read(self, snapshot: TrendSnapshot) -> tuple[np.ndarray, Tensor | None]:
        """(1, N, C) trends, and for a network their (1, C, N) logarithms: kept, since every batch reads the same."""
        for known_one, trends, logs in self._read:
            if known_one is snapshot:
                return trends, logs
        trends = np.require(snapshot.at(ONE, self.model.channels), requirements=["C", "W"])
        logs = log_trends(torch.from_numpy(trends)) if self.model.learned and self.model.channels else None
        self._read = [*self._read[-1:], (snapshot, trends, logs)]  # the export's and the newest are in use
        return trends, logs

    def golden(self) -> list[dict]:
        """The requests recorded at export, each with the answer given then."""
        lines = (self.folder / "golden.jsonl").read_text().splitlines() if self.folder else []
        return [json.loads(line) for line in lines]

    def _rows(self, values: list[dict], kind: str) -> np.ndarray:
        encoders = self.artifact.config["encoders"][kind]
        rows = [trait_row(one, encoders) for one in values]
        return np.array(rows, dtype=np.int64).reshape(len(values), len(encoders))
