"""Every cache against its rule written out plainly: the same columns run, the same counts, the same predictions."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from dllm import (
    WINO,
    Blocks,
    DelayedCache,
    DualCache,
    JointThreshold,
    NoCache,
    PrefixCache,
    Request,
    Saber,
    SlidingCache,
    Strategy,
    Threshold,
    VicinityCache,
    Whole,
)
from tests.caches.plain import Past, replay
from tests.tiny import GEOMETRIES, STOP, tiny_model

REQUESTS = [
    Request((3, 7, 1, 22, 9), max_new_tokens=14, seed=1),
    Request((5, 2, 8, 8, 8, 1, 0, 4, 17, 20, 11), max_new_tokens=8, seed=2, stop_ids=(STOP,)),
    Request((4, 4, 2), max_new_tokens=11, seed=3),
]
Found = tuple[list[int], bool]


def full(past: Past) -> Found:
    return past.everything(), True


def no_cache(past: Past) -> Found:
    return list(range(past.stop)) if past.end > past.start else [], True


def prefix(past: Past, refresh: int | None = None) -> Found:
    if past.must() or past.entered or (refresh and past.since() >= refresh):
        return full(past)
    return list(range(min(past.begin, past.head), past.stop)), False


def vicinity(past: Past, a: int | None, b: int | None, refresh: int | None = None, warmup: int = 0) -> Found:
    if past.must() or past.entered or len(past.runs) < warmup or (refresh and past.since() >= refresh):
        return full(past)
    lowest = min(past.exact, past.head)
    first = lowest if a is None else max(lowest, past.head - a)
    last = past.stop if b is None else min(past.stop, past.end + b)
    return list(range(first, last)), False


def sliding(past: Past, before: int, after: int, written: int) -> Found:
    if past.must() or past.entered:
        return full(past)
    last_refresh = max(i for i, refreshed in enumerate(past.refreshed) if refreshed)
    if sum(len(columns) for columns in past.decided[last_refresh:]) >= written:
        return full(past)
    first = max(min(past.head - before, past.windows[-1][0]), min(past.exact, past.head))
    last = min(past.stop, max(past.end + after, past.windows[-1][1]))
    return list(range(first, last)), False


def delayed(past: Past, r: int | None) -> Found:
    if past.must() or past.entered or past.opened < 2 or (r and past.opened % r == 0):
        return full(past)
    columns = past.pending | past.decided[-1]
    columns |= {c - 1 for c in past.pending if past.left and past.start <= c < past.end}
    if past.edits:  # any of what the last window held may have been replaced, and all of this one is judged
        columns |= {*range(*past.windows[-1]), *range(past.head, past.end)}
    return [c for c in columns if min(past.exact, past.head) <= c < past.stop], False


CASES: dict[str, tuple[object, Callable[[Past], Found]]] = {
    "none": (NoCache(), no_cache),
    "prefix": (PrefixCache(), prefix),
    "prefix-3": (PrefixCache(3), functools.partial(prefix, refresh=3)),
    "dual": (DualCache(), functools.partial(vicinity, a=0, b=0)),
    "vicinity": (VicinityCache(before=3, after=2), functools.partial(vicinity, a=3, b=2)),
    "vicinity-left": (
        VicinityCache(4, None, 1, warmup=3),
        functools.partial(vicinity, a=None, b=1, refresh=4, warmup=3),
    ),
    "vicinity-right": (VicinityCache(2, 1, None), functools.partial(vicinity, a=1, b=None, refresh=2)),
    "sliding": (SlidingCache(before=3, after=0, written=8), functools.partial(sliding, before=3, after=0, written=8)),
    "sliding-wide": (
        SlidingCache(before=0, after=5, written=5),
        functools.partial(sliding, before=0, after=5, written=5),
    ),
    "delayed": (DelayedCache(None), functools.partial(delayed, r=None)),
    "delayed-3": (DelayedCache(3), functools.partial(delayed, r=3)),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", CASES)
def test_cache_runs_what_its_rule_says(geometry: str, name: str) -> None:
    cache, rule = CASES[name]
    third = Blocks(8, sub_block=4, commit=True) if geometry.startswith("block-causal") else Whole()
    for scheduler in (Blocks(8), Blocks(8, sub_block=3), third):
        checked = replay(tiny_model(geometry), REQUESTS, Strategy(Threshold(0.6), scheduler, cache), rule)
        assert checked > 10


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", CASES)
def test_columns_that_are_edited_are_run_again(geometry: str, name: str) -> None:
    """With policies that replace and revoke: the rules are the same, and predictions rest on what is on the canvas."""
    cache, rule = CASES[name]
    for policy, scheduler in (
        (JointThreshold(0.6, 0.3), Blocks(8, sub_block=4)),
        (Saber(2), Blocks(8, sub_block=4)),
        (WINO(0.5, 0.6), Blocks(8)),
    ):
        assert replay(tiny_model(geometry), REQUESTS[:2], Strategy(policy, scheduler, cache), rule) > 5
