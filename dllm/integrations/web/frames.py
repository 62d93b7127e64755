"""A denoising step as plain values: all that a page draws, without tensors, for one row's answer.

A long answer has as many frames as steps, so what is kept of each column is packed.

Columns are counted from the beginning of the answer.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dllm.signals import Probabilities
from dllm.types import Step


class ColumnGuess(NamedTuple):
    """What the model thought of one column: its candidate, how likely that is, and the likeliest tokens."""

    token: int
    confidence: float
    top: tuple[tuple[int, float], ...]


class AnswerFrame(NamedTuple):
    """An answer after a step.

    number   of the step, from 0
    seconds  since the run began
    nfe      forwards so far
    queries  columns run through the model in this step
    tokens   what each column holds; of no meaning where it is pending
    pending  whether each is still to be decided
    when     the forward that decided each, from 1; 0 while undecided
    sure     how likely each decided token was when it was committed; 0 where nothing is known
    new      columns that this step decided
    revoked  columns that it made pending again
    window   first column that it worked on, and the one behind the last
    guesses  what the model thought of columns that were pending before the step, and if the policy edits of others
    """

    number: int
    seconds: float
    nfe: int
    queries: int
    tokens: Sequence[int]
    pending: Sequence[int]
    when: Sequence[int]
    sure: Sequence[float]
    new: frozenset[int]
    revoked: frozenset[int]
    window: tuple[int, int]
    guesses: Mapping[int, ColumnGuess]

    @property
    def decided(self) -> int:
        """Columns that are decided."""
        return sum(map(bool, self.when))


class FrameRecorder:
    """Makes frames of a run of one request: `for step in steps(…): camera.shoot(step, seconds)`.

    top  how many of a column's likeliest tokens are kept; 0, or a policy that did not ask for the marginals, keeps one
    """

    def __init__(self, top: int = 5) -> None:
        self.top = top
        self.sure: list[float] = []

    def shoot(self, step: Step, seconds: float) -> AnswerFrame:
        """The frame of a step; call it for every step, in order."""
        rows, window = step.canvas.rows, step.window
        first, limit = int(rows.text[0]), int(rows.limit[0])
        spot = slice(first, limit)
        columns = (window.columns[0] - first).tolist()
        new = _select_marked_columns(columns, step.commit[0], limit - first)
        revoked = frozenset() if step.revoke is None else _select_marked_columns(columns, step.revoke[0], limit - first)
        guesses = self.guesses(step, columns, limit - first)
        self.follow(limit - first, guesses, new)
        if step.moved is not None:
            before = (step.moved[0, spot] - first).tolist()
            self.sure = [self.sure[i] if 0 <= i < len(self.sure) else 0.0 for i in before]
            new = frozenset(i for i, was in enumerate(before) if was in new)
            revoked = frozenset(i for i, was in enumerate(before) if was in revoked)
            guesses = {i: guesses[was] for i, was in enumerate(before) if was in guesses}
        return AnswerFrame(
            number=step.number,
            seconds=seconds,
            nfe=int(step.nfe[0]),
            queries=int(step.queries[0]),
            tokens=array("i", step.canvas.tokens[0, spot].tolist()),
            pending=bytes(step.canvas.pending[0, spot].tolist()),
            when=array("i", step.ledger.when[0, spot].tolist()),
            sure=array("d", self.sure),
            new=new,
            revoked=revoked,
            window=(max(0, int(window.start[0]) - first), max(0, min(int(window.end[0]), limit) - first)),
            guesses=guesses,
        )

    def guesses(self, step: Step, columns: list[int], length: int) -> dict[int, ColumnGuess]:
        """What the model thought of each column that got logits."""
        guess, window = step.guess, step.window
        asked = (window.pending[0] if window.answer is None else window.answer[0]).tolist()
        tokens, confidence = guess.tokens[0].tolist(), guess.confidence[0].tolist()
        tops = _list_likeliest_tokens(step, self.top)
        return {
            column: ColumnGuess(tokens[slot], confidence[slot], tops[slot])
            for slot, column in enumerate(columns)
            if asked[slot] and 0 <= column < length
        }

    def follow(self, length: int, guesses: Mapping[int, ColumnGuess], new: frozenset[int]) -> None:
        """Note how likely the tokens are that were just committed."""
        self.sure += [0.0] * (length - len(self.sure))
        for column in new:
            if column in guesses:
                self.sure[column] = guesses[column].confidence


def _select_marked_columns(columns: list[int], plane: Tensor, length: int) -> frozenset[int]:
    """The columns of the answer whose slots are True in a plane (k,)."""
    return frozenset(c for c, there in zip(columns, plane.tolist(), strict=True) if there and 0 <= c < length)


def _list_likeliest_tokens(step: Step, top: int) -> list[tuple[tuple[int, float], ...]]:
    """Each slot's likeliest tokens with their probabilities; the largest alone where the policy did not ask for all."""
    guess = step.guess
    if not top or Probabilities() not in guess.signals:
        return [((token, p),) for token, p in zip(guess.mode[0].tolist(), guess.p1[0].tolist(), strict=True)]
    marginals = guess[Probabilities()][0]
    best = torch.topk(marginals, min(top, marginals.shape[-1]))
    return [
        tuple(zip(ids, ps, strict=True)) for ids, ps in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
