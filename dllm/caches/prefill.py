"""Long inputs in pieces: what a forward only stores need not be run all at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dllm.types import Geometry


def split_into_chunks(
    geometry: Geometry, start: Tensor, end: Tensor, shown: Tensor, chunk: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut the columns [start, end) (r,) of each row into consecutive pieces; the last holds all from `shown` (r,) on.

    Cuts lie between attention blocks, so that each column still sees all that it would: finished pieces and its own
    block. A piece has at most `chunk` columns, but one block at least, and the last one whatever is shown besides.
    """
    size = geometry.block
    assert size is not None, "only finished blocks are stored ahead"
    step = max(1, chunk // size) * size
    floor = geometry.extent(torch.minimum(shown, end - 1) + 1) - size
    last = torch.where(end > start, torch.maximum(start, floor), start)
    cut = geometry.extent(start + 1) - size
    while bool((start < last).any()):
        cut = cut + step
        stop = torch.minimum(torch.maximum(cut, start), last)
        yield start, stop
        start = stop
    yield start, end
