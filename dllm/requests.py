"""What to decode: one request a row; and the empty canvas of a batch of requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dllm.errors import RequestError
from dllm.transfer import to_device
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


def numbered(requests: Sequence[Request], seed: int = 0) -> list[Request]:
    """Requests with a seed each: their own, or the job's plus their place in it."""
    return [r if r.seed is not None else replace(r, seed=seed + i) for i, r in enumerate(requests)]


def width(model: Model, requests: Sequence[Request]) -> int:
    """Columns of a canvas on which every request has room."""
    return int(model.geometry.extent(torch.tensor([r.limit for r in requests])).max())


def lay_out(model: Model, requests: Sequence[Request], t: int | None = None, stops: Tensor | None = None) -> Canvas:
    """The canvas of some requests before the first step: see `Layout`.

    t      columns; None: as many as the requests need
    stops  (b, s) ids that end each row; None: those of the model
    """
    return Layout.of(model, requests, t or width(model, requests)).canvas(stops)


@dataclass(frozen=True, eq=False)
class Layout:
    """The rows of a batch before their first step, on the host: prompts on the left, everything that the requests ask
    for pending. So is the rest of its last attention block, unless a row writes into holes alone.

    A row that another request takes is written anew, and no other: long prompts of the others cost nothing then.

    tokens   (b, t) int64
    pending  (b, t) bool
    given    (b, t) bool
    facts    (5, b) int64  `prompt`, `limit`, `length`, `seed` and `text` of `Rows`
    """

    model: Model
    tokens: Tensor
    pending: Tensor
    given: Tensor
    facts: Tensor

    @classmethod
    def of(cls, model: Model, requests: Sequence[Request], t: int) -> Layout:
        """The rows of some requests, on `t` columns."""
        b = len(requests)
        blank = torch.zeros(b, t, dtype=torch.bool)
        made = cls(model, blank.long(), blank, blank.clone(), torch.zeros(5, b, dtype=torch.int64))
        for row, request in enumerate(requests):
            made.put(row, request)
        return made

    def put(self, row: int, request: Request) -> None:
        """Write a request into a row."""
        limit, holes = request.limit, list(request.holes)
        length = int(self.model.geometry.extent(torch.tensor(limit)))
        tokens, pending, given = self.tokens[row], self.pending[row], self.given[row]
        blank = self.model.mask_id if self.model.mask_id is not None else 0
        tokens.fill_(blank)
        tokens[: len(request.prompt)] = torch.tensor(request.prompt)
        tokens[holes] = blank
        given.fill_(False)
        given[: len(request.prompt)] = True
        given[holes] = False
        pending.copy_(~given)
        pending[length if request.max_new_tokens > 0 else limit :] = False
        text = int(text_start(given.unsqueeze(0)))
        self.facts[:, row] = torch.tensor([request.start, limit, length, request.seed or 0, text])

    def canvas(self, stops: Tensor | None = None) -> Canvas:
        """The canvas of the rows as they are now; rows that are written later do not change it.

        stops  (b, s) ids that end each row; None: those of the model
        """
        prompt, limit, length, seed, text = self.facts.clone().unbind()
        rows = Rows(prompt, limit, length, seed, self.given.clone(), text, stops)
        tokens, pending = (to_device(x.clone(), self.model.device) for x in (self.tokens, self.pending))
        return Canvas(tokens, pending, rows)
