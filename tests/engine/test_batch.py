"""Rows that do not wait: a finished row's place is taken by the next request, and no result depends on it."""

from __future__ import annotations

import itertools

import pytest

import dllm
from dllm import Request, Sampling, Strategy
from dllm.engine.results import Collector
from dllm.testing import laws
from tests.parts import CELLS, POLICIES
from tests.tiny import STOP, tiny_model

REQUESTS = [
    Request((3, 7, 1, 22, 9), 13, seed=1),
    Request((5, 2, 8), 4),
    Request((5, 2, 8, 8, 8, 1, 0, 4, 17, 20, 11), 21, seed=2, stop_ids=(STOP,)),
    Request((9, 9, 1), 3),
    Request((1, 22), 9, stop_ids=(4, 7)),
]
SAMPLE = CELLS[::17]


def label(cell: tuple[str, Strategy]) -> str:
    geometry, s = cell
    return f"{geometry}-{s.policy}-{s.scheduler}-{s.cache}"


def in_seats(geometry: str, strategy: Strategy, batch_size: int) -> tuple[list[dllm.types.Step], list[dllm.Result]]:
    collector = Collector(tiny_model(geometry), REQUESTS, strategy)
    stream = []
    for step in dllm.steps(tiny_model(geometry), REQUESTS, strategy, batch_size=batch_size):
        collector.add(step)
        stream.append(step)
    return stream, collector.results()


def facts(result: dllm.Result) -> tuple:
    return (
        result.prompt_ids, result.output_ids, result.nfe, result.queries, result.when,
        result.parallel, result.certified, result.stopped,
    )  # fmt: skip


@pytest.mark.parametrize("cell", SAMPLE, ids=label)
def test_results_do_not_depend_on_the_seats(cell: tuple[str, Strategy]) -> None:
    geometry, strategy = cell
    stream, (*seated,) = in_seats(geometry, strategy, 2)
    assert all(len(step.place) == 2 for step in stream)
    numbered = dllm.requests.assign_seeds(REQUESTS)
    for request, result in zip(numbered, seated, strict=True):
        _, (alone,) = laws.run_batch(tiny_model(geometry), [request], strategy)
        assert facts(result) == facts(alone)


@pytest.mark.parametrize("cell", SAMPLE[::5], ids=label)
def test_sampled_results_do_not_either(cell: tuple[str, Strategy]) -> None:
    from dataclasses import replace

    geometry, strategy = cell[0], replace(cell[1], sampling=Sampling(1.0))
    (_, two), (_, four), (_, all_) = (in_seats(geometry, strategy, n) for n in (2, 4, 99))
    assert [facts(r) for r in two] == [facts(r) for r in four] == [facts(r) for r in all_]


def test_a_place_is_taken_at_once() -> None:
    strategy = Strategy(dllm.TopK(k=1), dllm.Blocks(8), dllm.PrefixCache())
    stream, _ = in_seats("block-causal", strategy, 2)
    for before, after in itertools.pairwise(stream):
        waiting = int(before.place.max()) + 1 < len(REQUESTS)
        assert not (waiting and after.window.closed.any()), "a row stands empty though a request waits"
    assert [int(step.place.max()) for step in stream] == sorted(int(step.place.max()) for step in stream)
    alone = [int(r.nfe) for r in in_seats("block-causal", strategy, 1)[1]]
    assert len(stream) < sum(alone), "two rows are decoded at a time"


def test_results_are_known_as_soon_as_a_row_is_left() -> None:
    strategy = Strategy(POLICIES[0], dllm.Blocks(8), dllm.DualCache())
    collector = Collector(tiny_model("bidirectional"), REQUESTS, strategy)
    told: list[int] = []
    for step in dllm.steps(tiny_model("bidirectional"), REQUESTS, strategy, batch_size=2):
        told += collector.add(step)
        assert set(told) == set(collector.found)
        assert not set(told) & {int(i) for i, closed in zip(step.place, step.window.closed, strict=True) if not closed}
    assert len(told) >= len(REQUESTS) - 2
    assert [r.prompt_ids for r in collector.results()] == [r.prompt for r in REQUESTS]
