"""Requests that come and go while others are decoded: nobody's result depends on who came, who left, and when."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import pytest

import dllm
from dllm import Request, Sampling, Strategy
from dllm.engine.results import Collector
from dllm.testing import laws
from tests.engine.test_batch import facts, label
from tests.parts import CELLS
from tests.tiny import STOP, tiny_model

REQUESTS = [
    Request((3, 7, 1, 22, 9), 13, seed=1),
    Request((5, 2, 8), 4, seed=5),
    Request((5, 2, 8, 8, 8, 1, 0, 4, 17, 20, 11), 21, seed=2),
    Request((9, 9, 1), 3, seed=8),
    Request((1, 22), 9, seed=3),
    Request((4, 4, 4, 30, 2), 6, seed=4),
]
ARRIVALS = {0: [0], 1: [1], 4: [2, 3], 5: [4], 13: [5]}
"""Who comes before which step."""


@dataclass
class Script:
    """A feed to which requests come, and which they leave, before given steps."""

    arrivals: dict[int, list[int]]
    leaving: dict[int, list[int]] = field(default_factory=dict)
    width: int = 40
    clock: int = -1
    queue: deque[int] = field(default_factory=deque)

    def tick(self) -> None:
        self.clock += 1
        self.queue += self.arrivals.pop(self.clock, [])

    def take(self, most: int) -> list[tuple[int, Request]]:
        coming = [self.queue.popleft() for _ in range(min(most, len(self.queue)))]
        return [(number, REQUESTS[number]) for number in coming]

    def gone(self) -> list[int]:
        return self.leaving.pop(self.clock, [])


def run(geometry: str, strategy: Strategy, script: Script, rows: int = 3) -> tuple[list[dllm.types.Step], Collector]:
    """All runs that the script needs: one ends when nobody waits, and whoever comes later gets another."""
    collector = Collector(tiny_model(geometry), REQUESTS, strategy)
    stream = []
    while script.arrivals or script.queue:
        collector.last = None
        script.tick()
        for step in dllm.steps(tiny_model(geometry), script, strategy, batch_size=rows):
            collector.add(step)
            stream.append(step)
            script.tick()
        if collector.last is not None:
            collector.finish_rows()
    return stream, collector


@pytest.mark.parametrize("cell", CELLS[::149], ids=label)
def test_results_do_not_depend_on_when_others_come(cell: tuple[str, Strategy]) -> None:
    geometry, strategy = cell
    strategy = replace(strategy, stopping=dllm.Stopping((STOP, 4)))
    _, collector = run(geometry, strategy, Script(dict(ARRIVALS)))
    for number, request in enumerate(REQUESTS):
        _, (alone,) = laws.run_batch(tiny_model(geometry), [request], strategy)
        assert facts(collector.found[number]) == facts(alone), number


@pytest.mark.parametrize("cell", CELLS[3::331], ids=label)
def test_nor_on_who_leaves(cell: tuple[str, Strategy]) -> None:
    geometry, strategy = cell[0], replace(cell[1], sampling=Sampling(1.0))
    leaving = {2: [0], 5: [2, 77]}
    stream, collector = run(geometry, strategy, Script(dict(ARRIVALS), dict(leaving)), rows=2)
    for number in (1, 3, 4, 5):
        _, (alone,) = laws.run_batch(tiny_model(geometry), [REQUESTS[number]], strategy)
        assert facts(collector.found[number]) == facts(alone), number
    assert not any(0 in step.place.tolist() and not step.window.closed[step.place == 0] for step in stream[2:])


def test_a_row_that_is_left_is_taken_at_once() -> None:
    strategy = Strategy(dllm.TopK(k=1), dllm.Blocks(8), dllm.PrefixCache())
    stream, _ = run("block-causal", strategy, Script({0: [2, 4, 3]}, {3: [2]}), rows=2)
    assert [step.place.tolist() for step in stream[:4]] == [[2, 4]] * 3 + [[3, 4]]


def test_who_comes_to_an_empty_row_does_not_disturb_the_others() -> None:
    """A row that left the store comes back to it."""
    for cache in (dllm.PrefixCache(), dllm.DualCache(), dllm.Speculative(dllm.DualCache(), drafts=3)):
        strategy = Strategy(dllm.TopK(k=1), dllm.Blocks(8), cache)
        script = Script({0: [2], 3: [1], 12: [3], 17: [4]})
        stream, collector = run("bidirectional", strategy, script, rows=2)
        assert {number for step in stream for number in step.place.tolist()} == {-1, 1, 2, 3, 4}
        for number in (1, 2, 3, 4):
            _, (alone,) = laws.run_batch(tiny_model("bidirectional"), [REQUESTS[number]], strategy)
            assert collector.found[number].output_ids == alone.output_ids


def test_a_run_ends_when_nobody_waits() -> None:
    strategy = Strategy(dllm.TopK(k=2), dllm.Blocks(8), dllm.NoCache())
    assert list(dllm.steps(tiny_model("bidirectional"), Script({}), strategy, batch_size=2)) == []
    stream, _ = run("bidirectional", strategy, Script({0: [1], 9: [3]}), rows=1)
    assert [step.number for step in stream] == [0, 1, 0, 1]


def test_more_end_tokens_than_there_is_room_for_are_refused() -> None:
    strategy = Strategy(dllm.TopK(k=2), dllm.Blocks(8), dllm.NoCache())

    class Late(Script):
        def take(self, most: int) -> list[tuple[int, Request]]:
            return [(n, replace(r, stop_ids=(1,) * (n + 1))) for n, r in super().take(most)]

    script = Late({0: [0, 1]})
    script.tick()
    with pytest.raises(dllm.RequestError, match="room for 1"):
        list(dllm.steps(tiny_model("bidirectional"), script, strategy, batch_size=1))
