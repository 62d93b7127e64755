"""Blocks that end where the model expects a delimiter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.schedulers.base import build_row_ranges, narrow_window, open_window
from dllm.schedulers.blocks import block_origin, floor_to_block, resolve_block_size
from dllm.transfer import to_device
from dllm.types import Canvas, Geometry, Guess, HostView, Model, Scheduler, Window


class AdaptiveBlocksState(NamedTuple):
    """Progress of adaptive blocks, row by row.

    All tensors are on the host but `delimiters` and `end`, which are on the model's device.

    Attributes:
        geometry: How columns attend.
        delimiters: Token ids.
        size: Columns of a block that ends at no delimiter.
        share: Number of pending columns in which a delimiter is looked for.
        search: The same, counted from the open block's first column.
        frame: First column of the attention block (0 where there is none), -1 before the first step.
        start: First column of the open block, -1 before the first.
        end: One past its last column. It is read off what was predicted.
        step: Steps taken in it.
    """

    geometry: Geometry
    delimiters: Int[Tensor, " n"]
    size: int
    share: Int[Tensor, " b"]
    search: Int[Tensor, " b"]
    frame: Int[Tensor, " b"]
    start: Int[Tensor, " b"]
    end: Int[Tensor, " b"]
    step: Int[Tensor, " b"]


@dataclass(frozen=True)
class AdaptiveBlocks(Scheduler):
    """Finish a block before the next one is opened, and end it where the model expects a delimiter.

    The forward that opens a block predicts the columns behind it. If the delimiter predicted there with the highest
    confidence has at least `tau`, the block ends right after it; otherwise it has `size` columns. That same forward
    then decides the block's first tokens. A `tau` above 1 is `Blocks(size)`.

    In the step that opens a block the window's range spans all that is searched, and `refine` makes only the block's
    slots valid. With block-causal attention the blocks chosen here lie within the attention block, of which they are
    sub-blocks that are refreshed when they are opened; `size` is then the attention block's.

    Attributes:
        size: Columns of a block without a delimiter. None: the model's attention block, or 32 where it has none.
        tau: Least confidence of a delimiter; published with 0.3 for LLaDA and 0.5 for Dream.
        delimiters: Texts of one token each, or token ids.
        search: Share of the requested new tokens in which a delimiter is looked for, in 0..1.

    References:
        Lu et al. 2025, AdaBlock-dLLM (arXiv:2509.26432), `compute_block_length` of its code (notes on the paper
        describe the searched share as one of what is written so far).

    Departures:
        Of equally confident delimiters the first counts, on every device. Rows do not wait for each other (published
        for one row).
    """

    size: int | None = None
    tau: float = 0.3
    delimiters: tuple[str | int, ...] = ("\n",)
    search: float = 0.25

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ConfigError(f"{self}: size must be at least 1")
        if not self.tau >= 0:
            raise ConfigError(f"{self}: tau must be 0 or more; above 1 no delimiter ends a block")
        if not 0 <= self.search <= 1:
            raise ConfigError(f"{self}: search must lie in 0..1, a share of the requested new tokens")
        if not self.delimiters or isinstance(self.delimiters, str):
            raise ConfigError(f"{self}: delimiters must be texts or token ids in brackets, such as ('\\n',)")

    def init(self, canvas: Canvas, model: Model, /) -> AdaptiveBlocksState:
        rows, device = canvas.rows, canvas.tokens.device
        zeros = torch.zeros_like(rows.prompt)
        ids = [self._find_delimiter(text, model) for text in self.delimiters]
        return AdaptiveBlocksState(
            geometry=model.geometry,
            delimiters=to_device(torch.tensor(ids), device),
            size=resolve_block_size(self, self.size, model),
            share=(self.search * (rows.limit - rows.prompt)).long(),
            search=zeros,
            frame=zeros - 1,
            start=zeros - 1,
            end=to_device(block_origin(canvas, model), device),
            step=zeros,
        )

    def _find_delimiter(self, text: str | int, model: Model) -> int:
        """Find the id of a delimiter.

        Raises:
            ConfigError: The text is not one token, or there is no tokenizer.
        """
        if isinstance(text, int):
            return text
        tokenizer = model.tokenizer
        if tokenizer is None:
            raise ConfigError(
                f"{self}: the checkpoint has no tokenizer to look up {text!r}; give delimiters as token ids"
            )
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) != 1:
            raise ConfigError(f"{self}: {text!r} is {len(ids)} tokens in this vocabulary; a delimiter is one token")
        return int(ids[0])

    def _find_staying_rows(
        self, view: HostView, state: AdaptiveBlocksState, end: Int[Tensor, " b"]
    ) -> Bool[Tensor, " b"]:
        """Find the rows whose open block is not finished."""
        stay = (view.head < end) & (state.start >= 0)
        return stay if view.held is None else stay | view.held

    def entering(self, canvas: Canvas, view: HostView, state: AdaptiveBlocksState, /) -> Bool[Tensor, " b"]:
        stay = self._find_staying_rows(view, state, state.end.cpu())
        start = torch.where(stay, state.start, view.head)
        return state.geometry.block_bounds(start, canvas.rows.length)[0] != state.frame

    def step(
        self, canvas: Canvas, view: HostView, state: AdaptiveBlocksState, /
    ) -> tuple[Window | None, AdaptiveBlocksState]:
        # The host need not wait here: the device computed `end` before `pending`, and the host has copied that already.
        end = state.end.cpu()
        stay = self._find_staying_rows(view, state, end)
        low, high = state.geometry.block_bounds(torch.where(stay, state.start, view.head), canvas.rows.length)
        done = self.finished(canvas, view, state)
        if bool(done.all()):
            return None, state
        entered = ~stay
        # The next block begins where the last one ended, or whole blocks farther right where what follows is given. It
        # may not begin left of the attention block: the cache refreshes that block only.
        start = torch.maximum(floor_to_block(view.head, end, state.size), low)
        start = torch.where(stay, state.start, start)
        # `search` is counted from the block's first column, and so includes what is decided left of the first pending.
        search = torch.where(stay, state.search, view.head - start + state.share)
        widest = torch.minimum(start + search.clamp(min=state.size), high)
        end = torch.where(stay, end, widest)

        step = torch.where(entered, 0, state.step + 1)
        # Without attention blocks the block is what a cache stores and reuses; with them it is a sub-block.
        whole_row = state.geometry.block is None
        block_start, block_end = (start, end) if whole_row else (low, high)
        where = build_row_ranges(done, start, end, block_start, block_end, entered, step)
        frame = torch.where(done, state.frame, low)
        return open_window(canvas, view, where), state._replace(frame=frame, search=search, start=start, step=step)

    def refine(self, guess: Guess, window: Window, state: AdaptiveBlocksState, /) -> tuple[Window, AdaptiveBlocksState]:
        # This runs on the model's device, since the block's end depends on what was predicted; the host learns it from
        # `end` in the next step.
        device = window.columns.device
        place = torch.arange(window.columns.shape[1], device=device)
        opening = rearrange(to_device(window.entered, device), "b -> b 1")
        search = rearrange(to_device(state.search, device), "b -> b 1")
        candidate = torch.isin(guess.tokens, state.delimiters) & window.pending & (place < search)
        confidence = torch.where(candidate, guess.confidence, -1.0)
        best = confidence.argmax(1, keepdim=True)
        found = confidence.gather(1, best) >= self.tau
        keep = window.valid & (~opening | (place < torch.where(found, best + 1, state.size)))
        start = to_device(window.start, device)
        end = torch.where(opening.squeeze(1), start + keep.sum(1), state.end)
        return narrow_window(window, keep), state._replace(end=end)
