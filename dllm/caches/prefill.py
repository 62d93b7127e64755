"""Long inputs in pieces: what a forward only stores need not be run all at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from dllm.types import Geometry


def split_into_chunks(
    geometry: Geometry, start: Int[Tensor, " r"], end: Int[Tensor, " r"], shown: Int[Tensor, " r"], chunk: int
) -> Iterator[tuple[Int[Tensor, " r"], Int[Tensor, " r"]]]:
    """Cut the columns [start, end) of each row into consecutive pieces.

    Cuts lie between attention blocks, so that each column still sees all that it would: finished pieces and its own
    block.

    Args:
        geometry: Block-causal attention.
        start: First column of each row.
        end: One past its last column.
        shown: First column whose hidden state is needed; the last piece holds all from there on.
        chunk: Most columns of a piece. A piece has one block at least; the last has more if all that is shown is more.

    Yields:
        Start and end of every row's next piece; they are equal where a row has no columns in it.
    """
    size = geometry.block
    assert size is not None, "only finished blocks are stored ahead"
    step = max(1, chunk // size) * size
    # The last piece begins with the block of the first column that is shown, or of the last column if that is earlier.
    floor = geometry.extent(torch.minimum(shown, end - 1) + 1) - size
    last = torch.where(end > start, torch.maximum(start, floor), start)
    cut = geometry.extent(start + 1) - size
    while bool((start < last).any()):
        cut = cut + step
        stop = torch.minimum(torch.maximum(cut, start), last)
        yield start, stop
        start = stop
    yield start, end
