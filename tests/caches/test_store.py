"""What is stored: scattered columns, finished blocks, rows that leave; and that nothing grows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from dllm import (
    Blocks,
    DelayedCache,
    DualCache,
    NoCache,
    Pipeline,
    PrefixCache,
    Request,
    SlidingBlock,
    SlidingCache,
    Strategy,
    Threshold,
    TopK,
    VicinityCache,
)
from dllm.caches.memory import CacheState, ColumnRange
from dllm.caches.queries import build_query
from dllm.caches.running import run_forward
from dllm.requests import make_canvas
from dllm.testing import laws
from dllm.types import Cache, HostView
from tests.caches.plain import Spy
from tests.tiny import GEOMETRIES, STOP, tiny_model

REQUESTS = [
    Request((3, 7, 1, 22, 9), max_new_tokens=11, seed=1),
    Request((5, 2, 8, 8, 8, 1, 0, 4, 17, 20, 11), max_new_tokens=21, seed=2),
    Request((4, 4, 2), max_new_tokens=5, seed=3),
]
CACHES = [
    PrefixCache(),
    DualCache(),
    VicinityCache(before=3, after=1),
    SlidingCache(before=2, written=5),
    DelayedCache(refresh=4),
]


@dataclass(frozen=True)
class Watched(Cache):
    """A cache whose state is seen after every step, with copies of what is stored and where it lies."""

    cache: Any
    seen: list[tuple[CacheState, list[Tensor], list[int]]] = field(default_factory=list, compare=False)

    def init(self, canvas: Any, model: Any) -> CacheState:
        return self.cache.init(canvas, model)

    def step(self, model: Any, canvas: Any, window: Any, state: CacheState) -> Any:
        seen, state = self.cache.step(model, canvas, window, state)
        planes = [] if state.store is None else [x for pair in state.store.layers for x in pair]
        self.seen.append((state, [x.clone() for x in planes], [x.data_ptr() for x in planes]))
        return seen, state

    def renew(self, *args: Any) -> Any:
        return self.cache.renew(*args)


def first_window(geometry: str) -> tuple[Any, Any, Any]:
    """A batch before its first step: model, canvas, window."""
    m = tiny_model(geometry)
    canvas = make_canvas(m, REQUESTS)
    scheduler = Blocks(8)
    window, _ = scheduler.step(canvas, HostView.of(canvas), scheduler.init(canvas, m))
    return m, canvas, window


@pytest.mark.parametrize("geometry", GEOMETRIES)
@torch.inference_mode()
def test_any_columns_of_an_unchanged_canvas_show_the_same(geometry: str) -> None:
    """What is left out is read from the store: with nothing changed, it makes no difference what is run again."""
    m, canvas, window = first_window(geometry)
    b, t = canvas.tokens.shape
    end = window.block_end if geometry.startswith("block-causal") else canvas.rows.length
    whole = ColumnRange(torch.zeros_like(end), end)
    first, state = run_forward(m, canvas, window, whole, CacheState.blank(b, m.store(t)))
    kept = [tuple(x[:, :, :t].clone() for x in layer) for layer in state.store.layers]
    columns = window.columns[window.valid] - m.needs_left
    needed = torch.zeros(b, t, dtype=torch.bool)
    needed[window.valid.nonzero()[:, 0], columns.clamp(min=0)] = True
    for seed in range(12):
        rng = torch.Generator().manual_seed(seed)
        skip = (torch.rand(b, t, generator=rng) < 0.2 + 0.2 * (seed % 4)) & ~needed
        start = torch.minimum(torch.randint(0, 4, (b,), generator=rng), (window.start - m.needs_left).clamp(min=0))
        stop = torch.maximum(end - torch.randint(0, 6, (b,), generator=rng), window.end)
        idle = torch.arange(b) == seed % 4  # of the last row in every fourth try nothing is run, and so on
        reach = ColumnRange(torch.where(idle, 0, start), torch.where(idle, 0, stop), skip)
        spy = Spy(m)
        ran, state = run_forward(spy, canvas, window, reach, state)
        (query,) = spy.queries
        assert query.start is None
        for row in range(b):
            want = [c for c in range(int(reach.start[row]), int(reach.end[row])) if not skip[row, c]]
            assert query.columns[row][query.valid[row]].tolist() == want
            assert int(ran.queries[row]) == len(want)
            slots = window.valid[row] & ~idle[row]
            torch.testing.assert_close(ran.hidden[row, slots], first.hidden[row, slots], atol=1e-5, rtol=1e-4)
        for layer, before in zip(state.store.layers, kept, strict=True):
            for now, old in zip(layer, before, strict=True):
                for row in range(b):
                    length = int(end[row])
                    torch.testing.assert_close(now[row, :, :length], old[row, :, :length], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_nothing_left_out_is_no_hole() -> None:
    """A set of columns without holes is run as a range, which needs no search."""
    m, canvas, window = first_window("bidirectional")
    b, t = canvas.tokens.shape
    canvas = canvas._replace(rows=canvas.rows._replace(length=torch.full((b,), t)))
    behind = torch.zeros(b, t, dtype=torch.bool)
    behind[:, t - 2 :] = True
    spy = Spy(m)
    end = torch.full((b,), t - 2)
    run_forward(
        spy,
        canvas,
        window,
        ColumnRange(torch.zeros(b, dtype=torch.int64), end, behind),
        CacheState.blank(b, m.store(t)),
    )
    assert spy.queries[0].start == 0


@torch.inference_mode()
def test_rows_of_different_ranges_see_what_is_theirs() -> None:
    m, canvas, _ = first_window("block-causal")
    rows, stored = torch.arange(3), torch.zeros(3, dtype=torch.int64)
    reach = ColumnRange(torch.tensor([0, 8, 0]), torch.tensor([16, 16, 0]))
    query = build_query(m.geometry, canvas, rows, reach, stored)
    assert query.width == 16 and query.start is None
    seen = query.mask[:, 0].sum(-1)
    assert seen[0].tolist() == 8 * [8] + 8 * [16] and set(seen[1, :8].tolist()) == {16}
    reach = ColumnRange(torch.tensor([8, 9, 0]), torch.tensor([12, 16, 0]))
    query = build_query(m.geometry, canvas, rows[:2], reach, stored)
    assert query.mask is None and query.valid.sum(1).tolist() == [4, 7]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_store_never_grows_and_rows_leave_it(geometry: str, cache: Any) -> None:
    """Allocated once for all columns; a row that is done is dropped; nothing else is ever kept."""
    watched = Watched(cache)
    laws.run_batch(tiny_model(geometry), REQUESTS, Strategy(Threshold(0.6), Blocks(8), watched))
    columns = int(make_canvas(tiny_model(geometry), REQUESTS).tokens.shape[1])
    places, rows = None, 3
    for state, planes, now in watched.seen:
        assert len(planes) == 4 and all(x.shape == (len(state.rows), 2, columns + 1, 6) for x in planes)
        assert places is None or now == places or len(state.rows) < rows
        assert len(state.rows) <= rows
        places, rows = now, len(state.rows)
        assert state.log is None or all(x.numel() <= 3 * columns for x in state.log if isinstance(x, Tensor))
    assert rows == 1 and state.rows.tolist() == [1]


@pytest.mark.parametrize("geometry", ["block-causal", "block-causal-shift"])
@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize("scheduler", [Blocks(8), Blocks(8, sub_block=3), Blocks(8, sub_block=4, commit=True)], ids=str)
def test_finished_blocks_are_stored_exactly(geometry: str, cache: Any, scheduler: Any) -> None:
    """Whatever a cache says is exact equals the keys and values of one pass over the finished text."""
    m = tiny_model(geometry)
    watched = Watched(cache)
    stream, _ = laws.run_batch(m, REQUESTS, Strategy(Threshold(0.6), scheduler, watched))
    final = stream[-1].canvas
    b, t = final.tokens.shape
    exact = CacheState.blank(b, m.store(t))
    zeros = torch.zeros(b, dtype=torch.int64)
    with torch.inference_mode():
        run_forward(m, final, stream[0].window, ColumnRange(zeros, final.rows.length), exact)
    checked = 0
    want = [x for pair in exact.store.layers for x in pair]
    for state, planes, _ in watched.seen:
        for place, row in enumerate(state.rows.tolist()):
            n = int(state.exact[row])
            for x, y in zip(planes, want, strict=True):
                torch.testing.assert_close(x[place, :, :n], y[row, :, :n], atol=1e-5, rtol=1e-4)
            checked += n > 0
    assert checked > 10


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_bidirectional_attention_is_never_exact(cache: Any) -> None:
    watched = Watched(cache)
    laws.run_batch(tiny_model("bidirectional"), REQUESTS, Strategy(Threshold(0.6), Blocks(8), watched))
    assert not any(state.exact.any() for state, _, _ in watched.seen)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_rows_do_not_depend_on_their_neighbours(geometry: str, cache: Any) -> None:
    requests = [*REQUESTS, Request((9, 9, 1, 1), 12, stop_ids=(STOP, 22, 7), seed=4)]
    strategy = Strategy(TopK(k=2), Blocks(8, sub_block=4), cache)
    stream, results = laws.run_batch(tiny_model(geometry), requests, strategy)
    laws.rows_are_independent(tiny_model(geometry), requests, strategy, results)
    laws.fresh_is_exact(tiny_model(geometry), requests, strategy, stream)


def test_columns_that_moved_are_run_again() -> None:
    """Where columns move nothing is known of the row from the first of them on, and every cache refreshes it."""
    state = CacheState.blank(3, None)._replace(exact=torch.tensor([8, 8, 8]), since=torch.tensor([2, 2, 2]))
    still = torch.arange(12)
    inserted, longer = still.clone(), still.clone()
    inserted[4:], longer[10:] = torch.arange(3, 11), -1
    inserted[4] = -1
    moved = torch.stack([still, inserted, longer])
    state = state.forget(moved)
    assert state.exact.tolist() == [8, 4, 8]
    m, canvas, window = first_window("bidirectional")
    window = window._replace(entered=torch.zeros(3, dtype=torch.bool))
    for cache in CACHES:
        begun = cache.init(canvas, m)
        assert cache.needs_refresh(window, begun).all(), "what was never run is run"
        later = begun._replace(since=state.since)
        if later.log is not None:
            later = later._replace(log=later.log._replace(opened=torch.full((3,), 3), forwards=torch.full((3,), 3)))
        assert cache.needs_refresh(window, later).tolist() == [False, True, True]


def test_no_cache_keeps_nothing() -> None:
    watched = Watched(NoCache())
    laws.run_batch(tiny_model("bidirectional"), REQUESTS, Strategy(Threshold(0.6), Blocks(8), watched))
    assert all(state.store is None and not planes for state, planes, _ in watched.seen)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_nothing_is_looked_at_that_was_never_run(geometry: str, cache: Any) -> None:
    """Also where a block that holds given columns is begun while the one before it is open."""
    holes = (3, 4, 5, 6, 7, 9, 12, 18)
    request = Request(tuple(range(1, 21)), max_new_tokens=4, holes=holes)
    for scheduler in (Pipeline(8, add=0.2, activate=0.5), SlidingBlock(4), Blocks(8, sub_block=3)):
        spy = Spy(tiny_model(geometry))
        laws.run_batch(spy, [request], Strategy(TopK(k=1), scheduler, cache))
        run_so_far: set[int] = set()
        for query in spy.queries:
            run_so_far |= set(query.columns[0][query.valid[0]].tolist())
            assert run_so_far >= set(range(query.width))
