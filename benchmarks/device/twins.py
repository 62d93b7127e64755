"""A device's decoding beside the CPU's, step by step: where they part, and by how little."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm.models import TransformerModel
from dllm.types import Step


class Comparison(NamedTuple):
    """The common part of two streams of the same work.

    Attributes:
        steps: Steps that wrote the same.
        parted: Whether a step then wrote something else.
        difference: Largest difference of a likeliest token's probability, up to and with that step, which was the
            last that saw the same canvas.
    """

    steps: int
    parted: bool
    difference: float


def on_device(model: TransformerModel, device: torch.device, dtype: torch.dtype) -> TransformerModel:
    """A copy of a model's weights on a device."""
    network = deepcopy(model.network).to(device, dtype)
    return TransformerModel(network, model.geometry, needs_left=model.needs_left, mask_id=model.mask_id)


def to_host(value: Any) -> Any:
    """A nest of named tuples with every tensor on the CPU, such as a `Step`: the laws compare there."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(to_host, value))
    return type(value)(map(to_host, value)) if isinstance(value, tuple | list) else value


def compare(ours: Sequence[Step], theirs: Sequence[Step]) -> Comparison:
    """Walk along two streams (host) until they write different things."""
    difference = 0.0
    for number, (our, their) in enumerate(zip(ours, theirs, strict=False)):
        slots = our.window.pending & their.window.pending
        if our.guess.p1.shape == their.guess.p1.shape and slots.any():
            apart = (our.guess.p1.float() - their.guess.p1.float()).abs()[slots]
            difference = max(difference, float(apart.max()))
        if not _same(our.canvas.tokens, their.canvas.tokens) or not _same(our.canvas.pending, their.canvas.pending):
            return Comparison(number, True, difference)
    return Comparison(min(len(ours), len(theirs)), len(ours) != len(theirs), difference)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())
