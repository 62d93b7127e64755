"""When a row is finished: at the first end token, or stop string, that nothing undecided precedes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dllm.errors import ConfigError
from dllm.remembered import Remembered
from dllm.requests import Request
from dllm.transfer import to_device
from dllm.types import Canvas, Rows


@dataclass(frozen=True)
class Stopping:
    """What ends a row before its length is reached. Only what lies behind the prompt is searched.

    ids      end tokens; None: those of the checkpoint; (): none
    strings  texts that end a row; needs a tokenizer, and every step waits for the device once more to read the text
    """

    ids: tuple[int, ...] | None = None
    strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(not text for text in self.strings):
            raise ConfigError(f"{self}: an empty stop string would end every text at once; remove it")


def stop_ids(model: Any, requests: Sequence[Request], stopping: Stopping) -> list[tuple[int, ...]]:
    """End tokens of each row: its own, or the strategy's, or the checkpoint's."""
    default = stopping.ids if stopping.ids is not None else tuple(model.stop_ids)
    return [default if r.stop_ids is None else tuple(r.stop_ids) for r in requests]


@dataclass(frozen=True)
class Stopper:
    """Stopping for one batch: each row's end ids (b, s), padded with -1, and stop strings with the tokenizer."""

    ids: Tensor
    strings: tuple[str, ...] = ()
    tokenizer: Any = None
    rank: Remembered[tuple[Tensor, Tensor]] = field(
        init=False, compare=False, default_factory=lambda: Remembered(ranks)
    )

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], stopping: Stopping, tokenizer: Any, device: torch.device) -> Stopper:
        if stopping.strings and tokenizer is None:
            raise ConfigError(f"{stopping}: stop strings need a tokenizer and this checkpoint has none; use stop ids")
        width = max((len(row) for row in ids), default=0)
        padded = [[*row, *([-1] * (width - len(row)))] for row in ids]
        found = torch.tensor(padded, dtype=torch.int64).reshape(len(ids), width)
        return cls(to_device(found, device), stopping.strings, tokenizer)

    def close(self, canvas: Canvas) -> Canvas:
        """The canvas with nothing pending in rows whose first end has nothing pending before it.

        Rows that their policy holds are left open: their end may still be edited away.
        """
        if not self.ids.shape[1] and not self.strings:
            return canvas
        closed = self.ended(canvas) if self.ids.shape[1] else self.spoken(canvas)
        if self.strings and self.ids.shape[1]:
            closed = closed | self.spoken(canvas)
        if canvas.held is not None:
            closed = closed & ~canvas.held
        return canvas._replace(pending=torch.where(closed.unsqueeze(1), False, canvas.pending))

    def ended(self, canvas: Canvas) -> Tensor:
        """Rows (b,) with an end id in their requested output and nothing pending up to there.

        What is pending may hold an end id too: then it is no less than the first that is pending.
        """
        left, answer = self.rank(canvas.rows, self.ids)
        end = torch.where(canvas.tokens.unsqueeze(2) == self.ids.unsqueeze(1), answer, 0).amax((1, 2))
        return end > torch.where(canvas.pending, left, 0).amax(1)

    def spoken(self, canvas: Canvas) -> Tensor:
        """Rows (b,) whose decided text up to the first pending column contains a stop string."""
        rows, t = canvas.rows, canvas.tokens.shape[1]
        some, head = canvas.pending.cpu().max(1)
        ends = torch.minimum(torch.where(some, head, t), rows.limit).tolist()
        texts = (
            self.tokenizer.decode(tokens[start:end], skip_special_tokens=True)
            for tokens, start, end in zip(canvas.tokens.tolist(), rows.text.tolist(), ends, strict=True)
        )
        found = torch.tensor([any(s in text for s in self.strings) for text in texts])
        return to_device(found, canvas.tokens.device)

    def cut(self, row: int, tokens: list[int]) -> tuple[list[int], bool]:
        """Tokens of a row up to and with its first end, and whether there was one.

        What lies behind a stop string may be undecided, so the string is looked for before an end token behind it.
        """
        ids = set(self.ids[row].tolist())
        end = next((i + 1 for i, token in enumerate(tokens) if token in ids), None)
        for i in range(1, (end or len(tokens)) + 1) if self.strings else ():
            text = self.tokenizer.decode(tokens[:i], skip_special_tokens=True)
            if any(s in text for s in self.strings):
                return tokens[:i], True
        return tokens[:end], end is not None

    def text(self, tokens: list[int], before: Sequence[int] = ()) -> str | None:
        """The text of an answer behind `before`, without what follows a stop string; None without a tokenizer."""
        if self.tokenizer is None:
            return None
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        places = [text.find(s) for s in self.strings if s in text]
        if not before:
            return text[: min(places)] if places else text
        rest = len(text) - min(places) if places else 0
        whole: str = self.tokenizer.decode([*before, *tokens], skip_special_tokens=True)
        return whole[: len(whole) - rest]


def ranks(rows: Rows, ids: Tensor) -> tuple[Tensor, Tensor]:
    """A positive number for each column (t,), larger farther left; and for those of each row's requested output that
    are behind all that was given (b, t, 1), 0 for others. Where the ids (b, s) are."""
    column = torch.arange(rows.given.shape[1])
    left = len(column) - column
    answer = (column >= rows.text.unsqueeze(1)) & (column < rows.limit.unsqueeze(1))
    return to_device(left, ids.device), to_device(torch.where(answer, left, 0).unsqueeze(2), ids.device)
