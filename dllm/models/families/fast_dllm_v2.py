"""Fast-dLLM v2 (1.5B, 7B): Qwen2.5, or another base, adapted to blocks that are denoised one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dllm.models.families import qwen
from dllm.models.families.base import Config, Family, read_positive_int
from dllm.types import BlockCausal, Geometry

STOCK = {
    "Fast_dLLM_Qwen": ("Qwen2ForCausalLM", "Qwen2Config"),
    "Fast_dLLM_Qwen3": ("Qwen3ForCausalLM", "Qwen3Config"),
    "Fast_dLLM_Llama": ("LlamaForCausalLM", "LlamaConfig"),
}
"""Stock class and config class by `model_type`. Only the first is published; `dllm train` writes all of them."""


@dataclass(frozen=True)
class FastDLLMv2(Family):
    """Fast-dLLM v2: block-causal, token-shifted. The published config.json names no mask id: the tokenizer does.

    References:
        Wu et al. 2025, Fast-dLLM v2 (arXiv:2509.26328).
    """

    name: str = "fast_dllm_v2"
    title: str = "Fast-dLLM v2"
    model_types: tuple[str, ...] = tuple(STOCK)
    architectures: tuple[str, ...] = tuple(f"{kind}ForCausalLM" for kind in STOCK)
    stock: str = "Qwen2ForCausalLM"
    settings: str = "Qwen2Config"
    needs_left: int = 1
    mask_token: str | None = "|<MASK>|"
    mask_id: int | None = 151665
    stop_id: int | None = 151645
    pad_id: int | None = 151645
    chat_template: str | None = qwen.CHATML
    chat_token: str | None = "<|im_start|>"
    tokenizer: str | None = "Qwen2Tokenizer"
    examples: tuple[str, ...] = ("Efficient-Large-Model/Fast_dLLM_v2_1.5B", "Efficient-Large-Model/Fast_dLLM_v2_7B")
    reference: str = "Wu et al. 2025 (arXiv:2509.26328)"

    def translate(self, config: Config) -> dict[str, Any]:
        if self.stock == "Qwen2ForCausalLM":
            return qwen.translate_config(self.title, config, drop=("head_dim", "attention_bias"))
        fields = qwen.translate_config(self.title, config)
        if self.stock == "LlamaForCausalLM" and config.get("mlp_bias") is not None:
            fields["mlp_bias"] = config["mlp_bias"]
        return fields

    def settle(self, config: Config) -> Family:
        stock, settings = STOCK.get(str(config.get("model_type")), (self.stock, self.settings))
        return replace(self, stock=stock, settings=settings)

    def geometry(self, config: Config) -> Geometry:
        return BlockCausal(read_positive_int(config, "bd_size", 32))
