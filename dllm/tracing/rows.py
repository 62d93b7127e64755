"""A step as the rows of a trace."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dllm import theory
from dllm.types import Step


class Rows:
    """Makes the rows of steps; remembers the limits that it has told.

    top      likeliest candidates of each column to be kept
    mask_id  never a candidate
    """

    def __init__(self, top: int = 0, mask_id: int | None = None) -> None:
        self.top, self.mask_id = top, mask_id
        self.limits: dict[int, int] = {}

    def of(self, step: Step) -> tuple[list[dict[str, Any]], set[int]]:
        """The rows that a step worked on, and the tokens that they name."""
        window, view = step.window, Host(step, self.top)
        busy = (window.end > window.start) | window.commit
        rows, tokens = [], set[int]()
        for row in busy.nonzero().flatten().tolist():
            rows.append(self.row(step, view, row))
            tokens |= set(rows[-1]["tokens"]) | set(rows[-1].get("mode", ()))
            tokens |= {token for column in rows[-1].get("top", ()) for token, _ in column}
        return rows, tokens

    def row(self, step: Step, view: Host, row: int) -> dict[str, Any]:
        window, place = step.window, int(step.place[row])
        slots = (view.pending[row] | view.commit[row]).nonzero().flatten()
        own = (view.commit[row] & view.pending[row]).sum() >= 2
        tokens, modes = view.tokens[row, slots].tolist(), view.mode[row, slots].tolist()
        sure, p1 = digits(view.confidence[row, slots]), digits(view.p1[row, slots])
        found: dict[str, Any] = {
            "request": place,
            "nfe": int(step.nfe[row]),
            "queries": int(step.queries[row]),
            "fresh": bool(step.fresh[row]),
            "range": [int(window.start[row]), int(window.end[row])],
            "block": [int(window.block_start[row]), int(window.block_end[row])],
            "columns": view.columns[row, slots].tolist(),
            "tokens": tokens,
            "p1": p1,
            "p2": digits(view.p2[row, slots]),
            "commit": view.columns[row][view.commit[row]].tolist(),
            "parallel": bool(own),
            "certified": bool(view.certified[row] & own & step.fresh[row]),
        }
        limit = int(step.canvas.rows.limit[row])
        optional = {
            "stores": bool(window.commit[row]),
            "limit": limit if self.limits.get(place) != limit else None,
            "mode": modes if modes != tokens else None,
            "confidence": sure if sure != p1 else None,
            "revoke": [] if view.revoke is None else view.columns[row][view.revoke[row]].tolist(),
            "replaced": view.columns[row][view.commit[row] & ~view.pending[row]].tolist(),
            "moved": view.moves(row),
            "top": view.top(row, slots, self.top, self.mask_id),
        }
        self.limits[place] = limit
        return found | {name: value for name, value in optional.items() if value}


class Host:
    """A step's tensors (b, k) on the host, each copied once."""

    def __init__(self, step: Step, top: int) -> None:
        window, guess = step.window, step.guess
        self.columns, self.pending, self.commit = window.columns.cpu(), window.pending.cpu(), step.commit.cpu()
        self.tokens, self.mode = guess.tokens.cpu(), guess.mode.cpu()
        self.p1, self.p2, self.confidence = guess.p1.cpu(), guess.p2.cpu(), guess.confidence.cpu()
        self.revoke = None if step.revoke is None else step.revoke.cpu()
        self.moved = step.moved
        self.certified = certain(self.tokens, self.mode, self.p1, self.p2, self.commit & self.pending)
        self.likely = None
        if guess.probabilities is not None and top:
            likely = guess.probabilities.topk(min(top + 1, guess.probabilities.shape[-1]))
            self.likely = likely.indices.cpu(), likely.values.cpu()

    def moves(self, row: int) -> list[int] | None:
        """Where each column comes from, if any of the row's moved."""
        if self.moved is None or torch.equal(self.moved[row], torch.arange(self.moved.shape[1])):
            return None
        return self.moved[row].tolist()

    def top(self, row: int, slots: Tensor, most: int, mask_id: int | None) -> list[list[tuple[int, float]]] | None:
        """The likeliest tokens of some slots, each with its probability; without the mask id, which is never one."""
        if self.likely is None:
            return None
        ids, chances = (x[row, slots].tolist() for x in self.likely)
        pairs = (zip(*column, strict=True) for column in zip(ids, chances, strict=True))
        kept = ([(token, float(f"{chance:.4g}")) for token, chance in pair if token != mask_id] for pair in pairs)
        return [column[:most] for column in kept]


def certain(tokens: Tensor, mode: Tensor, p1: Tensor, p2: Tensor, new: Tensor) -> Tensor:
    """Rows (b,) whose new tokens are provably what greedy joint decoding writes, if nothing stale was read."""
    return theory.certified(p1, p2, new) & ((tokens == mode) | ~new).all(1)


def digits(values: Tensor) -> list[float]:
    """Numbers of float32 with as many digits as tell them apart."""
    return [float(f"{value:.9g}") for value in values.tolist()]
