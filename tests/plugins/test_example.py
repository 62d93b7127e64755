"""The example package: laws over a thinned product of cells, and what its parts promise. None of it is in dllm."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch
from torch import Tensor

import dllm
from dllm import Blocks, DualCache, NoCache, PrefixCache, Strategy, Threshold
from dllm.caches import SlidingCache
from dllm.signals import Attention, Entropy, SecondToken
from dllm.testing import Laws, ModelLaws, laws
from dllm.testing.cells import REQUESTS, make_cells
from dllm.testing.model_suite import list_model_strategies, model_decodes
from dllm.testing.suite import SUBSETS
from dllm.types import Signal
from tests.packages import Site
from tests.tiny import MASK, tiny_model, tiny_network

PARTS = {
    "signal-threshold": ("dllm_runner_up", "SignalThreshold", {"least": 1.5}),
    "signal-threshold entropy": ("dllm_runner_up", "SignalThreshold", {"least": 2.0, "signal": Entropy()}),
    "no-echo": ("dllm_runner_up", "NoEcho", {"tau": 0.2}),
    "anchored": ("dllm_anchored", "Anchored", {"share": 0.5, "layers": None}),
}


@pytest.fixture
def make(site: Site) -> Any:
    """A function that makes an object of the example, which is installed as a package of its own."""
    site.install_example()
    return lambda module, name, **fields: getattr(importlib.import_module(module), name)(**fields)


@pytest.mark.parametrize("part", PARTS)
def test_parts_obey_the_laws(make: Any, part: str):
    module, name, fields = PARTS[part]
    cells = make_cells(make(module, name, **fields))
    for cell in cells[::23]:
        Laws().test_laws(cell)
    for cell in SUBSETS["fresh_cell"](cells)[::37]:
        Laws().test_what_is_fresh_is_exact(cell)
    for cell in SUBSETS["uncached_cell"](cells)[::7]:
        Laws().test_a_cache_refreshed_at_every_step_is_no_cache(cell)
    for cell in SUBSETS["exact_cell"](cells)[::5]:
        Laws().test_block_causal_prefix_cache_is_exact(cell)


def test_names_are_found_by_their_entry_points(site: Site):
    site.install_example()
    from dllm.compose.expressions import read_part
    from dllm.types import Policy

    assert repr(read_part("signal-threshold(least=3.0)", Policy)) == "SignalThreshold(least=3.0, signal=LogitGap())"
    assert repr(read_part("no-echo", Policy)) == "NoEcho(tau=0.9)"
    assert read_part("anchored(layers=None)", Policy).needs == (Attention(None),)
    for text in ("logit-gap", "slot-entropy", "second-token", "Entropy()"):
        policy = read_part(f"signal-threshold(signal={text})", Policy)
        assert isinstance(policy.signal, Signal) and read_part(repr(policy), Policy) == policy
    (point,) = entry_points(group="dllm.signals")
    assert point.name == "logit-gap" and issubclass(point.load(), Signal)


def test_a_policy_takes_any_signal(make: Any):
    strategy = Strategy(make("dllm_runner_up", "SignalThreshold", least=2.5, signal=Entropy()), Blocks(8), DualCache())
    stream, _ = laws.run_batch(tiny_model("bidirectional"), REQUESTS, strategy)
    laws.every_step_progresses(stream)
    assert any(step.commit.sum() > 2 for step in stream) and any(step.commit.sum() <= 2 for step in stream)


def test_the_signal_is_what_it_says(make: Any):
    policy = make("dllm_runner_up", "SignalThreshold")
    for step in dllm.steps(tiny_model("bidirectional"), REQUESTS, Strategy(policy, Blocks(8), DualCache())):
        pending = step.window.pending
        gap = step.guess[policy.signal][pending]
        want = (step.guess.p1 / step.guess.p2).log()[pending]
        torch.testing.assert_close(gap, want, atol=1e-4, rtol=1e-4)


def test_no_two_neighbours_are_written_alike_in_one_step(make: Any):
    echoes = 0
    strategy = Strategy(make("dllm_runner_up", "NoEcho", tau=0.05), Blocks(8), DualCache())
    model = tiny_model("bidirectional")
    for seed in range(6):
        requests = [dllm.Request((seed + 1, 7, 7), 24, seed=0), dllm.Request((seed, 2, 9, 9, 4), 13, seed=1)]
        for step in dllm.steps(model, requests, strategy):
            assert step.tokens is not None
            both = step.commit[:, 1:] & step.commit[:, :-1]
            same = both & (step.guess.tokens[:, 1:] == step.guess.tokens[:, :-1])
            echoes += int(same.sum())
            written = torch.where(step.commit, step.tokens, -1)
            replaced = step.commit & (step.tokens != step.guess.tokens)
            assert (step.tokens == step.guess[SecondToken()])[replaced].all() and replaced[:, 1:][same].all()
            assert torch.equal(step.window.take(step.canvas.tokens)[step.commit], written[step.commit])
    assert echoes, "the model writes no echo: choose other prompts"


def test_what_is_written_attends_to_decided_text(make: Any):
    share = 0.6
    strategy = Strategy(make("dllm_anchored", "Anchored", share=share), Blocks(8), NoCache())
    before = laws.make_first_canvas(tiny_model("bidirectional"), REQUESTS, strategy)
    several = 0
    for step in dllm.steps(tiny_model("bidirectional"), REQUESTS, strategy):
        weight = (step.guess[Attention((-1,))] * ~before.pending.unsqueeze(1)).sum(-1)
        for row in step.commit.any(1).nonzero().flatten().tolist():
            found = weight[row][step.commit[row]]
            assert (found >= share).all() or (len(found) == 1 and found == weight[row][step.window.pending[row]].max())
            several += len(found) > 1
        before = step.canvas
    assert several


MODEL_LAWS = [name for name in dir(ModelLaws) if name.startswith("test_") and name != "test_decoding"]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("law", MODEL_LAWS)
def test_the_geometry_obeys_the_laws(make: Any, law: str, shift: int):
    model = make("dllm_causal_context", "make_tiny_model", shift=shift)
    getattr(type("Mine", (ModelLaws,), {"model": model})(), law)()


@pytest.mark.parametrize("shift", [0, 1])
def test_decoding_with_the_geometry_obeys_the_laws(make: Any, shift: int):
    trial = type("Mine", (ModelLaws,), {"model": make("dllm_causal_context", "make_tiny_model", shift=shift)}).trial()
    for strategy in list_model_strategies(trial):
        model_decodes(trial, strategy)


@torch.inference_mode()
def plain_logits(shift: int, tokens: list[int], start: int) -> Tensor:
    """Logits (t, v) of a text whose open block begins at `start`: causal to the left of it, both ways within."""
    net, t = tiny_network(shift), len(tokens)
    column = torch.arange(t)
    ends = torch.where(column < start, column + 1, t)
    mask = (column < ends.unsqueeze(1))[None, None]
    out = net.get_decoder()(
        input_ids=torch.tensor([tokens]), attention_mask=mask, position_ids=column[None], use_cache=False
    )
    return net.get_output_embeddings()(out.last_hidden_state)[0]


def plain_decode(shift: int, prompt: tuple[int, ...], new: int, block: int, tau: float) -> tuple[list[int], list[int]]:
    """Tokens and the forward that decided each, one row at a time, a whole dense forward for every step."""
    limit = len(prompt) + new
    t = -(-limit // block) * block
    tokens, when, forwards = [*prompt, *[MASK] * (t - len(prompt))], [0] * t, 0
    for start in range(len(prompt) // block * block, t, block):
        while pending := [c for c in range(max(start, len(prompt)), start + block) if not when[c]]:
            forwards += 1
            chances = plain_logits(shift, tokens[: start + block], start).softmax(-1)
            chances[:, MASK] = 0
            top = {c: chances[c - shift].max(0) for c in pending}
            best = max(pending, key=lambda c: float(top[c].values))
            for c in pending:
                if float(top[c].values) >= tau or c == best:
                    tokens[c], when[c] = int(top[c].indices), forwards
    return tokens[len(prompt) : limit], when[len(prompt) : limit]


PROMPTS = [((3, 7, 1, 22, 9), 13), ((5, 2, 8, 8, 8, 1, 0, 4, 17, 20, 11), 14), ((1,), 23), ((2,) * 16, 8)]


@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), PrefixCache(refresh=1), DualCache(refresh=1)], ids=repr)
@pytest.mark.parametrize("shift", [0, 1])
def test_causal_context_is_a_plain_dense_computation(make: Any, shift: int, cache: Any):
    model = make("dllm_causal_context", "make_tiny_model", shift=shift)
    requests = [dllm.Request(prompt, new, seed=0) for prompt, new in PROMPTS]
    found = dllm.decode(model, requests, Strategy(Threshold(0.6), Blocks(8), cache))
    for (prompt, new), result in zip(PROMPTS, found, strict=True):
        assert (list(result.output_ids), list(result.when)) == plain_decode(shift, prompt, new, 8, 0.6)


@pytest.mark.parametrize("scheduler", [Blocks(8, commit=True), Blocks(8, sub_block=4, commit=True)], ids=repr)
@pytest.mark.parametrize("shift", [0, 1])
def test_commits_store_what_causal_text_sees(make: Any, shift: int, scheduler: Any):
    model = make("dllm_causal_context", "make_tiny_model", shift=shift)
    requests = [dllm.Request(prompt, new, seed=0) for prompt, new in PROMPTS]
    caches = (NoCache(), PrefixCache(), PrefixCache(refresh=1), DualCache(refresh=1), SlidingCache(refresh=1))
    found = [
        [r.output_ids for r in dllm.decode(model, requests, Strategy(Threshold(0.6), scheduler, cache))]
        for cache in caches
    ]
    assert all(other == found[0] for other in found)
    if shift == 0 and scheduler.sub_block is None:  # a commit decides nothing then
        assert [list(ids) for ids in found[0]] == [plain_decode(0, *row, 8, 0.6)[0] for row in PROMPTS]


def test_long_prompts_in_pieces_are_stored_causally(make: Any):
    model = make("dllm_causal_context", "make_tiny_model")
    request = dllm.Request((*range(30), 4, 5, 6), 9, seed=0)
    strategy = Strategy(Threshold(0.6), Blocks(8), PrefixCache())
    (whole,) = dllm.decode(model, request, strategy)
    model.chunk = 8
    (pieces,) = dllm.decode(model, request, strategy)
    assert pieces.output_ids == whole.output_ids == tuple(plain_decode(0, request.prompt, 9, 8, 0.6)[0])


def test_the_geometry_differs_from_block_causal_attention(make: Any):
    model = make("dllm_causal_context", "make_tiny_model")
    other = tiny_model("block-causal")
    strategy = Strategy(Threshold(0.6), Blocks(8), PrefixCache())
    requests = [dllm.Request(prompt, new, seed=0) for prompt, new in PROMPTS]
    ours, theirs = (dllm.decode(m, requests, strategy) for m in (model, other))
    assert [r.output_ids for r in ours] != [r.output_ids for r in theirs]
