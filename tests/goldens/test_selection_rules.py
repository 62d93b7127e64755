"""The selection step alone, on recorded logits."""

from __future__ import annotations

from pathlib import Path

import torch

from dllm import Factor, FactorAsPublished, Threshold
from dllm.engine.commit import enforce_progress
from dllm.engine.propose import Proposer
from dllm.policies import TopK
from dllm.policies.prefix_rule import rank_slots
from dllm.requests import Request
from dllm.strategy import Sampling
from dllm.types import Canvas, Guess, Rows, Seen, Window
from tests.goldens.replay import cases


def window_over(tokens: torch.Tensor, pending: torch.Tensor) -> tuple[Canvas, Window]:
    """A window over a whole small canvas."""
    b, t = tokens.shape
    ones = torch.ones(b, dtype=torch.int64)
    none = torch.zeros(b, dtype=torch.bool)
    given = torch.zeros(b, t, dtype=torch.bool)
    canvas = Canvas(tokens, pending, Rows(ones * 0, ones * t, ones * t, ones * 0, given, ones * 0))
    window = Window(
        columns=torch.arange(t).expand(b, t),
        valid=torch.ones_like(pending),
        pending=pending,
        slots=pending.flatten().nonzero().flatten(),
        start=ones * 0,
        end=ones * t,
        block_start=ones * 0,
        block_end=ones * t,
        entered=~none,
        first=pending[:, 0],
        commit=none,
        forced=none,
        step=ones * 0,
        closed=none,
    )
    return canvas, window


def propose(logits: torch.Tensor, canvas: Canvas, window: Window, mask_id: int | None) -> Guess:
    """The greedy guess from logits (b, t, v)."""
    zeros = torch.zeros(len(logits), dtype=torch.int64)
    proposer = Proposer(lambda x: x, Sampling(), (), mask_id, logits.shape[-1])
    return proposer.step(Seen(logits, zeros, zeros.bool()), canvas, window, zeros, ())[0]


def test_recorded_selections(shared: Path) -> None:
    quirks = 0
    for case in cases(shared, "selection_rules"):
        tokens, pending = torch.tensor(case["tokens"]), torch.tensor(case["is_masked"]).bool()
        canvas, window = window_over(tokens, pending)
        logits = torch.tensor(case["logits"])
        guess = propose(logits, canvas, window, case["mask_id"])
        if case["rule"] == "fixed":
            accept = (rank_slots(guess.confidence, pending).rank < torch.tensor(case["value"]).unsqueeze(1)) & pending
        else:
            policy = Threshold(case["value"]) if case["rule"] == "threshold" else FactorAsPublished(case["value"])
            verdict, _ = policy.step(guess, window, policy.init(canvas))
            accept = enforce_progress(verdict, window)
            if case["rule"] == "factor":
                paper = Factor(case["value"])
                strict = enforce_progress(paper.step(guess, window, None)[0], window)
                differs = (strict != accept).any(1).tolist()
                assert differs == [bool(x) for x in case["last_rank_quirk"]], case["id"]
                quirks += sum(differs)
        assert accept.int().tolist() == case["transferred"], case["id"]
        assert torch.where(accept, guess.tokens, tokens).tolist() == case["new_tokens"], case["id"]
    assert quirks


def test_top_k_takes_that_many() -> None:
    tokens = torch.full((1, 6), 9)
    pending = torch.tensor([[True, True, False, True, True, True]])
    canvas, window = window_over(tokens, pending)
    logits = torch.randn(1, 6, 9, generator=torch.Generator().manual_seed(0))
    guess = propose(logits, canvas, window, None)
    policy = TopK(k=Request((1,)).max_new_tokens // 64)
    verdict, _ = policy.step(guess, window, policy.init(canvas))
    best = logits.softmax(-1).amax(-1).masked_fill(~pending, 0).topk(2).indices
    assert verdict.accept.nonzero()[:, 1].tolist() == sorted(best[0].tolist())
