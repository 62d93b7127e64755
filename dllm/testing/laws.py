"""Laws of decoding, each stated once as a function that raises `AssertionError`; tests apply them to whole products.

A law takes a model, requests and a strategy, and checks the stream of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dllm.engine.batch import match_block_size
from dllm.engine.loop import steps
from dllm.engine.results import Collector, Result
from dllm.requests import Request, make_canvas
from dllm.strategy import Strategy
from dllm.types import Canvas, Query, Step, move_columns


def run_batch(model: Any, requests: Sequence[Request], strategy: Strategy) -> tuple[list[Step], list[Result]]:
    """Decode requests, and return all steps and results."""
    collector = Collector(model, requests, strategy)
    stream = []
    for step in steps(model, requests, strategy):
        collector.add(step)
        stream.append(step)
    return stream, collector.results()


def make_first_canvas(model: Any, requests: Sequence[Request], strategy: Strategy) -> Canvas:
    """Make the canvas before the first step."""
    model = match_block_size(model, strategy)
    canvas = make_canvas(model, requests)
    return strategy.scheduler.arrange(canvas, None, None, strategy.scheduler.init(canvas, model))[0]


def rows_finish_in_time(
    model: Any, requests: Sequence[Request], strategy: Strategy, stream: list[Step], allowance: int = 0
) -> None:
    """Check that no row needs more forwards than it has columns to decide.

    A policy that edits may take its bound besides, for every range that was opened, or that has become wider.

    Args:
        model: The model.
        requests: The requests.
        strategy: The strategy.
        stream: All steps.
        allowance: Forwards beyond that for commits of blocks, and steps in which a pace rests.
    """
    wanted = make_first_canvas(model, requests, strategy).pending.sum(1)
    allowed = torch.zeros_like(wanted)
    for step in stream:
        wanted = wanted if step.moved is None else wanted + (step.moved < 0).sum(1)
        bound = _count_allowed_revisions(strategy, step)
        allowed = torch.where(step.window.step.cpu() == 0, 0, allowed)
        wanted = wanted + (bound - allowed).clamp(min=0)
        allowed = torch.maximum(allowed, bound)
    nfe = stream[-1].nfe
    assert (nfe <= wanted + allowance).all(), f"{nfe.tolist()} forwards for {wanted.tolist()} columns"


def _count_allowed_revisions(strategy: Strategy, step: Step) -> Int[Tensor, " b"]:
    """Count the steps that a policy which edits may take more, in the ranges of this step."""
    columns = step.window.end - step.window.start
    if not strategy.policy.edits:
        return torch.zeros_like(columns)
    return torch.where(columns > 0, strategy.policy.bound(columns), 0)


def every_step_progresses(stream: list[Step], may_rest: bool = False) -> None:
    """Check that every step decides something in every row that has something pending in its window."""
    for step in stream:
        stuck = step.window.pending.any(1) & ~step.commit.any(1)
        assert may_rest or not stuck.any(), f"step {step.number}: rows {stuck.nonzero().flatten().tolist()} stand still"


def decided_stays(model: Any, requests: Sequence[Request], strategy: Strategy, stream: list[Step]) -> None:
    """Check that given and decided tokens stay, that commits were pending, and that no answer holds the mask id.

    A policy that edits may change and revoke answers in its window, and says so in the step.
    """
    before = make_first_canvas(model, requests, strategy)
    edits = strategy.policy.edits
    for step in stream:
        assert edits or step.revoke is None, f"step {step.number} revokes, and its policy does not say that it edits"
        assert edits or not (step.commit & ~step.window.pending).any(), f"step {step.number} committed what was decided"
        touched = step.window.put(torch.zeros_like(before.pending), True, step.commit)
        reopened = torch.zeros_like(touched)
        if step.revoke is not None:
            reopened = step.window.put(reopened, True, step.revoke)
        given = before.rows.given
        assert not ((touched | reopened) & given).any(), f"step {step.number} touched what was given"
        before = _move_canvas(before, step)
        if step.moved is not None:
            touched, reopened, given = (move_columns(plane, step.moved) for plane in (touched, reopened, given))
        changed = before.tokens != step.canvas.tokens
        assert not (changed & ~before.pending & ~(touched | reopened)).any(), (
            f"step {step.number} changed a decided token"
        )
        assert not (step.canvas.pending & ~before.pending & ~reopened).any(), f"step {step.number} reopened a column"
        written = touched & ~step.canvas.pending
        assert not (written & (step.canvas.tokens == model.mask_id)).any(), f"step {step.number} wrote the mask id"
        assert not (step.canvas.pending & given).any(), f"step {step.number} made pending what was given"
        before = step.canvas


def _move_canvas(canvas: Canvas, step: Step) -> Canvas:
    """Move the columns of the canvas before a step to their places after it; new ones are pending."""
    if step.moved is None:
        return canvas
    tokens, pending = move_columns(canvas.tokens, step.moved), move_columns(canvas.pending, step.moved, True)
    return canvas._replace(tokens=tokens, pending=pending, rows=step.canvas.rows)


def windows_tile(model: Any, requests: Sequence[Request], strategy: Strategy, stream: list[Step]) -> None:
    """Check that every column of the requested output is decided, exactly once unless the policy edits.

    In a row that stopped early some are.
    """
    times = torch.zeros_like(make_first_canvas(model, requests, strategy).tokens)
    for step in stream:
        times = times + step.window.put(torch.zeros_like(times), 1, step.commit)
        times = times if step.moved is None else move_columns(times, step.moved)
    assert strategy.policy.edits or times.max() <= 1, "a column was decided twice"
    canvas = stream[-1].canvas
    for row, request in enumerate(requests):
        output = slice(request.start, int(canvas.rows.limit[row]))
        decided = (times[row].bool() | canvas.rows.given[row])[output]
        assert not canvas.pending[row, output].any()
        if not decided.all():
            assert decided.any(), "a row that stopped decided something before"


def rows_are_independent(model: Any, requests: Sequence[Request], strategy: Strategy, results: list[Result]) -> None:
    """Check that a row decoded alone gives the same tokens in the same number of forwards as in a batch."""
    for i, request in enumerate(requests):
        _, (alone,) = run_batch(model, [request], strategy)
        together = results[i]
        assert alone.output_ids == together.output_ids, f"row {i} writes something else in company"
        assert alone.nfe == together.nfe, f"row {i}: {alone.nfe} forwards alone, {together.nfe} in company"
        assert (alone.when, alone.certified, alone.parallel) == (together.when, together.certified, together.parallel)


def fresh_is_exact(model: Any, requests: Sequence[Request], strategy: Strategy, stream: list[Step]) -> None:
    """Check that predictions which a step calls fresh are those of a forward over everything."""
    model = match_block_size(model, strategy)
    before = make_first_canvas(model, requests, strategy)
    for step in stream:
        for row in (step.fresh & (step.window.end > step.window.start)).nonzero().flatten().tolist():
            end = before.rows.length[row] if model.geometry.block is None else step.window.block_end[row]
            logits = _compute_whole_row_logits(model, before, row, int(end), step.window.block_start[row : row + 1])
            slots = step.window.pending[row]
            outputs = (step.window.columns[row, slots] - model.needs_left).clamp(min=0)
            p1 = _exclude_mask(logits.softmax(-1), model.mask_id).amax(-1)[outputs]
            torch.testing.assert_close(step.guess.p1[row, slots], p1, atol=2e-5, rtol=1e-4, check_dtype=False)
        before = step.canvas


def _exclude_mask(marginal: Float[Tensor, "t v"], mask_id: int | None) -> Float[Tensor, "t v"]:
    """Leave the mask token, which is no candidate, out of a marginal."""
    if mask_id is None:
        return marginal
    return marginal.index_fill(-1, torch.tensor([mask_id], device=marginal.device), 0)


@torch.inference_mode()
def _compute_whole_row_logits(
    model: Any, canvas: Canvas, row: int, end: int, stored: Int[Tensor, " 1"]
) -> Float[Tensor, "t v"]:
    """Compute logits of one row run whole and alone, with the dense mask that the geometry means.

    Args:
        model: The model.
        canvas: The canvas.
        row: The row.
        end: Columns to run.
        stored: Columns left of it are of finished blocks.
    """
    columns = torch.arange(end).unsqueeze(0)
    reach = model.geometry.visible_end(columns, canvas.rows.length[row : row + 1], stored)
    tokens = canvas.tokens[row : row + 1, :end]
    mask = (torch.arange(end) < reach.unsqueeze(-1)).unsqueeze(1).to(tokens.device)
    given = canvas.rows.given[row : row + 1, :end].to(tokens.device)
    valid = torch.ones_like(tokens, dtype=torch.bool)
    query = Query(tokens, columns.to(tokens.device), valid, end, mask, 0, given=given)
    logits: Tensor = model.head(model.forward(query, None)[0])
    return logits.float()
