"""Rows with much to run go through the model apart from those with little: less padding, the same results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import dllm
from dllm import Blocks, DelayedCache, DualCache, NoCache, PrefixCache, Request, SlidingCache, Strategy, Threshold, TopK
from dllm.caches.running import split_rows_by_length
from dllm.engine.results import Collector
from dllm.testing import laws
from tests.caches.plain import Spy
from tests.engine.test_batch import facts, label
from tests.parts import CELLS
from tests.tiny import GEOMETRIES, tiny_model

REQUESTS = [
    Request((3, 7, 1, 22, 9), 13, seed=1),
    Request((5, 2, 8), 4),
    Request(tuple(range(5, 24)), 21, seed=2),
    Request((9, 9, 1), 9),
    Request((1, 22), 9, stop_ids=(4, 7)),
]


def decoded(model: Any, strategy: Strategy, batch_size: int) -> list[Any]:
    collector = Collector(model, REQUESTS, strategy)
    for step in dllm.steps(model, REQUESTS, strategy, batch_size=batch_size):
        collector.add(step)
    return [facts(result) for result in collector.results()]


@pytest.mark.parametrize("cell", CELLS[5::29], ids=label)
def test_results_are_those_of_single_rows(cell: tuple[str, Strategy]) -> None:
    geometry, strategy = cell
    found = decoded(replace(tiny_model(geometry), forward_overhead_columns=0), strategy, 3)
    for request, got in zip(dllm.requests.assign_seeds(REQUESTS), found, strict=True):
        _, (alone,) = laws.run_batch(tiny_model(geometry), [request], strategy)
        assert got == facts(alone)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    "cache", [NoCache(), PrefixCache(), DualCache(), SlidingCache(before=2, written=5), DelayedCache(refresh=4)]
)
def test_less_is_run(geometry: str, cache: Any) -> None:
    strategy = Strategy(TopK(k=1), Blocks(8), cache)
    together, split = (Spy(replace(tiny_model(geometry), forward_overhead_columns=worth)) for worth in (10**6, 0))
    assert decoded(together, strategy, 4) == decoded(split, strategy, 4)
    columns = [sum(query.tokens.numel() for query in spy.queries) for spy in (together, split)]
    wanted = sum(int(query.valid.sum()) for query in together.queries)
    assert wanted <= columns[1] < columns[0]
    assert all(query.subset is None for query in together.queries)
    assert any(query.subset is not None for query in split.queries) == (cache != NoCache())


def test_what_is_stored_by_some_rows_is_read_by_them_alone() -> None:
    """A row's keys and values are the same whether the others of the batch are run apart from it or not."""
    strategy = Strategy(Threshold(0.5), Blocks(8), DualCache())
    kept = []
    for worth in (10**6, 0):
        watched = replace(tiny_model("bidirectional"), forward_overhead_columns=worth)
        stores: list[Any] = []
        made = watched.store
        watched.store = lambda columns, made=made, stores=stores: stores.append(made(columns)) or stores[-1]  # type: ignore[func-returns-value, method-assign]
        steps = dllm.steps(watched, REQUESTS[:3], strategy)
        for _ in range(3):
            next(steps)
        kept.append([plane[:, :, :-1].clone() for layer in stores[0].layers for plane in layer])
    for one, other in zip(*kept, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("sizes", "worth", "want"),
    [
        ([40, 8, 8, 8], 0, [[1, 2, 3], [0]]),
        ([40, 8, 8, 8], 96, [[0, 1, 2, 3]]),
        ([40, 8, 8, 8], 95, [[1, 2, 3], [0]]),
        ([8, 8, 8], 0, [[0, 1, 2]]),
        ([0, 8, 40, 0], 0, [[1], [2]]),
        ([0, 8, 0], 0, [[1]]),
        ([40], 0, [[0]]),
    ],
)
def test_which_rows_go_together(sizes: list[int], worth: int, want: list[list[int]]) -> None:
    m: Any = type("Some", (), {"forward_overhead_columns": worth, "undivided_columns": 0})()
    parts = split_rows_by_length(m, torch.arange(len(sizes)), torch.tensor(sizes))
    assert [part.tolist() for part in parts] == want
