"""The parts over whose product the laws hold. A new part joins a list here and inherits every law."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from dllm import (
    KLASS,
    WINO,
    BudgetedThreshold,
    Capped,
    CertaintyPrior,
    Certified,
    DelayedCache,
    Dilated,
    EarlyCommit,
    EntropyBound,
    EqualSplit,
    Factor,
    FactorAsPublished,
    FullBlock,
    JointThreshold,
    LeftToRight,
    Linear,
    LocalLeap,
    Margin,
    NegativeEntropy,
    PositionCalibrated,
    PrefixCache,
    Random,
    ReMDM,
    RunHierarchy,
    Saber,
    SequenceBudget,
    SlidingCache,
    Speculative,
    Strategy,
    Threshold,
    TimeSchedule,
    TopK,
    VicinityCache,
)
from dllm.testing import cells
from dllm.types import Cache, Policy, Scheduler
from tests.tiny import GEOMETRIES

POLICIES: list[Policy] = [
    Threshold(0.6),
    Threshold(0.6, strict=True, score=Margin()),
    Factor(1.0),
    Factor(2.0, score=Margin()),
    FactorAsPublished(1.0),
    TopK(k=2),
    TopK(k=3, score=NegativeEntropy()),
    TopK(k=1, score=Random()),
    TopK(pace=EqualSplit()),
    TopK(pace=EqualSplit(), score=LeftToRight()),
    TopK(pace=FullBlock(), tau=0.6),
    EntropyBound(3.0),
    Certified(),
    SequenceBudget(3.0),
    KLASS(0.2, kl=0.5, history=1),
    LocalLeap(0.6, 0.3, 2),
    RunHierarchy(0.6, 0.2),
    Dilated(),
    CertaintyPrior(EarlyCommit(TopK(k=1, score=PositionCalibrated(0.1)), Linear(2.0, 0.5)), sigma=3.0),
    TopK(pace=TimeSchedule(), score=NegativeEntropy()),
    BudgetedThreshold(0.6),
]

EDITING: list[Policy] = [Saber(), WINO(0.3, 0.3), JointThreshold(0.5, 0.3, post=1), ReMDM(3, Capped(0.5))]
"""They meet every scheduler, and every second cache: one of each kind, refreshed now and then."""

SCHEDULERS: list[Scheduler] = [*cells.SCHEDULERS]

CACHES: list[Cache] = [*cells.CACHES, Speculative(PrefixCache(), drafts=3)]

POSITION_CACHES: list[Cache] = [
    VicinityCache(before=3, after=2, warmup=2),
    SlidingCache(before=3, after=1, written=6),
    DelayedCache(refresh=4),
]
"""They meet every scheduler, and the policies of `habits`: what they run depends on what is decided, not on why."""


def with_steps(scheduler: Scheduler, policy: Policy) -> Scheduler:
    """The scheduler with the steps that a policy with a pace needs."""
    return replace(scheduler, steps=4) if getattr(policy, "paced", False) else scheduler  # type: ignore[type-var]


def fits(geometry: str, scheduler: Scheduler) -> bool:
    """Whether the pair can be at all: only block-causal models have finished blocks to commit."""
    return not (getattr(scheduler, "commit", False) and geometry.startswith("bidirectional"))


def habits() -> list[Policy]:
    """A policy of each habit: none, one slot at random, a pace, a memory, one that rests; and all that edit."""
    kinds = (POLICIES[0], TopK(k=1, score=Random()), TopK(pace=EqualSplit()), POLICIES[-2])
    return [*(p for p in POLICIES if p in kinds or isinstance(p, KLASS)), *EDITING]


def strategies(geometry: str) -> list[Strategy]:
    """Every strategy for a geometry; the parts count up one after the other, so that neighbours differ."""
    met = [*product(POLICIES, SCHEDULERS, CACHES), *product(EDITING, SCHEDULERS, CACHES[::2])]
    met += product(habits(), SCHEDULERS, POSITION_CACHES)
    return [
        Strategy(policy, with_steps(scheduler, policy), cache)
        for policy, scheduler, cache in met
        if fits(geometry, scheduler)
    ]


def in_third(geometry: str, strategy: Strategy) -> bool:
    """Whether a cell is among the third that is always tested: every pair of parts is, in each geometry, and every
    strategy in at least one."""
    every = (*CACHES, *POSITION_CACHES)
    schedulers = [repr(replace(s, steps=None)) for s in SCHEDULERS]  # type: ignore[type-var]
    places = (
        list(GEOMETRIES).index(geometry),
        [*POLICIES, *EDITING].index(strategy.policy),
        schedulers.index(repr(replace(strategy.scheduler, steps=None))),  # type: ignore[type-var]
        every.index(strategy.cache),
    )
    return sum(places) % 3 == 0


CELLS = [(geometry, strategy) for geometry in GEOMETRIES for strategy in strategies(geometry)]
THIRD = [cell for cell in CELLS if in_third(*cell)]
