"""From a step to the rows of a trace."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dllm import theory
from dllm.signals import Probabilities
from dllm.types import Step


class TraceRowBuilder:
    """A builder of rows, which remembers the limits that are in the trace already.

    Args:
        top: Number of likeliest candidates of each column that are recorded.
        mask_id: Mask token, which is never a candidate.
    """

    def __init__(self, top: int = 0, mask_id: int | None = None) -> None:
        self._top, self._mask_id = top, mask_id
        self._limits: dict[int, int] = {}

    def build(self, step: Step) -> tuple[list[dict[str, Any]], set[int]]:
        """Return the rows that a step worked on, and all tokens that occur in them."""
        window, view = step.window, _HostStep(step, self._top)
        busy = (window.end > window.start) | window.commit
        rows, tokens = [], set[int]()
        for row in busy.nonzero().flatten().tolist():
            rows.append(self._build_row(step, view, row))
            tokens |= set(rows[-1]["tokens"]) | set(rows[-1].get("mode", ()))
            tokens |= {token for column in rows[-1].get("top", ()) for token, _ in column}
        return rows, tokens

    def _build_row(self, step: Step, view: _HostStep, row: int) -> dict[str, Any]:
        """Build one row. Fields that repeat what is known already are left out, because a trace has many rows."""
        window, place = step.window, int(step.place[row])
        slots = (view.pending[row] | view.commit[row]).nonzero().flatten()
        parallel = (view.commit[row] & view.pending[row]).sum() >= 2
        tokens, modes = view.tokens[row, slots].tolist(), view.mode[row, slots].tolist()
        confidence, p1 = _convert_to_decimals(view.confidence[row, slots]), _convert_to_decimals(view.p1[row, slots])
        required: dict[str, Any] = {
            "request": place,
            "nfe": int(step.nfe[row]),
            "queries": int(step.queries[row]),
            "fresh": bool(step.fresh[row]),
            "range": [int(window.start[row]), int(window.end[row])],
            "block": [int(window.block_start[row]), int(window.block_end[row])],
            "columns": view.columns[row, slots].tolist(),
            "tokens": tokens,
            "p1": p1,
            "p2": _convert_to_decimals(view.p2[row, slots]),
            "commit": view.columns[row][view.commit[row]].tolist(),
            "parallel": bool(parallel),
            "certified": bool(view.certified[row] & parallel & step.fresh[row]),
        }
        limit = int(step.canvas.rows.limit[row])
        optional = {
            "stores": bool(window.commit[row]),
            "limit": limit if self._limits.get(place) != limit else None,
            "mode": modes if modes != tokens else None,
            "confidence": confidence if confidence != p1 else None,
            "revoke": [] if view.revoke is None else view.columns[row][view.revoke[row]].tolist(),
            "replaced": view.columns[row][view.commit[row] & ~view.pending[row]].tolist(),
            "moved": view.source_columns(row),
            "top": view.likeliest(row, slots, self._top, self._mask_id),
        }
        self._limits[place] = limit
        return required | {name: value for name, value in optional.items() if value}


class _HostStep:
    """A step's tensors (b, k) on the host, each copied once.

    Args:
        step: The step.
        top: Number of likeliest candidates of each column that are kept, besides the mask token.
    """

    def __init__(self, step: Step, top: int) -> None:
        window, guess = step.window, step.guess
        self.columns, self.pending, self.commit = window.columns.cpu(), window.pending.cpu(), step.commit.cpu()
        written = guess.tokens if step.tokens is None else torch.where(step.commit, step.tokens, guess.tokens)
        self.tokens, self.mode = written.cpu(), guess.mode.cpu()
        self.p1, self.p2, self.confidence = guess.p1.cpu(), guess.p2.cpu(), guess.confidence.cpu()
        self.revoke = None if step.revoke is None else step.revoke.cpu()
        self.moved = step.moved
        self.certified = find_certified_rows(self.tokens, self.mode, self.p1, self.p2, self.commit & self.pending)
        self.likely = None
        if top and Probabilities() in guess.signals:
            marginals = guess[Probabilities()]
            # One more than `top`, because the mask token may be among them.
            likely = marginals.topk(min(top + 1, marginals.shape[-1]))
            self.likely = likely.indices.cpu(), likely.values.cpu()

    def source_columns(self, row: int) -> list[int] | None:
        """Return for each column of a row the one that it was before; None if none has moved."""
        if self.moved is None or torch.equal(self.moved[row], torch.arange(self.moved.shape[1])):
            return None
        return self.moved[row].tolist()

    def likeliest(
        self, row: int, slots: Tensor, most: int, mask_id: int | None
    ) -> list[list[tuple[int, float]]] | None:
        """Return the likeliest tokens of some slots with their probabilities.

        Args:
            row: Row of the batch.
            slots: Slots of the row's window.
            most: Number of tokens for each slot.
            mask_id: Mask token, which is left out.

        Returns:
            For each slot the tokens, likeliest first; None if the step has no probabilities.
        """
        if self.likely is None:
            return None
        ids, probabilities = (x[row, slots].tolist() for x in self.likely)
        columns = (zip(*column, strict=True) for column in zip(ids, probabilities, strict=True))
        kept = ([(token, float(f"{p:.4g}")) for token, p in column if token != mask_id] for column in columns)
        return [column[:most] for column in kept]


def find_certified_rows(tokens: Tensor, mode: Tensor, p1: Tensor, p2: Tensor, new: Tensor) -> Tensor:
    """Find the rows whose new tokens are provably those of greedy joint decoding, if nothing stale was read.

    Args:
        tokens: Candidates (b, k).
        mode: Likeliest tokens (b, k).
        p1: Largest probabilities (b, k).
        p2: Second largest probabilities (b, k).
        new: Slots (b, k) that were committed and pending.

    Returns:
        Rows (b,) bool.
    """
    return theory.is_certified(p1, p2, new) & ((tokens == mode) | ~new).all(1)


def _convert_to_decimals(values: Tensor) -> list[float]:
    """Convert numbers of float32 to decimals of nine significant digits, from which they can be restored exactly."""
    return [float(f"{value:.9g}") for value in values.tolist()]
