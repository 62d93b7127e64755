"""dKV-Cache: reuse what is decided, one step late."""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Bool
from torch import Tensor

from dllm.caches.base import CacheChoice
from dllm.caches.memory import NEVER, CacheState, ColumnRange, columns_between
from dllm.caches.positions import PositionCache, RowLog
from dllm.types import Window


@dataclass(frozen=True)
class DelayedCache(PositionCache):
    """Reuse the keys and values of decided columns, but of none before it was run once more with its token.

    Runs all pending columns, also those behind the window, and what was decided in the last step. A row is refreshed
    in the first two forwards of a block and then in every `refresh`-th of the block (None: not again).

    `refresh=1` is `NoCache`. A column is never stale for more than the step in which it is run again: what is reused
    was computed with the tokens that are on the canvas, though not with all that were decided since beside it.

    Attributes:
        refresh: Forwards of a block from one refresh to the next. None: no refresh after the second forward.

    References:
        Ma et al. 2025, dKV-Cache (arXiv:2505.15781), dKV-Cache-Decode; 8 and 4 are its published intervals.

    Departures:
        With a token-shifted model the column left of a pending one is run too, so that every prediction rests on a
        state of this step. Rows of a batch need not have equally many pending columns. Where a policy edits, the window
        is run as well. What was never run before (a block that is begun while another is open) is run whole.
    """

    refresh: int | None = 8

    def needs_refresh(self, window: Window, state: CacheState) -> Bool[Tensor, " b"]:
        log: RowLog = state.log
        needed = window.entered | window.commit | (log.opened < 2) | (state.since >= NEVER)
        return needed if self.refresh is None else needed | (log.opened % self.refresh == 0)

    def reach(self, reuse: CacheChoice, /) -> ColumnRange:
        log: RowLog = reuse.log
        t = log.undecided.shape[1]
        inside = columns_between(reuse.left, reuse.window, t)
        wanted = log.undecided | log.changed | columns_between(log.stored, reuse.ends, t)
        if log.answer:
            wanted = wanted | inside
        if log.needs_left:
            # The neighbour on the left predicts a pending column of the window. In-place: `wanted` is a new tensor.
            wanted[:, :-1] |= (log.undecided & inside)[:, 1:]
        skip = ~wanted & ~rearrange(reuse.refresh, "b -> b 1")
        return ColumnRange(reuse.whole, reuse.ends, skip)
