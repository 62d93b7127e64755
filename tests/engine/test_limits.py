"""Degenerate limits: at the ends of its range every rule becomes another, token for token."""

from __future__ import annotations

import pytest

from dllm import (
    Blocks,
    BudgetedThreshold,
    DualCache,
    EqualSplit,
    Factor,
    FactorAsPublished,
    NoCache,
    PrefixCache,
    Request,
    Strategy,
    Threshold,
    TopK,
    Whole,
)
from dllm.testing import laws
from tests.tiny import GEOMETRIES, tiny_model

REQUESTS = [Request((3, 7, 1, 22, 9), 16), Request((5, 2, 8, 1, 0, 4, 17, 20, 11, 6, 6), 13)]


def outcome(geometry: str, strategy: Strategy) -> list[tuple]:
    _, results = laws.run_batch(tiny_model(geometry), REQUESTS, strategy)
    return [(r.output_ids, r.when) for r in results]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Threshold(2.0), TopK(k=1)),
        (Factor(1e-6), TopK(k=1)),
        (Threshold(0.0), TopK(k=1000)),
        (Factor(1e6), Threshold(0.0)),
        (FactorAsPublished(1e6), Threshold(0.0)),
        (TopK(k=1, tau=2.0), TopK(k=1)),
        (TopK(k=1, tau=0.0), Threshold(0.0, strict=True)),
    ],
    ids=str,
)
def test_policies(geometry: str, one, other) -> None:
    for scheduler in (Blocks(8), Blocks(8, sub_block=4), Whole()):
        assert outcome(geometry, Strategy(one, scheduler, NoCache())) == outcome(
            geometry, Strategy(other, scheduler, NoCache())
        )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_paces(geometry: str) -> None:
    """As many steps as columns is one at a time; one step is all at once; a threshold of 0 only paces."""
    whole = Strategy(TopK(pace=EqualSplit()), Whole(steps=64), NoCache())
    assert outcome(geometry, whole) == outcome(geometry, Strategy(TopK(k=1), Whole(), NoCache()))
    at_once = Strategy(TopK(pace=EqualSplit()), Blocks(8, steps=1), NoCache())
    assert outcome(geometry, at_once) == outcome(geometry, Strategy(Threshold(0.0), Blocks(8), NoCache()))
    paced = Strategy(BudgetedThreshold(0.0), Whole(steps=4), NoCache())
    assert outcome(geometry, paced) == outcome(geometry, Strategy(TopK(pace=EqualSplit()), Whole(steps=4), NoCache()))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_tau_zero_takes_one_forward_a_window(geometry: str) -> None:
    stream, results = laws.run_batch(
        tiny_model(geometry), [Request((3, 7, 1, 22, 9, 1, 2, 3), 16)], Strategy(Threshold(0.0), Blocks(8), NoCache())
    )
    assert results[0].nfe == len(stream) == 2


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_schedulers(geometry: str) -> None:
    """A sub-block as large as the block is no sub-block."""
    for cache in (NoCache(), PrefixCache(), DualCache(), DualCache(while_first=True)):
        one, other = (Strategy(Threshold(0.5), s, cache) for s in (Blocks(8, sub_block=8), Blocks(8)))
        assert outcome(geometry, one) == outcome(geometry, other)


@pytest.mark.parametrize("geometry", ["block-causal", "block-causal-shift"])
def test_sub_block_cache_without_sub_blocks_is_the_block_cache(geometry: str) -> None:
    for scheduler in (Blocks(8), Blocks(8, commit=True)):
        dual, prefix = (outcome(geometry, Strategy(Threshold(0.5), scheduler, c)) for c in (DualCache(), PrefixCache()))
        assert dual == prefix


def test_blocks_of_one_left_to_right_are_autoregressive() -> None:
    """Block size 1 with a token-shifted block-causal model is plain next-token decoding."""
    import torch

    from tests.tiny import tiny_network

    m = tiny_model("block-causal-shift").with_block(1)
    strategy = Strategy(Threshold(0.9), Blocks(1, commit=True), PrefixCache())
    _, results = laws.run_batch(m, REQUESTS, strategy)
    for request, result in zip(REQUESTS, results, strict=True):
        ids = list(request.prompt)
        with torch.inference_mode():
            for _ in range(request.max_new_tokens):
                n = len(ids)
                mask = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
                logits = tiny_network(1)(input_ids=torch.tensor([ids]), attention_mask=mask, is_causal=False).logits[
                    0, -1
                ]
                logits[m.mask_id] = -torch.inf
                ids.append(int(logits.argmax()))
        assert list(result.output_ids) == ids[len(request.prompt) :]
        assert result.nfe == request.max_new_tokens
