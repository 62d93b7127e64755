"""LLaDA (8B Base, 8B Instruct, 1.5): a Llama without the causal mask, with config and tensor names of OLMo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dllm.errors import CheckpointError
from dllm.models.families.base import Config, Family, read_positive_int, read_rope_parameters, require_values
from dllm.types import Bidirectional, Geometry

CHAT = (
    "{{ '<|startoftext|>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

BLOCK = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}

NAMES = (
    ("model.transformer.wte", "model.embed_tokens"),
    ("model.transformer.ln_f", "model.norm"),
    ("model.transformer.ff_out", "lm_head"),
    *((f"model.transformer.blocks.{{i}}.{disk}", f"model.layers.{{i}}.{stock}") for disk, stock in BLOCK.items()),
)

VARIANT = {
    "block_type": "llama",
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "rope": True,
    "alibi": False,
    "attention_layer_norm": False,
    "scale_logits": False,
    "input_emb_norm": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "block_group_size": 1,
    "activation_type": "silu",
}


@dataclass(frozen=True)
class LLaDA(Family):
    """LLaDA: bidirectional, no token shift.

    References:
        Nie et al. 2025, Large Language Diffusion Models (arXiv:2502.09992).

    Departures:
        The rotary embedding is rotated in the model's dtype, as stock Llama does, not in float32.
    """

    name: str = "llada"
    title: str = "LLaDA"
    model_types: tuple[str, ...] = ("llada",)
    architectures: tuple[str, ...] = ("LLaDAModelLM",)
    stock: str = "LlamaForCausalLM"
    settings: str = "LlamaConfig"
    needs_left: int = 0
    mask_token: str | None = "<|mdm_mask|>"
    mask_id: int | None = 126336
    stop_tokens: tuple[str, ...] = ("<|eot_id|>",)
    stop_id: int | None = 126081
    pad_id: int | None = 126081
    chat_template: str | None = CHAT
    chat_token: str | None = "<|start_header_id|>"
    names: tuple[tuple[str, str], ...] = NAMES
    examples: tuple[str, ...] = ("GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-8B-Instruct", "GSAI-ML/LLaDA-1.5")
    reference: str = "Nie et al. 2025 (arXiv:2502.09992)"

    def translate(self, config: Config) -> dict[str, Any]:
        for key in ("block_type", "layer_norm_type"):
            if config.get(key) is None:
                raise CheckpointError(f"config.json: {key} is missing; LLaDA needs {key} = {VARIANT[key]!r}")
        require_values(self.title, config, VARIANT)
        width, heads = read_positive_int(config, "d_model"), read_positive_int(config, "n_heads")
        groups = read_positive_int(config, "n_kv_heads", 1 if config.get("multi_query_attention") else heads)
        ratio = "mlp_ratio" if config.get("mlp_hidden_size") is None else "mlp_hidden_size"
        hidden = read_positive_int(config, ratio, 4) * (width if ratio == "mlp_ratio" else 1)
        return {
            "hidden_size": width,
            "num_hidden_layers": read_positive_int(config, "n_layers"),
            "num_attention_heads": heads,
            "num_key_value_heads": groups,
            "intermediate_size": hidden,
            "vocab_size": read_positive_int(config, "embedding_size" if config.get("embedding_size") else "vocab_size"),
            "max_position_embeddings": read_positive_int(config, "max_sequence_length"),
            "rms_norm_eps": config.get("rms_norm_eps", 1e-5),
            "rope_parameters": read_rope_parameters(config),
            "tie_word_embeddings": bool(config.get("weight_tying", True)),
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
        }

    def geometry(self, config: Config) -> Geometry:
        return Bidirectional()
