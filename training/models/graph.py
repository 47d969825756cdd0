"""Recorded graphs: a small batch takes longer in Python than in arithmetic, and a recorded graph runs without Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Graph:
    """Records a function once per shape of its first tensor, and runs the record from then on.

    The record contains every branch as it was taken: the function may branch on the shapes of its tensors, never on
    their values. Results are those of the function to the bit.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.records: dict[torch.Size, Callable[..., Any]] = {}

    def __call__(self, *tensors: Tensor) -> Any:
        shape = tensors[0].shape
        if shape not in self.records:
            result = self._function(
                *tensors
            )  # unrecorded first: caches that it fills must not become part of the record
            self.records[shape] = _record(self._function, tensors)
            return result
        return self.records[shape](*tensors)


def _record(function: Callable[..., Any], tensors: tuple[Tensor, ...]) -> Callable[..., Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing is deprecated, and about branches on shapes
        return torch.jit.trace(function, tensors, check_trace=False)
