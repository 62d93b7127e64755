"""The ledger: when each column was decided, whether in parallel, and whether provably as greedy decoding would have."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dllm import theory
from dllm.engine.commit import StepChange
from dllm.transfer import to_device
from dllm.types import Canvas, Guess, Ledger, Seen, Window


def blank_ledger(canvas: Canvas) -> Ledger:
    """Make the ledger before the first step."""
    return Ledger(torch.zeros_like(canvas.tokens))


def record_commits(
    ledger: Ledger,
    window: Window,
    guess: Guess,
    change: StepChange,
    there: Bool[Tensor, "b t"],
    seen: Seen,
    nfe: Int[Tensor, " b"],
) -> Ledger:
    """Note what was decided when, what in parallel, and what provably as greedy joint decoding would have.

    A token that replaces another is never certified; what is revoked is undecided again.

    Args:
        ledger: The ledger before the step.
        window: The window.
        guess: What the model predicted.
        change: What the step does.
        there: Columns of `change.commit`.
        seen: What the forward showed.
        nfe: Forwards of each row, with that of this step (host).
    """
    new = change.commit if change.revoke is None else change.commit & window.pending
    parallel = new.sum(1) >= 2
    nfe = to_device(nfe, new.device)
    note = torch.add(parallel, nfe, alpha=4)
    if any(seen.fresh.tolist()):  # a certificate costs a sort: none is worked out where none can hold
        note = note + (parallel & _certified_rows(guess, change.tokens, new, to_device(seen.fresh, new.device)))
    book = torch.where(there, note.unsqueeze(1), ledger.book)
    if change.revoke is not None:
        book = window.put(book, (4 * nfe).unsqueeze(1).expand_as(new), change.commit & ~window.pending)
        book = window.put(book, 0, change.revoke)
    return Ledger(book)


def _certified_rows(
    guess: Guess, tokens: Int[Tensor, "b k"], new: Bool[Tensor, "b k"], fresh: Bool[Tensor, " b"]
) -> Bool[Tensor, " b"]:
    """Find the rows whose new tokens are provably those of greedy joint decoding; only a fresh row's can be."""
    sure = theory.is_certified(guess.p1, guess.p2, new) & fresh
    if tokens is not guess.mode:
        sure = sure & ((tokens == guess.mode) | ~new).all(1)
    return sure
