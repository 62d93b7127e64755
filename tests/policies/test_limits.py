"""Degenerate limits: at the end of its range a policy is a simpler one, step for step, through the real loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from dllm import (
    KLASS,
    WINO,
    Blocks,
    Capped,
    CertaintyPrior,
    Certified,
    DecayingThreshold,
    Dilated,
    DualCache,
    EarlyCommit,
    EntropyBound,
    EntropyThreshold,
    EqualSplit,
    ErrorBudget,
    Factor,
    JointThreshold,
    LeftToRight,
    Linear,
    LocalLeap,
    Margin,
    NegativeEntropy,
    NoCache,
    Peak,
    PositionCalibrated,
    ReMDM,
    Request,
    Rescaled,
    RunHierarchy,
    Saber,
    SequenceBudget,
    Strategy,
    Threshold,
    TopK,
    Whole,
)
from dllm.signals import Noise
from dllm.testing import laws
from dllm.types import Policy, Signal, Verdict
from tests.tiny import STOP, tiny_model

REQUESTS = [
    Request((3, 7, 1, 22, 9), max_new_tokens=13, seed=1),
    Request((5, 2, 8, 8, 8, 1, 0, 4, 17, 20, 11), max_new_tokens=9, seed=2, stop_ids=(STOP,)),
]
LARGE = 1e9
EVERYTHING, ONE = Threshold(0.0), TopK(k=1)


@dataclass(frozen=True)
class After(Policy):
    """One slot a step until step `wait` of a window, then `policy`."""

    wait: int
    policy: Any
    needs: ClassVar[tuple[Signal, ...]] = ()

    def init(self, canvas, /):
        return None

    def step(self, guess, window, state, /):
        verdict, _ = self.policy.step(guess, window, None)
        return verdict._replace(accept=verdict.accept & (window.step >= self.wait).unsqueeze(1)), state


@dataclass(frozen=True)
class Capped20(Policy):
    """A strict threshold for at most min(max(⌊0.7 n⌋, 5), 20) of n pending slots."""

    tau: float
    needs: ClassVar[tuple[Signal, ...]] = ()

    def init(self, canvas, /):
        return None

    def step(self, guess, window, state, /):
        accept = torch.zeros_like(window.pending)
        for row, pending in enumerate(window.pending):
            good = [i for i in pending.nonzero().flatten().tolist() if guess.confidence[row, i] > self.tau]
            cap = min(max(int(0.7 * int(pending.sum())), 5), 20)
            accept[row, sorted(good, key=lambda i: -float(guess.confidence[row, i]))[:cap]] = True
        return Verdict(accept, guess.confidence), state


@dataclass(frozen=True)
class Origin(Policy):
    """Dream's "origin": going from time t to s, each pending slot by itself with probability 1 - s/t; all at last."""

    steps: int
    needs: ClassVar[tuple[Signal, ...]] = (Noise(),)

    def init(self, canvas, /):
        return None

    def step(self, guess, window, state, /):
        times = torch.linspace(1, 1e-3, self.steps + 1)
        now = window.step.clamp(max=self.steps - 1)
        chance = torch.where(window.step >= self.steps - 1, 1, 1 - times[now + 1] / times[now])
        accept = window.pending & (guess[Noise()] < chance.unsqueeze(1))
        return Verdict(accept, -guess[Noise()], rest=window.step < self.steps - 1), state


LIMITS = [
    (Factor(1e-9), ONE),
    (EntropyBound(LARGE), EVERYTHING),
    (EntropyBound(0.0), TopK(k=1, score=NegativeEntropy())),
    (EntropyBound(0.0, score=Margin()), TopK(k=1, score=Margin())),
    (EntropyThreshold(LARGE), EVERYTHING),
    (EntropyThreshold(0.0), TopK(k=1, score=NegativeEntropy())),
    (DecayingThreshold(tau=0.4, decay=0.0), ONE),
    (DecayingThreshold(tau=0.4, decay=1.0), After(1, Threshold(0.4))),
    (ErrorBudget(0.0), ONE),
    (ErrorBudget(LARGE), EVERYTHING),
    (SequenceBudget(0.0), ONE),
    (SequenceBudget(LARGE), EVERYTHING),
    (TopK(k=2, score=Peak()), TopK(k=2)),
    (TopK(k=2, score=PositionCalibrated(decay=0.0)), TopK(k=2)),
    (TopK(k=1, score=PositionCalibrated(decay=40.0)), TopK(k=1, score=LeftToRight())),
    (KLASS(tau=0.4, kl=0.0), ONE),
    (KLASS(tau=0.4, kl=LARGE, history=1), After(1, Threshold(0.4, strict=True))),
    (KLASS(tau=0.4, kl=LARGE, history=3), After(3, Threshold(0.4, strict=True))),
    (LocalLeap(tau=0.5, relaxed=0.5), Threshold(0.5)),
    (LocalLeap(tau=0.5, relaxed=0.1, radius=0), Threshold(0.5)),
    (LocalLeap(tau=0.5, relaxed=0.0, radius=99), LocalLeap(tau=0.5, relaxed=0.0, radius=40)),
    (RunHierarchy(tau=0.4, low=0.4), Threshold(0.4, strict=True)),
    (RunHierarchy(tau=0.0, low=0.0), EVERYTHING),
    (Dilated(99), EVERYTHING),
    (CertaintyPrior(EVERYTHING), EVERYTHING),
    (CertaintyPrior(TopK(k=2, score=Margin())), TopK(k=2, score=Margin())),
    (EarlyCommit(TopK(k=2), Linear(LARGE, LARGE)), TopK(k=2)),
    (EarlyCommit(ONE, Linear(0.0, 0.0)), EVERYTHING),
    (EarlyCommit(KLASS(0.3, kl=1.0), Linear(LARGE, LARGE)), KLASS(0.3, kl=1.0)),
    (Dilated(2, tau=1e-9), Dilated(2)),
    (Dilated(99, tau=2.0), EVERYTHING),
    (Saber(99), EVERYTHING),
    (WINO(0.4, verify=0.0), Capped20(0.4)),
    (WINO(2.0), ONE),
    (JointThreshold(0.4, edit=1.0), Threshold(0.4, strict=True)),
    (JointThreshold(0.0, edit=0.0, post=0), EVERYTHING),
    (ReMDM(6, Capped(0.0), eps=1e-3), Origin(6)),
    (ReMDM(6, Rescaled(0.0), eps=1e-3), Origin(6)),
    (ReMDM(1, Capped(1.0)), EVERYTHING),
    (ReMDM(8, Capped(1.0)), ReMDM(8, Rescaled(1.0))),
    (EarlyCommit(Saber(), Linear(LARGE, LARGE)), Saber()),
    (EarlyCommit(WINO(0.3, 0.3), Linear(LARGE, LARGE)), WINO(0.3, 0.3)),
    (EarlyCommit(JointThreshold(0.5, 0.2, post=2), Linear(0.0, 0.0)), EVERYTHING),
    (CertaintyPrior(WINO(0.3, 0.3, score=Margin())), WINO(0.3, 0.3, score=Margin())),
]
PLACES = [
    ("bidirectional", Blocks(8), NoCache()),
    ("bidirectional-shift", Whole(), DualCache()),
    ("block-causal", Blocks(8, sub_block=4), DualCache()),
    ("block-causal-shift", Blocks(8), DualCache(refresh=3)),
]


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("pair", LIMITS, ids=lambda pair: f"{pair[0]}={pair[1]}")
def test_limit(pair, place) -> None:
    geometry, scheduler, cache = place
    m = tiny_model(geometry)
    if m.needs_left and any(getattr(policy, "edits", False) for policy in pair):
        cache = DualCache(refresh=1)  # who judges decided slots runs the column left of them, so that it is less stale
    (got, ours), (want, theirs) = (laws.run_batch(m, REQUESTS, Strategy(p, scheduler, cache)) for p in pair)
    assert [torch.equal(a.commit, b.commit) for a, b in zip(got, want, strict=True)] == [True] * len(want)
    assert [r.output_ids for r in ours] == [r.output_ids for r in theirs]
    assert [r.nfe for r in ours] == [r.nfe for r in theirs]


def test_wrappers_keep_the_pace_of_what_they_wrap() -> None:
    paced = TopK(pace=EqualSplit(), score=Margin())
    m = tiny_model("bidirectional")
    _, want = laws.run_batch(m, REQUESTS, Strategy(paced, Blocks(8, steps=3), NoCache()))
    for wrapped in (CertaintyPrior(paced), EarlyCommit(paced, Linear(LARGE, LARGE))):
        _, got = laws.run_batch(m, REQUESTS, Strategy(wrapped, Blocks(8, steps=3), NoCache()))
        assert [r.when for r in got] == [r.when for r in want]


def test_settings_in_between_are_neither_limit() -> None:
    """So that the limits above compare something: each policy does differ from both ends somewhere."""
    m = tiny_model("bidirectional")
    middle = [
        EntropyBound(2.0),
        EntropyThreshold(2.2),
        Certified(),
        DecayingThreshold(0.2, decay=0.2),
        ErrorBudget(1.0),
        SequenceBudget(2.0),
        KLASS(0.2, kl=0.5, history=1),
        LocalLeap(0.6, 0.3, 2),
        RunHierarchy(0.6, 0.2),
        Dilated(),
        Dilated(2, tau=0.3),
        EarlyCommit(ONE, Linear(2.0, 0.5)),
        Saber(),
        WINO(0.3, 0.3),
        JointThreshold(0.2, 0.9, post=1),
        ReMDM(6, Capped(0.1)),
    ]
    (_, one), (_, everything) = (
        laws.run_batch(m, REQUESTS, Strategy(p, Whole(), NoCache())) for p in (ONE, EVERYTHING)
    )
    for policy in middle:
        _, got = laws.run_batch(m, REQUESTS, Strategy(policy, Whole(), NoCache()))
        steps = sum(r.nfe for r in got)
        assert sum(r.nfe for r in everything) < steps < sum(r.nfe for r in one), policy
