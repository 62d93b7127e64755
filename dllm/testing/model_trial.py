"""Inputs for laws about models: random canvases of unequal rows, and the forwards that a cache would run over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.caches.lanes import select_bundle_rows
from dllm.caches.memory import ColumnRange
from dllm.caches.queries import build_query
from dllm.errors import ConfigError
from dllm.requests import Request, make_canvas
from dllm.types import Canvas, Model, Query, RowSubset


class RowSize(NamedTuple):
    """Size of one row.

    Attributes:
        prompt: Tokens that are given.
        new: Tokens to write.
    """

    prompt: int
    new: int


SIZES = (RowSize(5, 13), RowSize(11, 4), RowSize(2, 6))
"""Rows of unequal prompts and lengths."""


@dataclass(frozen=True, eq=False)
class ModelTrial:
    """A model, and what it is tried on.

    Attributes:
        model: The model.
        sizes: Rows of the canvas, three or more, the longest first.
        sees_prompt: Whether predictions depend on the prompt.
        tolerance: Largest difference, absolute and relative, of numbers that should be equal.
    """

    model: Model
    sizes: Sequence[RowSize] = SIZES
    sees_prompt: bool = True
    tolerance: float = 1e-4

    @property
    def keeps_store(self) -> bool:
        """True where the model keeps keys and values, so that caches work with it."""
        try:
            self.model.store(1)
        except ConfigError:
            return False
        return True

    def with_model(self, model: Model) -> ModelTrial:
        """Try another model on the same rows."""
        return replace(self, model=model)

    def draw_tokens(self, shape: tuple[int, ...], seed: int) -> Int[Tensor, "..."]:
        """Draw tokens other than the mask id (host)."""
        some = torch.Generator().manual_seed(seed)
        if self.model.mask_id is None:
            return torch.randint(self.model.vocabulary, shape, generator=some)
        tokens = torch.randint(self.model.vocabulary - 1, shape, generator=some)
        return tokens + (tokens >= self.model.mask_id)

    def requests(self, seed: int = 0) -> list[Request]:
        """Make requests of the trial's sizes with random prompts."""
        prompts = [self.draw_tokens((size.prompt,), 100 * seed + row) for row, size in enumerate(self.sizes)]
        return [
            Request(tuple(prompt.tolist()), size.new, seed=row)
            for row, (size, prompt) in enumerate(zip(self.sizes, prompts, strict=True))
        ]

    def canvas(self, seed: int = 0) -> Canvas:
        """Make a canvas on which the last block of each row is half decided, and all before it is finished."""
        canvas = make_canvas(self.model, self.requests(seed))
        tokens = self.draw_tokens(tuple(canvas.tokens.shape), seed + 1).to(canvas.tokens.device)
        column = torch.arange(tokens.shape[1])
        open_columns = (column >= self.stored(canvas).unsqueeze(1)) & (column % 2 == 0)
        pending = canvas.pending & open_columns.to(tokens.device)
        given = canvas.rows.given.to(tokens.device) | ~canvas.pending
        return canvas._replace(tokens=torch.where(given | pending, canvas.tokens, tokens), pending=pending)

    def stored(self, canvas: Canvas) -> Int[Tensor, " b"]:
        """Find the column of each row up to which its text is finished (host): the start of its last block."""
        block = self.model.geometry.block
        return canvas.rows.prompt if block is None else (canvas.rows.length - block).clamp(min=0)

    def existing(self, canvas: Canvas) -> Bool[Tensor, "b t"]:
        """Mark the columns that exist (host)."""
        return torch.arange(canvas.tokens.shape[1]) < canvas.rows.length.unsqueeze(1)

    @torch.inference_mode()
    def forward(
        self, canvas: Canvas, span: ColumnRange | None = None, store: Any = None, subset: RowSubset | None = None
    ) -> Float[Tensor, "b t d"]:
        """Run columns of every row in one forward, and lay their states out by column; zeros where none was run.

        Args:
            canvas: The canvas.
            span: Columns to run. None for whole rows.
            store: Where keys and values are kept.
            subset: Which of the store's rows those of the canvas are.
        """
        span = span or ColumnRange(torch.zeros_like(canvas.rows.length), canvas.rows.length)
        rows = torch.arange(len(canvas.tokens))
        query = build_query(self.model.geometry, canvas, rows, span, self.stored(canvas))
        return self._lay_out(query, self.model.forward(query._replace(subset=subset), store), canvas)

    @staticmethod
    def _lay_out(query: Query, hidden: Float[Tensor, "b q d"], canvas: Canvas) -> Float[Tensor, "b t d"]:
        b, t = canvas.tokens.shape
        columns = torch.where(query.valid, query.columns, t).unsqueeze(2).expand_as(hidden)
        return hidden.new_zeros(b, t + 1, hidden.shape[2]).scatter(1, columns, hidden)[:, :t].cpu()

    @torch.inference_mode()
    def logits(self, states: Float[Tensor, "b t d"]) -> Float[Tensor, "b t v"]:
        """Compute logits of states that are laid out by column (host)."""
        flat: Tensor = self.model.head(states.flatten(0, 1).to(self.model.device))
        logits: Tensor = flat.float().cpu().unflatten(0, states.shape[:2])
        return logits

    def assert_same(
        self,
        got: Float[Tensor, "b t n"],
        want: Float[Tensor, "b t n"],
        where: Bool[Tensor, "b t"],
        what: str,
    ) -> None:
        """Raise AssertionError if two planes differ at some columns."""
        torch.testing.assert_close(
            got[where].float(),
            want[where].float(),
            atol=self.tolerance,
            rtol=self.tolerance,
            msg=lambda difference: f"{what}\n{difference}",
        )


def select_canvas_rows(canvas: Canvas, rows: Sequence[int]) -> Canvas:
    """Make a canvas of some rows, in any order and also more than once."""
    chosen: Canvas = select_bundle_rows(canvas, torch.tensor(list(rows)))
    return chosen
