"""A geometry of attention: finished text attends causally, and the open block in both directions.

A model that was causal before it learnt to denoise can so keep the keys and values of finished text as they were.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm.models import TransformerModel
from dllm.testing.tiny import MASK, tiny_network
from dllm.types import BlockCausal


@dataclass(frozen=True)
class CausalContext(BlockCausal):
    """Attention blocks whose columns see each other only while they are denoised.

    The forward that stores a finished block runs its columns as a causal model would; everything else is as with
    `BlockCausal`.
    """

    def visible_end(self, columns: Tensor, length: Tensor, stored: Tensor | None = None) -> Tensor:
        ends = super().visible_end(columns, length)
        return ends if stored is None else torch.where(columns < stored.unsqueeze(1), columns + 1, ends)

    def visible_end_at(self, column: int, length: int, stored: int = 0) -> int:
        return column + 1 if column < stored else super().visible_end_at(column, length)


def make_tiny_model(shift: int = 0, size: int = 8) -> TransformerModel:
    """Make a tiny random model that attends so; with `shift` 1 the output at a column predicts the next one."""
    return TransformerModel(tiny_network(shift), CausalContext(size), needs_left=shift, mask_id=MASK)
