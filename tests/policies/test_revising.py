"""Policies that take back or replace what they decided, on boards worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dllm import (
    WINO,
    ByConfidence,
    Capped,
    CertaintyPrior,
    ConfigError,
    EarlyCommit,
    EqualSplit,
    JointThreshold,
    Linear,
    RemaskLoop,
    ReMDM,
    Rescaled,
    Saber,
    TopK,
)
from dllm.signals import Current
from tests.policies.board import board, slots

N = None


def judged(policy, view, state=None):
    """Slots of the first row that a policy accepts and revokes, whether it holds the row, and its state."""
    canvas, window, guess = view
    verdict, state = policy.step(guess, window, policy.init(canvas) if state is None else state)
    revoke = slots(verdict.revoke)[0] if verdict.revoke is not None else []
    return slots(verdict.accept)[0], revoke, bool(verdict.hold[0]), state


def known(*sure, pending=None, **more):
    """A board whose slots all show a confidence, decided or not; `pending` lists those that are pending."""
    pending = range(len(sure)) if pending is None else pending
    row = [c if i in pending else N for i, c in enumerate(sure)]
    return board(row, answer=True, confidence=[list(map(float, sure))], **more)


# Saber


def test_saber_asks_for_more_than_the_average_of_what_it_wrote() -> None:
    policy = Saber()
    accept, revoke, hold, state = judged(policy, known(0.6, 0.7, 0.8, 0.9, 0.5))
    assert (accept, hold) == ([2, 3], True)  # nothing written yet: the best two
    assert revoke == [2]  # of the two written, which both gained over 0, the one that gained least
    view = known(0.6, 0.9, 0.86, 0.9, 0.88, pending=[0, 1, 2, 4], step=1)
    accept, revoke, _, state = judged(policy, view, state)
    assert accept == [1, 2, 4]  # above the mean of 0.8 and 0.9, though what had 0.8 was revoked
    assert revoke == [3]  # it alone gained nothing: 0, against 0.2, 0.06 and 0.38
    assert state.written[0].tolist() == pytest.approx([-1, 0.9, 0.86, 0.9, 0.88])


def test_saber_takes_the_best_where_too_few_are_above() -> None:
    _, _, _, state = judged(Saber(), known(0.6, 0.7, 0.8, 0.9, 0.5))
    view = known(0.6, 0.9, 0.8, 0.9, 0.1, pending=[0, 1, 2, 4], step=1)
    assert judged(Saber(), view, state)[0] == [1, 2]  # only 0.9 is above 0.85: then the best two


@pytest.mark.parametrize(
    ("n", "written", "back"), [(2, 2, 1), (2, 8, 1), (2, 9, 2), (2, 17, 3), (1, 1, 0), (1, 2, 1), (6, 7, 3), (9, 9, 4)]
)
def test_saber_revokes_a_share_of_what_it_writes(n: int, written: int, back: int) -> None:
    accept = torch.arange(30).unsqueeze(0) < written
    assert Saber(n)._count_to_revoke(accept, torch.ones_like(accept)).tolist() == [back]
    assert Saber(n)._count_to_revoke(accept, accept).tolist() == [0]  # nothing is left to decide


def test_saber_fills_the_window_without_taking_back() -> None:
    assert judged(Saber(), known(0.3, 0.2, 0.9, pending=[0, 1]))[:3] == ([0, 1], [], False)
    assert judged(Saber(8), known(0.3, 0.2, 0.9))[:3] == ([0, 1, 2], [], False)
    assert judged(Saber(), known(0.3, 0.2, pending=[]))[:3] == ([], [], False)


# WINO


def verified(sure, shadow, pending, step=0):
    return known(*sure, pending=pending, shadow=[list(map(float, shadow))], step=step)


def test_wino_drafts_and_verifies() -> None:
    policy = WINO()
    view = verified([0.7, 0.61, 0.6, 0, 0, 0], [0, 0, 0, 0.95, 0.85, 0.3], [0, 1, 2])
    assert judged(policy, view)[:3] == ([0, 1], [4, 5], True)
    assert judged(WINO(verify=0.5), view)[:3] == ([0, 1], [5], True)
    assert judged(WINO(verify=0.0), view)[:3] == ([0, 1], [], False)


def test_wino_takes_nothing_back_after_a_single_draft() -> None:
    view = verified([0.7, 0.6, 0, 0], [0, 0, 0.1, 0.1], [0, 1])
    assert judged(WINO(), view)[:2] == ([0], [])
    view = verified([0.5, 0.6, 0, 0], [0, 0, 0.1, 0.1], [0, 1])
    assert judged(WINO(), view)[:2] == ([], [])  # the loop commits one


def test_wino_revokes_fewer_than_it_committed_last() -> None:
    policy = WINO()
    first = verified([0.7, 0.7, 0.7, 0.1, 0.1, 0, 0], [0, 0, 0, 0, 0, 0.1, 0.1], [0, 1, 2, 3, 4])
    accept, revoke, _, state = judged(policy, first)
    assert (accept, revoke) == ([0, 1, 2], [5, 6])
    second = verified([0] * 3 + [0.7, 0.7, 0.9, 0.9], [0.5, 0.2, 0.3, 0, 0, 0, 0], [3, 4, 5, 6], step=1)
    accept, revoke, _, state = judged(policy, second, state)
    assert (accept, revoke) == ([3, 4, 5, 6], [1, 2])  # three were committed: two may go, the least likely
    assert state.tolist() == [4]
    assert judged(policy, first, torch.tensor([1]))[1] == [5, 6]  # a new range, whatever the last one ended with


@pytest.mark.parametrize(("pending", "cap"), [(3, 3), (6, 5), (8, 5), (9, 6), (20, 14), (28, 19), (29, 20), (60, 20)])
def test_wino_caps_its_drafts(pending: int, cap: int) -> None:
    sure = [0.7 + 0.2 * i / pending for i in range(pending)]
    accept = judged(WINO(), verified(sure, [0.0] * pending, range(pending)))[0]
    assert accept == list(range(pending - cap, pending))


# JointThreshold


def seen(candidates, sure, pending, step=0):
    return known(*sure, pending=pending, tokens=[candidates], step=step)


def test_joint_threshold_writes_and_replaces() -> None:
    """The canvas of a board holds zeros: slots 2 to 4 are decided, 3 and 4 seen as something else now."""
    policy = JointThreshold()
    view = seen([5, 6, 0, 7, 8], [0.71, 0.7, 0.9, 0.51, 0.5], [0, 1])
    assert judged(policy, view)[:3] == ([0, 3], [], True)
    assert judged(JointThreshold(0.5, 0.0), view)[0] == [0, 1, 3, 4]
    assert judged(JointThreshold(0.7, 1.0), view)[:3] == ([0], [], False)


def test_joint_threshold_knows_what_it_wrote() -> None:
    policy = JointThreshold()
    _, _, _, state = judged(policy, seen([5, 6], [0.9, 0.1], [0, 1]))
    assert judged(policy, seen([5, 6], [0.9, 0.9], [], step=1), state)[:3] == ([], [], False)  # also what was forced
    accept, _, hold, state = judged(policy, seen([4, 6], [0.9, 0.9], [], step=1), state)
    assert (accept, hold) == ([0], True)
    assert judged(policy, seen([4, 6], [0.9, 0.9], [], step=2), state)[:3] == ([], [], False)


def test_joint_threshold_gives_up_after_so_many_steps() -> None:
    policy = JointThreshold(post=3)
    state, held = None, []
    for step in range(5):
        _, _, hold, state = judged(policy, seen([step + 1], [0.9], [0] if step == 0 else [], step=step), state)
        held.append(hold)
    assert held == [True, True, True, False, False]
    assert judged(JointThreshold(post=0), seen([1, 0], [0.9, 0.9], [0]))[2] is False


# ReMDM


def drawn(policy, noise, pending, step, sure=None):
    k = len(noise)
    view = known(*(sure or [0.5] * k), pending=pending, noise=[noise], step=step)
    return judged(policy, view)


def test_remdm_follows_the_time() -> None:
    """Four steps of a quarter: the second goes from 3/4 to 1/2, and without remasking a third of the pending go."""
    origin = ReMDM(4, Capped(0.0))
    assert drawn(origin, [0.33, 0.34, 0.0, 0.9], [0, 1], 1)[:3] == ([0], [], False)
    assert drawn(origin, [0.24, 0.26], [0, 1], 0)[0] == [0]
    assert drawn(origin, [0.49, 0.51], [0, 1], 2)[0] == [0]
    assert drawn(origin, [0.99, 0.9], [0, 1], 3)[:3] == ([0, 1], [], False)


def test_remdm_gives_back_in_commits_what_it_revokes() -> None:
    """From 1/4 to 1/2 decided with sigma 0.2: (1/2 - 0.8/4) / (3/4) = 0.4 of the pending slots go."""
    assert drawn(ReMDM(4, Capped(0.2)), [0.39, 0.41, 0.19, 0.21], [0, 1], 1)[:3] == ([0], [2], True)
    most = ReMDM(4, Rescaled(1.0))  # from 1/2 to 3/4: sigma (1 - 3/4) / (1/2) = 1/2, commits (3/4 - 1/4) / (1/2) = 1
    assert drawn(most, [0.99, 0.49, 0.51], [0], 2)[:2] == ([0], [1])
    assert drawn(ReMDM(4, Rescaled(0.5)), [0.74, 0.76, 0.24, 0.26], [0, 1], 2)[:2] == ([0], [2])
    assert drawn(ReMDM(4, Capped(1.0)), [0.5, 0.0], [0], 3)[:3] == ([0], [], False)  # the last step takes nothing back


def test_remdm_by_confidence_takes_back_what_was_least_sure() -> None:
    """Sigma is 1/2 of softmax(-psi) between the two decided slots, which were committed at 0.9 and 0.1."""
    policy = ReMDM(4, ByConfidence())
    _, _, _, state = drawn(policy, [0.9, 0.9, 0.9], [0, 1, 2], 0, sure=[0.9, 0.1, 0.3])
    first, second = (0.5 * math.exp(-p) / (math.exp(-0.9) + math.exp(-0.1)) for p in (0.9, 0.1))
    for psi, want in (((first - 0.01, second - 0.01), [0, 1]), ((first + 0.01, second + 0.01), [])):
        view = known(0.2, 0.2, 0.2, pending=[2], noise=[[*psi, 0.49]], step=2)
        assert judged(policy, view, state)[:2] == ([2], want)
    assert judged(policy, known(0.2, 0.2, 0.2, pending=[2], noise=[[1, 1, 0.51]], step=2), state)[0] == []


def test_remdm_loop() -> None:
    """Ten steps: half of the tokens by 1/2, as many between 1/2 and 1/10, then the rest."""
    policy = ReMDM(10, Capped(0.2), RemaskLoop(0.5, 0.1, 0.5), eps=1e-6)
    assert drawn(policy, [0.099, 0.101, 0.0], [0, 1], 0)[:2] == ([0], [])
    assert drawn(policy, [0.199, 0.201, 0.199, 0.201], [0, 1], 7)[:2] == ([0], [2])
    assert drawn(policy, [0.9, 0.0], [0], 9)[:2] == ([0], [])
    times = torch.linspace(0, 1, 101)
    alpha = policy.loop.alpha(times)
    assert (alpha[:-1] >= alpha[1:] - 1e-6).all() and alpha[0] == 1 and alpha[-1] == 0
    assert (alpha[:-1] - alpha[1:]).max() < 0.06  # without a jump


# all of them


@pytest.mark.parametrize("policy", [Saber(), WINO(), JointThreshold(), ReMDM(4)], ids=str)
def test_rows_with_nothing_to_do_are_let_go(policy) -> None:
    canvas, window, guess = known(0.5, 0.5, pending=[], shadow=[[0.0, 0.0]], noise=[[0.0, 0.0]])
    nothing = torch.zeros_like(window.valid)
    window = window._replace(valid=nothing, answer=nothing, step=torch.tensor([3]))
    verdict, _ = policy.step(guess, window, policy.init(canvas))
    assert not verdict.accept.any() and not verdict.hold.any()
    assert verdict.revoke is None or not verdict.revoke.any()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Saber(0), "n must"),
        (lambda: WINO(tau=-0.1), "tau"),
        (lambda: WINO(verify=math.nan), "verify"),
        (lambda: JointThreshold(edit=-1), "edit"),
        (lambda: JointThreshold(post=-1), "post"),
        (lambda: ReMDM(0), "steps"),
        (lambda: ReMDM(eps=0.0), "eps"),
        (lambda: Capped(1.1), "eta"),
        (lambda: Rescaled(-0.1), "eta"),
        (lambda: RemaskLoop(0.1, 0.2), "t_off < t_on"),
        (lambda: RemaskLoop(alpha_on=1.0), "alpha_on"),
    ],
)
def test_impossible_settings(make, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


def test_a_wrapper_is_what_it_wraps() -> None:
    columns = torch.tensor([7])
    for wrapped in (CertaintyPrior(JointThreshold(post=4)), EarlyCommit(CertaintyPrior(JointThreshold(post=4)))):
        assert wrapped.edits and wrapped.needs == (Current(),) and not wrapped.paced
        assert wrapped.bound(columns).tolist() == [11]
    for plain in (CertaintyPrior(TopK(pace=EqualSplit())), EarlyCommit(TopK(pace=EqualSplit()))):
        assert plain.paced and not plain.edits


def test_early_commit_takes_nothing_back_once_it_is_certain() -> None:
    view = verified([0.9, 0.9, 0, 0], [0, 0, 0.1, 0.1], [0, 1])
    assert judged(WINO(), view)[:2] == ([0, 1], [2, 3])
    assert judged(EarlyCommit(WINO(), Linear(0.0, 0.0)), view)[:3] == ([0, 1], [], False)
    assert judged(EarlyCommit(WINO(), Linear(99.0, 99.0)), view)[:3] == ([0, 1], [2, 3], True)
