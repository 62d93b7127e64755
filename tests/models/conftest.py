"""Tiny random checkpoints in every family's original format, and a plain implementation to compare with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import silu

from tests.models.families import originals
from tests.models.families.plain import PLAIN

torch.set_num_threads(1)

D, HEADS, KV, MLP, VOCAB, LAYERS = 32, 4, 2, 48, 64, 2
ORIGINALS = ("llada", "dream", "fast_dllm_v2", "sdar")
QWEN_LIKE = {
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "intermediate_size": MLP,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "eos_token_id": 61,
    "pad_token_id": 62,
    "mask_token_id": 63,
    "auto_map": {"AutoModel": "modeling.Foreign"},
    "torch_dtype": "bfloat16",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llada": {
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
        "d_model": D,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "n_kv_heads": KV,
        "mlp_hidden_size": MLP,
        "mlp_ratio": 4,
        "vocab_size": VOCAB,
        "embedding_size": VOCAB,
        "max_sequence_length": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "weight_tying": False,
        "block_type": "llama",
        "layer_norm_type": "rms",
        "rope": True,
        "alibi": False,
        "include_bias": False,
        "multi_query_attention": None,
        "eos_token_id": 61,
        "pad_token_id": 62,
        "mask_token_id": 63,
    },
    "dream": {**QWEN_LIKE, "model_type": "Dream", "architectures": ["DreamModel"]},
    "fast_dllm_v2": {
        **QWEN_LIKE,
        "model_type": "Fast_dLLM_Qwen",
        "architectures": ["Fast_dLLM_QwenForCausalLM"],
        "bd_size": 8,
    },
    "sdar": {
        **QWEN_LIKE,
        "model_type": "sdar",
        "architectures": ["SDARForCausalLM"],
        "block_size": 4,
        "head_dim": 12,
        "attention_bias": False,
    },
    "a2d_llama": {**QWEN_LIKE, "model_type": "a2d-llama", "architectures": ["A2DLlamaLMHeadModel"], "mlp_bias": False},
    "a2d_qwen2": {**QWEN_LIKE, "model_type": "a2d-qwen2", "architectures": ["A2DQwen2LMHeadModel"]},
    "a2d_qwen3": {
        **QWEN_LIKE,
        "model_type": "a2d-qwen3",
        "architectures": ["A2DQwen3LMHeadModel"],
        "head_dim": 12,
        "attention_bias": False,
        "layer_types": ["full_attention"] * LAYERS,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    "open_dcoder": {
        **QWEN_LIKE,
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "auto_map": None,
        "mask_token_id": None,
    },
    **originals.CONFIGS,
    "qwen2": {**QWEN_LIKE, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "auto_map": None},
    "llama": {**QWEN_LIKE, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "auto_map": None},
}
BIASED = ("dream", "fast_dllm_v2", "qwen2", "a2d_qwen2", "open_dcoder")
NORMED = ("sdar", "a2d_qwen3")
ADDED = {"open_dcoder": {"<M>": 63}}
"""added_tokens.json of formats that need it."""
LLADA = {
    "embed": "model.transformer.wte",
    "norm": "model.transformer.ln_f",
    "head": "model.transformer.ff_out",
    "layer": "model.transformer.blocks.{i}.",
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "attn_out",
    "norm1": "attn_norm",
    "norm2": "ff_norm",
    "gate": "ff_proj",
    "up": "up_proj",
    "down": "ff_out",
}
QWEN = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "layer": "model.layers.{i}.",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def words(kind: str) -> dict[str, str]:
    return LLADA if kind == "llada" else QWEN


def tensors(kind: str, tied: bool, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names of the original format."""
    if kind in originals.CONFIGS:
        return originals.tensors(kind, seed)
    noise, name = torch.Generator().manual_seed(seed), words(kind)
    width = CONFIGS[kind].get("head_dim", D // HEADS)
    shapes: dict[str, tuple[int, ...]] = {name["embed"]: (VOCAB, D), name["norm"]: (D,)}
    if not tied:
        shapes[name["head"]] = (VOCAB, D)
    for i in range(LAYERS):
        layer = name["layer"].format(i=i)
        shapes |= {
            layer + name["q"]: (HEADS * width, D),
            layer + name["k"]: (KV * width, D),
            layer + name["v"]: (KV * width, D),
            layer + name["o"]: (D, HEADS * width),
            layer + name["gate"]: (MLP, D),
            layer + name["up"]: (MLP, D),
            layer + name["down"]: (D, MLP),
            layer + name["norm1"]: (D,),
            layer + name["norm2"]: (D,),
        }
        if kind in NORMED:
            shapes |= {f"{layer}self_attn.q_norm": (width,), f"{layer}self_attn.k_norm": (width,)}
    out = {f"{key}.weight": torch.randn(shape, generator=noise) * 0.3 for key, shape in shapes.items()}
    if kind in BIASED:
        biased = [key for key in out if key.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))]
        out |= {key[:-6] + "bias": torch.randn(out[key].shape[0], generator=noise) for key in biased}
    return out


def plain_logits(kind: str, config: dict[str, Any], weights: dict[str, Tensor], tokens: Tensor, seen: Tensor) -> Tensor:
    """Logits (t, v) of one row of tokens (t,), written from the papers' formulas; `seen` (t, t) says who sees whom."""
    if kind in PLAIN:
        return PLAIN[kind](config, weights, tokens, seen)
    name, t = words(kind), len(tokens)
    eps, theta = config["rms_norm_eps"], config["rope_theta"]
    width = config.get("head_dim", D // HEADS)

    def norm(x: Tensor, key: str) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weights[key + ".weight"]

    def linear(x: Tensor, key: str) -> Tensor:
        y = x @ weights[key + ".weight"].T
        return y + weights[key + ".bias"] if key + ".bias" in weights else y

    angle = torch.arange(t)[:, None] * theta ** (-torch.arange(0, width, 2) / width)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)

    def rotate(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    x = weights[name["embed"] + ".weight"][tokens]
    for i in range(LAYERS):
        layer = name["layer"].format(i=i)
        y = norm(x, layer + name["norm1"])
        q, k, v = (linear(y, layer + name[part]).view(t, -1, width).transpose(0, 1) for part in "qkv")
        if kind in NORMED:
            q, k = norm(q, layer + "self_attn.q_norm"), norm(k, layer + "self_attn.k_norm")
        q, k, v = rotate(q), rotate(k).repeat_interleave(HEADS // KV, 0), v.repeat_interleave(HEADS // KV, 0)
        scores = (q @ k.transpose(1, 2) / math.sqrt(width)).masked_fill(~seen, -torch.inf)
        x = x + linear((scores.softmax(-1) @ v).transpose(0, 1).reshape(t, -1), layer + name["o"])
        y = norm(x, layer + name["norm2"])
        x = x + linear(silu(linear(y, layer + name["gate"])) * linear(y, layer + name["up"]), layer + name["down"])
    head = name["head"] if name["head"] + ".weight" in weights else name["embed"]
    return linear(norm(x, name["norm"]), head)


def write(folder: Path, kind: str, *, tied: bool = False, shards: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write a checkpoint; `changes` replace fields of config.json, None removing them."""
    folder.mkdir(parents=True, exist_ok=True)
    tie = {"weight_tying" if kind == "llada" else "tie_word_embeddings": tied}
    tie = {} if kind in originals.CONFIGS else tie
    config = {key: value for key, value in {**CONFIGS[kind], **tie, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    if kind in ADDED:
        (folder / "added_tokens.json").write_text(json.dumps(ADDED[kind]))
    weights = tensors(kind, tied, seed)
    if shards == 1:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder
    places = {key: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, key in enumerate(weights)}
    for file in set(places.values()):
        save_file({k: w for k, w in weights.items() if places[k] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """`tiny(kind, …)` writes a checkpoint under the test's own folder (see `write`)."""
    return lambda kind, name="checkpoint", **options: write(tmp_path / name, kind, **options)


@pytest.fixture
def plain() -> Callable[..., Tensor]:
    """`plain(folder, kind, tokens, seen)`: logits of a checkpoint by the plain implementation, read from its files."""

    def logits(folder: Path, kind: str, tokens: Tensor, seen: Tensor) -> Tensor:
        weights = {k: w for file in folder.glob("*.safetensors") for k, w in load_file(file).items()}
        return plain_logits(kind, json.loads((folder / "config.json").read_text()), weights, tokens, seen)

    return logits


@pytest.fixture
def logits() -> Callable[..., Tensor]:
    """`logits(model, tokens)`: logits (b, t, v) of a whole canvas, through the model's own query."""
    from dllm.models import TransformerModel
    from dllm.types import BlockCausal, Query

    @torch.inference_mode()
    def run(model: TransformerModel, tokens: Tensor) -> Tensor:
        b, t = tokens.shape
        columns = torch.arange(t).expand(b, t)
        mask = None
        if isinstance(model.geometry, BlockCausal):
            reach = model.geometry.visible_end(columns, torch.full((b,), t))
            mask = (torch.arange(t) < reach[..., None])[:, None]
        query = Query(tokens, columns, torch.ones(b, t, dtype=torch.bool), t, mask, 0)
        return model.head(model.forward(query, None).flatten(0, 1)).view(b, t, -1)

    return run


@pytest.fixture
def edit() -> Callable[..., None]:
    """`edit(folder, change)`: let `change` alter the dict of tensors of a single-file checkpoint."""

    def apply(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
        file = folder / "model.safetensors"
        weights = load_file(file)
        change(weights)
        save_file(weights, file, {"format": "pt"})

    return apply
