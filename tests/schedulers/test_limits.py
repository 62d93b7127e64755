"""Degenerate limits of the advanced schedulers, in every geometry: at the ends of its range each becomes another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dllm import (
    AdaptiveBlocks,
    Blocks,
    DualCache,
    NoCache,
    Pipeline,
    PrefixCache,
    Request,
    SlidingBlock,
    Strategy,
    Threshold,
    TopK,
    VariableLength,
    Whole,
)
from dllm.testing import laws
from dllm.testing.tiny import GEOMETRIES, tiny_model
from dllm.types import Cache, Policy, Scheduler

REQUESTS = [
    Request((3, 7, 1, 22, 9), 13),
    Request((5, 2, 8, 8, 8, 1, 0, 4, 17, 20, 11), 20),
    Request((4, 9, 9, 1, 9, 2, 12, 3), 5, holes=(2, 5)),
]
CACHES: list[Cache] = [NoCache(), PrefixCache(), DualCache(), PrefixCache(refresh=2)]
POLICIES: list[Policy] = [Threshold(0.4), TopK(k=3)]
ENDS = (2, 30)


def outcome(geometry: str, policy: Policy, scheduler: Scheduler, cache: Cache) -> list[tuple]:
    _, results = laws.run_batch(tiny_model(geometry), REQUESTS, Strategy(policy, scheduler, cache))
    return [(r.output_ids, r.when, r.queries) for r in results]


LIMITS = [
    (AdaptiveBlocks(8, tau=1.5, delimiters=(1, 2)), Blocks(8)),
    (AdaptiveBlocks(8, tau=0.0, delimiters=(1, 2), search=0.0), Blocks(8)),
    (Pipeline(8, add=1.5), Blocks(8)),
    (VariableLength(8, initial=20, ends=ENDS, certain=0.0), Blocks(8)),
    (VariableLength(8, initial=20, ends=ENDS), Blocks(8)),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize(("one", "other"), LIMITS, ids=str)
def test_blocks(geometry: str, cache: Cache, one: Scheduler, other: Scheduler) -> None:
    if isinstance(one, VariableLength) and isinstance(cache, DualCache):
        cache = PrefixCache()  # its windows reach to the row's end, so both caches are one
    for policy in POLICIES:
        assert outcome(geometry, policy, one, cache) == outcome(geometry, policy, other, cache)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("cache", [NoCache(), PrefixCache()], ids=str)
def test_a_sliding_block_as_wide_as_the_text(geometry: str, cache: Cache) -> None:
    """Without attention blocks it is the whole canvas; with them, the blocks."""
    other = Blocks(8) if geometry.startswith("block-causal") else Whole()
    for policy in POLICIES:
        for wide in (SlidingBlock(99), SlidingBlock(99, longest=99)):
            assert outcome(geometry, policy, wide, cache) == outcome(geometry, policy, other, cache)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_blocks_of_one_column(geometry: str) -> None:
    """A window of one column, and blocks that end at any token of which one is searched, go from left to right."""
    _, results = laws.run_batch(tiny_model(geometry), REQUESTS[:1], Strategy(TopK(k=3), SlidingBlock(1), NoCache()))
    (want,) = results
    assert list(want.when) == list(range(1, 14))
    single = AdaptiveBlocks(8, tau=0.0, delimiters=tuple(range(31)), search=1 / 13)
    for scheduler in (SlidingBlock(1, longest=1), single):
        _, (got,) = laws.run_batch(tiny_model(geometry), REQUESTS[:1], Strategy(TopK(k=3), scheduler, NoCache()))
        assert (got.output_ids, got.when) == (want.output_ids, want.when)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_without_growth_and_insertion_a_row_keeps_its_first_length(geometry: str) -> None:
    """It is as if only so many tokens were asked for: 8, or with attention blocks of 8 what fills the last one."""
    never = VariableLength(8, initial=8, enough=0.0, certain=0.0, ends=ENDS)
    asked = [replace(REQUESTS[0], max_new_tokens=8 if geometry.startswith("bidirectional") else 11)]
    _, want = laws.run_batch(tiny_model(geometry), asked, Strategy(Threshold(0.4), Blocks(8), NoCache()))
    _, got = laws.run_batch(tiny_model(geometry), REQUESTS[:1], Strategy(Threshold(0.4), never, NoCache()))
    assert [(r.output_ids, r.when) for r in got] == [(r.output_ids, r.when) for r in want]
