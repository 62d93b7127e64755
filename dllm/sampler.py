"""The loop: one generator of steps in which every policy, scheduler, cache and model family meet.

What no part can break is guaranteed here: what was given is never touched, the mask id is never written as an answer, a
decided token never changes unless the policy says that it edits (and then for a bounded number of steps), every step of
an open row commits at least one token (unless its pace rests), forwards are counted exactly, and logits that are not
numbers stop the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dllm.errors import NumericsError
from dllm.judging import Change, editable, judge
from dllm.ledger import blank_ledger, enter
from dllm.lengths import arrange, forget, move
from dllm.requests import Request, lay_out
from dllm.sampling import Proposer
from dllm.stopping import Stopper
from dllm.strategy import Strategy
from dllm.types import BlockCausal, Canvas, Guess, Ledger, Step, Window


def steps(model: Any, requests: Sequence[Request], strategy: Strategy, seed: int = 0) -> Iterator[Step]:
    """Decode one batch, a step at a time. Everything that watches, records or measures consumes this stream.

    Raises `RequestError` or `ConfigError` before the first forward, `NumericsError` after a forward that gave logits
    which are not numbers.
    """
    model = fit(model, strategy)
    for request in requests:
        request.check(model, model.vocabulary)
    policy, scheduler, cache = strategy.policy, strategy.scheduler, strategy.cache
    with torch.inference_mode():
        canvas = lay_out(model, requests, seed)
        stopper = Stopper.of(stop_ids(model, requests, strategy), strategy.stopping, model.tokenizer, model.device)
        proposer = Proposer(model.head, strategy.sampling, policy.needs, model.mask_id, model.vocabulary)
        plan = scheduler.init(canvas, model)
        canvas, _, plan = arrange(scheduler, canvas, None, None, plan)
        mood, memory, habits = policy.init(canvas), cache.init(canvas, model), proposer.init(canvas, model)
        ledger = blank_ledger(canvas)
        nfe = draws = torch.zeros(len(requests), dtype=torch.int64)
    broken: Tensor | None = None
    index = 0

    while True:
        with torch.inference_mode():
            window, plan = scheduler.step(canvas, plan)
            check_numbers(broken, index)
            if window is None:
                return
            window = editable(window, canvas, policy)
            seen, memory = cache.step(model, canvas, window, memory)
            nfe, draws = nfe + (seen.queries > 0), draws + (window.end > window.start)
            guess, habits = proposer.step(seen, canvas, window, draws, habits)
            broken = guess.confidence.isnan().any(1)
            if hasattr(scheduler, "refine"):
                window, plan = scheduler.refine(guess, window, plan)
            change, mood = judge(policy, proposer, canvas, guess, window, mood, habits)
            canvas = write(canvas, window, guess, change, model.mask_id)
            ledger = enter(ledger, window, guess, change, seen, nfe)
            if hasattr(cache, "observe"):
                memory = cache.observe(guess, window, change.commit, memory)
            canvas = stopper.close(canvas)
            canvas, moved, plan = arrange(scheduler, canvas, guess, window, plan)
            if moved is not None:
                ledger = Ledger(*(move(plane, moved) for plane in ledger))
                mood = forget(mood, policy.init(canvas), moved)
                habits = forget(habits, proposer.init(canvas, model), moved)
        yield Step(
            number=index,
            canvas=canvas,
            window=window,
            guess=guess,
            commit=change.commit,
            queries=seen.queries,
            fresh=seen.fresh,
            nfe=nfe,
            ledger=ledger,
            revoke=change.revoke,
            moved=moved,
        )
        index += 1


def fit(model: Any, strategy: Strategy) -> Any:
    """The model with the attention block that the scheduler's size asks for (block-causal families)."""
    size = getattr(strategy.scheduler, "size", None)
    if size is not None and isinstance(model.geometry, BlockCausal) and model.geometry.size != size:
        return model.with_block(size)
    return model


def stop_ids(model: Any, requests: Sequence[Request], strategy: Strategy) -> list[tuple[int, ...]]:
    """End tokens of each row: its own, or the strategy's, or the checkpoint's."""
    default = strategy.stopping.ids if strategy.stopping.ids is not None else tuple(model.stop_ids)
    return [default if r.stop_ids is None else tuple(r.stop_ids) for r in requests]


def check_numbers(broken: Tensor | None, index: int) -> None:
    """Read after the scheduler's synchronisation, so that it costs no wait of its own."""
    if broken is not None and bool(broken.any()):
        rows = broken.nonzero().flatten().tolist()
        raise NumericsError(
            f"the model's logits are not numbers (NaN or infinite) in rows {rows} at step {index - 1}: "
            "check the weights, or try another dtype (float16 overflows easily; bfloat16 or float32 do not)"
        )


def write(canvas: Canvas, window: Window, guess: Guess, change: Change, mask_id: int | None) -> Canvas:
    """The canvas with the candidates written where they are committed, and what is revoked made pending again."""
    tokens = window.put(canvas.tokens, guess.tokens, change.commit)
    pending = window.put(canvas.pending, False, change.commit)
    if change.revoke is not None:
        tokens = tokens if mask_id is None else window.put(tokens, mask_id, change.revoke)
        pending = window.put(pending, True, change.revoke)
    return canvas._replace(tokens=tokens, pending=pending, held=change.hold)
