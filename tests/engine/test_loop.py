"""What the loop guarantees, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import dllm
from dllm import (
    Blocks,
    ConfigError,
    DualCache,
    EqualSplit,
    NoCache,
    NumericsError,
    PrefixCache,
    Request,
    RequestError,
    Sampling,
    Stopping,
    Strategy,
    Threshold,
    TopK,
    Whole,
)
from dllm.models import TransformerModel
from dllm.testing import laws
from dllm.types import BlockCausal, Guess, Policy, Verdict, Window
from tests.tiny import GEOMETRIES, MASK, tiny_model, tiny_network

PLAIN = Strategy(Threshold(0.6), Blocks(8), NoCache())
PROMPT = (3, 7, 1, 22, 9)


@dataclass(frozen=True)
class Stubborn(Policy):
    """A policy that never accepts anything, or everything everywhere."""

    everything: bool = False

    def step(self, guess: Guess, window: Window, state, /):
        return Verdict(torch.full_like(window.pending, self.everything), guess.confidence), state


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_policy_that_accepts_nothing_still_finishes(geometry: str) -> None:
    stream, (result,) = laws.run_batch(
        tiny_model(geometry), [Request(PROMPT, 11)], Strategy(Stubborn(), Whole(), NoCache())
    )
    assert len(result.output_ids) == 11
    assert all(int(step.commit.sum()) == 1 for step in stream)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_policy_that_accepts_everything_touches_only_what_is_pending(geometry: str) -> None:
    m, requests = tiny_model(geometry), [Request(PROMPT, 11), Request((4,), 6)]
    strategy = Strategy(Stubborn(everything=True), Blocks(8), DualCache())
    stream, _ = laws.run_batch(m, requests, strategy)
    laws.decided_stays(m, requests, strategy, stream)


def test_the_mask_id_is_never_an_answer_even_if_it_is_the_likeliest() -> None:
    m = tiny_model("bidirectional")

    class Loves(TransformerModel):
        def head(self, hidden: torch.Tensor) -> torch.Tensor:
            return super().head(hidden).index_fill(-1, torch.tensor([MASK]), 50.0)

    loves = Loves(m.network, m.geometry, mask_id=MASK)
    (result,) = dllm.decode(loves, Request(PROMPT, 9), PLAIN)
    assert MASK not in result.output_ids


def test_a_prompt_may_contain_the_mask_id() -> None:
    """Pending is carried, not inferred: a mask id that the caller wrote is part of the prompt and stays."""
    stream, (result,) = laws.run_batch(tiny_model("bidirectional"), [Request((3, MASK, 1), 9)], PLAIN)
    assert stream[-1].canvas.tokens[0, :3].tolist() == [3, MASK, 1]
    assert len(result.output_ids) == 9


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), DualCache()], ids=str)
def test_stopping_closes_a_row_and_costs_nothing_more(geometry: str, cache: object) -> None:
    m = tiny_model(geometry)
    strategy = Strategy(TopK(k=1, score=dllm.LeftToRight()), Blocks(8), cache)  # type: ignore[arg-type]
    (free,) = dllm.decode(m, Request(PROMPT, 24), strategy)
    stop = free.output_ids[6]
    at = free.output_ids.index(stop)
    requests = [Request(PROMPT, 24, stop_ids=(stop,)), Request(PROMPT, 24)]
    stopped, other = dllm.decode(m, requests, strategy)
    assert stopped.output_ids == free.output_ids[: at + 1]
    assert stopped.stopped
    assert stopped.nfe <= at + 1 < free.nfe
    assert stopped.queries < free.queries
    assert (other.output_ids, other.nfe) == (free.output_ids, free.nfe)


def test_the_prompt_is_not_searched_for_a_stop() -> None:
    (result,) = dllm.decode(tiny_model("bidirectional"), Request((*PROMPT, 30), 9, stop_ids=(30, 7)), PLAIN)
    assert result.nfe >= 1
    assert result.output_ids


def test_a_stop_waits_for_what_is_pending_before_it() -> None:
    m = tiny_model("bidirectional")
    stream, _ = laws.run_batch(m, [Request(PROMPT, 16)], PLAIN)
    early = next(s for s in stream if s.canvas.pending[0, 5:].any())
    column = int((~early.canvas.pending[0, 5:]).nonzero()[-1]) + 5
    assert early.canvas.pending[0, 5:column].any(), "the example decides a column before those on its left"
    stop = int(early.canvas.tokens[0, column])
    (result,) = dllm.decode(m, Request(PROMPT, 16, stop_ids=(stop,)), PLAIN)
    assert result.output_ids[-1] == stop
    assert MASK not in result.output_ids


def test_strategy_stop_ids_replace_the_checkpoints_and_a_rows_replace_both() -> None:
    m = TransformerModel(tiny_network(0), tiny_model("bidirectional").geometry, mask_id=MASK)
    (free,) = dllm.decode(m, Request(PROMPT, 12), PLAIN)
    a, b, c = free.output_ids[2], free.output_ids[5], free.output_ids[8]
    m.stop_ids = (a,)
    (by_checkpoint,) = dllm.decode(m, Request(PROMPT, 12), PLAIN)
    (by_strategy,) = dllm.decode(
        m, Request(PROMPT, 12), Strategy(PLAIN.policy, PLAIN.scheduler, NoCache(), stopping=Stopping((b,)))
    )
    (by_row,) = dllm.decode(m, Request(PROMPT, 12, stop_ids=(c,)), PLAIN)
    (never,) = dllm.decode(m, Request(PROMPT, 12, stop_ids=()), PLAIN)
    for result, stop in ((by_checkpoint, a), (by_strategy, b), (by_row, c)):
        assert result.output_ids == free.output_ids[: free.output_ids.index(stop) + 1]
    assert never.output_ids == free.output_ids


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9])
def test_any_length_is_met_exactly(geometry: str, length: int) -> None:
    for prompt in ((1,), PROMPT, tuple(range(8)), tuple(range(17))):
        (result,) = dllm.decode(
            tiny_model(geometry), Request(prompt, length), Strategy(Threshold(0.6), Blocks(8), DualCache())
        )
        assert len(result.output_ids) == length


def test_batch_size_and_order_change_nothing() -> None:
    m = tiny_model("block-causal-shift")
    strategy = Strategy(Threshold(0.6), Blocks(8, sub_block=4, commit=True), DualCache(while_first=True), Sampling(0.8))
    requests = [Request(tuple(range(1, 2 + i)), 5 + 3 * i, seed=i) for i in range(7)]
    whole = dllm.decode(m, requests, strategy)
    for size in (1, 2, 3):
        got = dllm.decode(m, requests, strategy, batch_size=size)
        assert [(r.output_ids, r.nfe) for r in got] == [(r.output_ids, r.nfe) for r in whole]
    back = dllm.decode(m, requests[::-1], strategy, batch_size=4)[::-1]
    assert [r.output_ids for r in back] == [r.output_ids for r in whole]


def test_row_seeds_follow_the_place_in_the_job() -> None:
    m = tiny_model("bidirectional")
    strategy = Strategy(Threshold(0.6), Blocks(8), NoCache(), Sampling(1.0))
    same = [PROMPT] * 4
    first = dllm.decode(m, same, strategy, max_new_tokens=9, seed=5)
    assert len({r.output_ids for r in first}) > 1
    assert [r.output_ids for r in dllm.decode(m, same, strategy, max_new_tokens=9, seed=5, batch_size=3)] == [
        r.output_ids for r in first
    ]
    assert [r.output_ids for r in dllm.decode(m, same, strategy, max_new_tokens=9, seed=6)][:3] == [
        r.output_ids for r in first
    ][1:]


def test_logits_that_are_not_numbers_stop_the_run() -> None:
    m = tiny_model("bidirectional")

    class Broken(TransformerModel):
        def head(self, hidden: torch.Tensor) -> torch.Tensor:
            return super().head(hidden) * float("nan")

    with pytest.raises(NumericsError, match=r"not numbers.*prompts \[0\].*dtype"):
        dllm.decode(Broken(m.network, m.geometry, mask_id=MASK), Request(PROMPT, 4), PLAIN)
    with pytest.raises(NumericsError):
        dllm.decode(Broken(m.network, m.geometry, mask_id=MASK), Request(PROMPT, 1), PLAIN)


def test_whose_logits_are_not_numbers_is_named() -> None:
    m = tiny_model("bidirectional")

    class Broken(TransformerModel):
        def forward(self, query: Any, store: Any) -> torch.Tensor:
            out = super().forward(query, store)
            out[2:] *= float("nan")
            return out

    broken = Broken(m.network, m.geometry, mask_id=MASK)
    with pytest.raises(NumericsError, match=r"prompts \[2, 3\] at step 0") as told:
        list(dllm.steps(broken, [Request(PROMPT, 4, seed=i) for i in range(4)], PLAIN))
    assert list(told.value.prompts) == [2, 3]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request((), 4), "the prompt is empty"),
        (Request((1, 99), 4), "prompt id 99 is outside the vocabulary of 32"),
        (Request((1,), 0), "max_new_tokens=0"),
        (Request((1,) * 200, 100), "need 300 columns.*context is 256"),
    ],
)
def test_bad_requests(request_: Request, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        dllm.decode(tiny_model("bidirectional"), [request_], PLAIN)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blocks(0), "size must be at least 1"),
        (lambda: Blocks(size=4, steps=9), r"steps must lie in 1\.\.4; every step commits at least one token"),
        (lambda: Blocks(8, sub_block=9), r"sub_block must lie in 1\.\.8"),
        (lambda: Whole(steps=0), "steps must be at least 1"),
        (lambda: BlockCausal(0), "size must be at least 1"),
        (lambda: Threshold(-0.1), "tau must be 0 or more"),
        (lambda: Threshold(float("nan")), "tau must be 0 or more"),
        (lambda: dllm.Factor(0), "f must be above 0"),
        (lambda: dllm.FactorAsPublished(-1), "FactorAsPublished.*f must be above 0"),
        (lambda: TopK(), "either k.*or a pace"),
        (lambda: TopK(k=0), "k must be at least 1"),
        (lambda: TopK(k=1, pace=EqualSplit()), "either k.*or a pace"),
        (lambda: dllm.TimeSchedule(0), "eps must lie between 0 and 1"),
        (lambda: dllm.BudgetedThreshold(-1), "tau must be 0 or more"),
        (lambda: PrefixCache(refresh=0), "refresh must be at least 1"),
        (lambda: Sampling(-1), "temperature must be 0 or a positive"),
        (lambda: Sampling(1.0, top_p=0), "top_p must lie in"),
        (lambda: Sampling(1.0, top_k=-1), "top_k must be 0"),
        (lambda: Sampling(0.0, top_k=5), "temperature 0 takes the arg-max"),
        (lambda: Stopping(strings=("",)), "empty stop string"),
        (lambda: Strategy(TopK(pace=EqualSplit()), Blocks(8), NoCache()), "give Blocks its steps"),
        (lambda: Strategy(Threshold(0.9), Blocks(8, steps=4), NoCache()), "has no pace that would follow steps=4"),
    ],
)
def test_impossible_parts_cannot_be_built(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_impossible_pairs_fail_before_the_first_forward() -> None:
    with pytest.raises(ConfigError, match="commit stores finished blocks"):
        dllm.decode(
            tiny_model("bidirectional"), Request(PROMPT, 4), Strategy(Threshold(), Blocks(8, commit=True), NoCache())
        )
    with pytest.raises(ConfigError, match="stop strings need a tokenizer"):
        dllm.decode(
            tiny_model("bidirectional"),
            Request(PROMPT, 4),
            Strategy(Threshold(), Blocks(8), NoCache(), stopping=Stopping(strings=("x",))),
        )


def test_a_misspelt_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="tua"):
        Threshold(tua=0.5)  # type: ignore[call-arg]


def test_results_count_what_they_say() -> None:
    stream, (result,) = laws.run_batch(
        tiny_model("bidirectional"), [Request(PROMPT, 16)], Strategy(Threshold(0.3), Blocks(8), NoCache())
    )
    assert result.nfe == len(stream)
    assert result.queries == len(stream) * 21
    assert result.tokens_per_forward == 16 / len(stream)
    sizes = [int(step.commit.sum()) for step in stream]
    assert result.parallel == sum(n for n in sizes if n >= 2) > 0
    assert sorted(result.when) == [i + 1 for i, n in enumerate(sizes) for _ in range(n)]


def test_no_logits_for_columns_that_cannot_be_committed() -> None:
    """The head sees pending slots only: never the prompt, never what is decided, never the whole canvas."""
    m = tiny_model("bidirectional")
    seen: list[int] = []

    class Watched(TransformerModel):
        def head(self, hidden: torch.Tensor) -> torch.Tensor:
            seen.append(len(hidden))
            return super().head(hidden)

    stream, _ = laws.run_batch(
        Watched(m.network, m.geometry, mask_id=MASK), [Request(PROMPT, 24), Request((2, 3), 9)], PLAIN
    )
    assert seen == [int(step.window.pending.sum()) for step in stream]


def test_plain_causal_models_are_the_baseline() -> None:
    from dllm.engine.autoregressive import Autoregressive
    from dllm.models import AutoregressiveModel
    from tests.tiny import tiny_network as make

    causal = AutoregressiveModel(make.__wrapped__(0))
    found = dllm.decode(causal, [Request(PROMPT, 6), Request((1, 2), 4)], batch_size=2)
    assert [len(r.output_ids) for r in found] == [6, 4] == [r.nfe for r in found]
    with pytest.raises(ConfigError, match="Autoregressive"):
        dllm.decode(causal, Request(PROMPT, 4), PLAIN)
    with pytest.raises(ConfigError, match="Autoregressive"):
        dllm.decode(tiny_model("bidirectional"), Request(PROMPT, 4), Autoregressive())


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_dual_cache_runs_the_window_and_the_column_that_a_shift_needs(geometry: str) -> None:
    """Between refreshes: the window's columns, and the one on its left for as long as the first is pending."""
    m, seen = tiny_model(geometry), set()
    strategy = Strategy(TopK(k=1), Blocks(8, sub_block=4), DualCache())
    for step in laws.run_batch(m, [Request((*PROMPT, 4, 4, 4), 16)], strategy)[0]:
        if not step.window.entered.any():
            first = bool(step.window.first[0])
            assert int(step.queries[0]) == int(step.window.end[0] - step.window.start[0]) + first * m.needs_left
            seen.add(first)
    assert seen == {True, False}
