"""`transformers` logits processors: each column's own prefix, whatever order columns are decided in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor, SuppressTokensLogitsProcessor

import dllm
from dllm import Blocks, DualCache, LeftToRight, NoCache, Request, Sampling, Strategy, Threshold, TopK
from dllm.testing import laws
from tests.tiny import GEOMETRIES, tiny_model

REQUESTS = [Request((3, 7, 1, 22, 9), 14, seed=1), Request((5, 2, 8, 1, 0, 4, 17, 20), 9, seed=2)]


def with_processors(*processors, temperature: float = 0.0) -> Strategy:
    return Strategy(Threshold(0.5), Blocks(8), DualCache(), Sampling(temperature, processors=processors))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_suppressed_tokens_are_never_written(geometry: str) -> None:
    free = dllm.decode(tiny_model(geometry), REQUESTS, with_processors())
    banned = sorted({t for r in free for t in r.output_ids})[:6]
    held = dllm.decode(tiny_model(geometry), REQUESTS, with_processors(SuppressTokensLogitsProcessor(banned, "cpu")))
    assert not {t for r in held for t in r.output_ids} & set(banned)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_stay_independent(temperature: float) -> None:
    strategy = with_processors(RepetitionPenaltyLogitsProcessor(1.5), temperature=temperature)
    _, results = laws.run_batch(tiny_model("bidirectional"), REQUESTS, strategy)
    laws.rows_are_independent(tiny_model("bidirectional"), REQUESTS, strategy, results)


def test_a_processor_sees_each_columns_own_prefix() -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []

    def watch(prefix: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert len(prefix) == len(scores)
        seen.extend((prefix.shape[1], tuple(row)) for row in prefix.tolist())
        return scores

    stream, _ = laws.run_batch(tiny_model("bidirectional"), REQUESTS, with_processors(watch))
    first = stream[0]
    wanted = sum(int(step.window.pending.sum()) for step in stream)
    assert len(seen) == wanted
    assert {n for n, _ in seen[: len(first.window.slots)]} == set(first.window.columns[first.window.pending].tolist())


def test_left_to_right_with_an_n_gram_rule_repeats_no_pair() -> None:
    strategy = Strategy(TopK(k=1, score=LeftToRight()), Blocks(8), NoCache())
    ruled = replace(strategy, sampling=Sampling(processors=(NoRepeatNGramLogitsProcessor(2),)))
    (got,) = dllm.decode(tiny_model("bidirectional"), REQUESTS[:1], ruled)
    pairs = list(zip(got.output_ids, got.output_ids[1:], strict=False))
    assert len(pairs) == len(set(pairs))
