"""Every family gives, from its original format, the logits of an independent plain implementation."""

from __future__ import annotations

import pytest
import torch

from dllm.models import describe_checkpoint, load
from dllm.types import Bidirectional, BlockCausal, HostView

MASKED = ("llada_moe", "a2d_llama", "a2d_qwen2", "a2d_qwen3", "open_dcoder", "bert", "roberta", "modernbert")
STOCK = {
    "llada_moe": ("llada_moe", "Qwen3MoeForCausalLM"),
    "llada2": ("llada2", "Glm4MoeForCausalLM"),
    "a2d_llama": ("a2d", "LlamaForCausalLM"),
    "a2d_qwen2": ("a2d", "Qwen2ForCausalLM"),
    "a2d_qwen3": ("a2d", "Qwen3ForCausalLM"),
    "open_dcoder": ("open_dcoder", "Qwen2ForCausalLM"),
    "bert": ("masked_lm", "BertForMaskedLM"),
    "roberta": ("masked_lm", "RobertaForMaskedLM"),
    "modernbert": ("masked_lm", "ModernBertForMaskedLM"),
}
T = 19
EXACT = {"atol": 1e-4, "rtol": 1e-4}


def rows() -> torch.Tensor:
    return torch.randint(64, (2, T), generator=torch.Generator().manual_seed(1))


def block_causal(size: int) -> torch.Tensor:
    block = torch.arange(T) // size
    return block[:, None] >= block


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", MASKED)
def test_bidirectional(kind, shards, tiny, plain, logits):
    folder = tiny(kind, shards=shards)
    model = load(folder)
    assert model.geometry == Bidirectional()
    for row, got in zip(rows(), logits(model, rows()), strict=True):
        assert torch.allclose(got, plain(folder, kind, row, torch.ones(T, T, dtype=torch.bool)), **EXACT)


@pytest.mark.parametrize(("kind", "size"), [("llada2", 8), ("a2d_llama", 4), ("a2d_qwen2", 4), ("a2d_qwen3", 4)])
def test_block_causal(kind, size, tiny, plain, logits):
    folder = tiny(kind, shards=2, block_size=size)
    model = load(folder, family=None if kind == "llada2" else "a2d_bd3lm")
    assert model.geometry == BlockCausal(size)
    for row, got in zip(rows(), logits(model, rows()), strict=True):
        assert torch.allclose(got, plain(folder, kind, row, block_causal(size)), **EXACT)


@pytest.mark.parametrize("kind", STOCK)
def test_facts(kind, tiny):
    folder = tiny(kind)
    model, told = load(folder), describe_checkpoint(folder)
    assert (model.family, type(model.network).__name__) == STOCK[kind] == (told.family, told.stock)
    assert (model.mask_id, model.stop_ids, model.tokenizer) == (63, (61,), None)
    assert model.needs_left == (kind == "open_dcoder") == told.token_shift
    assert model.max_columns == told.context == (48 if kind in ("bert", "roberta") else 128)
    used = [p for p in model.network.parameters() if p.requires_grad]
    assert told.parameters == sum(p.numel() for p in used) + sum(b.numel() for b in biases(model.network))


def biases(network: torch.nn.Module) -> list[torch.Tensor]:
    """Buffers that a checkpoint holds: the bias by which LLaDA2's routers choose."""
    kept = network.state_dict()
    return [b for name, b in network.named_buffers() if name in kept]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llada_moe", "llada2", "bert", "modernbert"])
def test_attention_functions_agree_where_rows_are_padded(kind, attention, tiny, plain):
    from dllm.caches import NoCache
    from dllm.requests import Request, make_canvas
    from dllm.schedulers import Blocks

    folder = tiny(kind, **({"block_size": 4} if kind == "llada2" else {}))
    model = load(folder, attention=attention)
    assert model.network.config._attn_implementation == attention
    prompts = [tuple(range(5)), tuple(range(2, 13))]
    canvas = make_canvas(model, [Request(prompt, 8) for prompt in prompts])
    scheduler, cache = Blocks(4), NoCache()
    window, _ = scheduler.step(canvas, HostView.of(canvas), scheduler.init(canvas, model))
    with torch.inference_mode():
        seen, _ = cache.step(model, canvas, window, cache.init(canvas, model))
    for i in range(2):
        length = int(window.block_end[i]) if kind == "llada2" else int(canvas.rows.length[i])
        who = block_causal(4)[:length, :length] if kind == "llada2" else torch.ones(length, length, dtype=torch.bool)
        expected = plain(folder, kind, canvas.tokens[i, :length], who)[window.columns[i][window.valid[i]]]
        assert torch.allclose(model.head(seen.hidden[i][window.valid[i]]), expected, **EXACT)


@pytest.mark.parametrize("kind", ["llada_moe", "llada2"])
def test_saved_network_is_a_stock_checkpoint(kind, tiny, tmp_path):
    from transformers import AutoModelForCausalLM

    network = load(tiny(kind)).network
    network.save_pretrained(tmp_path / "stock")
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "stock", output_loading_info=True)
    assert type(again) is type(network)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_splitting_leaves_the_stock_class_as_it_is(tiny, tmp_path):
    from transformers import Glm4MoeForCausalLM

    load(tiny("llada2"))
    fresh = Glm4MoeForCausalLM(load(tiny("llada2", name="again")).network.config)
    fresh.save_pretrained(tmp_path / "native")
    from safetensors import safe_open

    with safe_open(tmp_path / "native" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert not any("query_key_value" in name for name in names)


def test_one_expert_a_token_keeps_its_weight_in_llada2(tiny, plain, logits):
    folder = tiny("llada2", num_experts_per_tok=1, block_size=8)
    tokens = rows()[0]
    expected = plain(folder, "llada2", tokens, block_causal(8))
    assert torch.allclose(logits(load(folder), tokens[None])[0], expected, **EXACT)


def test_half_precision_keeps_the_routers_bias_in_full(tiny):
    network = load(tiny("llada2"), dtype="bfloat16").network
    assert network.model.layers[1].mlp.gate.e_score_correction_bias.dtype == torch.float32
    assert network.model.layers[1].mlp.gate.weight.dtype == torch.bfloat16


def test_experts_everywhere_where_nothing_is_said(tiny, edit):
    from dllm.models.checkpoint import read_checkpoint

    folder = tiny("llada_moe", moe_layer_freq=None, dense_intermediate_size=None)
    assert read_checkpoint(folder).stock_config().mlp_only_layers == []
    assert isinstance(read_checkpoint(folder).family.geometry({}), Bidirectional)
