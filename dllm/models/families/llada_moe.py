"""LLaDA-MoE (7B with 1B active): a Qwen3 mixture of experts without the causal mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dllm.errors import CheckpointError
from dllm.models.families.base import Config, Family, read_positive_int, read_rope_parameters, require_values
from dllm.types import Bidirectional, Geometry

VARIANT: dict[str, Any] = {
    "qk_layernorm": True,
    "clip_qkv": None,
    "partial_rotary_factor": 1,
    "moe_router_score_function": "softmax",
    "moe_router_enable_expert_bias": False,
    "norm_topk_prob": False,
    "routed_scaling_factor": 1,
    "router_num_group": None,
    "router_topk_group": None,
    "shared_expert_intermediate_size": None,
}


@dataclass(frozen=True)
class LLaDAMoE(Family):
    """LLaDA-MoE: bidirectional, no token shift; the best weights of a softmax over all experts are used as they are.

    Tensors have the names of the stock class. config.json has the `model_type` "llada", as that of dense LLaDA, so that
    only `architectures` distinguishes the two, and it names no mask. The published code ignores most routing fields; a
    config with one that asks for something else than it computes is refused.

    References:
        Zhu et al. 2025, LLaDA-MoE (arXiv:2509.24389); what is computed, from the published modelling code.

    Note:
        Not verified: the published config.json itself; its fields and ids are known from others' code and notes.
    """

    name: str = "llada_moe"
    title: str = "LLaDA-MoE"
    model_types: tuple[str, ...] = ("llada", "llada_moe", "lladamoe")
    architectures: tuple[str, ...] = ("LLaDAMoEModelLM", "LLaDAMoEModel")
    stock: str = "Qwen3MoeForCausalLM"
    settings: str = "Qwen3MoeConfig"
    needs_left: int = 0
    mask_token: str | None = "<|mask|>"
    mask_id: int | None = 156895
    stop_tokens: tuple[str, ...] = ("<|role_end|>",)
    stop_id: int | None = 156892
    pad_id: int | None = 156892
    examples: tuple[str, ...] = ("inclusionAI/LLaDA-MoE-7B-A1B-Base", "inclusionAI/LLaDA-MoE-7B-A1B-Instruct")
    reference: str = "Zhu et al. 2025 (arXiv:2509.24389)"

    def translate(self, config: Config) -> dict[str, Any]:
        require_values(self.title, config, VARIANT)
        width, heads = read_positive_int(config, "hidden_size"), read_positive_int(config, "num_attention_heads")
        # The published code computes the width of a head and looks at no field of that name.
        require_values(self.title, config, {"head_dim": width // heads})
        dense = _dense_layers(config)
        return {
            "hidden_size": width,
            "num_hidden_layers": read_positive_int(config, "num_hidden_layers"),
            "num_attention_heads": heads,
            "num_key_value_heads": read_positive_int(config, "num_key_value_heads", heads),
            "intermediate_size": read_positive_int(config, "dense_intermediate_size", None if dense else 1),
            "moe_intermediate_size": read_positive_int(config, "expert_intermediate_size"),
            "num_experts": read_positive_int(config, "num_experts"),
            "num_experts_per_tok": read_positive_int(config, "num_experts_per_tok"),
            "norm_topk_prob": False,
            "mlp_only_layers": dense,
            "vocab_size": read_positive_int(config, "vocab_size"),
            "max_position_embeddings": read_positive_int(config, "max_position_embeddings"),
            "rms_norm_eps": config.get("rms_norm_eps", 1e-5),
            "rope_parameters": read_rope_parameters(config),
            "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
            "hidden_act": config.get("hidden_act", "silu"),
            "attention_bias": bool(config.get("attention_bias", False)),
        }

    def geometry(self, config: Config) -> Geometry:
        return Bidirectional()


def _dense_layers(config: Config) -> list[int]:
    """List the layers without experts: those where `moe_layer_freq`, one number a layer, is 0."""
    layers, found = read_positive_int(config, "num_hidden_layers"), config.get("moe_layer_freq")
    if found is None:
        return []
    if not isinstance(found, list) or len(found) != layers or not set(found) <= {0, 1}:
        raise CheckpointError(
            f"config.json: moe_layer_freq is {found!r}; it must hold 0 (dense) or 1 (experts) for each of "
            f"{layers} layers"
        )
    return [layer for layer, experts in enumerate(found) if not experts]
