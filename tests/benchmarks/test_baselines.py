"""The published loop that speed is measured against gives the tokens of ours."""

from __future__ import annotations

import pytest
import torch

import dllm
from benchmarks.baselines.fast_dllm_v1 import decode_as_published
from dllm import Blocks, DualCache, FactorAsPublished, NoCache, PrefixCache, Request, Stopping, Strategy, Threshold
from tests.tiny import MASK, tiny_model, tiny_network

CACHES = {"none": NoCache(), "prefix": PrefixCache(), "dual": DualCache()}


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(("tau", "f"), [(0.6, None), (None, 1.0), (None, 2.0)])
def test_same_tokens(cache: str, tau: float | None, f: float | None) -> None:
    prompt = torch.tensor([[3, 7, 1, 22, 9]])
    tokens, nfe = decode_as_published(tiny_network(0), prompt, 24, 8, MASK, cache, tau, f)
    policy = Threshold(tau) if f is None else FactorAsPublished(f)
    strategy = Strategy(policy, Blocks(8), CACHES[cache], stopping=Stopping(()))
    (got,) = dllm.decode(tiny_model("bidirectional"), Request(tuple(prompt[0].tolist()), 24), strategy)
    assert list(got.prompt_ids + got.output_ids) == tokens[0].tolist()
    assert got.nfe == nfe
