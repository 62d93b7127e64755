"""What never exists: logits of the whole canvas, or of more slots at a time than `CHUNK` allows."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dllm import (
    WINO,
    Blocks,
    DualCache,
    EntropyBound,
    NegativeEntropy,
    NoCache,
    Request,
    Sampling,
    Strategy,
    Threshold,
    TopK,
    Whole,
)
from dllm.engine import propose as sampling
from dllm.testing import laws
from tests.tiny import tiny_model

REQUESTS = [Request((3, 7, 1, 22, 9), 30, seed=1), Request((5, 2, 8, 8, 8, 1), 24, seed=2)]
SLOTS = 6
"""Slots that get logits at a time in these tests."""


class Watch(TorchDispatchMode):
    """Notes the most rows of any tensor that has an entry per token of the vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.most = vocabulary, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            weights = isinstance(x, torch.nn.Parameter) or not isinstance(x, torch.Tensor) or x.ndim < 2
            if not weights and x.shape[-1] == self.vocabulary:
                self.most = max(self.most, x.numel() // self.vocabulary)
        return out


@pytest.mark.parametrize("scheduler", [Whole(), Blocks(8)], ids=str)
@pytest.mark.parametrize("cache", [NoCache(), DualCache()], ids=str)
@pytest.mark.parametrize(
    ("policy", "how"),
    [
        (Threshold(0.6), Sampling()),
        (EntropyBound(0.3), Sampling()),
        (TopK(k=2, score=NegativeEntropy()), Sampling(temperature=0.7, top_p=0.9)),
        (WINO(0.4, 0.6), Sampling()),
    ],
    ids=str,
)
def test_no_logits_of_the_canvas(monkeypatch, policy, how, scheduler, cache) -> None:
    m = tiny_model("bidirectional")
    strategy = Strategy(policy, scheduler, cache, how)
    _, want = laws.run_batch(m, REQUESTS, strategy)
    monkeypatch.setattr(sampling, "CHUNK", SLOTS * m.vocabulary)
    with Watch(m.vocabulary) as watch:
        _, got = laws.run_batch(m, REQUESTS, strategy)
    assert watch.most == SLOTS
    assert [(r.output_ids, r.when) for r in got] == [(r.output_ids, r.when) for r in want]
