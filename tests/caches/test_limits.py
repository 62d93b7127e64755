"""Degenerate limits of the caches: at the ends of its range every rule becomes another, token for token."""

from __future__ import annotations

import functools

import pytest

from dllm import (
    Blocks,
    DelayedCache,
    DualCache,
    Factor,
    NoCache,
    PrefixCache,
    Request,
    SlidingCache,
    Strategy,
    Threshold,
    TopK,
    VicinityCache,
    Whole,
)
from dllm.errors import ConfigError
from dllm.testing import laws
from tests.tiny import GEOMETRIES, tiny_model

REQUESTS = [Request((3, 7, 1, 22, 9), 19), Request((5, 2, 8, 1, 0, 4, 17, 20, 11, 6, 6), 13), Request((8, 8), 6)]
PAIRS = [(Threshold(0.5), Blocks(8)), (TopK(k=2), Blocks(8, sub_block=3)), (Threshold(0.5), Whole())]


@functools.cache
def outcome(geometry: str, policy, scheduler, cache, queries: bool = False) -> list:
    stream, results = laws.run_batch(tiny_model(geometry), REQUESTS, Strategy(policy, scheduler, cache))
    found = [(r.output_ids, r.when, r.nfe) for r in results]
    return [found, [step.queries.tolist() for step in stream]] if queries else found


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    "cache",
    [
        VicinityCache(before=None, after=None),
        VicinityCache(refresh=1),
        VicinityCache(before=0, after=0, warmup=1000),
        SlidingCache(before=None, after=None),
        SlidingCache(refresh=1),
        SlidingCache(before=0, written=1),
        DelayedCache(refresh=1),
    ],
    ids=str,
)
def test_no_cache(geometry: str, cache) -> None:
    for policy, scheduler in PAIRS:
        assert outcome(geometry, policy, scheduler, cache) == outcome(geometry, policy, scheduler, NoCache())


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("refresh", [None, 1, 2, 3])
def test_no_vicinity_is_the_dual_cache(geometry: str, refresh: int | None) -> None:
    """The same tokens, steps, forwards, and columns run."""
    for policy, scheduler in PAIRS[:2]:
        one = outcome(geometry, policy, scheduler, VicinityCache(refresh, before=0, after=0), queries=True)
        assert one == outcome(geometry, policy, scheduler, DualCache(refresh), queries=True)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_all_on_the_right_of_a_block_is_the_prefix_cache(geometry: str) -> None:
    one = outcome(geometry, Factor(1.5), Blocks(8), VicinityCache(before=0, after=None), queries=True)
    other = outcome(geometry, Factor(1.5), Blocks(8), PrefixCache(), queries=True)
    assert one == other


@pytest.mark.parametrize("geometry", ["block-causal", "block-causal-shift"])
@pytest.mark.parametrize("cache", [VicinityCache(before=0, after=0), SlidingCache()], ids=str)
def test_block_causal_without_sub_blocks(geometry: str, cache) -> None:
    """A window that is the whole block leaves only finished blocks to reuse, which are exact."""
    for scheduler in (Blocks(8), Blocks(8, commit=True)):
        got, want = (outcome(geometry, Threshold(0.5), scheduler, c) for c in (cache, PrefixCache()))
        assert got == want


def test_one_step_a_block_has_nothing_to_reuse() -> None:
    for cache in (VicinityCache(), DelayedCache(None), SlidingCache(before=0, written=8)):
        got, want = (outcome("bidirectional", Threshold(0.0), Blocks(8), c, queries=True) for c in (cache, NoCache()))
        assert got == want


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VicinityCache(refresh=0), "refresh must be at least 1 or None"),
        (lambda: VicinityCache(before=-1), "before must be 0 or more columns, or None for all"),
        (lambda: VicinityCache(after=-2), "after must be 0 or more columns"),
        (lambda: VicinityCache(warmup=-1), "warmup must be 0 or more"),
        (lambda: SlidingCache(written=0), "written must be 1 column or more"),
        (lambda: SlidingCache(before=-1), "before must be 0 or more"),
        (lambda: DelayedCache(0), "refresh must be at least 1 or None"),
    ],
)
def test_impossible_caches_cannot_be_built(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
