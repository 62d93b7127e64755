"""The engine without a network: the order of rows, the effect of errors, and that nothing is kept for ever."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

import dllm
from dllm import Request, Sampling, Strategy
from dllm.integrations.server.engine import DrainingError, QueueFullError, ServerEngine
from dllm.integrations.server.pending_answers import AnswerUpdate, Ticket
from tests.integrations.server.conftest import FailingModel
from tests.tiny import tiny_model
from tests.waiting import until

PLAIN = Strategy(dllm.TopK(k=1), dllm.Blocks(8), dllm.NoCache())


class Caller:
    """A ticket and the updates that it received."""

    def __init__(self, request: Request, strategy: Strategy = PLAIN) -> None:
        self.updates: queue.Queue[AnswerUpdate] = queue.Queue()
        self.ticket = Ticket(request, strategy, 64, self.updates.put)

    def result(self) -> Any:
        """Wait for the end of the answer and return its result, or raise its error."""
        while True:
            update = self.updates.get(timeout=60)
            if update.error is not None:
                raise update.error
            if update.result is not None:
                return update.result


@contextmanager
def running(tiny: Any, **more: Any) -> Iterator[ServerEngine]:
    """Make an engine and close it at the end."""
    engine = ServerEngine(tiny, **{"rows": 2, "runs": 1, "waiting": 500} | more)
    try:
        yield engine
    finally:
        engine.close()


def callers(prompts: Sequence[tuple[int, ...]], *strategies: Strategy) -> list[Caller]:
    """Return a caller for each prompt, with the strategies in turn."""
    strategies = strategies or (PLAIN,)
    return [Caller(Request(p, 5 + i % 4, seed=i), strategies[i % len(strategies)]) for i, p in enumerate(prompts)]


def test_strategies_take_turns_and_none_starves() -> None:
    kinds = [Strategy(dllm.Threshold(t), dllm.Blocks(8), dllm.PrefixCache(), Sampling(1.0)) for t in (0.1, 0.5, 0.9)]
    prompts = [(3, 1 + i % 20, 7) for i in range(18)]
    tiny = tiny_model("bidirectional-shift")
    with running(tiny) as engine:
        asked = callers(prompts, *kinds)
        engine.submit([caller.ticket for caller in asked])
        engine.start()
        for caller in asked:
            (alone,) = dllm.decode(tiny, [caller.ticket.request], caller.ticket.strategy)
            assert caller.result().output_ids == alone.output_ids
        until(lambda: engine.idle)
        assert len(engine.runs) == 0


def test_the_first_in_the_queue_is_not_passed_by_others_for_ever() -> None:
    """Serve a call of one strategy while new calls of another keep coming."""
    other = Strategy(dllm.Threshold(0.5), dllm.Blocks(8), dllm.NoCache())
    with running(tiny_model("bidirectional"), rows=1) as engine:
        first = callers([(3, 4)] * 20)
        rare = Caller(Request((9, 9), 6, seed=1), other)
        later = callers([(5, 6)] * 20)
        order: list[str] = []
        for name, group in (("first", first), ("rare", [rare]), ("later", later)):
            for caller in group:
                caller.ticket.on_update = lambda update, n=name: order.append(n) if update.last else None  # type: ignore[misc]
        engine.submit([caller.ticket for caller in [*first, rare, *later]])
        engine.start()
        until(lambda: len(order) == 41)
        assert order == ["first"] * 20 + ["rare"] + ["later"] * 20


def test_a_row_that_fails_does_so_alone() -> None:
    tiny = tiny_model("bidirectional")
    prompts = [(3, 4), (8, 7, 9), (5, 6, 11), (2, 2), (12, 7)]
    with running(FailingModel(tiny, poison=7), rows=3) as engine:
        engine.start()
        asked = callers(prompts)
        engine.submit([caller.ticket for caller in asked])
        for caller, prompt in zip(asked, prompts, strict=True):
            if 7 in prompt:
                with pytest.raises(dllm.NumericsError):
                    caller.result()
            else:
                (alone,) = dllm.decode(tiny, [caller.ticket.request], PLAIN)
                if 7 not in alone.output_ids:
                    assert caller.result().output_ids == alone.output_ids


def test_a_bug_fails_a_run_and_the_engine_goes_on() -> None:
    with running(FailingModel(tiny_model("bidirectional"), bomb=31)) as engine:
        engine.start()
        asked = callers([(3, 4), (5, 6)])
        engine.submit([caller.ticket for caller in asked])
        for caller in asked:
            with pytest.raises(RuntimeError, match="the bomb"):
                caller.result()
        engine.model.bomb = -1
        again = Caller(Request((3, 4), 5, seed=0))
        engine.submit([again.ticket])
        assert len(again.result().output_ids) == 5


def test_nothing_is_kept_for_ever() -> None:
    sizes = []

    def measure(update: AnswerUpdate) -> None:
        if update.result is not None:
            (run,) = engine.runs.values()
            tables = (
                run.deltas.collector.requests,
                run.deltas.collector.found,
                run.deltas.texts,
                run.deltas.sent,
                run.deltas.bound,
            )
            sizes.append(max(len(table) for table in tables))

    with running(tiny_model("block-causal")) as engine:
        asked = callers([(1 + i % 20, 4) for i in range(60)])
        for caller in asked:
            caller.ticket.on_update = measure
        engine.submit([caller.ticket for caller in asked])
        engine.start()
        until(lambda: engine.idle)
    assert len(sizes) == 60
    assert max(sizes) < 12


def test_an_engine_that_drains_takes_nothing_new() -> None:
    with running(tiny_model("bidirectional"), waiting=3) as engine:
        asked = callers([(3, 4)] * 5)
        with pytest.raises(QueueFullError):
            engine.submit([caller.ticket for caller in callers([(3, 4)] * 6)])
        engine.submit([caller.ticket for caller in asked])
        engine.drain()
        with pytest.raises(DrainingError):
            engine.submit([asked[0].ticket])
        engine.start()
        assert [len(caller.result().output_ids) for caller in asked] == [5, 6, 7, 8, 5]


def test_an_engine_that_closes_says_so() -> None:
    engine = ServerEngine(FailingModel(tiny_model("bidirectional")), rows=1)
    asked = callers([(3, 4)] * 3)
    with ThreadPoolExecutor(1) as pool, engine.model.gate.held():
        engine.submit([caller.ticket for caller in asked])
        engine.start()
        until(lambda: engine.active_count == 1)
        pool.submit(engine.close)
        until(lambda: engine.closed)
    assert not engine.thread.is_alive()
    for caller in asked:
        with pytest.raises(DrainingError, match="stopped"):
            caller.result()
