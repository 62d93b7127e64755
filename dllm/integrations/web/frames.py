"""A denoising step as plain values: everything that a page draws of one row's answer, without tensors.

A long answer has as many frames as steps, so the values of columns are kept in packed arrays. Columns are counted from
the beginning of the answer.
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
    """The model's prediction of one column.

    Attributes:
        token: The candidate.
        confidence: Its probability.
        top: The likeliest tokens with their probabilities, likeliest first.
    """

    token: int
    confidence: float
    top: tuple[tuple[int, float], ...]


class AnswerFrame(NamedTuple):
    """An answer after a step.

    Attributes:
        number: Number of the step, from 0.
        seconds: Time since the run began.
        nfe: Forwards so far.
        queries: Columns run through the model in this step.
        tokens: Token of each column; it has no meaning where the column is pending.
        pending: Whether each column is still to be decided.
        when: The forward that decided each column, from 1; 0 while it is undecided.
        confidences: Probability of each decided token when it was committed; 0 where none is known.
        new: Columns that this step decided.
        revoked: Columns that this step made pending again.
        window: First column of the step's window, and the column behind its last.
        guesses: Predictions of columns that were pending before the step, and of others if the policy edits.
    """

    number: int
    seconds: float
    nfe: int
    queries: int
    tokens: Sequence[int]
    pending: Sequence[int]
    when: Sequence[int]
    confidences: Sequence[float]
    new: frozenset[int]
    revoked: frozenset[int]
    window: tuple[int, int]
    guesses: Mapping[int, ColumnGuess]

    @property
    def decided(self) -> int:
        """Number of columns that are decided."""
        return sum(map(bool, self.when))


class FrameRecorder:
    """Makes the frames of a run of one request: `for step in steps(…): recorder.record(step, seconds)`.

    Args:
        top: Likeliest tokens kept of each column. With 0, or where the policy did not ask for all probabilities, one
            is kept.

    Attributes:
        confidences: Probability of each decided token when it was committed, by column.
    """

    def __init__(self, top: int = 5) -> None:
        self.top = top
        self.confidences: list[float] = []

    def record(self, step: Step, seconds: float) -> AnswerFrame:
        """Return the frame of a step; call it for every step, in order."""
        rows, window = step.canvas.rows, step.window
        first, limit = int(rows.text[0]), int(rows.limit[0])
        span = slice(first, limit)
        columns = (window.columns[0] - first).tolist()
        new = _select_marked_columns(columns, step.commit[0], limit - first)
        revoked = frozenset() if step.revoke is None else _select_marked_columns(columns, step.revoke[0], limit - first)
        guesses = self._list_guesses(step, columns, limit - first)
        self._note_confidences(limit - first, guesses, new)
        if step.moved is not None:
            # The scheduler changed the row's length after the step. The canvas has its columns where they are now, and
            # all that is known by column of the window has to follow: `moved` has the former place of each column.
            before = (step.moved[0, span] - first).tolist()
            self.confidences = [self.confidences[i] if 0 <= i < len(self.confidences) else 0.0 for i in before]
            new = frozenset(i for i, was in enumerate(before) if was in new)
            revoked = frozenset(i for i, was in enumerate(before) if was in revoked)
            guesses = {i: guesses[was] for i, was in enumerate(before) if was in guesses}
        return AnswerFrame(
            number=step.number,
            seconds=seconds,
            nfe=int(step.nfe[0]),
            queries=int(step.queries[0]),
            tokens=array("i", step.canvas.tokens[0, span].tolist()),
            pending=bytes(step.canvas.pending[0, span].tolist()),
            when=array("i", step.ledger.when[0, span].tolist()),
            confidences=array("d", self.confidences),
            new=new,
            revoked=revoked,
            window=(max(0, int(window.start[0]) - first), max(0, min(int(window.end[0]), limit) - first)),
            guesses=guesses,
        )

    def _list_guesses(self, step: Step, columns: list[int], length: int) -> dict[int, ColumnGuess]:
        """Return the prediction of each column of the answer that got logits."""
        guess, window = step.guess, step.window
        predicted = (window.pending[0] if window.answer is None else window.answer[0]).tolist()
        tokens, confidence = guess.tokens[0].tolist(), guess.confidence[0].tolist()
        tops = _list_likeliest_tokens(step, self.top)
        return {
            column: ColumnGuess(tokens[slot], confidence[slot], tops[slot])
            for slot, column in enumerate(columns)
            if predicted[slot] and 0 <= column < length
        }

    def _note_confidences(self, length: int, guesses: Mapping[int, ColumnGuess], new: frozenset[int]) -> None:
        """Note the probabilities of the tokens that were just committed, in an answer of so many columns."""
        self.confidences += [0.0] * (length - len(self.confidences))
        for column in new:
            if column in guesses:
                self.confidences[column] = guesses[column].confidence


def _select_marked_columns(columns: list[int], plane: Tensor, length: int) -> frozenset[int]:
    """Return the columns of the answer whose slots are True in a plane (k,)."""
    return frozenset(c for c, marked in zip(columns, plane.tolist(), strict=True) if marked and 0 <= c < length)


def _list_likeliest_tokens(step: Step, top: int) -> list[tuple[tuple[int, float], ...]]:
    """Return each slot's likeliest tokens with their probabilities.

    Only the first is known where the policy did not ask for all probabilities.
    """
    guess = step.guess
    if not top or Probabilities() not in guess.signals:
        return [((token, p),) for token, p in zip(guess.mode[0].tolist(), guess.p1[0].tolist(), strict=True)]
    marginals = guess[Probabilities()][0]
    best = torch.topk(marginals, min(top, marginals.shape[-1]))
    return [
        tuple(zip(ids, ps, strict=True)) for ids, ps in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
