"""When a row is finished: at the first end token, or stop string, that no pending column precedes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dllm.engine.memo import IdentityMemo
from dllm.errors import ConfigError
from dllm.requests import Request
from dllm.strategy import Stopping
from dllm.transfer import to_device
from dllm.types import Canvas, Rows


def resolve_stop_ids(model: Any, requests: Sequence[Request], stopping: Stopping) -> list[tuple[int, ...]]:
    """Find the end tokens of each request: its own, or the strategy's, or the checkpoint's."""
    default = stopping.ids if stopping.ids is not None else tuple(model.stop_ids)
    return [default if r.stop_ids is None else tuple(r.stop_ids) for r in requests]


def _check_tokenizer(stopping: Stopping, tokenizer: Any) -> None:
    """Raise ConfigError where stop strings cannot be looked for."""
    if stopping.strings and tokenizer is None:
        raise ConfigError(f"{stopping}: stop strings need a tokenizer and this checkpoint has none; use stop ids")


@dataclass(frozen=True)
class Stopper:
    """Closes the rows of one batch that are finished, on the model's device.

    Attributes:
        ids: End tokens of each row, padded with -1.
        strings: Stop strings.
        tokenizer: Makes text of tokens; only stop strings need it.
    """

    ids: Int[Tensor, "b s"]
    strings: tuple[str, ...] = ()
    tokenizer: Any = None
    _ranks: IdentityMemo[tuple[Tensor, Tensor]] = field(
        init=False, compare=False, default_factory=lambda: IdentityMemo(_rank_columns)
    )

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], stopping: Stopping, tokenizer: Any, device: torch.device) -> Stopper:
        """Make the stopper of rows with these end tokens.

        Raises:
            ConfigError: Stop strings need a tokenizer, and there is none.
        """
        _check_tokenizer(stopping, tokenizer)
        width = max((len(row) for row in ids), default=0)
        padded = [[*row, *([-1] * (width - len(row)))] for row in ids]
        found = torch.tensor(padded, dtype=torch.int64).reshape(len(ids), width)
        return cls(to_device(found, device), stopping.strings, tokenizer)

    def close(self, canvas: Canvas) -> Canvas:
        """Close every row whose first end token or stop string has no pending column before it.

        Rows that their policy holds are left open: their end may still be edited away.
        """
        if not self.ids.shape[1] and not self.strings:
            return canvas
        closed = self._has_end(canvas) if self.ids.shape[1] else self._has_stop_string(canvas)
        if self.strings and self.ids.shape[1]:
            closed = closed | self._has_stop_string(canvas)
        if canvas.held is not None:
            closed = closed & ~canvas.held
        return canvas._replace(pending=torch.where(closed.unsqueeze(1), False, canvas.pending))

    def _has_end(self, canvas: Canvas) -> Bool[Tensor, " b"]:
        """Find rows with an end id in their requested output and nothing pending up to there."""
        # The largest rank of an end is that of the leftmost one. A pending column may hold an end id by chance: its
        # rank is then no larger than that of the first pending column, so the row is not closed.
        left, answer = self._ranks(canvas.rows, self.ids)
        end = torch.where(canvas.tokens.unsqueeze(2) == self.ids.unsqueeze(1), answer, 0).amax((1, 2))
        return end > torch.where(canvas.pending, left, 0).amax(1)

    def _has_stop_string(self, canvas: Canvas) -> Bool[Tensor, " b"]:
        """Find rows whose decided text up to the first pending column contains a stop string."""
        rows, t = canvas.rows, canvas.tokens.shape[1]
        some, head = canvas.pending.cpu().max(1)
        ends = torch.minimum(torch.where(some, head, t), rows.limit).tolist()
        texts = (
            self.tokenizer.decode(tokens[start:end], skip_special_tokens=True)
            for tokens, start, end in zip(canvas.tokens.tolist(), rows.text.tolist(), ends, strict=True)
        )
        found = torch.tensor([any(s in text for s in self.strings) for text in texts])
        return to_device(found, canvas.tokens.device)


@dataclass(frozen=True)
class AnswerEnd:
    """The end of the answer to one request, and the text of its tokens.

    Attributes:
        ids: End tokens.
        strings: Stop strings.
        tokenizer: Makes text of tokens. None where there is none.
    """

    ids: frozenset[int]
    strings: tuple[str, ...] = ()
    tokenizer: Any = None

    @classmethod
    def of(cls, model: Any, request: Request, stopping: Stopping) -> AnswerEnd:
        """Find out where the answer to a request ends.

        Raises:
            ConfigError: Stop strings need a tokenizer, and there is none.
        """
        _check_tokenizer(stopping, model.tokenizer)
        (ids,) = resolve_stop_ids(model, [request], stopping)
        return cls(frozenset(ids), stopping.strings, model.tokenizer)

    def cut(self, tokens: list[int]) -> tuple[list[int], bool]:
        """Cut tokens behind their first end, and tell whether there was one.

        What lies behind a stop string may be undecided, so the string is looked for before an end token behind it.
        """
        end = next((i + 1 for i, token in enumerate(tokens) if token in self.ids), None)
        for i in range(1, (end or len(tokens)) + 1) if self.strings else ():
            text = self.tokenizer.decode(tokens[:i], skip_special_tokens=True)
            if any(s in text for s in self.strings):
                return tokens[:i], True
        return tokens[:end], end is not None

    def text(self, tokens: list[int], before: Sequence[int] = ()) -> str | None:
        """Make text of an answer behind the tokens `before`, without what follows a stop string.

        Returns:
            The text of all tokens; None without a tokenizer.
        """
        if self.tokenizer is None:
            return None
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        places = [text.find(s) for s in self.strings if s in text]
        if not before:
            return text[: min(places)] if places else text
        rest = len(text) - min(places) if places else 0
        whole: str = self.tokenizer.decode([*before, *tokens], skip_special_tokens=True)
        return whole[: len(whole) - rest]


def _rank_columns(rows: Rows, ids: Int[Tensor, "b s"]) -> tuple[Int[Tensor, " t"], Int[Tensor, "b t 1"]]:
    """Rank columns by a positive number that is larger farther left.

    Returns:
        Ranks of all columns; and ranks of those of each row's requested output that are behind all that was given, 0
        for others. Both are where the ids are.
    """
    column = torch.arange(rows.given.shape[1])
    left = len(column) - column
    answer = (column >= rows.text.unsqueeze(1)) & (column < rows.limit.unsqueeze(1))
    return to_device(left, ids.device), to_device(torch.where(answer, left, 0).unsqueeze(2), ids.device)
