"""The training of the playground's models: a run that is stopped goes on as it would have, and its models load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import dllm
from dllm.types import Bidirectional, BlockCausal
from experiments import playground_run
from experiments.playground_batches import CONTEXT, Batches, Stage
from experiments.playground_run import copy_as_qwen2, make_llama
from experiments.playground_text import MIXTURE, Mixture, build_tokenizer
from experiments.train_playground import Length, Progress, main, rate_at

Train = Callable[..., Path]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(500)


@pytest.fixture
def train(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Train:
    """train("ar", "name", updates=2): the folder of a tiny run, gone on with where it is there."""
    import typer

    monkeypatch.setattr(playground_run, "build_tokenizer", lambda: tokenizer)
    app = typer.Typer()
    app.command()(main)

    def run(stage: Stage, name: str, updates: int, start: Path | None = None) -> Path:
        out = tmp_path / name
        options = ["--updates", str(updates), "--rows", "2", "--width", "32", "--layers", "1", "--threads", "1"]
        result = CliRunner().invoke(
            app, [stage, "--out", str(out), *options, *(["--start", str(start)] if start else [])]
        )
        assert result.exit_code == 0, result.output
        return out

    return run


def test_each_stage_writes_a_model_that_loads_and_decodes(train: Train) -> None:
    start = train("ar", "ar", 1) / "model"
    assert dllm.load(start).family == "autoregressive"
    wanted = {"v2": ("fast_dllm_v2", BlockCausal(32), 1), "llada": ("llada", Bidirectional(), 0)}
    for stage, (family, geometry, left) in wanted.items():
        folder = train(stage, stage, 1, start) / "model"
        model = dllm.load(folder)
        assert (model.family, type(model.geometry), model.needs_left) == (family, type(geometry), left)
        assert model.mask_id == 2 and model.stop_ids == (0,)
        assert dllm.decode(model, "Copy: sun cat", max_new_tokens=4)[0].text is not None
        assert stage in (folder / "README.md").read_text() and "0 minutes" in (folder / "README.md").read_text()
        assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(folder / "model.safetensors").values())


def test_a_run_that_is_gone_on_with_meets_the_same_batches(train: Train) -> None:
    whole = load_file(train("ar", "whole", 3) / "checkpoint" / "state.safetensors")
    train("ar", "parts", 1)
    parts = load_file(train("ar", "parts", 3) / "checkpoint" / "state.safetensors")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_qwen2_with_zero_biases_is_the_same_function() -> None:
    torch.manual_seed(0)
    llama = make_llama(64, 64, 2, 0, 1).eval()
    qwen = copy_as_qwen2(llama).eval()
    tokens = torch.randint(0, 64, (2, 9))
    with torch.no_grad():
        assert torch.allclose(llama(tokens).logits, qwen(tokens).logits, atol=1e-5)
    assert sum(name.endswith(".bias") for name, _ in qwen.named_parameters()) == 6


@pytest.mark.parametrize("stage", ["ar", "v2", "llada"])
def test_batches_are_whole_examples_in_rows(stage: Stage, tokenizer: Any) -> None:
    batches = Batches(tokenizer, stage, rows=4, seed=0)
    first, again, other = batches[5], Batches(tokenizer, stage, 4, 0)[5], batches[6]
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert first.tokens.shape != other.tokens.shape or not torch.equal(first.tokens, other.tokens)
    assert first.tokens.shape[1] <= CONTEXT
    for row in range(len(first.tokens)):
        for number in range(int(first.sample[row].max()) + 1):
            here = first.sample[row] == number
            tokens, labels = first.tokens[row][here], first.labels[row][here]
            learnt = labels != -100
            assert torch.equal(tokens[learnt], labels[learnt]) and tokens[-1] == tokenizer.eos_token_id and learnt[-1]
            assert torch.equal(first.position[row][here], torch.arange(int(here.sum())))
            assert stage != "v2" or len(tokens) % 32 == 0
            assert stage != "llada" or len(tokens) % 16 == 0
            assert learnt[0] or int(tokens[0]) == tokenizer.convert_tokens_to_ids("<|user|>")


def test_the_mixture_has_every_task_and_only_training_prompts() -> None:
    stream = Mixture(1).samples(0)
    found = [next(stream) for _ in range(1500)]
    assert {sample.task for sample in found} == set(MIXTURE)
    for sample in found:
        if sample.task == "talk":
            assert sample.answer.startswith("I am a small demonstration model.")
    assert [next(Mixture(1).samples(7)) for _ in range(2)] == [next(Mixture(1).samples(7))] * 2


def test_every_text_survives_the_tokenizer(tokenizer: Any) -> None:
    for text in ("Zoë has 12 apples.\n#### 12", "你好 🙂", "((()))", "  two  blanks", "x = [1, 2]"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert [tokenizer.decode([i]) for i in tokenizer("407").input_ids] == ["4", "0", "7"]


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    length = Length(100.0)
    assert length.share(Progress(7, 50.0)) == 0.5 and Length(100.0, 14).share(Progress(7, 99.0)) == 0.5
    assert rate_at(0.0, 49, 1.0, 0.5) == 0.5 and rate_at(0.4, 500, 1.0, 0.5) == 1.0
    assert rate_at(0.75, 500, 1.0, 0.5) == 0.5 and rate_at(1.0, 500, 1.0, 0.5) == 0.0
