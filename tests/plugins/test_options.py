"""Options that hold expressions: what they replace, what they keep, what belongs nowhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dllm import (
    KLASS,
    Blocks,
    ConfigError,
    DualCache,
    EqualSplit,
    Margin,
    NegativeEntropy,
    NoCache,
    PositionCalibrated,
    Sampling,
    Stopping,
    Strategy,
    Threshold,
    TimeSchedule,
    TopK,
    Whole,
)
from dllm.compose.options import Options
from tests.tiny import tiny_model

PACED = Strategy(
    TopK(pace=EqualSplit()), Blocks(8, steps=2), DualCache(refresh=3), Sampling(0.5), Stopping((1,), ("a",))
)


def make(length: int = 16, geometry: str = "bidirectional", **options) -> Strategy:
    return Options(**options).strategy(tiny_model(geometry), length)


def test_a_name_keeps_the_recipes_fields_and_an_expression_is_taken_as_it_is():
    assert make(recipe="klass", policy="klass").policy == KLASS(0.9, 0.01)
    spelled = repr(replace(PACED, policy=Threshold(0.3), scheduler=Blocks(8)))
    assert make(recipe=spelled, policy="threshold").policy == Threshold(0.3)
    assert make(recipe=spelled, policy="Threshold").policy == Threshold(0.3)
    assert make(recipe=spelled, policy="threshold()").policy == Threshold()
    assert make(recipe=spelled, cache="dual").cache == DualCache(refresh=3)
    assert make(recipe=spelled, cache="dual()").cache == DualCache()


def test_options_override_expressions():
    assert make(policy="klass(tau=0.5, kl=0.2)", tau=0.6).policy == KLASS(0.6, 0.2)
    assert make(policy="klass", score="position-calibrated(decay=0)").policy == KLASS(score=PositionCalibrated(0.0))
    assert make(cache="dual(refresh=4)", refresh=2).cache == DualCache(refresh=2)
    assert make(scheduler="blocks(8, sub_block=4)", block_size=2).scheduler == Blocks(2, sub_block=2)
    with pytest.raises(ConfigError, match="--f does not belong to klass"):
        make(policy="klass(tau=0.5)", f=1.0)


def test_a_strategy_that_is_written_out():
    assert make(recipe=repr(PACED)) == PACED
    assert make(recipe="Strategy(klass, blocks(4), none)") == Strategy(KLASS(), Blocks(4), NoCache())
    assert make(recipe=repr(PACED), cache="none") == replace(PACED, cache=NoCache())
    assert make(recipe=repr(PACED), steps=8).scheduler == Blocks(8, steps=4)
    assert make(recipe=repr(PACED), policy="threshold").scheduler == Blocks(8), "steps go with the pace"
    assert make(recipe=repr(PACED), temperature=0.0, stop=("b",), stop_ids=()) == replace(
        PACED, sampling=Sampling(), stopping=Stopping((), ("b",))
    )
    odd = Strategy(TopK(pace=EqualSplit()), Blocks(steps=12), NoCache())
    assert make(geometry="block-causal", recipe=repr(odd)) == odd, "as it is, also where we would plan otherwise"


def test_steps_of_a_scheduler_that_is_written_out():
    paced = "top-k(pace=equal-split)"
    assert make(policy=paced, scheduler="blocks(8, steps=2)").scheduler == Blocks(8, steps=2)
    assert make(policy=paced, scheduler="blocks(8, steps=8)").scheduler == Blocks(8, steps=8)
    assert make(policy=paced, scheduler="blocks(8)").scheduler == Blocks(8, steps=8), "one token a step"
    assert make(policy=paced, scheduler="blocks(8, steps=2)", steps=8).scheduler == Blocks(8, steps=4)
    assert make(policy="top-k(pace=time-schedule)", scheduler="whole").policy == TopK(pace=TimeSchedule())
    assert make(policy=paced, scheduler="whole").scheduler == Whole(16)
    with pytest.raises(ConfigError, match="no pace that would follow steps=2"):
        make(policy="threshold", scheduler="blocks(8, steps=2)")


def test_a_recipe_with_arguments():
    assert make(recipe="pc_sampler(decay=0.5, block=8)").policy == TopK(k=1, score=PositionCalibrated(0.5))
    assert make(recipe="fast_dllm(tau=0.5, cache=none)") == make(recipe="fast_dllm", tau=0.5, cache="none")
    assert make(recipe="fast_dllm(cache=none)", cache="dual").cache == DualCache()
    assert make(recipe="dream(total_steps=4)").scheduler == Whole(4)
    assert make(recipe="dream(score=margin)").policy == TopK(pace=TimeSchedule(), score=Margin())
    assert make(recipe="sched(curve=linear(9))").policy == replace(
        make(recipe="sched").policy, curve=make(policy="early-commit(curve=linear(9))").policy.curve
    )
    assert make(recipe="sched").policy.policy == TopK(k=1, score=NegativeEntropy())
    with pytest.raises(
        ConfigError, match=r"fast.dllm has no field 'taw' \(did you mean 'tau'\?\): it is fast.dllm\(block=32"
    ):
        make(recipe="fast_dllm(taw=0.5)")
    with pytest.raises(ConfigError, match="unknown recipe 'fast_dlm' \\(did you mean 'fast_dllm'"):
        make(recipe="fast_dlm(tau=0.5)")


def test_processors_are_added_in_order():
    processor = "credit(alpha=0.5)"
    made = make(processor=(processor, "credit")).sampling.processors
    assert [p.alpha for p in made] == [0.5, 0.7]
    base = repr(Strategy(Threshold(), Blocks(), NoCache(), Sampling(processors=made[:1])))
    assert make(recipe=base, processor=("credit",)).sampling.processors == made
    with pytest.raises(ConfigError, match="unknown processor 'credits'"):
        make(processor=("credits",))


@pytest.mark.parametrize("scheduler", ["sliding", "pipeline"])
def test_a_pace_needs_a_scheduler_with_steps(scheduler: str):
    with pytest.raises(ConfigError, match="plans no steps"):
        make(policy="top-k(pace=equal-split)", scheduler=scheduler)
    assert make(policy="threshold", scheduler=scheduler).scheduler
