"""What the loop makes of policies that edit: they end, touch nothing that was given, and are booked correctly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from dllm import (
    WINO,
    Blocks,
    ByConfidence,
    Capped,
    CertaintyPrior,
    ConfigError,
    DualCache,
    EarlyCommit,
    JointThreshold,
    Linear,
    NoCache,
    PrefixCache,
    ReMDM,
    Request,
    Saber,
    Sampling,
    Strategy,
    Whole,
    decode,
    theory,
)
from dllm.engine.commit import exclude_deferred_slots
from dllm.models.tabular import TabularModel
from dllm.signals import Entropy
from dllm.testing import laws
from dllm.types import Bidirectional, BlockCausal, Signal
from tests.policies.adversary import Restless, Script, Spiteful
from tests.tiny import STOP, tiny_model

REQUESTS = [
    Request((1, 2, 0, 1), max_new_tokens=11, seed=1),
    Request((2, 2, 1, 0, 1, 0, 2), max_new_tokens=6, seed=2),
    Request((0, 1, 2, 0, 1, 2), max_new_tokens=3, seed=3, holes=(2, 3)),
]
REVISING = [
    Saber(),
    Saber(1),
    WINO(0.3, 0.5),
    WINO(0.0, 2.0),
    JointThreshold(0.5, 0.0, post=4),
    JointThreshold(0.9, 0.3, post=1),
    ReMDM(7, Capped(0.5)),
    ReMDM(6, ByConfidence()),
    CertaintyPrior(JointThreshold(0.5, 0.2, post=2), sigma=2.0),
    EarlyCommit(WINO(0.3, 2.0), Linear(4.5, 3.0)),
]
PLACES = [
    (Blocks(4), NoCache()),
    (Blocks(8, sub_block=2), DualCache()),
    (Blocks(8, sub_block=4), PrefixCache(refresh=2)),
    (Blocks(4, first_alone=True), DualCache(refresh=3)),
    (Whole(), NoCache()),
    (Whole(), DualCache()),
]
GEOMETRIES = [(Bidirectional(), 0), (Bidirectional(), 1), (BlockCausal(8), 0), (BlockCausal(8), 1)]


def longest(stream) -> torch.Tensor:
    """Steps (b,) of the longest range of each row."""
    steps = [torch.where(s.window.end > s.window.start, s.window.step + 1, 0) for s in stream]
    return torch.stack(steps).amax(0)


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("policy", REVISING, ids=str)
@pytest.mark.parametrize("flips", [False, True])
def test_ends_within_its_bound_though_nothing_ever_settles(policy, place, flips: bool) -> None:
    scheduler, cache = place
    seed = REVISING.index(policy) + 2 * PLACES.index(place) + flips  # so that each place meets all geometries
    geometry, shift = GEOMETRIES[seed % 4]
    if isinstance(geometry, BlockCausal):
        geometry = BlockCausal(scheduler.size or 8)
    m = Restless(seed, flips=flips, geometry=geometry, needs_left=shift)
    strategy = Strategy(policy, scheduler, cache)
    stream, results = laws.run_batch(m, REQUESTS, strategy)
    columns = torch.stack([s.window.end - s.window.start for s in stream]).amax(0)
    assert (longest(stream) <= policy.bound(columns)).all()
    laws.rows_finish_in_time(m, REQUESTS, strategy, stream)
    laws.every_step_progresses(stream, isinstance(policy, ReMDM))
    laws.decided_stays(m, REQUESTS, strategy, stream)
    laws.windows_tile(m, REQUESTS, strategy, stream)
    laws.rows_are_independent(m, REQUESTS, strategy, results)


def test_the_adversary_is_one() -> None:
    """Each policy does take back or replace in front of it, and a joint threshold uses up all its steps."""
    for policy in REVISING:
        streams = [
            laws.run_batch(Restless(flips=f), REQUESTS, Strategy(policy, Whole(), NoCache()))[0] for f in (False, True)
        ]
        edits = sum(int(s.revoke.sum() + (s.commit & ~s.window.pending).sum()) for x in streams for s in x)
        assert edits >= 3, policy
    strategy = Strategy(JointThreshold(0.5, 0.0, post=4), Whole(), NoCache())
    _, results = laws.run_batch(Restless(flips=True), REQUESTS[:1], strategy)
    assert results[0].nfe == 1 + 4 and results[0].output_ids == (4 % 3,) * 11 and set(results[0].when) == {5}


@pytest.mark.parametrize("commit", [False, True])
def test_the_loop_bounds_a_policy_that_never_ends(commit: bool) -> None:
    """It may undo its work for 5 steps a range, and has to let the row go in the sixth."""
    for geometry in (Bidirectional(), BlockCausal(4)):
        if commit and isinstance(geometry, Bidirectional):
            continue
        m = Restless(geometry=geometry)
        strategy = Strategy(Spiteful(5), Blocks(4, commit=commit), DualCache())
        stream, results = laws.run_batch(m, REQUESTS, strategy)
        laws.decided_stays(m, REQUESTS, strategy, stream)
        laws.windows_tile(m, REQUESTS, strategy, stream)
        laws.rows_are_independent(m, REQUESTS, strategy, results)
        ranges = [3, 2, 2] if isinstance(geometry, Bidirectional) else [3, 3, 3]
        assert (longest(stream) == 6).all()
        assert [r.nfe for r in results] == [6 * n for n in ranges] or commit


def test_what_was_given_is_not_the_policys_to_judge() -> None:
    stream, _ = laws.run_batch(Restless(), REQUESTS, Strategy(Spiteful(3), Whole(), NoCache()))
    for step in stream:
        given = step.window.take(step.canvas.rows.given) & step.window.valid
        assert not (step.window.answer & given).any() and not ((step.commit | step.revoke) & given).any()
    for row, request in enumerate(REQUESTS):
        kept = [t for i, t in enumerate(request.prompt) if i not in request.holes]
        where = [i for i in range(len(request.prompt)) if i not in request.holes]
        assert stream[-1].canvas.tokens[row, where].tolist() == kept


def test_what_a_scheduler_puts_off_is_neither_pending_nor_decided() -> None:
    """`Scheduler.refine` may take pending slots from a window; an editing policy must not see them as decided."""
    stream, _ = laws.run_batch(Restless(), REQUESTS[:1], Strategy(Script(((0,), ())), Whole(), NoCache()))
    window, canvas = stream[1].window, stream[0].canvas
    fewer = window.pending & (torch.arange(window.pending.shape[1]) < 4)
    seen = exclude_deferred_slots(window._replace(pending=fewer), canvas)
    assert seen.answer.sum() == 4 and not seen.answer[0, 4:].any()
    assert exclude_deferred_slots(window, canvas).answer.equal(window.answer)


def test_a_policy_that_edits_needs_to_see_what_it_edits() -> None:
    @dataclass(frozen=True)
    class Blind(Spiteful):
        needs: ClassVar[tuple[Signal, ...]] = (Entropy(),)

    with pytest.raises(
        ConfigError, match=r"Blind\(patience=5\) edits, so its needs must include a signal of decided slots"
    ):
        Strategy(Blind(), Whole(), NoCache())


# the ledger


def booked(model: Any, script: Script, columns: int = 4):
    stream, (result,) = laws.run_batch(model, [Request((0,), columns, seed=0)], Strategy(script, Whole(), NoCache()))
    return stream, result


def sure(n: int) -> TabularModel:
    return TabularModel(theory.product_joint(torch.tensor([[0.98, 0.02]] * n, dtype=torch.float64)))


def test_what_is_revoked_is_booked_anew() -> None:
    script = Script(((0, 1), (2, 3), (), (0,)), ((), (0,), (), ()), hold=3)
    stream, result = booked(sure(4), script)
    before, after, end = (stream[i].ledger for i in (0, 1, -1))
    assert before.when[0, 1:].tolist() == [1, 1, 0, 0] and before.certified[0, 1:].int().tolist() == [1, 1, 0, 0]
    assert after.when[0, 1:].tolist() == [0, 1, 2, 2] and after.certified[0, 1:].int().tolist() == [0, 1, 1, 1]
    assert not after.parallel[0, 1]
    assert end.when[0, 1:].tolist() == [3, 1, 2, 2]  # the loop commits what alone is left
    assert end.certified[0, 1:].int().tolist() == [0, 1, 1, 1]
    assert (result.when, result.parallel, result.certified, result.nfe) == ((3, 1, 2, 2), 3, 3, 4)
    assert stream[1].canvas.tokens[0, 1] == 2 and stream[1].canvas.pending[0, 1]  # the mask again


def test_what_is_committed_and_revoked_at_once_was_neither() -> None:
    stream, result = booked(sure(3), Script(((0, 1), (0, 1, 2)), ((1,),)), columns=3)
    assert stream[0].commit[0].tolist() == [True, False, False] and stream[0].revoke[0].tolist() == [False, True, False]
    assert stream[0].ledger.when[0, 1:].tolist() == [1, 0, 0] and not stream[0].ledger.certified.any()
    assert result.when == (1, 2, 2)


def test_a_replacement_is_booked_when_it_is_made_and_never_certified() -> None:
    stream, result = booked(Restless(flips=True, words=2), Script(((0, 1, 2, 3), (0, 1), (1,)), hold=2))
    assert stream[0].ledger.when[0, 1:].tolist() == [1, 1, 1, 1] and stream[0].ledger.certified[0, 1:].all()
    assert stream[1].commit[0].tolist() == [True, True, False, False] and not stream[1].window.pending.any()
    assert (result.output_ids, result.when) == ((1, 0, 0, 0), (2, 3, 1, 1))
    assert stream[-1].ledger.certified[0, 1:].tolist() == [False, False, True, True]
    assert (result.parallel, result.certified) == (2, 2)
    settled, _ = booked(sure(4), Script(((0, 1, 2, 3), (0, 1, 2, 3)), hold=1))
    assert not settled[1].commit.any()  # the same token again is no replacement
    assert settled[1].ledger.when[0, 1:].tolist() == [1, 1, 1, 1]


# ends of text


def test_an_end_counts_when_nothing_can_take_it_back() -> None:
    """All predict the end token 0 at once; it stands after the first step, and is replaced or revoked later."""
    request = Request((1,), 4, stop_ids=(0,))
    flips = Restless(flips=True, words=2)
    for script, want in [
        (Script(((0, 1), (0,), (2,), (3,)), hold=3), (1, 0)),
        (Script(((0,), (0,), (1,)), hold=2), (1, 1, 0)),  # replaced twice, and the text goes on behind it
        (Script(((0,), (), (0, 1, 2, 3)), ((), (0,)), hold=2), (0,)),
        (Script(((0,), (1,))), (0,)),
    ]:
        stream, (result,) = laws.run_batch(flips, [request], Strategy(script, Whole(), NoCache()))
        assert result.output_ids == want and result.stopped
        assert len(stream) == script.hold + 1


def test_revising_policies_hold_their_row_until_the_range_is_written() -> None:
    m = tiny_model("bidirectional")
    requests = [Request((5, 2, 8, 8), 16, seed=i, stop_ids=tuple(range(0, STOP, 3))) for i in range(4)]
    for policy in (Saber(), WINO(0.3, 0.3), ReMDM(6, Capped(0.3)), JointThreshold(0.4, 0.3, post=2)):
        stream, _ = laws.run_batch(m, requests, Strategy(policy, Blocks(8), NoCache()))
        for step in stream:
            left = step.window.take(step.canvas.pending & ~step.window.closed.unsqueeze(1)) & step.window.valid
            assert step.canvas.held[left.any(1)].all(), policy


@pytest.mark.parametrize("policy", REVISING, ids=str)
def test_a_row_that_takes_a_finished_ones_place_starts_afresh(policy) -> None:
    requests = [*REQUESTS, Request((2, 0, 1), 9, seed=4, stop_ids=(0,)), Request((0, 0, 1, 1), 5, seed=5)]
    strategy = Strategy(policy, Blocks(4), DualCache())
    want, got = (decode(Restless(5), requests, strategy, batch_size=size) for size in (1, 2))
    assert [(r.output_ids, r.nfe, r.when) for r in got] == [(r.output_ids, r.nfe, r.when) for r in want]


# sampling


@pytest.mark.parametrize("policy", REVISING, ids=str)
def test_sampled_rows_do_not_depend_on_their_neighbours(policy) -> None:
    strategy = Strategy(policy, Blocks(4), DualCache(), Sampling(1.0))
    _, results = laws.run_batch(Restless(3), REQUESTS, strategy)
    laws.rows_are_independent(Restless(3), REQUESTS, strategy, results)
    _, other = laws.run_batch(
        Restless(3), [Request(r.prompt, r.max_new_tokens, seed=99) for r in REQUESTS[:2]], strategy
    )
    assert [r.output_ids for r in results[:2]] != [r.output_ids for r in other]
