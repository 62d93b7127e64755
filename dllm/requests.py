"""What to decode: one request a row; and the empty canvas of a batch of requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from dllm.errors import RequestError
from dllm.types import Canvas, Model, Rows, text_start


@dataclass(frozen=True)
class Request:
    """One prompt with its own settings.

    prompt          token ids, at least one
    max_new_tokens  most tokens to write after it; 0 is possible if there are holes
    stop_ids        end tokens of this row; None: those of the strategy, or else of the checkpoint
    seed            of the row's own random numbers; None: derived from the job's seed and the row's place in the job
    holes           columns of the prompt to be written too (infilling); what the prompt holds there is not looked at.
                    The first column is given. End tokens are written, and end the row, only behind all given columns
    """

    prompt: tuple[int, ...]
    max_new_tokens: int = 128
    stop_ids: tuple[int, ...] | None = None
    seed: int | None = None
    holes: tuple[int, ...] = ()

    @property
    def start(self) -> int:
        """First column to be written: the first hole, or the end of the prompt."""
        return min(self.holes, default=len(self.prompt))

    @property
    def limit(self) -> int:
        """First column past the requested output."""
        return len(self.prompt) + self.max_new_tokens

    def check(self, model: Model, vocabulary: int) -> None:
        """Raise `RequestError` if the model cannot decode this."""
        if not self.prompt:
            raise RequestError("the prompt is empty: give at least one token")
        if self.max_new_tokens < (0 if self.holes else 1):
            raise RequestError(f"max_new_tokens={self.max_new_tokens}: must be at least 1, or 0 where there are holes")
        if bad := [i for i in self.holes if not 0 < i < len(self.prompt)]:
            raise RequestError(
                f"hole {bad[0]}: holes are columns 1 to {len(self.prompt) - 1} of a prompt of {len(self.prompt)}; "
                "its first column is given"
            )
        given = (token for i, token in enumerate(self.prompt) if i not in set(self.holes))
        if bad := [i for i in given if not 0 <= i < vocabulary]:
            raise RequestError(
                f"prompt id {bad[0]} is outside the vocabulary of {vocabulary}: is this the right tokenizer?"
            )
        wanted = self.limit
        needed = int(model.geometry.extent(torch.tensor(wanted)))
        if needed > model.max_columns:
            blocks = f" ({needed} in whole blocks)" if needed > wanted else ""
            raise RequestError(
                f"a prompt of {len(self.prompt)} and {self.max_new_tokens} new tokens need {wanted} columns{blocks}, "
                f"but the model's context is {model.max_columns}: shorten the prompt or lower max_new_tokens"
            )


def assign_seeds(requests: Sequence[Request], seed: int = 0) -> list[Request]:
    """Requests with a seed each: their own, or the job's plus their place in it."""
    return [r if r.seed is not None else replace(r, seed=seed + i) for i, r in enumerate(requests)]


def count_canvas_columns(model: Model, requests: Sequence[Request]) -> int:
    """Columns of a canvas on which every request has room."""
    return int(model.geometry.extent(torch.tensor([r.limit for r in requests])).max())


def make_canvas(model: Model, requests: Sequence[Request], t: int | None = None, stops: Tensor | None = None) -> Canvas:
    """The canvas before the first step: prompts on the left, everything that the requests ask for pending.

    So is the rest of its last attention block, unless a row writes into holes alone.

    t      columns; None: as many as the requests need
    stops  (b, s) ids that end each row; None: those of the model
    """
    limit = torch.tensor([r.limit for r in requests])
    length = model.geometry.extent(limit)
    t = t or int(length.max())
    blank = model.mask_id if model.mask_id is not None else 0
    tokens = torch.full((len(requests), t), blank, dtype=torch.int64)
    given = torch.zeros_like(tokens, dtype=torch.bool)
    for row, request in enumerate(requests):
        given[row, : len(request.prompt)] = True
        given[row, list(request.holes)] = False
        tokens[row, : len(request.prompt)] = torch.tensor(request.prompt)
    tokens = torch.where(given, tokens, blank)
    end = torch.where(torch.tensor([r.max_new_tokens > 0 for r in requests]), length, limit)
    pending = ~given & (torch.arange(t) < rearrange(end, "b -> b 1"))
    start = torch.tensor([r.start for r in requests])
    seeds = torch.tensor([r.seed or 0 for r in requests])
    rows = Rows(start, limit, length, seeds, given, text_start(given), stops)
    return Canvas(tokens.to(model.device), pending.to(model.device), rows)
