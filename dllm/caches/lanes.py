"""Lanes: several canvases of one row, run side by side, and what each of them showed.

A lane is one canvas that was run, with the states that the forward returned for it and, where the cache stores keys and
values, with its own row in the store. Every row of the batch has at least one lane, that of its canvas; the others are
drafts, canvases that it may become. A lane is served, without a forward, in a later step whose canvas it equals and in
which the same columns would be run for the same window: nothing else enters a forward.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dllm.caches.memory import ColumnRange
from dllm.transfer import to_device
from dllm.types import Canvas, Rows, Window


class DraftLanes(NamedTuple):
    """Canvases that were run, n in all: each row's own and drafts of those to come, the shorter before the longer.

    Attributes:
        row: Row of the batch (host).
        start: First column of the row's window (host).
        end: One past the window's last column (host).
        length: Length of the row (host).
        ran: Columns that were run (host).
        tokens: The canvas; -1 where there is none to serve.
        hidden: States of the window's slots. None before the first forward.
        shadow: States that do not see their own slot. None unless the window asked for them.
    """

    row: Int[Tensor, " n"]
    start: Int[Tensor, " n"]
    end: Int[Tensor, " n"]
    length: Int[Tensor, " n"]
    ran: Bool[Tensor, "n t"]
    tokens: Int[Tensor, "n t"]
    hidden: Float[Tensor, "n k d"] | None = None
    shadow: Float[Tensor, "n k d"] | None = None

    @classmethod
    def blank(cls, canvas: Canvas) -> DraftLanes:
        """Make one lane for each row, with nothing to serve."""
        zeros = torch.zeros(len(canvas.tokens), dtype=torch.int64)
        none = torch.zeros_like(canvas.rows.given)
        row = torch.arange(len(zeros))
        return cls(row, zeros, zeros, zeros, none, torch.full_like(canvas.tokens, -1))

    def holds_tokens_of(self, canvas: Canvas) -> Bool[Tensor, " n"]:
        """Find the lanes whose tokens are now their row's, on the model's device; a model sees nothing else of it."""
        return (self.tokens == canvas.tokens[to_device(self.row, canvas.tokens.device)]).all(1)

    def fits(self, canvas: Canvas, window: Window, ran: Bool[Tensor, "b t"]) -> Bool[Tensor, " n"]:
        """Find the lanes that show what a forward over the columns `ran` would, if their tokens are the same (host)."""
        return (
            (self.start == window.start[self.row])
            & (self.end == window.end[self.row])
            & (self.length == canvas.rows.length[self.row])
            & (self.ran == ran[self.row]).all(1)
        )

    def serve(
        self, states: Float[Tensor, "n w d"] | None, lane: Int[Tensor, " b"], window: Window
    ) -> Float[Tensor, "b k e"]:
        """Read the states of the window's slots, each row's from the lane that it is served by (host)."""
        b, k = window.columns.shape
        if states is None:
            return torch.zeros(b, k, 1, device=window.columns.device)
        return states[to_device(lane.clamp(min=0), states.device), :k]

    def clear_rows(self, rows: Bool[Tensor, " b"]) -> DraftLanes:
        """Leave nothing to serve for the marked rows."""
        blank = to_device(rows[self.row], self.tokens.device)
        return self._replace(tokens=self.tokens.masked_fill(rearrange(blank, "n -> n 1"), -1))

    def select(self, lane: Int[Tensor, " m"]) -> DraftLanes:
        """Select some lanes (host indices, also more than once)."""
        return select_bundle_rows(self, lane)

    def append(self, new: DraftLanes) -> DraftLanes:
        """Put other lanes behind these."""
        if not len(self.row) or not len(new.row):
            return self if len(self.row) else new
        return DraftLanes(*(_append_rows(x, y, len(self.row)) for x, y in zip(self, new, strict=True)))  # type: ignore[arg-type]


def _append_rows(
    old: Shaped[Tensor, "n ..."] | None, new: Shaped[Tensor, "m ..."] | None, n: int
) -> Shaped[Tensor, "_ ..."] | None:
    """Put two tensors after each other.

    Args:
        old: The first, of `n` rows. None stands for zeros.
        new: The second. None if neither is needed any more.
        n: Rows of the first.

    Returns:
        Both; states (rows, k, d) become as wide as the wider of the two.
    """
    if new is None:
        return None
    old = new.new_zeros(n, *new.shape[1:]) if old is None else old
    if new.dim() == 3:
        k = max(old.shape[1], new.shape[1])
        old, new = (torch.nn.functional.pad(x, (0, 0, 0, k - x.shape[1])) for x in (old, new))
    return torch.cat([old, new])


Bundle = TypeVar("Bundle", Canvas, ColumnRange, DraftLanes, Rows, Window)


def select_bundle_rows(bundle: Bundle, row: Int[Tensor, " n"]) -> Bundle:
    """Select rows of every tensor (b, …) of a bundle.

    A window's slots, which count through all rows, stay as they are.

    Args:
        bundle: The bundle.
        row: Rows in the order wanted, also more than once (host).
    """
    there = {row.device: row}

    def take(name: str, value: Any) -> Any:
        if isinstance(value, Rows):
            return select_bundle_rows(value, row)
        if not isinstance(value, Tensor) or name in ("slots", "host_slots"):
            return value
        if value.device not in there:
            there[value.device] = to_device(row, value.device)
        return value[there[value.device]]

    return bundle._replace(**{name: take(name, value) for name, value in bundle._asdict().items()})
