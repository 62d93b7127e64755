"""Requests, one for each row, and the empty canvas of a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dllm.errors import RequestError
from dllm.transfer import to_device
from dllm.types import Canvas, Model, Rows, text_start


@dataclass(frozen=True)
class Request:
    """One prompt with its own settings.

    Attributes:
        prompt: Token ids, at least one.
        max_new_tokens: Most tokens to write after it; 0 is possible if there are holes.
        stop_ids: End tokens of this row. None: those of the strategy, or else of the checkpoint.
        seed: Seed of the row's own random numbers. None: derived from the job's seed and the row's place in the job.
        holes: Columns of the prompt to be written too (infilling); what the prompt holds there is not looked at. The
            first column is given. End tokens are written, and end the row, only behind all given columns.
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
        """Check the request against a model.

        Args:
            model: The model that is to decode it.
            vocabulary: Number of ids that a prompt may use.

        Raises:
            RequestError: The model cannot decode this.
        """
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
    """Give each request a seed: its own, or the job's plus the request's place in the job."""
    return [r if r.seed is not None else replace(r, seed=seed + i) for i, r in enumerate(requests)]


def count_canvas_columns(model: Model, requests: Sequence[Request]) -> int:
    """Count the columns of a canvas on which every request has room."""
    return int(model.geometry.extent(torch.tensor([r.limit for r in requests])).max())


def make_canvas(
    model: Model, requests: Sequence[Request], t: int | None = None, stops: Int[Tensor, "b s"] | None = None
) -> Canvas:
    """Make the canvas of some requests before the first step: see `Layout`.

    Args:
        model: The model.
        requests: One request for each row.
        t: Columns. None: as many as the requests need.
        stops: Ids that end each row, padded with -1. None: those of the model.
    """
    return Layout.of(model, requests, t or count_canvas_columns(model, requests)).canvas(stops)


@dataclass(frozen=True, eq=False)
class Layout:
    """The rows of a batch before their first step, on the host.

    Prompts are on the left, and everything that the requests ask for is pending. So is the rest of a row's last
    attention block, unless the row writes into holes alone.

    A row that another request takes is written anew, and no other: long prompts of the others cost nothing then.

    Attributes:
        model: The model.
        tokens: Tokens of the prompts; the mask id elsewhere.
        pending: Columns to be decided.
        given: Columns that the caller gave.
        facts: `prompt`, `limit`, `length`, `seed` and `text` of `Rows`, in this order.
    """

    model: Model
    tokens: Int[Tensor, "b t"]
    pending: Bool[Tensor, "b t"]
    given: Bool[Tensor, "b t"]
    facts: Int[Tensor, "5 b"]

    @classmethod
    def of(cls, model: Model, requests: Sequence[Request], t: int) -> Layout:
        """Lay out some requests on `t` columns."""
        b = len(requests)
        blank = torch.zeros(b, t, dtype=torch.bool)
        layout = cls(model, blank.long(), blank, blank.clone(), torch.zeros(5, b, dtype=torch.int64))
        for row, request in enumerate(requests):
            layout.put(row, request)
        return layout

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
        # A block that is begun is finished, so the columns behind the requested output up to its end are pending too. A
        # row that only fills holes writes nothing behind its text.
        pending.copy_(~given)
        pending[length if request.max_new_tokens > 0 else limit :] = False
        text = int(text_start(given.unsqueeze(0)))
        self.facts[:, row] = torch.tensor([request.start, limit, length, request.seed or 0, text])

    def canvas(self, stops: Int[Tensor, "b s"] | None = None) -> Canvas:
        """Make the canvas of the rows as they are now; rows that are written later do not change it.

        Args:
            stops: Ids that end each row, padded with -1. None: those of the model.
        """
        prompt, limit, length, seed, text = self.facts.clone().unbind()
        rows = Rows(prompt, limit, length, seed, self.given.clone(), text, stops)
        tokens, pending = (to_device(x.clone(), self.model.device) for x in (self.tokens, self.pending))
        return Canvas(tokens, pending, rows)
