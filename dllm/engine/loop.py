"""The loop: one generator of steps in which every policy, scheduler, cache and model family meet.

What no part can break is guaranteed here: what was given is never touched, the mask id is never written as an answer, a
decided token never changes unless the policy says that it edits (and then for a bounded number of steps), every step of
an open row commits at least one token (unless its pace rests), forwards are counted exactly, and logits that are not
numbers stop the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dllm.engine.batch import Batch
from dllm.engine.commit import StepChange, decide_commit, open_decided_slots
from dllm.engine.queue import RequestQueue
from dllm.engine.record import record_commits
from dllm.engine.resize import relocate_state, resize_canvas
from dllm.errors import NumericsError
from dllm.requests import Request, assign_seeds
from dllm.strategy import Strategy
from dllm.types import JUDGES, BlockCausal, Canvas, Guess, Step, Window


def steps(
    model: Any,
    requests: Sequence[Request] | RequestQueue,
    strategy: Strategy,
    seed: int = 0,
    batch_size: int | None = None,
) -> Iterator[Step]:
    """Decode requests, a step at a time. Everything that watches, records or measures consumes this stream.

    requests    all of them, or a `Feed` to which more may come while these are decoded
    batch_size  rows decoded at a time (None: all, of a feed one). A row that is finished gives its place to the next
                request at once; `Step.place` says which request a row holds. No request's result depends on it

    Raises `RequestError` or `ConfigError` before the first forward, `NumericsError` after a forward that gave logits
    which are not numbers.
    """
    model = match_block_size(model, strategy)
    if not isinstance(requests, RequestQueue):
        requests = assign_seeds(requests, seed)
        for request in requests:
            request.check(model, model.vocabulary)
    policy, scheduler, cache = strategy.policy, strategy.scheduler, strategy.cache
    with torch.inference_mode():
        seats = Batch.of(model, requests, strategy, batch_size)
        if not seats.seated:
            return
        run, proposer = seats.begin(), seats.proposer
    observe, refine = getattr(cache, "observe", None), getattr(scheduler, "refine", None)
    judged = bool(policy.needs & JUDGES)
    shown: tuple[Tensor, Tensor] | None = None
    inference, index = torch.inference_mode(), 0

    while True:
        with inference:
            run = seats.leave(run)
            window, plan = scheduler.step(run.canvas, run.plan)
            _check_finite(shown, index, seats)
            if (filled := seats.fill(run, window)) is not None:
                run = filled
                window, plan = scheduler.step(run.canvas, run.plan)
            if window is None:
                return
            if judged:
                window = open_decided_slots(window, run.canvas, policy)
            draws = run.draws + (window.end > window.start)
            seen, memory = cache.step(model, run.canvas, window, run.memory)
            guess, habits = proposer.step(seen, run.canvas, window, draws, run.habits)
            nfe = run.nfe + (seen.queries > 0)
            shown = guess.confidence, guess.confidence.sum()
            if refine is not None:
                window, plan = refine(guess, window, plan)
            change, mood = decide_commit(policy, proposer, run.canvas, guess, window, run.mood, habits)
            there = window.spread(change.commit, run.canvas.tokens.shape[1])
            canvas = _write_canvas(run.canvas, window, guess, change, there, model.mask_id)
            ledger = record_commits(run.ledger, window, guess, change, there, seen, nfe)
            if observe is not None:
                memory = observe(guess, window, change.commit, change.score, memory)
            canvas = seats.stopper.close(canvas)
            canvas, moved, plan = resize_canvas(scheduler, canvas, guess, window, plan)
            run = run._replace(
                canvas=canvas, plan=plan, mood=mood, memory=memory, habits=habits, ledger=ledger, nfe=nfe, draws=draws
            )
            run = relocate_state(run, moved, policy, proposer, model)
        yield Step(
            number=index,
            canvas=run.canvas,
            window=window,
            guess=guess,
            commit=change.commit,
            queries=seen.queries,
            fresh=seen.fresh,
            nfe=run.nfe,
            ledger=run.ledger,
            place=seats.place,
            revoke=change.revoke,
            moved=moved,
        )
        index += 1


def match_block_size(model: Any, strategy: Strategy) -> Any:
    """The model with the attention block that the scheduler's size asks for (block-causal families)."""
    size = getattr(strategy.scheduler, "size", None)
    if size is not None and isinstance(model.geometry, BlockCausal) and model.geometry.size != size:
        return model.with_block(size)
    return model


def _check_finite(shown: tuple[Tensor, Tensor] | None, index: int, seats: Batch) -> None:
    """Read the last step's confidences (b, k), or rather their sum, after the scheduler's synchronisation, so that it
    costs no wait of its own."""
    if shown is not None and math.isnan(shown[1].item()):
        prompts = seats.place[shown[0].isnan().any(1).cpu()].tolist()
        raise NumericsError(
            f"the model's logits are not numbers (NaN, infinite or beyond 1e9) for prompts {prompts} at step "
            f"{index - 1}: check the weights, or try another dtype (float16 overflows easily; bfloat16 or float32 do "
            "not)",
            prompts,
        )


def _write_canvas(
    canvas: Canvas, window: Window, guess: Guess, change: StepChange, there: Tensor, mask_id: int | None
) -> Canvas:
    """The canvas with the candidates written where they are committed, and what is revoked made pending again.

    there  (b, t)  the columns of `change.commit`
    """
    tokens = torch.where(there, window.spread(guess.tokens, there.shape[1]), canvas.tokens)
    pending = torch.where(there, False, canvas.pending)
    if change.revoke is not None:
        tokens = tokens if mask_id is None else window.put(tokens, mask_id, change.revoke)
        pending = window.put(pending, True, change.revoke)
    return canvas._replace(tokens=tokens, pending=pending, held=change.hold)
