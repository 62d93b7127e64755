"""Vicinity refresh: run the window and the columns near it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from dllm.caches.base import CacheChoice, StoredCache
from dllm.caches.memory import CacheState, ColumnRange
from dllm.caches.positions import PositionCache, RowLog
from dllm.errors import ConfigError
from dllm.types import Window


@dataclass(frozen=True)
class VicinityCache(PositionCache):
    """Run the window with `before` columns on its left and `after` on its right; reuse what lies farther away.

    Both 0 is `DualCache`; both None, or `refresh=1`, is `NoCache`. With block-causal attention the columns stay within
    what a refresh covers: finished blocks are exact already, and nothing right of the block exists.

    A column that a window leaves behind keeps what was stored with its mask, if it is farther than `before` from the
    next one, until the next refresh. This happens with sub-blocks, and within a block no other way.

    Attributes:
        before: Columns left of the window. None: all that a refresh covers.
        after: Columns right of the window. None: all that a refresh covers.
        warmup: Number of a row's first forwards that are all refreshes.

    References:
        Ma et al. 2025, dInfer (arXiv:2510.08666), section 3.3; its code calls the fields `prefix_look`, `after_look`,
        `warmup_times` and `cache_update_freq`.

    Departures:
        The vicinity is that of the window, which differs from the block's only with sub-blocks. `refresh` counts from
        the row's last refresh, not from its first forward. A refresh decides once, where the published code decides in
        the refresh and once more in a windowed forward.
    """

    before: int | None = 16
    after: int | None = 16
    warmup: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_column_counts(self, before=self.before, after=self.after)
        if self.warmup < 0:
            raise ConfigError(f"{self}: warmup must be 0 or more forwards")

    def needs_refresh(self, window: Window, state: CacheState) -> Bool[Tensor, " b"]:
        log: RowLog = state.log
        return super().needs_refresh(window, state) | (log.forwards < self.warmup)

    def reach(self, reuse: CacheChoice, /) -> ColumnRange:
        start = reuse.whole if self.before is None else torch.maximum(reuse.left - self.before, reuse.whole)
        end = reuse.ends if self.after is None else torch.minimum(reuse.window + self.after, reuse.ends)
        return ColumnRange(
            torch.where(reuse.refresh, reuse.whole, start),
            torch.where(reuse.refresh, reuse.ends, end),
        )


def check_column_counts(cache: StoredCache, **counts: int | None) -> None:
    """Raise ConfigError where a number of columns is negative."""
    for name, count in counts.items():
        if count is not None and count < 0:
            raise ConfigError(f"{cache}: {name} must be 0 or more columns, or None for all")
