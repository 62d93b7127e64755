"""Every format gives the logits of its family: against recordings of the originals, and against plain formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dllm.models import load
from dllm.types import BlockCausal

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens"
RECORDED = {"llada": "llada", "dream": "dream", "fdv2": "fast_dllm_v2", "sdar": "sdar"}


@pytest.mark.skipif(not GOLDENS.is_dir(), reason=f"{GOLDENS} is not here: recordings of the originals not compared")
@pytest.mark.parametrize("variant", ["a", "b"])
@pytest.mark.parametrize("short", RECORDED)
def test_goldens(short, variant, logits):
    name = f"{short}-tiny-{variant}"
    data = np.load(GOLDENS / f"{RECORDED[short]}_logits.npz")
    model = load(GOLDENS / "checkpoints" / name, mask_id=250 if short == "fdv2" else None)
    inputs = sorted(key for key in data.files if key.startswith(f"{name}/input_"))
    assert len(inputs) == 3
    for key in inputs:
        tokens = torch.from_numpy(np.atleast_2d(data[key])).long()
        expected = torch.from_numpy(data[key.replace("input", "logits")])
        block = key.replace("input", "block")
        sized = model.with_block(int(data[block])) if block in data.files else model
        assert torch.allclose(logits(sized, tokens), expected.view(*tokens.shape, -1), atol=1e-3)


def seen_by(geometry, t):
    """Who sees whom (t, t), from the words of the geometry."""
    if isinstance(geometry, BlockCausal):
        block = torch.arange(t) // geometry.size
        return block[:, None] >= block
    return torch.ones(t, t, dtype=torch.bool)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llada", "dream", "fast_dllm_v2", "sdar"])
def test_plain_formulas(kind, tied, shards, tiny, plain, logits):
    folder = tiny(kind, tied=tied, shards=shards)
    model = load(folder)
    tokens = torch.randint(64, (2, 19), generator=torch.Generator().manual_seed(1))
    for row, got in zip(tokens, logits(model, tokens), strict=True):
        assert torch.allclose(got, plain(folder, kind, row, seen_by(model.geometry, 19)), atol=2e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llada", "fast_dllm_v2"])
def test_attention_functions_agree(kind, attention, tiny, plain, logits):
    folder = tiny(kind)
    model = load(folder, attention=attention)
    assert model.network.config._attn_implementation == attention
    tokens = torch.arange(17)
    expected = plain(folder, kind, tokens, seen_by(model.geometry, 17))
    assert torch.allclose(logits(model, tokens[None])[0], expected, atol=2e-4)


def test_llada_without_key_value_heads_has_one_per_head_or_one_in_all(tiny):
    full = tiny("llada", name="full", n_kv_heads=None)
    one = tiny("llada", name="one", n_kv_heads=None, multi_query_attention=True)
    from dllm.models.checkpoint import read_checkpoint

    assert read_checkpoint(full).stock_config().num_key_value_heads == 4
    assert read_checkpoint(one).stock_config().num_key_value_heads == 1


def test_llada_mlp_ratio_where_no_width_is_given(tiny):
    from dllm.models.checkpoint import read_checkpoint

    assert read_checkpoint(tiny("llada", mlp_hidden_size=None)).stock_config().intermediate_size == 4 * 32


@pytest.mark.parametrize("kind", ["llada", "dream"])
def test_saved_network_is_a_stock_checkpoint(kind, tiny, tmp_path):
    from transformers import AutoModelForCausalLM

    network = load(tiny(kind)).network
    network.save_pretrained(tmp_path / "stock")
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "stock", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
