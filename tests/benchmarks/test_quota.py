"""The quota policy: so many tokens a forward, the same in our loop and in the published one."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm
from benchmarks.baselines.fast_dllm_v1 import decode_as_published
from benchmarks.device.quota import PLANNED, SeededQuota
from dllm import Blocks, DualCache, NoCache, Request, Stopping, Strategy
from dllm.testing import laws
from tests.tiny import GEOMETRIES, MASK, tiny_model, tiny_network


@given(st.integers(1, 64), st.floats(0, 1), st.integers(0, 9))
def test_a_plan_keeps_its_mean(size: int, place: float, seed: int) -> None:
    policy = SeededQuota(1 + place * (size - 1), size, seed)
    plan = policy.slot_quotas()
    assert all(sum(quotas) == size and min(quotas) >= 1 for quotas in plan)
    forwards = sum(map(len, plan))
    assert abs(forwards - PLANNED * size / policy.mean) <= 1
    assert plan == SeededQuota(policy.mean, size, seed).slot_quotas()


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("cache", [NoCache(), DualCache()], ids=str)
def test_forwards_are_those_of_the_plan(geometry: str, cache) -> None:
    policy = SeededQuota(2.5, 8)
    strategy = Strategy(policy, Blocks(8), cache, stopping=Stopping(()))
    requests = [Request(tuple(range(1, 9)), 48), Request(tuple(range(9, 17)), 16)]
    stream, results = laws.run_batch(tiny_model(geometry), requests, strategy)
    laws.every_step_progresses(stream)
    laws.windows_tile(tiny_model(geometry), requests, strategy, stream)
    plan = policy.slot_quotas()
    assert [result.nfe for result in results] == [sum(map(len, plan[:6])), sum(map(len, plan[:2]))]


def test_the_published_loop_takes_the_same_tokens() -> None:
    policy = SeededQuota(3.5, 8)
    prompt = torch.tensor([[3, 7, 1, 22, 9]])
    tokens, nfe = decode_as_published(
        tiny_network(0), prompt, 24, 8, MASK, quotas=chain.from_iterable(policy.slot_quotas())
    )
    strategy = Strategy(policy, Blocks(8), DualCache(), stopping=Stopping(()))
    (got,) = dllm.decode(tiny_model("bidirectional"), Request(tuple(prompt[0].tolist()), 24), strategy)
    assert list(got.prompt_ids + got.output_ids) == tokens[0].tolist()
    assert got.nfe == nfe


def test_a_mean_that_cannot_be() -> None:
    with pytest.raises(dllm.ConfigError, match=r"mean must lie in 1\.\.8"):
        SeededQuota(9, 8)
