"""Dual cache: reuse both sides of the window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from dllm.caches.base import CacheChoice, StoredCache
from dllm.caches.memory import CacheState, ColumnRange
from dllm.types import Window


@dataclass(frozen=True)
class DualCache(StoredCache):
    """Reuse the keys and values on both sides of the window; run the window alone.

    A refresh, when a block is entered, runs all that the geometry needs: the whole row (bidirectional) or the block
    (block-causal). In between the columns outside the window keep what the refresh saw there. With block-causal
    attention and windows that are sub-blocks this is the sub-block cache of Fast-dLLM v2. `refresh=1` equals `NoCache`.

    Attributes:
        refresh: As in `StoredCache`.
        while_first: Whether to refresh also while the window's first column is pending, decided for each row on its
            own, as Fast-dLLM v2 does.

    References:
        Wu et al. 2025, Fast-dLLM (arXiv:2505.22618), section 3.2; Fast-dLLM v2 (arXiv:2509.26328), section 3.3.

    Departures:
        With `while_first` the batched code of Fast-dLLM v2 refreshes all rows if any needs it, so that rows there
        depend on their neighbours.
    """

    while_first: bool = False

    def needs_refresh(self, window: Window, state: CacheState) -> Bool[Tensor, " b"]:
        needed = super().needs_refresh(window, state)
        return needed | window.first if self.while_first else needed

    def reach(self, reuse: CacheChoice, /) -> ColumnRange:
        start = torch.where(reuse.refresh, reuse.whole, reuse.left)
        return ColumnRange(start, torch.where(reuse.refresh, reuse.ends, reuse.window))
