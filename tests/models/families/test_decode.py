"""Every family decodes through the loop, by its own recipe and by others; an encoder refuses what it cannot do."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import dllm
from dllm.caches import DualCache, NoCache, PrefixCache
from dllm.cli.main import app
from dllm.compose.recipes import RECIPES, default_recipe, default_strategy
from dllm.errors import CheckpointError, ConfigError, RequestError
from dllm.models import FAMILIES, load
from dllm.policies import Threshold
from dllm.requests import Request
from dllm.schedulers import Blocks, Whole

RECIPE = {
    "llada_moe": "llada",
    "llada2": "llada2",
    "a2d_llama": "llada",
    "a2d_qwen2": "llada",
    "a2d_qwen3": "llada",
    "open_dcoder": "dream",
    "bert": "llada",
    "roberta": "llada",
    "modernbert": "llada",
}
ENCODERS = ("bert", "roberta", "modernbert")
ALL = dllm.Stopping(ids=())
PROMPTS = [[3, 4, 5, 6, 7], [9, 8]]


def follow(model, prompt, columns, plain_row):
    """Greedy decoding, the surest column first, by the plain implementation alone."""
    tokens = torch.tensor([*prompt, *[model.mask_id] * columns])
    pending = list(range(len(prompt), len(tokens)))
    while pending:
        logits = plain_row(tokens)
        logits[:, model.mask_id] = -torch.inf
        chances = logits.softmax(-1)
        best = max(pending, key=lambda i: float(chances[i - model.needs_left].max()))
        tokens[best] = int(chances[best - model.needs_left].argmax())
        pending.remove(best)
    return tokens[len(prompt) :].tolist()


@pytest.mark.parametrize("kind", RECIPE)
def test_default_recipe_decodes_a_batch(kind, tiny):
    model = load(tiny(kind))
    recipe = default_recipe(model.family)
    assert recipe.name == RECIPE[kind]
    strategy = default_strategy(model)
    for result in dllm.decode(model, PROMPTS, strategy, max_new_tokens=12):
        assert 1 <= len(result.output_ids) <= 12
        assert model.mask_id not in result.output_ids
        assert result.nfe >= 1


@pytest.mark.parametrize("kind", [kind for kind in RECIPE if kind != "llada2"])
def test_one_token_a_step_is_what_the_formulas_say(kind, tiny, plain):
    folder = tiny(kind)
    model = load(folder)
    strategy = dllm.Strategy(Threshold(tau=2.0), Whole(), NoCache(), stopping=ALL)
    for prompt, result in zip(PROMPTS, dllm.decode(model, PROMPTS, strategy, max_new_tokens=6), strict=True):
        everyone = torch.ones(len(prompt) + 6, len(prompt) + 6, dtype=torch.bool)
        expected = follow(model, prompt, 6, lambda tokens, who=everyone: plain(folder, kind, tokens, who))
        assert list(result.output_ids) == expected
        assert result.nfe == 6


@pytest.mark.parametrize("kind", ["llada2", "a2d_qwen3"])
def test_blocks_with_and_without_cache_are_what_the_formulas_say(kind, tiny, plain):
    """A prompt of two blocks' length, so that each new block is decoded from finished ones alone."""
    folder = tiny(kind, block_size=4)
    model = load(folder, family=None if kind == "llada2" else "a2d_bd3lm")
    prompt, place = [3, 4, 5, 6, 7, 8, 9, 10], torch.arange(16) // 4
    expected: list[int] = []
    for end in (12, 16):
        who = (place[:, None] >= place)[:end, :end]
        given = [*prompt, *expected]
        expected += follow(model, given, 4, lambda tokens, who=who: plain(folder, kind, tokens, who))
    for cache in (NoCache(), PrefixCache(), DualCache(refresh=1)):
        strategy = dllm.Strategy(Threshold(tau=2.0), Blocks(), cache, stopping=ALL)
        (result,) = dllm.decode(model, [prompt], strategy, max_new_tokens=8)
        assert list(result.output_ids) == expected, cache


@pytest.mark.parametrize("kind", ["llada_moe", "llada2", "a2d_qwen2", "open_dcoder", "roberta", "modernbert"])
def test_a_row_does_not_depend_on_its_neighbours(kind, tiny):
    model = load(tiny(kind))
    strategy = dllm.Strategy(Threshold(tau=0.3), Blocks(4), NoCache(), stopping=ALL)
    together = dllm.decode(model, PROMPTS, strategy, max_new_tokens=9)
    for prompt, result in zip(PROMPTS, together, strict=True):
        (alone,) = dllm.decode(model, [prompt], strategy, max_new_tokens=9)
        assert (alone.output_ids, alone.nfe) == (result.output_ids, result.nfe)


@pytest.mark.parametrize("cache", [PrefixCache(), DualCache(), DualCache(refresh=1)])
@pytest.mark.parametrize("kind", ENCODERS)
def test_caches_fail_before_the_first_forward(kind, cache, tiny, monkeypatch):
    model = load(tiny(kind))
    monkeypatch.setattr(type(model), "forward", lambda *_: pytest.fail("a forward was run"))
    with pytest.raises(ConfigError, match=r"ForMaskedLM .*keep no keys and values.*NoCache\(\) / --cache none"):
        dllm.decode(model, [PROMPTS[0]], dllm.Strategy(Threshold(), Blocks(4), cache), max_new_tokens=4)


@pytest.mark.parametrize(("kind", "columns"), [("bert", 48), ("roberta", 48)])
def test_positions_end_where_the_table_ends(kind, columns, tiny):
    model = load(tiny(kind))
    strategy = dllm.Strategy(Threshold(tau=0.0), Whole(), NoCache(), stopping=ALL)
    (whole,) = dllm.decode(model, [[3, 4]], strategy, max_new_tokens=columns - 2)
    assert len(whole.output_ids) == columns - 2
    with pytest.raises(RequestError, match=f"context is {columns}"):
        dllm.decode(model, [[3, 4]], strategy, max_new_tokens=columns - 1)


def test_an_encoder_fills_in_between(tiny):
    """`[CLS] … [SEP]` around holes: what masked language models were made for."""
    model = load(tiny("bert"))
    request = Request((60, 3, 4, 0, 0, 5, 61), 0, holes=(3, 4))
    strategy = dllm.Strategy(Threshold(tau=0.0), Whole(), NoCache(), stopping=ALL)
    *_, last = dllm.steps(model, [request], strategy)
    (row,) = last.canvas.tokens.tolist()
    assert [row[i] for i in (0, 1, 2, 5, 6)] == [60, 3, 4, 5, 61]
    assert not last.canvas.pending.any() and 63 not in row


def test_encoder_options(tiny):
    folder = tiny("bert", mask_token_id=None)
    with pytest.raises(CheckpointError, match=r"--mask-id .*nor has the family"):
        load(folder)
    model = load(folder, mask_id=7, dtype="bfloat16", stop_ids=[5])
    assert (model.mask_id, model.stop_ids, model.dtype) == (7, (5,), torch.bfloat16)
    with pytest.raises(ConfigError, match="no attention block"):
        load(folder, mask_id=7, block_size=4)


def test_every_family_has_a_recipe_of_its_own():
    for family in FAMILIES:
        assert any(family.name in recipe.families for recipe in RECIPES.values()), family.name


def test_the_command_line_takes_the_family(tiny, tmp_path):
    """Trained in blocks or not, the files of an adapted model are the same: only the user knows."""
    folder, source = tiny("a2d_qwen3"), tmp_path / "in.jsonl"
    source.write_text('{"prompt_ids": [3, 4, 5], "max_new_tokens": 4}\n')
    command = ["decode", "--model", str(folder), "--input", str(source), "--quiet", "--ignore-eos"]
    for options, cache in (([], "NoCache()"), (["--family", "a2d_bd3lm", "--cache", "prefix"], "PrefixCache")):
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 0, result.stderr
        assert cache in json.loads(result.stdout)["strategy"]
    told = CliRunner().invoke(app, ["info", str(folder), "--family", "a2d_bd3lm"])
    assert "block-causal, blocks of 32" in told.stdout
    wrong = CliRunner().invoke(app, [*command, "--family", "nonsense"])
    assert wrong.exit_code == 2 and "nonsense" in wrong.stderr and "Traceback" not in wrong.stderr
