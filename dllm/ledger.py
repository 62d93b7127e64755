"""The book of decisions: when each column was decided, whether in parallel, and whether provably as greedy would."""

from __future__ import annotations

import torch
from torch import Tensor

from dllm import theory
from dllm.judging import Change
from dllm.transfer import to_device
from dllm.types import Canvas, Guess, Ledger, Seen, Window


def blank_ledger(canvas: Canvas) -> Ledger:
    return Ledger(torch.zeros_like(canvas.tokens))


def enter(
    ledger: Ledger, window: Window, guess: Guess, change: Change, there: Tensor, seen: Seen, nfe: Tensor
) -> Ledger:
    """Note who was decided when, who in parallel, and who provably as greedy joint decoding would have.

    there  (b, t)  the columns of `change.commit`

    A token that replaces another is never certified; what is revoked is undecided again.
    """
    new = change.commit if change.revoke is None else change.commit & window.pending
    parallel = new.sum(1) >= 2
    nfe = to_device(nfe, new.device)
    note = torch.add(parallel, nfe, alpha=4)
    if any(seen.fresh.tolist()):
        note = note + (parallel & certified(guess, new, to_device(seen.fresh, new.device)))
    book = torch.where(there, note.unsqueeze(1), ledger.book)
    if change.revoke is not None:
        book = window.put(book, (4 * nfe).unsqueeze(1).expand_as(new), change.commit & ~window.pending)
        book = window.put(book, 0, change.revoke)
    return Ledger(book)


def certified(guess: Guess, new: Tensor, fresh: Tensor) -> Tensor:
    """Rows (b,) whose new tokens (b, k) are provably those of greedy joint decoding; only a fresh row's (b,) can be."""
    sure = theory.certified(guess.p1, guess.p2, new) & fresh
    if guess.tokens is not guess.mode:
        sure = sure & ((guess.tokens == guess.mode) | ~new).all(1)
    return sure
