"""The guess of some slots against a softmax in float64 over their logits."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dllm
from dllm import Blocks, DualCache, Request, Strategy, Threshold
from dllm.engine import propose as sampling
from dllm.engine.propose import GROUP, guess_from_logits
from dllm.signals import Current, Entropy, Noise, Probabilities, SecondToken
from dllm.strategy import Sampling
from dllm.types import LEAST, Where
from tests.policies.board import board
from tests.tiny import tiny_model

ALL = (Entropy(), Probabilities(), Current(), Noise(), SecondToken())
N = 12


def logits_of(v: int, size: float, offset: float, seed: int = 0) -> torch.Tensor:
    return offset + size * torch.randn(N, v, generator=torch.Generator().manual_seed(seed))


def where_of(tokens: torch.Tensor, mask_id: int | None = None) -> Where:
    """N slots of one row, every second of which is decided; the canvas holds `tokens` (N,)."""
    canvas, window, _ = board([0.5, None] * (N // 2))
    canvas = canvas._replace(tokens=tokens.unsqueeze(0))
    return Where(canvas, window, torch.zeros(1, dtype=torch.int64), torch.arange(N), mask_id)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("v", [31, 4 * GROUP, 9 * GROUP])
@pytest.mark.parametrize(("size", "offset"), [(1.0, 0.0), (8.0, 0.0), (8.0, -500.0), (8.0, 90_000.0)])
@pytest.mark.parametrize("needs", [(), ALL], ids=["plain", "all"])
@pytest.mark.parametrize("mask", [None, -30.0, 3.0, 200.0])
def test_it_is_what_a_softmax_says(monkeypatch, fused, v, size, offset, needs, mask) -> None:
    monkeypatch.setattr(sampling, "_rounds_once", lambda device: fused)
    logits = logits_of(v, size, offset)
    mask_id = None if mask is None else v - 1
    if mask is not None:
        logits[:, v - 1] = logits.amax(1) + mask
    want = logits.double().softmax(1)
    rivals = want if mask_id is None else want.index_fill(1, torch.tensor([mask_id]), 0)
    best = rivals.topk(2)
    tokens = torch.arange(N) % v
    guess = guess_from_logits(logits.clone(), where_of(tokens, mask_id), Sampling(), needs)
    assert torch.equal(guess.mode, best.indices[:, 0]) and guess.tokens is guess.mode
    found = torch.stack([guess.p1, guess.p2], 1).double()
    likely = best.values > 1e-30
    off = (found / best.values - 1).abs()[likely]
    assert not len(off) or off.max() < 2e-6, "within the rounding that certificates allow for"
    assert (found[~likely] < 1e-29).all() and not found.isnan().any()
    if not needs:
        assert not guess.signals
        return
    torch.testing.assert_close(guess.signals[Probabilities()].double(), want, atol=1e-9, rtol=1e-4)
    torch.testing.assert_close(guess.signals[Entropy()].double(), torch.special.entr(want).sum(1), atol=1e-5, rtol=1e-4)
    decided = torch.arange(N) % 2 == 1
    own = torch.where(decided, want.gather(1, tokens.unsqueeze(1)).squeeze(1), 0)
    torch.testing.assert_close(guess.signals[Current()].double(), own, atol=1e-9, rtol=1e-4)
    assert torch.equal(guess.signals[SecondToken()], best.indices[:, 1])


@pytest.mark.parametrize("temperature", [0.5, 1e6])
def test_no_draw_gives_the_mask_or_what_is_ruled_out(temperature: float) -> None:
    """However likely the mask is, and however flat the temperature makes all logits."""
    logits = logits_of(31, 1.0, 0.0)
    logits[:, 3:30], logits[:, 30] = LEAST, 9.0
    where = where_of(torch.zeros(N, dtype=torch.int64))
    drawn = set()
    for seed in range(30):
        rows = where.canvas.rows._replace(seed=torch.tensor([seed]))
        again = Where(where.canvas._replace(rows=rows), where.window, where.draws, where.slots, 30)
        drawn |= set(guess_from_logits(logits.clone(), again, Sampling(temperature), ()).tokens.tolist())
    assert drawn == {0, 1, 2}


def test_a_processor_may_make_logits_of_any_size() -> None:
    """One that forces a token, and one that rules out all, as `transformers` has them."""
    m = tiny_model("bidirectional")

    def force(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(1, torch.tensor([7]), 1e30)

    def rule_out(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return torch.full_like(logits, torch.finfo(logits.dtype).min).index_fill(1, torch.tensor([4]), -torch.inf)

    for processor, p1 in ((force, 1.0), (rule_out, 1 / 31)):
        strategy = Strategy(Threshold(0.9), Blocks(8), DualCache(), Sampling(processors=(processor,)))
        stream = list(dllm.steps(m, [Request((3, 1, 4), 6)], strategy))
        pending = stream[0].window.pending
        torch.testing.assert_close(stream[0].guess.p1[pending], torch.full((6,), p1))
        assert stream[-1].nfe.tolist() == [1 if p1 == 1 else 6]


def test_arithmetic_that_rounds_twice_is_noticed() -> None:
    """The same, in a process whose arithmetic has no fused product and sum: with powers of two it would fail."""
    code = """
import torch
from dllm.engine.propose import _rounds_once, measure_scale
logits = 90_000 + 8 * torch.randn(8, 512, generator=torch.Generator().manual_seed(0))
want = logits.double().softmax(1).amax(1)
peak = logits.amax(1, keepdim=True)
found = measure_scale(logits, peak, spend=False).probability(peak).squeeze(1).double()
print(_rounds_once(logits.device), float((found / want - 1).abs().max()) < 2e-6)
"""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    fused, exact = done.stdout.split()
    assert exact == "True"
    assert fused == "False" or platform.machine() != "x86_64"
