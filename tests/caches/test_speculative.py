"""Speculation changes nothing but the number of forwards: step by step, for every other part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

import dllm
from dllm import (
    AdaptiveBlocks,
    Blocks,
    ConfigError,
    DelayedCache,
    DualCache,
    LeftToRight,
    NoCache,
    Pipeline,
    PrefixCache,
    Request,
    Sampling,
    SlidingBlock,
    SlidingCache,
    Speculative,
    Strategy,
    Threshold,
    TimeSchedule,
    TopK,
    VariableLength,
    VicinityCache,
    Whole,
    theory,
)
from dllm.caches.lanes import DraftLanes
from dllm.caches.memory import NEVER
from dllm.compose.recipes import freedave
from dllm.models.tabular import TabularModel
from dllm.requests import make_canvas
from dllm.testing import laws
from dllm.types import Cache, HostView, Step
from experiments.embedded_text import generate_examples
from tests.parts import CELLS
from tests.tiny import GEOMETRIES, STOP, tiny_model

REQUESTS = [
    Request((3, 7, 1, 22, 9), max_new_tokens=13, seed=1),
    Request((5, 2, 8, 8, 8, 1, 0, 4, 17, 20, 11), max_new_tokens=8, seed=2, stop_ids=(STOP,)),
    Request((9, 4, 21, 6, 6, 2, 13, 1, 19, 3), max_new_tokens=11, seed=3),
]
PLAIN = [cell for cell in CELLS if not isinstance(cell[1].cache, Speculative)]
CORE = [
    (geometry, Strategy(policy, Blocks(8), cache))
    for geometry in GEOMETRIES
    for policy in (TopK(k=1), Threshold(0.6))
    for cache in (
        NoCache(), PrefixCache(), DualCache(refresh=3), DualCache(while_first=True), VicinityCache(before=2, after=1),
        SlidingCache(), DelayedCache(),
    )
]  # fmt: skip


def label(cell: tuple[str, Strategy]) -> str:
    geometry, s = cell
    return f"{geometry}-{s.policy}-{s.scheduler}-{s.cache}"


def speculating(strategy: Strategy, drafts: int = 4, tokens: int | None = None) -> Strategy:
    return replace(strategy, cache=Speculative(strategy.cache, drafts, tokens))


def lossless(m: Any, strategy: Strategy, drafts: int = 4, tokens: int | None = None) -> tuple[list[Step], list[Step]]:
    """Both streams of steps, after all in them was compared that speculation may not change."""
    plain, _ = laws.run_batch(m, REQUESTS, strategy)
    fast, _ = laws.run_batch(m, REQUESTS, speculating(strategy, drafts, tokens))
    assert len(fast) == len(plain)
    for ours, theirs in zip(fast, plain, strict=True):
        assert torch.equal(ours.canvas.tokens, theirs.canvas.tokens), f"step {theirs.number} writes something else"
        assert torch.equal(ours.canvas.pending, theirs.canvas.pending)
        assert torch.equal(ours.commit, theirs.commit)
        assert torch.equal(ours.guess.tokens, theirs.guess.tokens)
        torch.testing.assert_close(ours.guess.p1, theirs.guess.p1, atol=1e-5, rtol=1e-4)
        assert torch.equal(ours.fresh, theirs.fresh)
        assert torch.equal(ours.ledger.parallel, theirs.ledger.parallel)
        assert torch.equal(ours.ledger.certified, theirs.ledger.certified)
        assert (ours.nfe <= theirs.nfe).all()
        assert torch.equal(ours.nfe > 0, theirs.nfe > 0)
    return fast, plain


@pytest.mark.parametrize("cell", PLAIN[::53], ids=label)
def test_every_step_is_as_without(cell: tuple[str, Strategy]) -> None:
    geometry, strategy = cell
    lossless(tiny_model(geometry), strategy)


@pytest.mark.parametrize("cell", CORE, ids=label)
def test_every_step_is_as_without_over_each_cache(cell: tuple[str, Strategy]) -> None:
    geometry, strategy = cell
    lossless(tiny_model(geometry), strategy, tokens=1)


@pytest.mark.parametrize("cell", PLAIN[::151] + CORE[::11], ids=label)
@pytest.mark.parametrize("sampling", [Sampling(0.3), Sampling(0.7, top_k=5, tempered=True)], ids=str)
def test_samples_are_those_without(cell: tuple[str, Strategy], sampling: Sampling) -> None:
    geometry, strategy = cell
    lossless(tiny_model(geometry), replace(strategy, sampling=sampling))


GROWING = VariableLength(8, initial=6, growth=2, enough=0.0, certain=2.0, low=0.9, ends=(STOP,))
"""Makes room in the middle of a row at nearly every step."""


@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), DualCache()], ids=str)
@pytest.mark.parametrize(
    "scheduler",
    [
        AdaptiveBlocks(8, delimiters=(4, 9)),
        SlidingBlock(8),
        Pipeline(8),
        GROWING,
        Whole(),
    ],
    ids=str,
)
@pytest.mark.parametrize("geometry", ["bidirectional", "bidirectional-shift"])
def test_windows_may_move_and_rows_may_grow(geometry: str, scheduler: Any, cache: Cache) -> None:
    lossless(tiny_model(geometry), Strategy(Threshold(0.3), scheduler, cache), tokens=1)
    lossless(tiny_model(geometry), Strategy(TopK(k=2), scheduler, cache))


EDITING = [dllm.JointThreshold(0.4, 0.3), dllm.WINO(0.3, 0.5), dllm.Saber()]


@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), DualCache()], ids=str)
@pytest.mark.parametrize("policy", EDITING, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_policies_may_edit(geometry: str, policy: Any, cache: Cache) -> None:
    lossless(tiny_model(geometry), Strategy(policy, Blocks(8), cache), tokens=1)


@pytest.mark.parametrize("cell", CORE[::9], ids=label)
def test_rows_are_served_each_on_its_own_account(cell: tuple[str, Strategy]) -> None:
    geometry, strategy = cell
    m, strategy = tiny_model(geometry), speculating(strategy, drafts=3)
    alone = [replace(laws.run_batch(m, [request], strategy)[1][0], seconds=0) for request in REQUESTS]
    for batch_size in (2, 3):
        collector = dllm.Collector(m, REQUESTS, strategy)
        for step in dllm.steps(m, REQUESTS, strategy, batch_size=batch_size):
            collector.add(step)
        assert [replace(result, seconds=0) for result in collector.results()] == alone


def test_one_request_after_another_in_one_seat_is_run_anew() -> None:
    """The same canvas again, of another request: the lane that is left of the first must not serve it."""
    strategy = Strategy(Threshold(0.0), Whole(), Speculative(PrefixCache()))
    collector = dllm.Collector(tiny_model("bidirectional"), REQUESTS[:1] * 2, strategy)
    for step in dllm.steps(tiny_model("bidirectional"), REQUESTS[:1] * 2, strategy, batch_size=1):
        collector.add(step)
    assert [r.nfe for r in collector.results()] == [1, 1]


def known(n: int, v: int) -> TabularModel:
    """A model whose marginals never depend on what is decided, so that every draft comes true."""
    generator = torch.Generator().manual_seed(0)
    return TabularModel(theory.product_joint(torch.rand(n, v, generator=generator, dtype=torch.float64).softmax(-1)))


@pytest.mark.parametrize("cache", [NoCache(), DualCache()], ids=str)
def test_what_comes_true_is_counted_exactly(cache: Cache) -> None:
    """Nine columns one by one: the first forward knows nothing to draft, the next two serve four steps each."""
    strategy = Strategy(TopK(k=1), Whole(), Speculative(cache))
    stream, (result,) = laws.run_batch(known(9, 2), [Request((0,), 9)], strategy)
    run = 10 if cache == NoCache() else 9
    assert [int(step.queries[0]) for step in stream] == [10, 4 * run, 0, 0, 0, 4 * run, 0, 0, 0]
    assert (result.nfe, result.queries) == (3, 10 + 8 * run)
    assert sorted(result.when) == [1, 2, 2, 2, 2, 3, 3, 3, 3]


def test_a_window_just_opened_has_no_drafts() -> None:
    """Nothing was guessed in a block before its first forward; then two columns are left, and one draft of them."""
    stream, _ = laws.run_batch(known(9, 2), [Request((0,), 9)], Strategy(TopK(k=1), Blocks(3), Speculative()))
    assert [int(step.queries[0]) for step in stream] == [10, 20, 0] * 3


@pytest.mark.parametrize(("drafts", "nfe"), [(1, 9), (2, 5), (3, 4), (9, 2), (50, 2)])
def test_the_number_of_drafts(drafts: int, nfe: int) -> None:
    strategy = Strategy(TopK(k=1), Whole(), Speculative(drafts=drafts))
    _, (result,) = laws.run_batch(known(9, 2), [Request((0,), 9)], strategy)
    assert result.nfe == nfe


@pytest.mark.parametrize(("tokens", "nfe"), [(None, 2), (2, 2), (1, 3), (3, 5)])
def test_drafts_grow_by_what_a_step_decides(tokens: int | None, nfe: int) -> None:
    """Two columns a step: drafts longer by three meet no canvas, those longer by one only the next."""
    strategy = Strategy(TopK(k=2), Whole(), Speculative(drafts=4, tokens=tokens))
    _, (result,) = laws.run_batch(known(9, 2), [Request((0,), 9)], strategy)
    assert result.nfe == nfe


def test_drafts_follow_the_policys_order() -> None:
    """From left to right: drafts by confidence would meet no canvas."""
    strategy = Strategy(TopK(k=1, score=LeftToRight()), Whole(), Speculative(drafts=9))
    _, (result,) = laws.run_batch(known(9, 2), [Request((0,), 9)], strategy)
    assert result.nfe == 2


def test_a_step_that_changes_nothing_costs_nothing() -> None:
    """Dream's schedule rests at times; what is on the canvas then was run already."""
    strategy = Strategy(TopK(pace=TimeSchedule()), Whole(steps=20), NoCache())
    fast, plain = lossless(tiny_model("bidirectional"), strategy, drafts=1)
    rests = sum(int((~step.commit.any(1) & (step.window.end > step.window.start)).sum()) for step in plain)
    assert rests > 0
    assert int(plain[-1].nfe.sum() - fast[-1].nfe.sum()) == rests


def test_no_draft_without_a_cache_that_stays() -> None:
    """Refreshed at every other step, a cache never runs the same columns twice in a row: nothing is drafted."""
    strategy = Strategy(TopK(k=1), Blocks(8), PrefixCache(refresh=2))
    fast, plain = lossless(tiny_model("bidirectional"), strategy)
    assert [step.queries.tolist() for step in fast] == [step.queries.tolist() for step in plain]


class Counting(TabularModel):
    """Counts the rows of every forward."""

    def forward(self, query: Any, store: Any) -> Tensor:
        self.rows.append(len(query.tokens))  # type: ignore[attr-defined]
        return super().forward(query, store)


@pytest.mark.parametrize("cache", [NoCache(), PrefixCache()], ids=str)
def test_a_forward_runs_no_more_lanes_than_it_must(cache: Cache) -> None:
    """Six columns: one lane, then four, then the last that is left; a second, shorter row waits with its lane."""
    m = Counting(known(6, 2).joint)
    m.rows = []  # type: ignore[attr-defined]
    laws.run_batch(m, [Request((0,), 6), Request((0,), 2)], Strategy(TopK(k=1), Whole(), Speculative(cache)))
    assert m.rows == [2, 5, 1]  # type: ignore[attr-defined]


def test_a_row_that_waits_keeps_what_may_still_come_true() -> None:
    """Two seats; the next request begins in the second while the first row is served its second draft of three: beside
    the newcomer's lane only that draft and the one behind it are in the store."""
    m = Counting(known(9, 2).joint)
    m.rows = []  # type: ignore[attr-defined]
    requests = [Request((0,), 9), Request((0,), 3), Request((0,), 9)]
    strategy = Strategy(TopK(k=1), Whole(), Speculative(PrefixCache()))
    rows = []
    for _ in dllm.steps(m, requests, strategy, batch_size=2):
        rows.append(m.rows)  # type: ignore[attr-defined]
        m.rows = []  # type: ignore[attr-defined]
    assert rows[:6] == [[2], [6], [], [3], [5], [7]]


def marginals(joint: Tensor, tokens: Tensor, pending: Tensor) -> tuple[Tensor, Tensor]:
    """Likeliest token and its probability at every position, given what is decided."""
    n = joint.dim()
    seen = (~pending) & ~torch.eye(n, dtype=torch.bool)
    chances = theory.marginals(theory.condition_joint(joint, tokens.expand(n, n), seen), n)
    best = chances[torch.arange(n), torch.arange(n)].max(-1)
    return best.indices, best.values.masked_fill(pending.logical_not(), -1)


def chain(joint: Tensor, n: int, k: int) -> tuple[Tensor, list[int]]:
    """FreeDave as published, plainly: the answer, and how many drafts each forward after the first accepts.

    Drafts d_1 < … < d_K fill the n, 2n, … surest positions; each draft's target is one static step from it; from
    d_1 on, jump to the longest draft that the target of the one before agrees with.
    """

    def update(x: Tensor, guess: tuple[Tensor, Tensor], count: int) -> Tensor:
        best = guess[1].sort(descending=True, stable=True).indices[: min(count, int((x < 0).sum()))]
        return x.scatter(0, best, guess[0][best])

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        return marginals(joint, x.clamp(min=0), x < 0)

    x = torch.full((joint.dim(),), -1)
    guess, jumps = look(x), []
    while int((x < 0).sum()) > n:
        drafts = [update(x, guess, n * (j + 1)) for j in range(min(k, -(-int((x < 0).sum()) // n)))]
        guesses = [look(draft) for draft in drafts]
        targets = [update(draft, g, n) for draft, g in zip(drafts, guesses, strict=True)]
        best = 0
        while further := [j for j in range(best + 1, len(drafts)) if torch.equal(drafts[j], targets[best])]:
            best = max(further)
        jumps.append(int((x < 0).sum() - (drafts[best] < 0).sum()) // n)
        x, guess = drafts[best], guesses[best]
    return update(x, guess, n), jumps


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("n", "k"), [(1, 4), (1, 2), (2, 3)])
def test_the_published_chain_accepts_as_many(seed: int, n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    joint = torch.rand((3,) * 6, generator=generator, dtype=torch.float64) ** 4
    joint = joint / joint.sum()
    answer, jumps = chain(joint, n, k)
    strategy = Strategy(TopK(k=n), Whole(), Speculative(drafts=k, tokens=n))
    stream, (result,) = laws.run_batch(TabularModel(joint), [Request((0,), 6)], strategy)
    assert list(result.output_ids) == answer.tolist()
    served: list[int] = []
    for step in stream[1:]:
        served = [*served, 1] if int(step.queries[0]) else [*served[:-1], served[-1] + 1]
    # The published code also accepts a draft in which nothing is left to decide; ours makes none.
    complete = sum(jumps) * n >= 6
    assert served == [*jumps[:-1], jumps[-1] - 1] if complete else served == jumps


def test_on_the_embedded_model_forwards_fall() -> None:
    embedded = dllm.load("embedded", device="cpu")
    prompts = [problem.prompt for problem in islice(generate_examples("tests", held=True, kinds=("word",)), 3)]
    for cache in (NoCache(), PrefixCache()):
        static = Strategy(TopK(k=1), Blocks(), cache)
        slow = dllm.decode(embedded, prompts, static, max_new_tokens=48)
        fast = dllm.decode(embedded, prompts, speculating(static), max_new_tokens=48)
        assert [r.output_ids for r in fast] == [r.output_ids for r in slow]
        assert all(f.nfe < s.nfe and f.queries > s.queries for f, s in zip(fast, slow, strict=True))


def test_the_recipe_is_static_decoding() -> None:
    strategy = freedave(block=8, k=2)
    lossless(tiny_model("bidirectional"), replace(strategy, cache=strategy.cache.cache), drafts=4, tokens=2)  # type: ignore[attr-defined]


def test_a_planned_cache_does_what_it_plans_and_nothing_else() -> None:
    with pytest.raises(TypeError, match=r"Restless\.step: a PlannedCache runs what it plans"):

        class Restless(DualCache):
            def step(self, *args: Any) -> Any:
                return super().step(*args)


@dataclass(frozen=True)
class Unplanned(Cache):
    """A cache that says nothing beforehand."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Speculative(drafts=0), "drafts"),
        (lambda: Speculative(tokens=0), "tokens"),
        (lambda: Speculative(Speculative()), "cannot be foreseen"),
        (lambda: Speculative(Unplanned()), "cannot be foreseen"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_what_moved_is_forgotten() -> None:
    """By the inner cache, which refreshes the row, and as a draft."""
    m = tiny_model("bidirectional")
    canvas = make_canvas(m, REQUESTS)
    state = Speculative(DualCache()).init(canvas, m)
    state = state._replace(
        score=torch.zeros_like(state.score), inner=state.inner._replace(since=torch.ones(3, dtype=torch.int64))
    )
    moved = torch.arange(canvas.tokens.shape[1]).repeat(3, 1)
    moved[1, 14:] -= 1
    after = Speculative().forget(state, moved)
    assert after.inner.since.tolist() == [1, NEVER, 1]
    assert after.score.isinf().all(1).tolist() == [False, True, False]


def test_a_lane_of_a_row_that_has_grown_is_of_no_use() -> None:
    """The same tokens and columns, but other keys to look at."""
    m = tiny_model("bidirectional")
    canvas = make_canvas(m, REQUESTS)
    window, _ = Blocks(8).step(canvas, HostView.of(canvas), Blocks(8).init(canvas, m))
    assert window is not None
    ran = torch.zeros_like(canvas.rows.given)
    lanes = DraftLanes.blank(canvas)._replace(start=window.start, end=window.end, length=canvas.rows.length, ran=ran)
    assert lanes.fits(canvas, window, ran).tolist() == [True, True, True]
    grown = canvas._replace(rows=canvas.rows._replace(length=canvas.rows.length + torch.tensor([0, 1, 0])))
    assert lanes.fits(grown, window, ran).tolist() == [True, False, True]
    assert lanes.fits(canvas, window, ran.index_fill(0, torch.tensor([2]), True)).tolist() == [True, True, False]
