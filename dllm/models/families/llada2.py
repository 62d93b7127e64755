"""LLaDA2 (mini, flash; 2.0 and 2.1): the GLM-4.5 mixture of experts in blocks that are denoised one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dllm.models.families.base import Config, Family, read_positive_int, read_rope_parameters, require_values
from dllm.types import BlockCausal, Geometry

LAYER = "model.layers.{i}."

NAMES = (
    ("model.word_embeddings", "model.embed_tokens"),
    (LAYER + "attention.query_layernorm", LAYER + "self_attn.q_norm"),
    (LAYER + "attention.key_layernorm", LAYER + "self_attn.k_norm"),
    (LAYER + "attention.dense", LAYER + "self_attn.o_proj"),
    (LAYER + "mlp.gate.expert_bias", LAYER + "mlp.gate.e_score_correction_bias"),
)

SPLITS = ((LAYER + "attention.query_key_value", tuple(LAYER + f"self_attn.{part}_proj" for part in ("q", "k", "v"))),)

VARIANT: dict[str, Any] = {
    "use_qk_norm": True,
    "use_qkv_bias": False,
    "use_bias": False,
    "norm_head": False,
    "use_sliding_window": False,
    "score_function": "sigmoid",
    "moe_router_enable_expert_bias": True,
    "norm_topk_prob": True,
}


@dataclass(frozen=True)
class LLaDA2(Family):
    """LLaDA2: block-causal, no token shift. The config names no block: the published models were trained with 32.

    The published class and the stock class route by a sigmoid. A bias per expert takes part in choosing experts and not
    in weighing them. The two best experts of each group determine the group's rank; experts of the best groups compete;
    their weights are normalised (unless there is only one) and scaled; experts that all tokens share are added. Both
    classes normalise each head's queries and keys and rotate a part of them. On disk queries, keys and values are one
    matrix.

    References:
        Bie et al. 2025, LLaDA2.0 (arXiv:2512.15745); what is computed, from the published modelling code.

    Note:
        Not verified: the published config.json itself (its fields are known from others' tests of it), and that 2.1
        has the format of 2.0. Whether the two differ shows in their tensors, each of which must find its place.
    """

    name: str = "llada2"
    title: str = "LLaDA2"
    model_types: tuple[str, ...] = ("llada2_moe",)
    architectures: tuple[str, ...] = ("LLaDA2MoeModelLM",)
    stock: str = "Glm4MoeForCausalLM"
    settings: str = "Glm4MoeConfig"
    needs_left: int = 0
    mask_token: str | None = "<|mask|>"
    mask_id: int | None = 156895
    stop_tokens: tuple[str, ...] = ("<|role_end|>",)
    stop_id: int | None = 156892
    pad_id: int | None = 156892
    names: tuple[tuple[str, str], ...] = NAMES
    splits: tuple[tuple[str, tuple[str, ...]], ...] = SPLITS
    examples: tuple[str, ...] = ("inclusionAI/LLaDA2.0-mini", "inclusionAI/LLaDA2.0-flash")
    reference: str = "Bie et al. 2025 (arXiv:2512.15745)"

    def translate(self, config: Config) -> dict[str, Any]:
        require_values(self.title, config, VARIANT)
        width, heads = read_positive_int(config, "hidden_size"), read_positive_int(config, "num_attention_heads")
        head, chosen = (
            read_positive_int(config, "head_dim", width // heads),
            read_positive_int(config, "num_experts_per_tok"),
        )
        share = config.get("partial_rotary_factor", 0.5)
        require_values(self.title, config, {"rotary_dim": int(head * share)})
        layers = read_positive_int(config, "num_hidden_layers")
        return {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": read_positive_int(config, "num_key_value_heads", heads),
            "head_dim": head,
            "intermediate_size": read_positive_int(config, "intermediate_size"),
            "moe_intermediate_size": read_positive_int(config, "moe_intermediate_size"),
            "n_routed_experts": read_positive_int(config, "num_experts"),
            "num_experts_per_tok": chosen,
            "n_shared_experts": read_positive_int(config, "num_shared_experts"),
            "n_group": read_positive_int(config, "n_group"),
            "topk_group": read_positive_int(config, "topk_group"),
            "norm_topk_prob": chosen > 1,
            "routed_scaling_factor": float(config.get("routed_scaling_factor", 1.0)),
            "first_k_dense_replace": config.get("first_k_dense_replace", 0),
            "num_mtp_layers": 0,
            "use_qk_norm": True,
            "attention_bias": False,
            "vocab_size": read_positive_int(config, "vocab_size"),
            "max_position_embeddings": read_positive_int(config, "max_position_embeddings"),
            "rms_norm_eps": config.get("rms_norm_eps", 1e-6),
            "rope_parameters": {"partial_rotary_factor": share, **read_rope_parameters(config)},
            "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
            "hidden_act": config.get("hidden_act", "silu"),
        }

    def geometry(self, config: Config) -> Geometry:
        return BlockCausal(read_positive_int(config, "block_size", 32))
