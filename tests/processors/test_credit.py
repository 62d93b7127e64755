"""CreditDecoding against the published dense matrix, and its limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import dllm
from dllm import (
    Blocks,
    ConfigError,
    CreditDecoding,
    DualCache,
    NoCache,
    Request,
    Sampling,
    Strategy,
    Threshold,
    TopK,
    Whole,
)
from dllm.testing import laws
from dllm.types import Canvas, Processor, Where
from tests.tiny import GEOMETRIES, MASK, STOP, VOCABULARY, tiny_model

REQUESTS = [
    Request((3, 7, 1, 22, 9), 21, seed=1),
    Request((5, 2, 8, 1, 0, 4, 17, 20), 9, seed=2, stop_ids=(STOP,)),
]


@dataclass(frozen=True)
class Dense(Processor):
    """The rule over the whole vocabulary: a matrix (b, t, v) that decays wherever it is looked at."""

    alpha: float = 0.7
    beta: float = 0.8
    gamma: float = 0.2

    def init(self, canvas: Canvas, model: Any, /) -> Tensor:
        return torch.zeros(*canvas.tokens.shape, VOCABULARY)

    def step(self, logits: Tensor, where: Where, canvas: Canvas, state: Tensor, /) -> tuple[Tensor, Tensor]:
        state = state.clone()
        out = logits.clone()
        for i, (row, column) in enumerate(zip(where.row.tolist(), where.column.tolist(), strict=True)):
            p = logits[i].softmax(-1)
            p[MASK] = -1
            state[row, column] *= self.beta
            state[row, column, p.argmax()] += p.max() ** self.gamma
            out[i] = logits[i] + self.alpha * (1 + state[row, column]).log()
        return out, state


def strategy(
    processor: Any = None, policy: Any = Threshold(0.7), scheduler: Any = Blocks(8), cache: Any = DualCache()
) -> Strategy:
    return Strategy(policy, scheduler, cache, Sampling(processors=() if processor is None else (processor,)))


def same(a: list[Any], b: list[Any]) -> None:
    assert [(r.output_ids, r.when) for r in a] == [(r.output_ids, r.when) for r in b]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("values", [(0.7, 0.8, 0.2), (3.0, 0.5, 1.0), (2.0, 1.0, 0.0), (2.0, 0.0, 0.5)], ids=str)
def test_sparse_is_dense(geometry: str, values: tuple[float, float, float]) -> None:
    for policy, scheduler in ((Threshold(0.7), Blocks(8)), (TopK(k=1), Whole())):
        streams = [
            laws.run_batch(tiny_model(geometry), REQUESTS, strategy(kind(*values), policy, scheduler, NoCache()))
            for kind in (CreditDecoding, Dense)
        ]
        same(streams[0][1], streams[1][1])
        for got, want in zip(streams[0][0], streams[1][0], strict=True):
            torch.testing.assert_close(got.guess.confidence, want.guess.confidence, atol=1e-5, rtol=1e-4)


def at(column: int, pending: bool = True) -> Where:
    """A slot of row 0."""
    where: Any = SimpleNamespace(row=torch.tensor([0]), column=torch.tensor([column]), pending=torch.tensor([pending]))
    return cast(Where, where)


def test_few_places_hold_all_that_counts() -> None:
    """A column that is predicted otherwise every time overflows its places, and float32 does not see it."""
    canvas = Canvas(torch.zeros(1, 200).long(), torch.ones(1, 200).bool(), None)  # type: ignore[arg-type]
    sparse, dense = CreditDecoding(beta=0.5), Dense(beta=0.5)
    assert sparse._kept_places(200) == 24 < VOCABULARY
    states = [processor.init(canvas, replace(tiny_model("bidirectional"))) for processor in (sparse, dense)]
    where = at(9)
    generator = torch.Generator().manual_seed(0)
    for i in range(120):
        logits = torch.randn(1, VOCABULARY, generator=generator)
        logits[0, i % (VOCABULARY - 1)] += 9
        (got, first), (want, second) = (
            p.step(logits, where, canvas, s) for p, s in zip((sparse, dense), states, strict=True)
        )
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)
        states = [first, second]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_alpha_zero_is_the_plain_threshold(geometry: str) -> None:
    same(
        dllm.decode(tiny_model(geometry), REQUESTS, strategy(CreditDecoding(alpha=0.0))),
        dllm.decode(tiny_model(geometry), REQUESTS, strategy()),
    )


def test_credit_makes_sure_sooner() -> None:
    plain, credit = (
        dllm.decode(tiny_model("bidirectional"), REQUESTS, strategy(p)) for p in (None, CreditDecoding(2.0))
    )
    assert sum(r.nfe for r in credit) < sum(r.nfe for r in plain)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dllm.decode(tiny_model("bidirectional"), REQUESTS, strategy(CreditDecoding(2.0)))
    monkeypatch.setattr("dllm.engine.propose.CHUNK", 3 * VOCABULARY)
    same(dllm.decode(tiny_model("bidirectional"), REQUESTS, strategy(CreditDecoding(2.0))), whole)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_rows_are_independent_also_in_a_queue(geometry: str) -> None:
    how = strategy(CreditDecoding(2.0), scheduler=Blocks(8, sub_block=4))
    _, results = laws.run_batch(tiny_model(geometry), REQUESTS, how)
    laws.rows_are_independent(tiny_model(geometry), REQUESTS, how, results)
    same(dllm.decode(tiny_model(geometry), REQUESTS, how, batch_size=1), results)


def test_a_column_keeps_its_credit_while_it_is_not_predicted() -> None:
    """Credit ends with a block because no column is predicted in two."""
    processor = CreditDecoding()
    canvas = Canvas(torch.zeros(1, 9).long(), torch.ones(1, 9).bool(), None)  # type: ignore[arg-type]
    state = processor.init(canvas, tiny_model("bidirectional"))
    logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(3))
    _, state = processor.step(logits, at(2), canvas, state)
    kept = state.credit[0, 2].clone()
    out, state = processor.step(logits, at(3), canvas, state)
    assert torch.equal(state.credit[0, 2], kept)
    untouched, state = processor.step(logits, at(3, pending=False), canvas, state)
    assert torch.equal(untouched, logits)
    assert not torch.equal(out, logits)
    assert state.credit[0, 4:].sum() == 0


@pytest.mark.parametrize("values", [{"alpha": -1.0}, {"beta": 1.5}, {"gamma": -0.1}, {"alpha": float("nan")}])
def test_impossible_values(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        CreditDecoding(**values)
