"""Policies that name the tokens to commit: what is written, what is certified, and what they do not go with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import dllm
from dllm import Blocks, CertaintyPrior, ConfigError, DualCache, NoCache, Request, Sampling, Strategy
from dllm.models.tabular import TabularModel
from dllm.policies import EarlyCommit, Linear
from dllm.testing import laws
from dllm.testing.cells import REQUESTS
from dllm.tracing import check_trace, read_trace, record_trace
from dllm.types import Guess, Policy, Processor, State, Verdict, Window
from tests.tiny import GEOMETRIES, MASK, VOCABULARY, tiny_model


@dataclass(frozen=True)
class Choosing(Policy):
    """Commit likely slots, each with the token `by` above its mode; the mask id in every third column."""

    by: int = 1
    tau: float = 0.3

    chooses_tokens: ClassVar[bool] = True

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]:
        tokens = (guess.mode + self.by) % MASK
        tokens = torch.where(window.columns % 3 == 0, MASK, tokens)
        return Verdict(guess.confidence >= self.tau, guess.confidence, tokens=tokens), state


@dataclass(frozen=True)
class Silent(Choosing):
    """Names tokens without saying that it does."""

    chooses_tokens: ClassVar[bool] = False


@pytest.mark.parametrize("cache", [NoCache(), DualCache()], ids=repr)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_chosen_tokens_are_written_and_the_mask_id_stands_for_the_candidate(geometry: str, cache):
    model, strategy = tiny_model(geometry), Strategy(Choosing(), Blocks(8), cache)
    stream, results = laws.run_batch(model, REQUESTS, strategy)
    laws.decided_stays(model, REQUESTS, strategy, stream)
    laws.windows_tile(model, REQUESTS, strategy, stream)
    laws.rows_are_independent(model, REQUESTS, strategy, results)
    other = 0
    for step in stream:
        columns = step.window.columns
        want = torch.where(columns % 3 == 0, step.guess.tokens, (step.guess.mode + 1) % MASK)
        assert step.tokens is not None and torch.equal(step.tokens[step.commit], want[step.commit])
        assert (step.window.take(step.canvas.tokens) == step.tokens)[step.commit].all()
        assert (step.tokens[step.commit] != MASK).all()
        other += int((step.tokens != step.guess.tokens)[step.commit].sum())
    assert other


@pytest.mark.parametrize("wrap", [lambda p: CertaintyPrior(p, sigma=3.0), lambda p: EarlyCommit(p, Linear(2.0, 0.5))])
def test_a_wrapped_policy_still_chooses(wrap):
    strategy = Strategy(wrap(Choosing()), Blocks(8), NoCache())
    stream, _ = laws.run_batch(tiny_model("bidirectional"), REQUESTS, strategy)
    assert any(((step.tokens != step.guess.tokens) & step.commit).any() for step in stream)


def test_a_policy_that_does_not_say_so_chooses_nothing():
    results = dllm.decode(tiny_model("bidirectional"), REQUESTS, Strategy(Silent(), Blocks(8), NoCache()))
    plain = dllm.decode(tiny_model("bidirectional"), REQUESTS, Strategy(dllm.Threshold(0.3), Blocks(8), NoCache()))
    assert [r.output_ids for r in results] == [r.output_ids for r in plain]


def test_a_forced_commit_takes_its_candidate():
    model = tiny_model("block-causal-shift")
    stream, _ = laws.run_batch(model, REQUESTS, Strategy(Choosing(), Blocks(8, commit=True), NoCache()))
    forced = 0
    for step in stream:
        rows = step.window.commit.unsqueeze(1) & step.commit
        forced += int(rows.sum())
        assert step.tokens is not None and torch.equal(step.tokens[rows], step.guess.tokens[rows])
    assert forced


def sharp_model() -> TabularModel:
    """Four independent columns, each almost certain: every parallel greedy decision is certified."""
    joint = torch.tensor([0.98, 0.015, 0.005], dtype=torch.float64)
    for _ in range(3):
        joint = joint.unsqueeze(-1) * torch.tensor([0.98, 0.015, 0.005], dtype=torch.float64)
    return TabularModel(joint / joint.sum(), offset=2)


@dataclass(frozen=True)
class Contrary(Policy):
    """Commit everything at once; in the column `at` the token 1 instead of the candidate 0."""

    at: int = -1

    chooses_tokens: ClassVar[bool] = True

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]:
        tokens = torch.where(window.columns == self.at, 1, guess.tokens)
        return Verdict(window.pending, guess.confidence, tokens=tokens), state


def test_a_certificate_counts_only_where_the_token_is_the_mode():
    request = Request((0, 0), 4, seed=0)
    (greedy,) = dllm.decode(sharp_model(), request, Strategy(Contrary(), Blocks(4), NoCache()))
    assert greedy.output_ids == (0, 0, 0, 0) and greedy.parallel == greedy.certified == 4
    (contrary,) = dllm.decode(sharp_model(), request, Strategy(Contrary(at=3), Blocks(4), NoCache()))
    assert contrary.output_ids == (0, 1, 0, 0) and contrary.parallel == 4 and contrary.certified == 0
    # sampled so hot that candidates differ from the mode: the chosen mode is certified, whatever was drawn
    drawn = Strategy(Contrary(), Blocks(4), NoCache(), Sampling(temperature=50.0))
    results = [dllm.decode(sharp_model(), replace(request, seed=seed), drawn)[0] for seed in range(6)]
    assert any(r.output_ids != (0, 0, 0, 0) for r in results)
    assert all((r.certified == 4) == (r.output_ids == (0, 0, 0, 0)) for r in results)


@pytest.mark.parametrize("policy", [Choosing(), Contrary(at=9)], ids=repr)
@pytest.mark.parametrize("top", [0, 3])
def test_a_trace_of_chosen_tokens_agrees_with_itself(tmp_path: Path, policy: Policy, top: int):
    strategy = Strategy(policy, Blocks(8), DualCache())
    record_trace(tmp_path / "t.jsonl", tiny_model("block-causal"), REQUESTS, strategy, top=top)
    found = check_trace(read_trace(tmp_path / "t.jsonl"))
    assert found.faults == () and found.results == 2 and found.parallel > 0


@dataclass(frozen=True)
class Promising(Processor):
    """Promises something of the text."""

    constrains: ClassVar[bool] = True

    def step(self, logits, where, canvas, state, /):
        return logits, state


def test_a_constraint_does_not_go_with_chosen_tokens():
    sampling = Sampling(processors=(Promising(),))
    assert Strategy(dllm.Threshold(0.5), Blocks(8), NoCache(), sampling).constrained
    with pytest.raises(ConfigError, match="commits other tokens than the candidates, which a constraint cannot follow"):
        Strategy(Choosing(), Blocks(8), NoCache(), sampling)


def test_chosen_tokens_without_a_mask_token():
    model = replace(tiny_model("bidirectional"), mask_id=None)
    strategy = Strategy(Choosing(by=2), Blocks(8), NoCache())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.policies.test_chosen_tokens.MASK", VOCABULARY - 1)
        (result,) = dllm.decode(model, REQUESTS[0], strategy)
    assert len(result.output_ids) == 13
