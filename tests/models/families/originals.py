"""Tiny random checkpoints with the config fields, tensor names and layouts of mixtures of experts and encoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

D, HEADS, KV, VOCAB, LAYERS = 32, 4, 2, 64, 3
EXPERTS, DENSE, EXPERT = 8, 40, 12
IDS = {"eos_token_id": 61, "pad_token_id": 62, "mask_token_id": 63}
Shapes = dict[str, tuple[int, ...]]

LLADA_MOE: dict[str, Any] = {
    "model_type": "llada",
    "architectures": ["LLaDAMoEModelLM"],
    "auto_map": {"AutoConfig": "configuration_lladamoe.LLaDAConfig", "AutoModel": "modeling_lladamoe.LLaDAMoEModelLM"},
    "attention_bias": False,
    "clip_qkv": None,
    "dense_intermediate_size": DENSE,
    "expert_intermediate_size": EXPERT,
    "hidden_act": "silu",
    "hidden_size": D,
    "max_position_embeddings": 128,
    "moe_layer_freq": [1, 0, 1],
    "moe_router_enable_expert_bias": False,
    "moe_router_score_function": "softmax",
    "num_attention_heads": HEADS,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 3,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV,
    "partial_rotary_factor": 1,
    "qk_layernorm": True,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 50000,
    "routed_scaling_factor": 1,
    "tie_word_embeddings": False,
    "vocab_size": VOCAB,
    **IDS,
}

LLADA2: dict[str, Any] = {
    "model_type": "llada2_moe",
    "architectures": ["LLaDA2MoeModelLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM"},
    "block_size": 8,
    "first_k_dense_replace": 1,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": D,
    "intermediate_size": DENSE,
    "max_position_embeddings": 128,
    "moe_intermediate_size": EXPERT,
    "moe_router_enable_expert_bias": True,
    "n_group": 4,
    "norm_head": False,
    "norm_topk_prob": True,
    "num_attention_heads": HEADS,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 3,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV,
    "num_shared_experts": 1,
    "partial_rotary_factor": 0.5,
    "rotary_dim": 8,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 600000,
    "routed_scaling_factor": 2.5,
    "router_dtype": "fp32",
    "score_function": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 2,
    "use_bias": False,
    "use_qk_norm": True,
    "use_qkv_bias": False,
    "vocab_size": VOCAB,
    **IDS,
}

BERT: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": D,
    "intermediate_size": DENSE,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 48,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "vocab_size": VOCAB,
    "mask_token_id": 63,
    "eos_token_id": 61,
}
ROBERTA = {**BERT, "model_type": "roberta", "architectures": ["RobertaForMaskedLM"], "layer_norm_eps": 1e-5}
ROBERTA |= {"pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 50}

MODERNBERT: dict[str, Any] = {
    "model_type": "modernbert",
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "decoder_bias": True,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "hidden_activation": "gelu",
    "hidden_size": D,
    "intermediate_size": DENSE,
    "local_attention": 6,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 128,
    "mlp_bias": False,
    "norm_bias": False,
    "norm_eps": 1e-5,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCAB,
    "cls_token_id": 60,
    "sep_token_id": 61,
    **IDS,
}

CONFIGS = {"llada_moe": LLADA_MOE, "llada2": LLADA2, "bert": BERT, "roberta": ROBERTA, "modernbert": MODERNBERT}


def gated(at: str, width: int) -> Shapes:
    """A gated layer of the usual three matrices."""
    return {f"{at}.gate_proj": (width, D), f"{at}.up_proj": (width, D), f"{at}.down_proj": (D, width)}


def experts(at: str) -> Shapes:
    out: Shapes = {f"{at}.gate": (EXPERTS, D)}
    for i in range(EXPERTS):
        out |= gated(f"{at}.experts.{i}", EXPERT)
    return out


def llada_moe() -> Shapes:
    width = D // HEADS
    out: Shapes = {"model.embed_tokens": (VOCAB, D), "model.norm": (D,), "lm_head": (VOCAB, D)}
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        out |= {f"{at}.input_layernorm": (D,), f"{at}.post_attention_layernorm": (D,)}
        out |= {f"{at}.self_attn.q_proj": (D, D), f"{at}.self_attn.o_proj": (D, D)}
        out |= {f"{at}.self_attn.{part}_proj": (KV * width, D) for part in "kv"}
        out |= {f"{at}.self_attn.{part}_norm": (width,) for part in "qk"}
        out |= gated(f"{at}.mlp", DENSE) if i == 1 else experts(f"{at}.mlp")
    return out


def llada2() -> Shapes:
    width = LLADA2["head_dim"]
    out: Shapes = {"model.word_embeddings": (VOCAB, D), "model.norm": (D,), "lm_head": (VOCAB, D)}
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        out |= {f"{at}.input_layernorm": (D,), f"{at}.post_attention_layernorm": (D,)}
        out |= {f"{at}.attention.query_key_value": ((HEADS + 2 * KV) * width, D)}
        out |= {f"{at}.attention.dense": (D, HEADS * width)}
        out |= {f"{at}.attention.query_layernorm": (width,), f"{at}.attention.key_layernorm": (width,)}
        if i < LLADA2["first_k_dense_replace"]:
            out |= gated(f"{at}.mlp", DENSE)
        else:
            out |= {**experts(f"{at}.mlp"), **gated(f"{at}.mlp.shared_experts", EXPERT)}
    return out


def bert(prefix: str = "bert", types: int = 2, positions: int = 48) -> Shapes:
    at = f"{prefix}.embeddings"
    out: Shapes = {f"{at}.word_embeddings": (VOCAB, D), f"{at}.position_embeddings": (positions, D)}
    out |= {f"{at}.token_type_embeddings": (types, D), f"{at}.LayerNorm": (D,)}
    for i in range(LAYERS):
        at = f"{prefix}.encoder.layer.{i}"
        out |= {f"{at}.attention.self.{part}": (D, D) for part in ("query", "key", "value")}
        out |= {f"{at}.attention.output.dense": (D, D), f"{at}.attention.output.LayerNorm": (D,)}
        out |= {
            f"{at}.intermediate.dense": (DENSE, D),
            f"{at}.output.dense": (D, DENSE),
            f"{at}.output.LayerNorm": (D,),
        }
    return out


def modernbert() -> Shapes:
    out: Shapes = {"model.embeddings.tok_embeddings": (VOCAB, D), "model.embeddings.norm": (D,)}
    out |= {"model.final_norm": (D,), "head.dense": (D, D), "head.norm": (D,)}
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        out |= {f"{at}.attn_norm": (D,)} if i else {}
        out |= {f"{at}.attn.Wqkv": (3 * D, D), f"{at}.attn.Wo": (D, D), f"{at}.mlp_norm": (D,)}
        out |= {f"{at}.mlp.Wi": (2 * DENSE, D), f"{at}.mlp.Wo": (D, DENSE)}
    return out


def tensors(kind: str, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names of the original format. Encoders tie the head to the embedding, on disk too."""
    noise = torch.Generator().manual_seed(seed)

    def random(shapes: Shapes, end: str = "weight") -> dict[str, Tensor]:
        return {f"{key}.{end}": torch.randn(shape, generator=noise) * 0.3 for key, shape in shapes.items()}

    def biased(shapes: Shapes) -> dict[str, Tensor]:
        biases = {key: shape[:1] for key, shape in shapes.items() if "embeddings." not in key or "LayerNorm" in key}
        return random(shapes) | random(biases, "bias")

    if kind == "llada_moe":
        return random(llada_moe())
    if kind == "llada2":
        routers = {f"model.layers.{i}.mlp.gate": (EXPERTS,) for i in range(1, LAYERS)}
        return random(llada2()) | random(routers, "expert_bias")
    if kind == "bert":
        at = "cls.predictions"
        head: Shapes = {f"{at}.transform.dense": (D, D), f"{at}.transform.LayerNorm": (D,)}
        unused: Shapes = {"bert.pooler.dense": (D, D), "cls.seq_relationship": (2, D)}
        return biased({**bert(), **head, **unused}) | random({at: (VOCAB,)}, "bias")
    if kind == "roberta":
        head = {"lm_head.dense": (D, D), "lm_head.layer_norm": (D,)}
        return biased({**bert("roberta", 1, 50), **head}) | random({"lm_head": (VOCAB,)}, "bias")
    return random(modernbert()) | random({"decoder": (VOCAB,)}, "bias")
