"""Classifier-free guidance: the published loop, the exact formula, and every law of an ordinary model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import dllm
from dllm import (
    WINO,
    Blocks,
    ConfigError,
    DualCache,
    EqualSplit,
    Guided,
    NoCache,
    PrefixCache,
    Request,
    Sampling,
    Strategy,
    Threshold,
    TopK,
    Whole,
)
from dllm.models.tabular import TabularModel
from dllm.testing import laws
from dllm.testing.cells import REQUESTS
from tests.tiny import GEOMETRIES, MASK, tiny_model, tiny_network

STRATEGIES = [
    Strategy(Threshold(0.6), Blocks(8), DualCache()),
    Strategy(Threshold(0.6), Blocks(8, sub_block=4), PrefixCache(refresh=2)),
    Strategy(TopK(pace=EqualSplit()), Whole(5), NoCache()),
    Strategy(Threshold(0.6), Blocks(4), DualCache()),
]


@torch.inference_mode()
def published(prompt: Tensor, length: int, scale: float) -> Tensor:
    """LLaDA's loop with guidance on a plain network, one token a step: the batch twice, the second without prompt."""
    net = tiny_network(0)
    x = torch.cat([prompt, torch.full((len(prompt), length), MASK)], 1)
    given = x != MASK
    for _ in range(length):
        blank = torch.where(given, MASK, x)
        both = torch.cat([x, blank])
        everything = torch.ones(len(both), 1, both.shape[1], both.shape[1], dtype=torch.bool)
        out = net.model(input_ids=both, attention_mask=everything, use_cache=False).last_hidden_state
        logits, without = net.lm_head(out).chunk(2)
        logits = without + (scale + 1) * (logits - without)
        p = logits.softmax(-1)
        p[..., MASK] = 0
        confidence, tokens = p.max(-1)
        best = torch.where(x == MASK, confidence, -torch.inf).argmax(1, keepdim=True)
        x = x.scatter(1, best, tokens.gather(1, best))
    return x[:, prompt.shape[1] :]


@pytest.mark.parametrize("scale", [0.0, 0.7, 3.0])
def test_the_published_loop(scale: float) -> None:
    prompt = torch.tensor([[3, 7, 1, 22, 9], [5, 2, 8, 1, 0]])
    one_by_one = Strategy(TopK(k=1), Whole(), NoCache())
    requests = [Request(tuple(row), 11) for row in prompt.tolist()]
    found = dllm.decode(Guided(tiny_model("bidirectional"), scale), requests, one_by_one)
    assert [list(r.output_ids) for r in found] == published(prompt, 11, scale).tolist()
    assert all(r.queries == 2 * 16 * 11 for r in found)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_laws(geometry: str, strategy: Strategy) -> None:
    guided = Guided(tiny_model(geometry), 1.5)
    stream, results = laws.run_batch(guided, REQUESTS, strategy)
    laws.rows_finish_in_time(guided, REQUESTS, strategy, stream, 4)
    laws.every_step_progresses(stream)
    laws.decided_stays(guided, REQUESTS, strategy, stream)
    laws.windows_tile(guided, REQUESTS, strategy, stream)
    laws.fresh_is_exact(guided, REQUESTS, strategy, stream)
    laws.rows_are_independent(guided, REQUESTS, strategy, results)
    queued = dllm.decode(guided, REQUESTS, strategy, batch_size=1)
    assert [r.output_ids for r in queued] == [r.output_ids for r in results]
    plain = dllm.decode(tiny_model(geometry), REQUESTS, strategy)
    assert [r.output_ids for r in results] != [r.output_ids for r in plain]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_scale_zero_is_no_guidance(geometry: str, strategy: Strategy) -> None:
    want = dllm.decode(tiny_model(geometry), REQUESTS, strategy)
    got = dllm.decode(Guided(tiny_model(geometry), 0.0), REQUESTS, strategy)
    assert [(r.output_ids, r.when) for r in got] == [(r.output_ids, r.when) for r in want]
    assert [r.queries for r in got] == [2 * r.queries for r in want]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_refreshed_cache_is_no_cache(geometry: str) -> None:
    guided = Guided(tiny_model(geometry), 1.5)
    found = [
        dllm.decode(guided, REQUESTS, Strategy(Threshold(0.6), Blocks(8), cache))
        for cache in (NoCache(), PrefixCache(refresh=1), DualCache(refresh=1))
    ]
    assert [r.output_ids for r in found[0]] == [r.output_ids for r in found[1]] == [r.output_ids for r in found[2]]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_second_lane_sees_nothing_of_what_was_given(geometry: str) -> None:
    """With a prompt changed only the first lane changes: z_c - z moves, z_u does not. Shadow slots included."""
    guided = Guided(tiny_model(geometry), 0.0)
    seen: list[Tensor] = []
    inner = guided.model.forward
    watched = replace(guided.model)

    def forward(query, store):  # type: ignore[no-untyped-def]
        out = inner(query, store)
        seen.append(out[len(out) // 2 :])
        return out

    watched.forward = forward  # type: ignore[method-assign]
    for policy in (TopK(k=1), WINO()):
        lanes = []
        for prompt in ((3, 7, 1, 22, 9), (4, 11, 2, 6, 19)):
            seen.clear()
            next(dllm.steps(Guided(watched, 0.0), [Request(prompt, 11)], Strategy(policy, Blocks(8), NoCache())))
            lanes.append(seen[0])
        assert torch.equal(*lanes)


def test_the_exact_formula_on_a_table() -> None:
    """The joint of two words knows p(second | first) and p(second): log p_guided is their mix, up to a constant."""
    joint = torch.tensor([[0.30, 0.10], [0.15, 0.45]], dtype=torch.float64)
    for scale in (0.0, 1.0, 2.5):
        row = Request((1, 0), 1)  # the table's first column is part of the prompt
        guided = Guided(TabularModel(joint), scale)
        step = next(dllm.steps(guided, [row], Strategy(TopK(k=1), Whole(), NoCache())))
        conditional, marginal = joint[0] / joint[0].sum(), joint.sum(0)
        want = (conditional * (conditional / marginal) ** scale).double()
        want = want / want.sum()
        torch.testing.assert_close(step.guess.p1[0, 0].double(), want.max(), atol=1e-6, rtol=1e-6)


def test_a_word_that_is_ruled_out_stays_ruled_out() -> None:
    joint = torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=torch.float64)
    strategy = Strategy(TopK(k=1), Whole(), NoCache(), Sampling(temperature=3.0))
    for seed in range(8):
        (result,) = dllm.decode(Guided(TabularModel(joint), 2.0), [Request((1, seed % 2), 1, seed=seed)], strategy)
        assert result.output_ids == (seed % 2,)


def test_what_cannot_be_guided() -> None:
    with pytest.raises(ConfigError, match="scale must be"):
        Guided(tiny_model("bidirectional"), -1.0)
    with pytest.raises(ConfigError, match="no mask id"):
        Guided(replace(tiny_model("bidirectional"), mask_id=None), 1.0)

    class Plain:
        def generate(self, prompts: object) -> list[list[int]]:
            return []

    with pytest.raises(ConfigError, match="plain causal"):
        Guided(Plain(), 1.0)
