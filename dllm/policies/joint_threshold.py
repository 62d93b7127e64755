"""Joint threshold: write masks by one threshold, and replace written tokens by another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.revising import RevisingPolicy, decided_slots
from dllm.policies.scores import Confidence, Score
from dllm.signals import Current
from dllm.types import Canvas, Guess, Probe, Signal, Verdict, Window


class JointThresholdState(NamedTuple):
    """State of `JointThreshold`.

    Attributes:
        tokens: Tokens that the canvas holds where it is decided.
        post: Steps so far on a range in which nothing is pending.
    """

    tokens: Int[Tensor, "b t"]
    post: Int[Tensor, " b"]


@dataclass(frozen=True)
class JointThreshold(RevisingPolicy):
    """Commit every pending slot whose score is above `tau`, and replace decided tokens by confident other candidates.

    A decided token is replaced where the candidate is another token and has a confidence above `edit`.

    A range is finished once nothing is pending in it and a further step replaces nothing, or after `post` such steps.
    So it takes no more steps than its columns and `post` together, even if two tokens replace each other forever. An
    edit of 1 or more replaces nothing and is `Threshold(tau, strict=True)`; an edit of 0 replaces every token that is
    no longer the candidate.

    Only models that were trained to predict the token in place of a written one can use it; others repeat what is
    written. Published settings (tau, edit): (0.7, 0.5) "quality", (0.5, 0.0) "speed".

    Attributes:
        tau: Least score of a new token, exclusive.
        edit: Least confidence of a replacement, exclusive.
        post: Most steps on a range in which nothing is pending; with 0 tokens are replaced only while something is.
        score: Preference of each slot.

    References:
        Bie et al. 2026, LLaDA2.1 (arXiv:2602.08676), `generate` of its checkpoints as ported by others.

    Departures:
        With an edit of 1 or more a range in which nothing is pending gets no further step, since nothing could change
        in it.
    """

    tau: float = 0.7
    edit: float = 0.5
    post: int = 16
    score: Score = Confidence()

    def __post_init__(self) -> None:
        if not (self.tau >= 0 and self.edit >= 0):
            raise ConfigError(f"{self}: tau and edit must be 0 or more; edit=1 replaces nothing")
        if self.post < 0:
            raise ConfigError(f"{self}: post must be 0 or more steps")

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        return (*self.score.needs, Current())

    def bound(self, columns: Int[Tensor, " b"], /) -> Int[Tensor, " b"]:
        return columns + self.post

    def init(self, canvas: Canvas, /) -> JointThresholdState:
        return JointThresholdState(
            canvas.tokens, torch.zeros(len(canvas.tokens), dtype=torch.int64, device=canvas.tokens.device)
        )

    def step(self, guess: Guess, window: Window, state: JointThresholdState, /) -> tuple[Verdict, JointThresholdState]:
        score = self.score(guess, window)
        other = guess.tokens != window.take(state.tokens)
        replace = decided_slots(window) & other & (guess.confidence > self.edit)
        accept = (window.pending & (score > self.tau)) | replace
        active, full = window.valid.any(1), ~window.pending.any(1)
        post = torch.where(window.step == 0, 0, state.post) + full
        over = (full & ~replace.any(1)) | (post >= self.post)
        hold = active & ~over if self.edit < 1 else torch.zeros_like(over)
        # A policy does not see what the loop commits in its place. But a slot that is pending now and decided in the
        # next step was committed with this candidate in any case, so candidates are noted for all pending slots.
        tokens = window.put(state.tokens, guess.tokens, window.pending | replace)
        return Verdict(accept, score, hold=hold), JointThresholdState(tokens, torch.where(active, post, state.post))
