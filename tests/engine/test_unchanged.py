"""Rows that stay in their range: what a step takes over from the one before is what it would find out anew."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, equal

from dllm import (
    Blocks,
    DelayedCache,
    DualCache,
    LeftToRight,
    NoCache,
    PrefixCache,
    Request,
    SlidingCache,
    Speculative,
    Strategy,
    Threshold,
    TopK,
    VicinityCache,
    Whole,
    steps,
)
from dllm.caches import running
from dllm.caches.memory import NEVER
from dllm.schedulers.variable import shorten_rows
from dllm.types import Guess, Scheduler, Step
from tests.parts import fits, habits, with_steps
from tests.tiny import GEOMETRIES, STOP, tiny_model

REQUESTS = [
    Request((3, 7, 1, 22, 9), 13, seed=1),
    Request((5, 2, 8), 4),
    Request((5, 2, 8, 8, 8, 1, 0, 4, 17, 20, 11), 21, seed=2, stop_ids=(STOP,)),
    Request((9, 9, 1, 4), 6),
    Request((1, 22, 3, 3, 3, 3, 3, 3, 3, 3), 9, stop_ids=(4, 7)),
]
SCHEDULERS = [
    Blocks(8),
    Blocks(8, sub_block=4),
    Blocks(8, sub_block=4, commit=True),
    Blocks(8, first_alone=True),
    Whole(),
]
CACHES = [
    NoCache(),
    PrefixCache(),
    PrefixCache(refresh=2),
    DualCache(),
    DualCache(refresh=3),
    DualCache(while_first=True),
    VicinityCache(before=3, after=2),
    SlidingCache(before=3, after=1, written=6),
    DelayedCache(refresh=4),
    Speculative(DualCache(), drafts=2),
]
CELLS = [
    (geometry, policy, with_steps(scheduler, policy), cache)
    for geometry in GEOMETRIES
    for policy in habits()
    for scheduler in SCHEDULERS
    for cache in CACHES
    if fits(geometry, scheduler)
]


def forgetful(scheduler: Any) -> Scheduler:
    """A scheduler that finds everything out anew, and so makes the cache do so too."""

    class Forgetful(type(scheduler)):
        def step(self, canvas: Any, view: Any, state: Any, /) -> Any:
            return super().step(canvas, view, state._replace(opened=None))

    return Forgetful(**{f.name: getattr(scheduler, f.name) for f in fields(scheduler)})


def told(step: Step) -> Step:
    """The step without the count of a closed row, which means nothing."""
    window = step.window
    return step._replace(window=window._replace(step=window.step.masked_fill(window.closed, 0), unchanged=False))


def same(a: Any, b: Any) -> bool:
    """Whether two bundles hold equal values."""
    if isinstance(a, Guess):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(Guess))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b


def taken_over(stream: list[Step]) -> int:
    """Steps whose windows say that they are unchanged; each of them is the one of the step before."""
    for one, two in pairwise(stream):
        assert not two.window.unchanged or (
            equal(one.window.start, two.window.start) and equal(one.window.end, two.window.end)
        )
    return sum(step.window.unchanged for step in stream)


@pytest.mark.parametrize(("cell", "apart"), [(cell, 64 * (i % 2)) for i, cell in enumerate(CELLS[::13])], ids=str)
def test_it_is_what_would_be_found_anew(cell: Any, apart: int) -> None:
    geometry, policy, scheduler, cache = cell
    m = replace(tiny_model(geometry), forward_overhead_columns=apart)
    streams = [
        list(steps(m, REQUESTS, Strategy(policy, how, cache), batch_size=2))
        for how in (scheduler, forgetful(scheduler))
    ]
    assert taken_over(streams[0]) > 0 or policy.edits  # where a policy edits, rows may be held
    assert taken_over(streams[1]) == 0
    assert len(streams[0]) == len(streams[1])
    for one, two in zip(*streams, strict=True):
        assert same(told(one), told(two))


class Mood:
    """Refreshes a row at every third forward too, whatever cache this is mixed into."""

    def needs_refresh(self, window: Any, memory: Any) -> Tensor:
        return super().needs_refresh(window, memory) | (memory.since == 3)  # type: ignore[misc]


@dataclass(frozen=True)
class Mixed(Mood, DualCache):
    """No class of ours knows that it is moody."""


@dataclass(frozen=True)
class Moody(DualCache):
    """It has that mood itself."""

    def needs_refresh(self, window: Any, memory: Any) -> Tensor:
        return super().needs_refresh(window, memory) | (memory.since == 3)


@dataclass(frozen=True)
class Reminded(DualCache):
    """Says afterwards that it has to refresh all rows next."""

    def observe(self, guess: Any, window: Any, commit: Any, score: Any, memory: Any) -> Any:
        return memory._replace(since=torch.where(memory.since == 3, NEVER, memory.since))


@dataclass(frozen=True)
class Warned(PrefixCache):
    """Says so before."""

    def plan(self, model: Any, canvas: Any, window: Any, memory: Any, /) -> Any:
        since = torch.where(memory.since == 3, NEVER, memory.since)
        return super().plan(model, canvas, window, memory._replace(since=since))


@pytest.mark.parametrize("cache", [Mixed(), Moody(), Reminded(), Warned()], ids=lambda cache: type(cache).__name__)
def test_a_cache_that_refreshes_for_reasons_of_its_own_does_so(cache: Any) -> None:
    strategy = Strategy(Threshold(2.0), Blocks(8), cache)
    stream = list(steps(tiny_model("bidirectional"), [Request((3, 7, 1), 8)], strategy))
    assert [int(step.queries[0]) for step in stream] == [11, 8, 8, 11, 8, 8, 11, 8]
    assert [bool(step.fresh[0]) for step in stream] == [True, False, False, True, False, False, True, False]


@pytest.mark.parametrize("cache", [DualCache(), PrefixCache()], ids=str)
def test_a_range_is_planned_once_and_once_more_behind_a_refresh(monkeypatch: pytest.MonkeyPatch, cache: Any) -> None:
    planned = []
    original = type(cache).reach
    monkeypatch.setattr(type(cache), "reach", lambda self, reuse: planned.append(reuse) or original(self, reuse))
    strategy = Strategy(Threshold(2.0), Blocks(8, sub_block=4), cache)
    assert len(list(steps(tiny_model("bidirectional"), [Request((3, 7, 1), 16)], strategy))) == 16
    assert len(planned) == 2 * (2 + 1)


@dataclass(frozen=True)
class Shrinking(Blocks):
    """After its second step every row is three columns shorter."""

    def arrange(self, canvas: Any, guess: Any, window: Any, plan: Any, /) -> Any:
        rows = canvas.rows
        if window is not None and int(window.step[0]) == 1:
            canvas = shorten_rows(canvas, rows.limit - 3, rows.length - 3)
        return canvas, None, plan


@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), DualCache()], ids=str)
def test_a_window_is_not_taken_over_by_rows_of_another_length(cache: Any) -> None:
    requests = [Request((3, 7, 1), 8, seed=1), Request((5, 2, 8), 8, seed=2)]
    streams = [
        list(steps(tiny_model("bidirectional"), requests, Strategy(TopK(k=1, score=LeftToRight()), how, cache)))
        for how in (Shrinking(8), forgetful(Shrinking(8)))
    ]
    assert streams[0][-1].nfe.tolist() == [5, 5] and taken_over(streams[0]) == 3
    assert [step.window.end.tolist() for step in streams[0]] == [[11, 11]] * 2 + [[8, 8]] * 3
    for one, two in zip(*streams, strict=True):
        assert same(told(one), told(two))


@dataclass(frozen=True)
class Counting(Threshold):
    """Remembers nothing at first, then how many steps there were."""

    def init(self, canvas: Any, /) -> None:
        return None

    def step(self, guess: Any, window: Any, state: Any, /) -> Any:
        verdict, _ = super().step(guess, window, None)
        assert (state is None) == (not COUNTED)
        COUNTED.append((0 if state is None else state[0]) + 1)
        return verdict, (COUNTED[-1],)


COUNTED: list[int] = []


def test_what_a_part_remembers_only_later_outlasts_a_row() -> None:
    COUNTED.clear()
    stream = list(
        steps(tiny_model("bidirectional"), REQUESTS, Strategy(Counting(2.0), Blocks(8), DualCache()), batch_size=2)
    )
    assert stream[-1].place.max() > 1, "rows were given to other requests"
    assert list(range(1, len(stream) + 1)) == COUNTED


class Queue:
    """A feed of one request for whatever rows there are."""

    width = 40

    def __init__(self, *requests: Request) -> None:
        self.waiting = list(enumerate(requests))

    def take(self, most: int) -> list[tuple[int, Request]]:
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        return taken

    def gone(self) -> tuple[int, ...]:
        return ()


@pytest.mark.parametrize("cache", [PrefixCache(), DualCache(refresh=6)], ids=str)
def test_rows_with_nothing_to_do_do_not_make_the_others_work(monkeypatch: pytest.MonkeyPatch, cache: Any) -> None:
    """Seats that nobody took, and rows that are finished: the others are asked again as if they were alone."""
    asked: list[int] = []
    again = running._rerun_forward
    monkeypatch.setattr(running, "_rerun_forward", lambda *args: asked.append(1) or again(*args))
    strategy = Strategy(Threshold(2.0), Blocks(8), cache)

    def count(requests: Any, batch_size: int | None = None) -> int:
        asked.clear()
        stream = list(steps(tiny_model("bidirectional"), requests, strategy, batch_size=batch_size))
        assert len(stream) == 24
        return len(asked)

    long, short = Request((3, 7, 1), 24, seed=1, stop_ids=()), Request((5, 2, 8), 2, seed=2, stop_ids=())
    alone = count([long])
    assert alone >= 24 - 6 * 2
    assert count(Queue(long), 3) == alone
    assert count([long, short]) >= alone - 4, "but for the steps in which the other one finishes"
