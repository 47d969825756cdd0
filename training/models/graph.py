"""A function of tensors as a recorded graph, which runs without Python between its operations.

Where tensors are small, as for a handful of requests, Python takes longer than the arithmetic.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Graph:
    """Records a function once for each shape of its first tensor, and runs the record from then on.

    The record holds every branch as it was taken: the function may branch on shapes of its tensors, never on what they
    hold. Results are those of the function to the bit.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._records: dict[torch.Size, Callable[..., Any]] = {}

    def __call__(self, *tensors: Tensor) -> Any:
        shape = tensors[0].shape
        if shape not in self._records:
            result = self._function(*tensors)  # first without recording: what it keeps must not stand in the record
            self._records[shape] = _record(self._function, tensors)
            return result
        return self._records[shape](*tensors)


def _record(function: Callable[..., Any], tensors: tuple[Tensor, ...]) -> Callable[..., Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated, and about branches on shapes
        return torch.jit.trace(function, tensors, check_trace=False)
