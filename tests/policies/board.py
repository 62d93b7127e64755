"""Small hand-made boards: what a policy sees, without a model; and what the loop makes of its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dllm.engine.commit import enforce_progress
from dllm.signals import Current, Entropy, Noise, Probabilities, Shadow
from dllm.types import Canvas, Guess, Rows, Signal, Window

Row = Sequence[float | None]
PLANES = ("tokens", "confidence", "mode", "p1", "p2")
SIGNALS: dict[str, Signal] = {
    "entropy": Entropy(),
    "probabilities": Probabilities(),
    "noise": Noise(),
    "current": Current(),
    "shadow": Shadow(),
}


def board(
    *rows: Row,
    columns: Sequence[int] | None = None,
    step: int = 0,
    t: int | None = None,
    answer: bool = False,
    **planes: Any,
):
    """A canvas, a window and a guess from the confidences of its slots; None where a slot is decided.

    columns  of the slots, the same in every row (0, 1, … if left out); the canvas has `t` columns
    answer   decided slots are the row's own, and may be revoked or replaced
    planes   other fields of the guess, and its signals by name, as nested lists; left out, candidates are token 0 and
             the rival has the rest
    """
    b, k = len(rows), len(rows[0])
    pending = torch.tensor([[c is not None for c in row] for row in rows])
    confidence = torch.tensor([[c or 0.0 for c in row] for row in rows])
    where = torch.tensor([list(columns or range(k))] * b)
    t = t or int(where.max()) + 1
    full = torch.ones(b, dtype=torch.int64)
    whole = torch.zeros(b, t, dtype=torch.bool).scatter(1, where, pending)
    rows = Rows(full * 0, full * t, full * t, full * 0, torch.zeros(b, t, dtype=torch.bool), full * 0)
    canvas = Canvas(torch.zeros(b, t, dtype=torch.int64), whole, rows)
    window = Window(
        columns=where,
        valid=torch.ones_like(pending),
        pending=pending,
        slots=pending.flatten().nonzero().flatten(),
        start=where[:, 0],
        end=where[:, -1] + 1,
        block_start=where[:, 0],
        block_end=where[:, -1] + 1,
        entered=full.bool(),
        first=pending[:, 0],
        commit=~full.bool(),
        forced=~full.bool(),
        step=full * step,
        closed=~full.bool(),
        answer=torch.ones_like(pending) if answer else None,
    )
    zeros = torch.zeros(b, k, dtype=torch.int64)
    rest = torch.where(pending, torch.minimum(1 - confidence, confidence), 0)
    guess = Guess(zeros, confidence, zeros, confidence, rest)
    own = {name: torch.as_tensor(value) for name, value in planes.items() if name in PLANES}
    signals = {SIGNALS[name]: torch.as_tensor(value) for name, value in planes.items() if name in SIGNALS}
    return canvas, window, replace(guess, **own, signals=signals)


def accepted(policy: Any, view: tuple[Canvas, Window, Guess], state: Any = None) -> list[list[int]]:
    """Slots that a policy accepts, row by row."""
    canvas, window, guess = view
    verdict, _ = policy.step(guess, window, policy.init(canvas) if state is None else state)
    assert not (verdict.accept & ~window.pending).any()
    return slots(verdict.accept)


def committed(policy: Any, view: tuple[Canvas, Window, Guess]) -> list[list[int]]:
    """Slots that the loop then commits, row by row."""
    canvas, window, guess = view
    return slots(enforce_progress(policy.step(guess, window, policy.init(canvas))[0], window))


def slots(plane: Tensor) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in plane]
