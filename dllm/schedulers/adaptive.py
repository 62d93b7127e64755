"""Blocks that end where the model expects a delimiter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.errors import ConfigError
from dllm.schedulers.base import bounds, finished, look, narrow, open_window, work
from dllm.schedulers.blocks import size_of_blocks
from dllm.transfer import to_device
from dllm.types import Bidirectional, Canvas, Geometry, Guess, Model, Window


class Plan(NamedTuple):
    """Where adaptive blocks stand, row by row (host, but for `end`).

    geometry    how columns attend
    delimiters  (n,) token ids; on the model's device
    size        columns of a block that ends at no delimiter
    share       (b,) pending columns in which a delimiter is looked for
    search      (b,) the same, counted from the open block's first column
    frame       (b,) first column of the attention block (0 where there is none), -1 before the first step
    start       (b,) first column of the open block
    end         (b,) one past its last column; on the model's device, since it is read off what was predicted
    step        (b,) steps taken in it
    """

    geometry: Geometry
    delimiters: Tensor
    size: int
    share: Tensor
    search: Tensor
    frame: Tensor
    start: Tensor
    end: Tensor
    step: Tensor


@dataclass(frozen=True)
class AdaptiveBlocks:
    """Finish a block before the next one is opened, and end it where the model expects a delimiter.

    The forward that opens a block predicts the columns behind it. If the delimiter predicted there with the highest
    confidence has at least `tau`, the block ends right after it; otherwise it has `size` columns. That same forward
    then decides the block's first tokens. A `tau` above 1 is `Blocks(size)`.

    size        columns of a block without a delimiter; None: the model's attention block, or 32 where it has none
    tau         least confidence of a delimiter; published 0.3 for LLaDA, 0.5 for Dream
    delimiters  texts of one token each, or token ids
    search      share of the requested new tokens in which a delimiter is looked for

    In the step that opens a block the window's range spans all that is searched, and `refine` makes only the block's
    slots valid. With block-causal attention the blocks chosen here lie within the attention block, of which they are
    sub-blocks that are refreshed when they are opened; `size` is then the attention block's.

    Reference: Lu et al. 2025, AdaBlock-dLLM (arXiv:2509.26432), `compute_block_length` of its code (notes on the paper
    describe the searched share as one of what is written so far). Departs from it: of equally confident delimiters the
    first counts, on every device; rows do not wait for each other (published for one row).
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

    def init(self, canvas: Canvas, model: Model, /) -> Plan:
        rows = canvas.rows
        zeros = torch.zeros_like(rows.prompt)
        ids = [self.token(text, model) for text in self.delimiters]
        origin = zeros if model.geometry.aligned else rows.prompt
        return Plan(
            geometry=model.geometry,
            delimiters=to_device(torch.tensor(ids), canvas.tokens.device),
            size=size_of_blocks(self, self.size, model),
            share=(self.search * (rows.limit - rows.prompt)).long(),
            search=zeros,
            frame=zeros - 1,
            start=zeros - 1,
            end=to_device(origin, canvas.tokens.device),
            step=zeros,
        )

    def token(self, text: str | int, model: Any) -> int:
        """The id of a delimiter."""
        if isinstance(text, int):
            return text
        tokenizer = getattr(model, "tokenizer", None)
        if tokenizer is None:
            raise ConfigError(
                f"{self}: the checkpoint has no tokenizer to look up {text!r}; give delimiters as token ids"
            )
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) != 1:
            raise ConfigError(f"{self}: {text!r} is {len(ids)} tokens in this vocabulary; a delimiter is one token")
        return int(ids[0])

    def step(self, canvas: Canvas, plan: Plan, /) -> tuple[Window | None, Plan]:
        sight = look(canvas)
        end = plan.end.cpu()  # written by the step that look() has waited for
        stay = (sight.head < end) & (plan.start >= 0)
        stay = stay if sight.held is None else stay | sight.held
        low, high = bounds(plan.geometry, torch.where(stay, plan.start, sight.head), canvas.rows.length)
        done = finished(canvas, sight, low != plan.frame)
        if bool(done.all()):
            return None, plan
        entered = ~stay
        start = end + torch.div(sight.head - end, plan.size, rounding_mode="floor") * plan.size
        start = torch.where(stay, plan.start, torch.maximum(start, low))
        search = torch.where(stay, plan.search, sight.head - start + plan.share)
        widest = torch.minimum(start + search.clamp(min=plan.size), high)
        end = torch.where(stay, end, widest)

        step = torch.where(entered, 0, plan.step + 1)
        both = isinstance(plan.geometry, Bidirectional)
        where = work(done, start, end, start if both else low, end if both else high, entered, step)
        now = plan._replace(frame=torch.where(done, plan.frame, low), search=search, start=start, step=step)
        return open_window(canvas, sight.pending, where, None), now

    def refine(self, guess: Guess, window: Window, plan: Plan, /) -> tuple[Window, Plan]:
        """The window without what lies behind the block's end, in rows that open one."""
        device = window.columns.device
        place = torch.arange(window.columns.shape[1], device=device)
        opening = rearrange(to_device(window.entered, device), "b -> b 1")
        search = rearrange(to_device(plan.search, device), "b -> b 1")
        there = torch.isin(guess.tokens, plan.delimiters) & window.pending & (place < search)
        sure = torch.where(there, guess.confidence, -1.0)
        best = sure.argmax(1, keepdim=True)
        found = sure.gather(1, best) >= self.tau
        keep = window.valid & (~opening | (place < torch.where(found, best + 1, plan.size)))
        start = to_device(window.start, device)
        end = torch.where(opening.squeeze(1), start + keep.sum(1), plan.end)
        return narrow(window, keep), plan._replace(end=end)
