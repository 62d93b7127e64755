"""The book of decisions: when each column was decided, whether in parallel, and whether provably as greedy would."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from dllm import theory
from dllm.judging import Change
from dllm.types import Canvas, Guess, Ledger, Seen, Window


def blank_ledger(canvas: Canvas) -> Ledger:
    return Ledger(torch.zeros_like(canvas.tokens))


def enter(ledger: Ledger, window: Window, guess: Guess, change: Change, seen: Seen, nfe: Tensor) -> Ledger:
    """Note who was decided when, who in parallel, and who provably as greedy joint decoding would have.

    A token that replaces another is never certified; what is revoked is undecided again.
    """
    commit = change.commit
    new = commit if change.revoke is None else commit & window.pending
    parallel = new.sum(1) >= 2
    sure = theory.certified(guess.p1, guess.p2, new) & seen.fresh.to(commit.device) & parallel
    if guess.tokens is not guess.mode:
        sure = sure & ((guess.tokens == guess.mode) | ~new).all(1)
    entry = rearrange(4 * nfe.to(commit.device), "b -> b 1") + new * rearrange(2 * parallel + sure.long(), "b -> b 1")
    book = window.put(ledger.book, entry, commit)
    return Ledger(book if change.revoke is None else window.put(book, 0, change.revoke))
