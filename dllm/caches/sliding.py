"""DSB-cache: a vicinity that follows a sliding window, refreshed by what was written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from dllm.caches.base import CacheChoice
from dllm.caches.memory import CacheState, ColumnRange
from dllm.caches.positions import PositionCache, RowLog
from dllm.caches.vicinity import check_column_counts
from dllm.errors import ConfigError
from dllm.types import Window


@dataclass(frozen=True)
class SlidingCache(PositionCache):
    """Run the window, the columns beside it, and the row's last window; refresh by the number of decided columns.

    A step runs from where the row's last window began, or `before` columns left of this one, to `after` columns right
    of it. `written=1` is `NoCache`. What the last window decided or replaced is always run again, so nothing that was
    decided keeps the keys and values of its mask, however the window moves.

    Attributes:
        before: Columns left of the window. None: all that a refresh covers.
        after: Columns right of the window. None: all that a refresh covers.
        written: Columns decided since a row's last refresh upon which it is refreshed; published as the size of the
            block. None: only on entering a block.

    References:
        Luo et al. 2026, DSB (arXiv:2602.05992), DSB-cache, with the defaults of its scripts; made for `SlidingBlock`,
        which enters anew by the same count.

    Departures:
        Rows refresh each on its own account, where the published code is written for one row.
    """

    before: int | None = 24
    after: int | None = 0
    written: int | None = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_column_counts(self, before=self.before, after=self.after)
        if self.written is not None and self.written < 1:
            raise ConfigError(f"{self}: written must be 1 column or more, or None")

    def needs_refresh(self, window: Window, state: CacheState) -> Bool[Tensor, " b"]:
        log: RowLog = state.log
        needed = super().needs_refresh(window, state)
        return needed if self.written is None else needed | (log.written >= self.written)

    def reach(self, reuse: CacheChoice, /) -> ColumnRange:
        log: RowLog = reuse.log
        left = reuse.whole if self.before is None else reuse.left - self.before
        right = reuse.ends if self.after is None else reuse.window + self.after
        start = torch.minimum(left, log.start).clamp(min=reuse.whole)
        end = torch.minimum(torch.maximum(right, log.end), reuse.ends)
        return ColumnRange(
            torch.where(reuse.refresh, reuse.whole, start),
            torch.where(reuse.refresh, reuse.ends, end),
        )
