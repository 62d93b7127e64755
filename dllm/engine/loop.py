"""The loop: one generator of steps in which every policy, scheduler, cache and model family meet.

It guarantees what no part can break: what was given is never touched, the mask id is never written as an answer, a
decided token never changes unless the policy says that it edits (and then for a bounded number of steps), every step of
an open row commits at least one token (unless its pace rests), forwards are counted exactly, and logits that are not
numbers stop the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import torch

from dllm.engine.batch import Batch
from dllm.engine.commit import decide_change, enforce_progress, exclude_deferred_slots
from dllm.engine.queue import RequestQueue
from dllm.engine.state import PartStates
from dllm.requests import Request
from dllm.strategy import Strategy
from dllm.types import Model, Step


def steps(
    model: Model, requests: Sequence[Request] | RequestQueue, strategy: Strategy, seed: int = 0,
    batch_size: int | None = None,
) -> Iterator[Step]:  # fmt: skip
    """Decode requests, a step at a time. Everything that watches, records or measures consumes this stream.

    Args:
        model: The model.
        requests: All of them, or a `RequestQueue` to which more may come while these are decoded.
        strategy: How to decode.
        seed: Request i draws from `seed + i` unless it has a seed of its own.
        batch_size: Rows decoded at a time; None for all, of a queue one. A row that is finished gives its place to the
            next request at once; `Step.place` says which request a row holds. No request's result depends on it.

    Yields:
        Steps, until no row is open and no request waits.

    Raises:
        RequestError: A request does not fit the model. Raised before the first forward.
        ConfigError: The strategy does not fit the model. Raised before the first forward.
        NumericsError: A forward gave logits that are not numbers.

    Example:
        >>> import dllm
        >>> from dllm.prompts import make_requests
        >>> model = dllm.load("embedded")
        >>> strategy = dllm.Strategy(dllm.Threshold(0.9), dllm.Blocks(), dllm.PrefixCache())
        >>> stream = list(dllm.steps(model, make_requests(model, "Compute 8 + 6."), strategy))
        >>> [int(step.commit.sum()) >= 1 for step in stream] == [True] * len(stream)
        True
    """
    inference = torch.inference_mode()
    with inference:
        batch = Batch.open(model, requests, strategy, seed, batch_size)
        if not batch.requests:
            return
        state = batch.start()
    model, policy, scheduler, cache = batch.model, strategy.policy, strategy.scheduler, strategy.cache
    for number in count():
        with inference:
            state, view = batch.refill(state)  # copies what is pending to the host: the one wait of an ordinary step
            canvas, parts = state.canvas, state.parts
            window, scheduler_state = scheduler.step(canvas, view, parts.scheduler)
            if window is None:
                return
            window = batch.prepare_window(window, canvas)
            seen, cache_state = cache.step(model, canvas, window, parts.cache)
            state = batch.count_forward(state, window, seen)
            guess, processor_states = batch.proposer.step(seen, canvas, window, state.num_windows, parts.processors)
            window, scheduler_state = scheduler.refine(guess, window, scheduler_state)
            window = exclude_deferred_slots(window, canvas)
            verdict, policy_state = policy.step(guess, window, parts.policy)
            commit = enforce_progress(verdict, window)
            commit = batch.proposer.settle(canvas, window, guess, commit, verdict.score, processor_states)
            change = decide_change(policy, verdict, canvas, guess, window, commit, model.mask_id)
            cache_state = cache.observe(guess, window, change.commit, change.score, cache_state)
            parts = PartStates(scheduler_state, policy_state, cache_state, processor_states)
            state, moved = batch.write(state._replace(parts=parts), window, seen, guess, change)
        yield batch.report(number, state, window, seen, guess, change, moved)
