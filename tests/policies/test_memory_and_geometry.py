"""Policies that remember, or that look at where a slot lies, on boards worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dllm import (
    KLASS,
    CertaintyPrior,
    Confidence,
    ConfigError,
    Cosine,
    Dilated,
    EarlyCommit,
    Exponential,
    Linear,
    LocalLeap,
    Margin,
    RunHierarchy,
    Stairs,
    Threshold,
    TopK,
)
from dllm.signals import Probabilities
from tests.policies.board import accepted, board, committed, slots

N = None


# KLASS


def flips(*sure: float):
    """Marginals (1, k, 2) of which token 0 has these probabilities."""
    return torch.tensor([[[p, 1 - p] for p in sure]])


def watch(policy: KLASS, *views):
    """What a policy accepts in successive steps."""
    state = policy.init(views[0][0])
    found = []
    for _, window, guess in views:
        verdict, state = policy.step(guess, window, state)
        found.append(slots(verdict.accept)[0])
    return found


def seen(*sure: float | None, columns=None, t=8):
    """A board that shows a two-token marginal at every slot."""
    return board(list(sure), columns=columns, t=t, probabilities=flips(*[p or 0.0 for p in sure]))


def test_klass_waits_until_a_slot_is_calm() -> None:
    """KL(0.9 || 0.7) = 0.12, KL(0.8 || 0.8) = 0: slot 0 is calm from the third step, 1 never sure, 2 never calm."""
    views = [seen(0.8, 0.5, 0.9), seen(0.8, 0.5, 0.7), seen(0.8, 0.5, 0.9), seen(0.8, 0.5, 0.7)]
    assert watch(KLASS(tau=0.6, kl=0.01), *views) == [[], [], [0], [0]]
    assert watch(KLASS(tau=0.6, kl=0.01, history=1), *views) == [[], [0], [0], [0]]
    assert watch(KLASS(tau=0.6, kl=9.0), *views) == [[], [], [0, 2], [0, 2]]
    assert watch(KLASS(tau=0.4, kl=0.01), *views)[2] == [0, 1]
    assert watch(KLASS(tau=0.6, kl=0.0), *views) == [[]] * 4  # no change at all is not less than 0


def test_klass_measures_the_change_from_before_to_now() -> None:
    forward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    for kl, want in ((forward + 1e-4, [0]), (forward - 1e-4, [])):
        assert watch(KLASS(tau=0.6, kl=kl, history=1), seen(0.5), seen(0.9))[1] == want
    assert watch(KLASS(tau=0.6, kl=1e9, history=1), seen(1.0), seen(0.9))[1] == []  # impossible before: infinite


def test_klass_starts_anew_where_the_chain_breaks() -> None:
    """A change interrupts the count, and so does a step in which the column was not looked at."""
    policy = KLASS(tau=0.6, kl=0.01)
    assert watch(policy, seen(0.8), seen(0.8), seen(0.9), seen(0.9), seen(0.9)) == [[], [], [], [], [0]]
    here, there = seen(0.8, columns=[1]), seen(0.8, columns=[2])
    assert watch(policy, here, here, there, here, here, here) == [[], [], [], [], [], [0]]


def test_klass_follows_columns_when_the_window_moves() -> None:
    """The same column at another slot, in a window of another width, with another slot decided."""
    a, b = seen(0.7, 0.8, 0.9, columns=[2, 3, 4]), seen(0.8, 0.9, columns=[3, 4])
    c = seen(N, N, 0.9, 0.7, columns=[2, 3, 4, 5])
    assert watch(KLASS(tau=0.6, kl=0.01, history=2), a, b, c) == [[], [], [2]]
    assert watch(KLASS(tau=0.6, kl=0.01, history=1), a, b, c) == [[], [0, 1], [2]]


def test_klass_without_anything_pending() -> None:
    canvas, window, guess = board([N, N], t=4, probabilities=torch.zeros(1, 2, 5))
    policy = KLASS()
    verdict, state = policy.step(guess, window, policy.init(canvas))
    assert not verdict.accept.any() and (state.place == -1).all()
    assert policy.needs == (Probabilities(),)


# LocalLeap


@pytest.mark.parametrize(
    ("radius", "relaxed", "want"),
    [(0, 0.5, [2]), (1, 0.5, [1, 2]), (2, 0.5, [0, 1, 2, 4]), (2, 0.65, [0, 2]), (9, 0.5, [0, 1, 2, 4, 5])],
)
def test_local_leap(radius: int, relaxed: float, want: list[int]) -> None:
    view = board([0.7, 0.6, 0.95, N, 0.55, 0.6])
    assert accepted(LocalLeap(0.9, relaxed, radius), view) == [want]


def test_local_leap_counts_columns_not_slots() -> None:
    view = board([0.95, 0.8, 0.8], columns=[0, 2, 3])
    assert accepted(LocalLeap(0.9, 0.75, 1), view) == [[0]]
    assert accepted(LocalLeap(0.9, 0.75, 2), view) == [[0, 1]]


def test_local_leap_without_an_anchor_takes_the_best() -> None:
    assert committed(LocalLeap(), board([0.8, 0.85, 0.5])) == [[1]]
    decided = board([N, 0.85])  # a decided neighbour is no anchor
    assert accepted(LocalLeap(), decided) == [[]]


def test_local_leap_rows_are_their_own() -> None:
    assert accepted(LocalLeap(), board([0.95, 0.8], [0.8, 0.8])) == [[0, 1], []]


# RunHierarchy


def test_run_hierarchy() -> None:
    """Runs 0-2, 4-5 and 7: the best of each, if above 0.4, and whatever is above 0.9."""
    view = board([0.5, 0.6, 0.91, N, 0.3, 0.35, N, 0.45])
    assert accepted(RunHierarchy(), view) == [[2, 7]]
    assert accepted(RunHierarchy(tau=0.55), view) == [[1, 2, 7]]
    assert accepted(RunHierarchy(low=0.3), view) == [[2, 5, 7]]
    assert accepted(RunHierarchy(low=0.0), view) == [[2, 5, 7]]
    assert committed(RunHierarchy(), board([0.1, 0.2, N, 0.3])) == [[3]]


def test_run_hierarchy_ties_and_gaps() -> None:
    assert accepted(RunHierarchy(), board([0.5, 0.5, 0.5])) == [[0]]
    assert accepted(RunHierarchy(), board([0.5, 0.5, 0.5], columns=[0, 1, 5])) == [[0, 2]]
    assert accepted(RunHierarchy(), board([0.5, 0.6], [N, 0.6])) == [[1], [1]]


# Dilated


def rounds(policy: Dilated, b: int, **kwargs) -> list[list[int]]:
    left, found = [0.5] * b, []
    while any(x is not None for x in left):
        (now,) = accepted(policy, board(left, **kwargs))
        assert now, f"{policy} stands still with {found} done"
        found.append(now)
        left = [None if i in now else x for i, x in enumerate(left)]
    return found


def test_dilated() -> None:
    assert rounds(Dilated(), 8) == [[0, 4], [2, 6], [1, 3, 5, 7]]
    assert rounds(Dilated(), 8, columns=range(3, 11)) == [[0, 4], [2, 6], [1, 3, 5, 7]]
    assert rounds(Dilated(4), 16) == [[0, 4, 8, 12], [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15]]
    assert rounds(Dilated(), 10) == [[0, 5], [2, 4, 6, 8], [1, 3, 7, 9]]
    assert rounds(Dilated(), 7) == [[0, 3, 6], [1, 2, 4, 5]]
    assert rounds(Dilated(8), 8) == rounds(Dilated(99), 8) == [list(range(8))]
    assert rounds(Dilated(), 1) == [[0]]


@pytest.mark.parametrize("base", [2, 3, 4, 7])
def test_dilated_is_done_in_so_many_rounds(base: int) -> None:
    for b in range(1, 40):
        found = rounds(Dilated(base), b)
        assert sorted(i for now in found for i in now) == list(range(b))
        assert len(found) <= max(1, math.ceil(math.log(b, base) - 1e-9))
        assert base > b or all(y - x >= b // base for x, y in zip(found[0], found[0][1:], strict=False))


def test_dilated_skips_rounds_that_others_have_done() -> None:
    assert accepted(Dilated(), board([N, 0.5, 0.5, 0.5, N, 0.5, 0.5, 0.5])) == [[2, 6]]
    assert accepted(Dilated(), board([N, 0.5, N, 0.5], [0.5, 0.5, 0.5, 0.5])) == [[1, 3], [0, 2]]


def test_dilated_puts_off_what_is_unsure() -> None:
    """Eight columns, of which 4 and 2 are unsure: 4 is seen again with 2 and 6, both with the last round."""
    policy, state, found = Dilated(2, tau=0.4), None, []
    left = [0.5, 0.5, 0.3, 0.5, 0.3, 0.5, 0.5, 0.1]
    for _ in range(3):
        canvas, window, guess = board(left)
        verdict, state = policy.step(guess, window, policy.init(canvas) if state is None else state)
        found.append(slots(verdict.accept)[0])
        left = [None if i in found[-1] else x for i, x in enumerate(left)]
    assert found == [[0], [6], [1, 2, 3, 4, 5, 7]]
    canvas, window, guess = board([0.3, 0.5, 0.5, 0.5, 0.35, 0.5, 0.5, 0.5])
    assert committed(Dilated(2, tau=0.4), (canvas, window, guess)) == [[4]]  # none is sure: the best of the round
    assert committed(Dilated(2, tau=0.3), (canvas, window, guess)) == [[0, 4]]


def test_dilated_looks_again_before_the_last_round() -> None:
    policy = Dilated(2, tau=0.4)
    canvas, window, guess = board([0.5, 0.5, 0.5, 0.5, 0.3, 0.5, 0.5, 0.5])
    _, state = policy.step(guess, window, policy.init(canvas))
    _, window, guess = board([N, 0.5, 0.5, 0.5, 0.6, 0.5, 0.5, 0.5])
    assert accepted(policy, (canvas, window, guess), state) == [[2, 4, 6]]


# CertaintyPrior


def density(prior: CertaintyPrior, pending, length=None):
    pending = torch.tensor(pending, dtype=torch.bool)
    length = torch.tensor(length or [pending.shape[1]] * len(pending)).unsqueeze(1)
    return prior._decided_density(pending, length)


def test_density_by_hand() -> None:
    """Weights 1, e^-1/2 and e^-2, e^-9/2 up to three columns off, over a prompt of one and three pending columns."""
    w = [math.exp(-0.5 * i * i) for i in range(4)]
    total = w[0] + 2 * sum(w[1:])
    (got,) = density(CertaintyPrior(sigma=1.0), [[0, 1, 1, 1]]).tolist()
    assert got[1] == pytest.approx((w[1] + w[2] + w[3]) / total, abs=1e-6)  # the prompt and all left of it
    assert got[2] == pytest.approx((w[2] + w[3]) / total, abs=1e-6)
    assert got[3] == pytest.approx(w[3] / total, abs=1e-6)
    (got,) = density(CertaintyPrior(sigma=1.0), [[0, 1, 1, 0]]).tolist()
    assert got[2] == pytest.approx((w[2] + w[3] + w[1] + w[2] + w[3]) / total, abs=1e-6)  # and right of the last
    assert density(CertaintyPrior(), [[0] * 5])[0].tolist() == pytest.approx([1] * 5)


def test_density_does_not_see_the_padding_of_a_row() -> None:
    (padded,) = density(CertaintyPrior(sigma=2.0), [[0, 1, 1, 0, 0, 0]], [3])
    (alone,) = density(CertaintyPrior(sigma=2.0), [[0, 1, 1]])
    torch.testing.assert_close(padded[:3], alone)


def test_text_grows_from_what_is_decided() -> None:
    even = board([N, 0.5, 0.5, 0.5, 0.5])
    assert accepted(CertaintyPrior(TopK(k=1)), even) == [[1]]
    assert accepted(CertaintyPrior(TopK(k=2), sigma=2.0), board([0.5, 0.5, 0.5, 0.5, N])) == [[0, 3]]
    far = board([N, 0.5, 0.5, 0.5, 0.9])
    assert accepted(CertaintyPrior(TopK(k=1), sigma=1.0), far) == [[1]]
    assert accepted(CertaintyPrior(TopK(k=1), sigma=99.0), far) == [[4]]
    assert accepted(CertaintyPrior(TopK(k=1, score=Margin()), sigma=1.0), far) == [[4]]  # only confidence is changed


def test_the_prior_remembers_the_canvas() -> None:
    """What lies right of the window is pending until it was shown decided; what lies left of it is decided."""
    canvas, _, _ = board([0.5] * 6)
    prior = CertaintyPrior(TopK(k=1), sigma=1.0)
    state = prior.init(canvas)
    _, window, guess = board([N, 0.5], columns=[2, 3], t=6)
    _, state = prior.step(guess, window, state)
    assert state.pending.tolist() == [[False, False, False, True, True, True]]
    _, window, guess = board([N, N], columns=[4, 5], t=6)
    window = window._replace(valid=torch.zeros_like(window.valid), columns=torch.full_like(window.columns, 6))
    _, state = prior.step(guess, window, state)  # a row with nothing to do shows nothing
    assert state.pending.tolist() == [[False, False, False, True, True, True]]


# EarlyCommit


def gaps(*values: float):
    """A board of slots whose logit gap log p1 - log p2 is given."""
    p2 = [0.9 / (1 + math.exp(g)) for g in values]
    return board([0.9 - p for p in p2], p2=[p2])


def test_early_commit_takes_the_rest_once_the_mean_gap_is_there() -> None:
    policy = EarlyCommit(TopK(k=1), Linear(4.0, 4.0))
    assert accepted(policy, gaps(1.0, 5.0, 5.9)) == [[2]]
    assert accepted(policy, gaps(1.0, 5.0, 6.1)) == [[0, 1, 2]]
    both = board([0.9, 0.9], [0.6, 0.5], p2=[[0.001, 0.001], [0.3, 0.3]])
    assert accepted(policy, both) == [[0, 1], [0]]


@pytest.mark.parametrize(
    ("curve", "want"),
    [
        (Stairs(), [7.5, 7.5, 5.0, 2.5, 2.5]),
        (Linear(), [7.5, 6.25, 5.0, 3.75, 2.5]),
        (Cosine(), [7.5, 5 + 2.5 * math.cos(math.pi / 4), 5.0, 5 - 2.5 * math.cos(math.pi / 4), 2.5]),
        (Exponential(), [2.5 + 5 * math.exp(-i) for i in range(5)]),
    ],
    ids=str,
)
def test_curves(curve, want: list[float]) -> None:
    assert curve(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])).tolist() == pytest.approx(want, abs=1e-5)


def test_early_commit_asks_less_the_more_is_decided() -> None:
    """Gaps of 4.5: at 7.5 - 5 share that is enough from three fifths of five slots on."""
    policy = EarlyCommit(TopK(k=1), Linear())
    canvas, window, _ = board([0.5] * 5)
    state, found = policy.init(canvas), []
    p2 = 0.9 / (1 + math.exp(4.51))
    for step in range(4):
        row = [N] * step + [0.9 - p2] * (5 - step)
        _, window, guess = board(row, step=step, p2=[[p2] * 5])
        verdict, state = policy.step(guess, window, state)
        found.append(slots(verdict.accept)[0])
    assert found == [[0], [1], [2], [3, 4]]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: KLASS(tau=-1), "tau"),
        (lambda: KLASS(kl=math.inf), "kl"),
        (lambda: KLASS(history=0), "history"),
        (lambda: LocalLeap(0.5, 0.6), "relaxed"),
        (lambda: LocalLeap(radius=-1), "radius"),
        (lambda: RunHierarchy(0.3, 0.4), "low"),
        (lambda: Dilated(1), "base"),
        (lambda: Dilated(tau=-0.1), "tau"),
        (lambda: CertaintyPrior(sigma=0), "sigma"),
        (lambda: EarlyCommit(curve="linear"), "curve"),
        (lambda: EarlyCommit(curve=Linear), "curve"),
    ],
)
def test_impossible_settings(make, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


def test_wrappers_ask_for_what_they_wrap() -> None:
    inner = KLASS()
    for wrapped in (CertaintyPrior(inner), EarlyCommit(inner)):
        assert wrapped.needs == (Probabilities(),) and not wrapped.paced
    assert Threshold(score=Confidence()).needs == ()
