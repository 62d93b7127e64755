"""The training script end to end at toy size: both stages, export in Hub format, and going on from a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import experiments.train_embedded as script


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setattr(script, "SHAPE", shape)
    monkeypatch.setattr(script, "POSITIONS", 300)


def test_both_stages_run_and_leave_models_in_hub_format(tmp_path: Path) -> None:
    run = script.Run(tmp_path, 0)
    script.train(run, script.Plan(minutes=0.01, ar_minutes=0.002), steps=0, save_every=9, watch=4)
    assert run.now.stage == "diffusion"
    for name in ("ar", "model"):
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["model_type"] == "Fast_dLLM_Qwen" and config["bd_size"] == 32
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        assert (config["mask_token_id"], config["eos_token_id"]) == (tokenizer.mask_token_id, tokenizer.eos_token_id)
        assert len(tokenizer) == config["vocab_size"]
        assert "lm_head.weight" not in load_file(tmp_path / name / "model.safetensors")


@pytest.mark.parametrize("stage", ["ar", "diffusion"])
def test_going_on_from_a_checkpoint_changes_nothing(tmp_path: Path, stage: str) -> None:
    run = script.Run(tmp_path, 0)
    run.now = replace(run.now, stage=stage)
    batches = script.batches(stage, "x", run.tokenizer)
    run.update(next(batches), 1.0, Random(0))
    run.save()
    again, batch = script.Run(tmp_path, 0), next(batches)
    assert again.now == run.now
    losses = []
    for each in (run, again):
        torch.manual_seed(7)
        losses.append([each.update(batch, 1.0, Random(1)) for _ in range(2)])
    assert losses[0] == losses[1]
