"""Long prompts in pieces: the same results, and no query wider than a chunk and the window need."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm import Blocks, DualCache, Guided, PrefixCache, Request, Strategy, Threshold
from dllm.caches.prefill import split_into_chunks
from dllm.testing import laws
from dllm.types import BlockCausal
from tests.tiny import tiny_model

LONG = [Request(tuple((7 * i) % 23 for i in range(61)), 11, seed=1), Request((3, 1, 4, 1, 5, 9), 13, seed=2)]


@pytest.mark.parametrize("geometry", ["block-causal", "block-causal-shift"])
@pytest.mark.parametrize("cache", [PrefixCache(), DualCache(), DualCache(refresh=2)], ids=str)
@pytest.mark.parametrize("scheduler", [Blocks(8), Blocks(8, sub_block=4, commit=True)], ids=str)
@pytest.mark.parametrize("scale", [None, 0.5])
def test_pieces_change_nothing(geometry, cache, scheduler, scale) -> None:
    strategy = Strategy(Threshold(0.6), scheduler, cache)
    outcomes, widest = [], []
    for chunk in (None, 8, 20):
        m = replace(tiny_model(geometry), chunk=chunk)
        m, seen = watched(m)
        _, results = laws.run_batch(m if scale is None else Guided(m, scale), LONG, strategy)
        outcomes.append([(r.output_ids, r.nfe, r.queries, r.when) for r in results])
        widest.append(max(seen))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert widest[0] >= 56 and widest[1] <= 24 and widest[2] <= 24


def watched(m):
    """The model and a list that each query's columns are noted in."""
    seen: list[int] = []
    forward = m.forward

    def note(query, store):
        seen.append(query.tokens.shape[1])
        return forward(query, store)

    m.forward = note
    return m, seen


@given(
    size=st.integers(1, 9),
    chunk=st.integers(1, 40),
    rows=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=4),
)
def test_pieces_tile(size: int, chunk: int, rows: list[tuple[int, int, int]]) -> None:
    start, more, back = torch.tensor(rows).T
    end = start + more
    shown = (end - 1 - back).clamp(min=0)
    found = list(split_into_chunks(BlockCausal(size), start, end, shown, chunk))
    for row in range(len(rows)):
        at = int(start[row])
        for a, b in found:
            assert int(a[row]) == at and int(b[row]) >= at
            at = int(b[row])
        assert at == int(end[row])
        for a, b in found[:-1]:
            assert int(b[row] - a[row]) <= max(size, chunk)
            assert b[row] == a[row] or int(b[row]) % size == 0, "cut between blocks"
        if more[row]:
            assert int(found[-1][0][row]) <= max(int(shown[row]), int(start[row]))
