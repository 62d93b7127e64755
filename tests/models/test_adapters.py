"""A PEFT adapter works through the model, equals its merged weights, and may use a family's original names."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dllm.errors import CheckpointError, ConfigError
from dllm.models import load, packing

peft = pytest.importorskip("peft")
TOKENS = torch.arange(11)[None]


@pytest.fixture
def adapter(tmp_path):
    """`adapter(folder)`: a random LoRA on a checkpoint's query and output projections; also returns merged weights."""

    def make(folder):
        torch.manual_seed(0)
        config = peft.LoraConfig(
            r=2, lora_alpha=8, target_modules=["q_proj", "o_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
        )
        wrapped = peft.get_peft_model(load(folder).network, config)
        wrapped.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", wrapped.merge_and_unload().state_dict()

    return make


@pytest.mark.parametrize("kind", ["llada", "fast_dllm_v2"])
def test_adapter_changes_logits_and_equals_merged_weights(kind, tiny, adapter, logits):
    folder = tiny(kind)
    place, merged = adapter(folder)
    base, adapted = load(folder), load(folder, adapter=place)
    before, after = logits(base, TOKENS), logits(adapted, TOKENS)
    assert (before - after).abs().max() > 0.1
    base.network.load_state_dict(merged)
    assert torch.allclose(logits(base, TOKENS), after, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("more", [{}, {"trainable_token_indices": [5]}, {"use_dora": True}], ids=["", "row", "dora"])
def test_an_adapter_is_merged_where_weights_are_packed(more, tied, tiny, logits, monkeypatch, tmp_path):
    """... since some adapters' layers read the weight that they wrap, which a packed layer has none to show of."""
    folder = tiny("dream", tied=tied)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM", **more)
    wrapped = peft.get_peft_model(load(folder).network, config)
    for name, parameter in wrapped.named_parameters():
        if "trainable_tokens" in name:
            parameter.data.normal_()
    wrapped.save_pretrained(tmp_path / "adapter")
    plain = load(folder, adapter=tmp_path / "adapter")
    monkeypatch.setattr(packing, "is_packable_layer", lambda layer, least: type(layer) is torch.nn.Linear)
    packed = load(folder, adapter=tmp_path / "adapter", pack=True)
    assert sum(isinstance(layer, packing.PackedLinear) for layer in packed.network.modules()) > 7
    torch.testing.assert_close(logits(packed, TOKENS), logits(plain, TOKENS), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_adapter_is_rounded_to_bfloat16_unasked(tiny, adapter, monkeypatch, dtype):
    folder = tiny("llada")
    place, _ = adapter(folder)
    packed = []
    monkeypatch.setattr(packing, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(packing, "pack_linear_layers", packed.append)
    load(folder, adapter=place, pack=None, dtype=dtype)
    assert len(packed) == (dtype == "float32")


def test_weights_under_an_adapter_that_cannot_be_merged_are_not_packed(tiny, adapter, monkeypatch):
    folder = tiny("llada")
    place, _ = adapter(folder)
    with pytest.raises(ConfigError, match=r"pack: not .* with an adapter on quantised weights"):
        load(folder, adapter=place, quantization_config={"quant_method": "any"}, pack=True)


def test_adapter_with_original_names(tiny, adapter, logits):
    folder = tiny("llada")
    place, _ = adapter(folder)
    expected = logits(load(folder, adapter=place), TOKENS)
    file = place / "adapter_model.safetensors"
    for stock, disk in ((".self_attn.o_proj.", ".attn_out."), (".self_attn.q_proj.", ".q_proj.")):
        weights = load_file(file)
        save_file({k.replace(stock, disk): w for k, w in weights.items()}, file)
    weights = load_file(file)
    save_file({k.replace("model.model.layers", "model.model.transformer.blocks"): w for k, w in weights.items()}, file)
    config = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["q_proj", "attn_out"]}))
    assert torch.equal(logits(load(folder, adapter=place), TOKENS), expected)
    (place / "adapter_config.json").write_text(json.dumps({**config, "alpha_pattern": {"attn_out": 3}}))
    with pytest.raises(CheckpointError, match="alpha_pattern"):
        load(folder, adapter=place)


def test_adapter_of_another_model(tiny, adapter):
    folder = tiny("dream")
    place, _ = adapter(folder)
    file = place / "adapter_model.safetensors"
    good = load_file(file)
    first = min(good)
    for bad in (
        {k: w for k, w in good.items() if k != first},
        {**good, first.replace("layers.0", "layers.7"): good[first].clone()},
        {**good, first: torch.zeros(3, 3)},
    ):
        save_file(bad, file)
        with pytest.raises(CheckpointError, match="adapter"):
            load(folder, adapter=place)


def test_adapter_folder_with_faults(tiny, adapter, tmp_path):
    folder = tiny("dream")
    place, _ = adapter(folder)
    with pytest.raises(CheckpointError, match="is a PEFT adapter, no model"):
        load(place)
    with pytest.raises(CheckpointError, match="no such folder"):
        load(folder, adapter=tmp_path / "nowhere")
    (place / "adapter_model.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: not a readable"):
        load(folder, adapter=place)
    (place / "adapter_model.safetensors").rename(place / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"no adapter_model\.safetensors.*never \.bin"):
        load(folder, adapter=place)
    (place / "adapter_config.json").rename(folder / "adapter_config.json")
    with pytest.raises(CheckpointError, match="both a model and an adapter"):
        load(folder)


def test_peft_is_optional(tiny, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match="pip install peft"):
        load(tiny("dream"), adapter="anything")
