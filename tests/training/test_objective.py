"""The losses: equal to the recorded training forward, and the cheap layout equal to the published one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from dllm.training.attention import make_paper_layout, make_visibility_mask
from dllm.training.noise import IGNORE, complement_mask, draw_noise, select_noised_labels
from dllm.training.objective import (
    compute_diffusion_loss,
    compute_shifted_loss,
    compute_view_loss,
    forward_as_published,
)
from dllm.training.views import NextToken, PackedRows

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "goldens"
TRACES = GOLDENS / "fast_dllm_v2_training.json"
needs_goldens = pytest.mark.skipif(not TRACES.exists(), reason=f"recorded traces not found at {TRACES}")
GOLDEN: dict[str, Any] = json.loads(TRACES.read_text()) if TRACES.exists() else {"cases": [], "attention_masks": {}}
MASK = 3


def golden_model(name: str) -> Qwen2ForCausalLM:
    """A Fast-dLLM v2 checkpoint as a stock Qwen2: the same fields and tensor names."""
    fields = json.loads((GOLDENS / "checkpoints" / name / "config.json").read_text())
    theta = fields.pop("rope_theta")
    for key in ("architectures", "auto_map", "model_type", "rope_scaling", "torch_dtype", "bd_size"):
        fields.pop(key)
    model = Qwen2ForCausalLM(Qwen2Config(**fields, rope_parameters={"rope_type": "default", "rope_theta": theta}))
    missing, extra = model.load_state_dict(
        load_file(GOLDENS / "checkpoints" / name / "model.safetensors"), strict=False
    )
    assert not extra and set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model.eval()


@pytest.fixture(scope="module")
def tiny() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return Qwen2ForCausalLM(config).eval()


@needs_goldens
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["id"])
@torch.no_grad()
def test_equals_the_recorded_training_forward(case: dict[str, Any]) -> None:
    tokens, labels = torch.tensor(case["input_ids"]), torch.tensor(case["labels"])
    noised = (torch.tensor(case["noised"]) == case["mask_id"]) & (labels != IGNORE)
    other = complement_mask(noised, labels)
    assert tokens.masked_fill(other, case["mask_id"]).tolist() == case["noised_complement"]
    both = torch.cat((select_noised_labels(labels, noised), select_noised_labels(labels, other)))
    assert both.tolist() == case["model_labels"]
    model = golden_model(case["checkpoint"])
    logits, loss = forward_as_published(model, tokens, labels, noised, block=case["bd_size"], mask_id=case["mask_id"])
    assert loss.item() == pytest.approx(case["loss"], abs=2e-4)
    want = np.load(GOLDENS / "fast_dllm_v2_training_logits.npz")[f"{case['id']}/logits"]
    assert np.abs(logits[:, ::4].numpy() - want).max() < 1e-3
    cheap, _ = compute_diffusion_loss(model, tokens, labels, noised, block=case["bd_size"], mask_id=case["mask_id"])
    assert cheap.item() == pytest.approx(case["loss"], abs=2e-4)


@needs_goldens
@pytest.mark.parametrize("name", GOLDEN["attention_masks"])
def test_equals_the_recorded_attention_mask(name: str) -> None:
    length, block = (int(part[1:]) for part in name.split("_"))
    rows = [
        "".join(str(int(cell)) for cell in row)
        for row in make_visibility_mask(make_paper_layout(length), block).tolist()
    ]
    assert rows == GOLDEN["attention_masks"][name]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(1, 9), st.integers(0, 999), st.data())
def test_the_cheap_layout_gives_the_published_loss(
    tiny: Any, length: int, block: int, seed: int, data: st.DataObject
) -> None:
    rng = torch.Generator().manual_seed(seed)
    first = data.draw(st.integers(1, length - 1))
    tokens = torch.randint(4, 20, (3, length), generator=rng)
    labels = tokens.masked_fill(torch.arange(length) < first, IGNORE)
    noised = draw_noise(labels, block, rng=rng)
    with torch.no_grad():
        _, want = forward_as_published(tiny, tokens, labels, noised, block=block, mask_id=MASK)
        got, positions = compute_diffusion_loss(tiny, tokens, labels, noised, block=block, mask_id=MASK)
    assert got.item() == pytest.approx(want.item(), abs=1e-5)
    assert positions <= 3 * 3 * length


def test_the_label_of_column_zero_is_never_used() -> None:
    logits, labels = torch.randn(1, 4, 9), torch.tensor([[1, 2, 3, 4]])
    assert compute_shifted_loss(logits, labels) == compute_shifted_loss(logits, torch.tensor([[8, 2, 3, 4]]))


@torch.no_grad()
def test_next_token_loss_is_the_stock_causal_loss(tiny: Any) -> None:
    tokens = torch.randint(4, 20, (2, 12), generator=torch.Generator().manual_seed(1))
    labels = tokens.masked_fill(torch.arange(12) < 5, IGNORE)
    packed = PackedRows(tokens, labels, torch.zeros_like(tokens), torch.arange(12).expand(2, -1))
    view = NextToken().view(packed, NextToken().noise(packed), MASK)
    loss = compute_view_loss(tiny, view, NextToken().attention_block) / (view["labels"] != IGNORE).sum()
    assert loss.item() == pytest.approx(tiny(input_ids=tokens, labels=labels).loss.item(), abs=1e-5)
