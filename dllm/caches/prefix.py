"""Prefix cache: reuse everything left of the block."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dllm.caches.base import CacheChoice, StoredCache
from dllm.caches.memory import ColumnRange


@dataclass(frozen=True)
class PrefixCache(StoredCache):
    """Reuse the keys and values of all columns left of the current block; run the block and what lies right of it.

    Bidirectional attention: they are refreshed by one run of the whole row when a block is entered, and are stale
    with respect to what is decided later in the block. Block-causal attention: they are exact, and nothing right of
    the block exists; this is the block-level cache of Fast-dLLM v2. `refresh=1` equals `NoCache`.

    Attributes:
        refresh: As in `StoredCache`.

    References:
        Wu et al. 2025, Fast-dLLM (arXiv:2505.22618), section 3.2; Fast-dLLM v2 (arXiv:2509.26328), section 3.3.
    """

    def reach(self, reuse: CacheChoice, /) -> ColumnRange:
        return ColumnRange(torch.where(reuse.refresh, reuse.whole, reuse.block), reuse.ends)
