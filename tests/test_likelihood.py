"""Likelihoods of continuations: exact where they are exact, unbiased where they are drawn, alone as in a batch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from dllm.errors import ConfigError, RequestError
from dllm.likelihood import Bound, Likelihood, PromptContinuation, Sequential, default_estimator, estimate_likelihoods
from dllm.models import TabularModel, TransformerModel
from dllm.types import Bidirectional, BlockCausal, Query
from tests.tiny import GEOMETRIES, MASK, tiny_model, tiny_network

PAIRS = [
    PromptContinuation((3, 4, 5), (6, 7)),
    PromptContinuation((1,), (2, 3, 4, 5, 6, 7, 8, 9, 10, 11)),
    PromptContinuation((1, 2, 3, 4, 5, 6, 7), (8, 9, 10)),
    PromptContinuation((9, 8, 7, 6, 5, 4, 3, 2), (1,)),
    PromptContinuation((5, 5), ()),
]


def of(m, pairs, estimator, **options) -> list[Likelihood]:
    return [found for _, found in sorted(estimate_likelihoods(m, pairs, estimator, **options))]


@pytest.fixture(scope="module")
def oracle() -> TabularModel:
    draw = torch.Generator().manual_seed(1)
    joint = torch.rand((3,) * 4, generator=draw, dtype=torch.float64) ** 4
    return TabularModel(joint / joint.sum())


def texts(oracle: TabularModel) -> list[tuple[PromptContinuation, float]]:
    """Every continuation of four words with its exact log-probability."""
    return [(PromptContinuation((0,), w), float(oracle.joint[w].log())) for w in itertools.product(range(3), repeat=4)]


@pytest.mark.parametrize("estimator", [Sequential(), Bound(15)], ids=["sequential", "every set"])
def test_of_the_oracle_it_is_the_joint(oracle: TabularModel, estimator) -> None:
    pairs, truth = zip(*texts(oracle), strict=True)
    for found, expected in zip(of(oracle, pairs, estimator, greedy=False), truth, strict=True):
        assert found.value == pytest.approx(expected, abs=1e-4)
        assert found.error == 0


def test_the_bound_of_the_oracle_is_the_joint_within_monte_carlo_error(oracle: TabularModel) -> None:
    pair, truth = texts(oracle)[7]
    found = [of(oracle, [pair], Bound(14, seed), greedy=False)[0] for seed in range(200)]
    mean = sum(f.value for f in found) / len(found)
    spread = math.sqrt(sum((f.value - mean) ** 2 for f in found) / (len(found) - 1))
    assert spread > 0, "14 of 15 sets are drawn"
    assert abs(mean - truth) < 4 * spread / math.sqrt(len(found)), "unbiased"
    claimed = math.sqrt(sum(f.error**2 for f in found) / len(found))
    assert spread < 1.2 * claimed, "strata only make it better than the error that is told"


@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_bound_is_unbiased(name: str) -> None:
    m, pair = tiny_model(name), PAIRS[2]
    exact = of(m, [pair], Bound(7), greedy=False)[0]
    assert exact.error == 0
    found = [of(m, [pair], Bound(3, seed), greedy=False)[0].value for seed in range(300)]
    mean, spread = sum(found) / 300, float(torch.tensor(found).std())
    assert abs(mean - exact.value) < 4 * spread / math.sqrt(300)


def plainly(m: TransformerModel, canvas: list[int], column: int) -> Tensor:
    """Log-probabilities at one column, by one forward over the whole canvas."""
    t = len(canvas)
    columns = torch.arange(t)[None]
    mask = None
    if isinstance(m.geometry, BlockCausal):
        mask = (columns // m.geometry.size <= columns.T // m.geometry.size)[None, None]
    query = Query(torch.tensor([canvas]), columns, torch.ones(1, t, dtype=torch.bool), t, mask, 0)
    with torch.inference_mode():
        logits = m.head(m.forward(query, None)[0])[column - m.needs_left]
        logits[MASK] = -torch.inf
    return logits.log_softmax(0)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: f"{len(p.prompt)}+{len(p.continuation)}")
def test_sequential_is_the_brute_force_product(name: str, pair: PromptContinuation) -> None:
    m, expected, greedy = tiny_model(name), 0.0, True
    tokens, whole = list(pair.tokens), int(tiny_model(name).geometry.extent(torch.tensor(len(pair.tokens))))
    for i in range(len(pair.prompt), len(tokens)):
        chances = plainly(m, tokens[:i] + [MASK] * (whole - i), i)
        expected += float(chances[tokens[i]])
        greedy &= int(chances.argmax()) == tokens[i]
    found = of(m, [pair], Sequential())[0]
    assert found.value == pytest.approx(expected, abs=1e-4)
    assert found.greedy == greedy


@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_bound_is_the_brute_force_sum_over_sets(name: str) -> None:
    m, pair, expected = tiny_model(name), PromptContinuation((1, 2, 3, 4, 5, 6), (7, 8, 9)), 0.0
    tokens = list(pair.tokens)
    blocks = [[6, 7], [8]] if isinstance(m.geometry, BlockCausal) else [[6, 7, 8]]
    for block in blocks:
        whole = max(len(tokens), int(m.geometry.extent(torch.tensor(block[-1] + 1))))
        for n in range(1, len(block) + 1):
            for hidden in itertools.combinations(block, n):
                known = tokens[: block[-1] + 1]
                canvas = [MASK if i in hidden or i >= len(known) else known[i] for i in range(whole)]
                score = sum(float(plainly(m, canvas, i)[tokens[i]]) for i in hidden)
                expected += score / n / math.comb(len(block), n)
    assert of(m, [pair], Bound(7))[0].value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_sequential_sums_to_one(name: str) -> None:
    m = tiny_model(name)
    pairs = [PromptContinuation((1, 2, 3, 4, 5, 6, 7), (a, b)) for a in range(31) for b in range(31)]
    mass = sum(math.exp(f.value) for f in of(m, pairs, Sequential(), batch_size=512, greedy=False))
    assert mass == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("estimator", [Sequential(), Bound(9, 3)], ids=repr)
def test_a_value_does_not_depend_on_what_else_is_asked(name: str, estimator) -> None:
    m = tiny_model(name)
    alone = [of(m, [pair], estimator, batch_size=1)[0] for pair in PAIRS]
    for size in (2, 64):
        for a, b in zip(alone, of(m, PAIRS, estimator, batch_size=size), strict=True):
            assert a.value == pytest.approx(b.value, abs=1e-4)
            assert a._replace(value=0, error=0) == b._replace(value=0, error=0)


def test_blocks_of_one_are_a_causal_model_and_cost_one_row() -> None:
    m = TransformerModel(tiny_network(1), BlockCausal(1), needs_left=1, mask_id=MASK)
    found = of(m, [PAIRS[1]], default_estimator(m))[0]
    tokens = list(PAIRS[1].tokens)
    expected = sum(float(plainly(m, tokens, i)[tokens[i]]) for i in range(1, len(tokens)))
    assert found.value == pytest.approx(expected, abs=1e-4)
    assert found.rows == 1


@pytest.mark.parametrize("name", GEOMETRIES)
def test_greedy_is_what_decoding_writes(name: str) -> None:
    import dllm
    from dllm import Blocks, NoCache, Request, Strategy, TopK, Whole

    m = tiny_model(name)
    scheduler = Whole() if isinstance(m.geometry, Bidirectional) else Blocks()
    text = dllm.decode(m, [Request((3, 4, 5), 5, stop_ids=())], Strategy(TopK(k=1), scheduler, NoCache()))[0].output_ids
    other = (*text[:-1], (text[-1] + 1) % 30)
    found = of(m, [PromptContinuation((3, 4, 5), text), PromptContinuation((3, 4, 5), other)], Bound(1))
    assert [f.greedy for f in found] == [True, False]
    assert of(m, [PromptContinuation((3, 4, 5), text)], Bound(1), greedy=False)[0].greedy is None


def test_what_cannot_be_read_is_refused_before_any_forward() -> None:
    m = tiny_model("block-causal")
    for pair in (
        PromptContinuation((), (1,)),
        PromptContinuation((1,), (99,)),
        PromptContinuation((1,) * 250, (1,) * 10),
    ):
        with pytest.raises(RequestError):
            of(m, [PAIRS[0], pair], Sequential())
    with pytest.raises(ConfigError, match="samples must be"):
        Bound(0)
