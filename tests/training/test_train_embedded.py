"""The training script end to end at toy size: both stages of `dllm train`, and going on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

import dllm
import experiments.train_embedded as script

TOY = "--samples 60 --ar-steps 2 --steps 2 --hidden 32 --layers 1 --count 1 --batch 2"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run, and what it wrote to stdout."""
    out = tmp_path_factory.mktemp("runs") / "embedded"
    return out, again(out)


def again(out: Path) -> str:
    app = typer.Typer()
    app.command()(script.main)
    done = CliRunner().invoke(app, ["--out", str(out), *TOY.split()])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_both_stages_leave_a_model_that_decodes(run: tuple[Path, str]) -> None:
    out, told = run
    kinds = []
    for stage in ("ar", "adapted"):
        folder = out / stage / "model"
        config = json.loads((folder / "config.json").read_text())
        kinds.append(config["model_type"])
        tokenizer = dllm.load(str(folder)).tokenizer
        assert (config["mask_token_id"], config["eos_token_id"]) == (tokenizer.mask_token_id, tokenizer.eos_token_id)
        assert len(tokenizer) == config["vocab_size"]
        assert "lm_head.weight" not in load_file(folder / "model.safetensors")
        assert "python -m experiments.train_embedded" in (folder / "README.md").read_text()
    assert kinds == ["qwen2", "Fast_dLLM_Qwen"]
    model = dllm.load(str(out / "adapted" / "model"))
    assert dllm.decode(model, ["What is 3 + 4?"], max_new_tokens=8)[0].nfe > 0
    rows = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    assert [(row["strategy"], row["kind"]) for row in rows] == [
        (strategy, kind) for strategy in ("left to right", "threshold 0.9") for kind in ("word", "sum")
    ]


def test_words_stay_whole_in_both_stages(run: tuple[Path, str]) -> None:
    """Qwen2's own tokenizer class would cut the words of ours into bytes."""
    text, ours = "Mia has 12 apples.", script.build_tokenizer()
    for stage in ("ar", "adapted"):
        tokenizer = dllm.load(str(run[0] / stage / "model")).tokenizer
        assert tokenizer(text).input_ids == ours(text).input_ids and len(tokenizer(text).input_ids) == 6


def test_a_finished_run_is_not_trained_again(run: tuple[Path, str]) -> None:
    out, _ = run
    before = [(out / stage / "model" / "model.safetensors").read_bytes() for stage in ("ar", "adapted")]
    again(out)
    assert before == [(out / stage / "model" / "model.safetensors").read_bytes() for stage in ("ar", "adapted")]
