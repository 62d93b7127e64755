"""SDAR, dense (1.7B to 8B): Qwen3 adapted to small blocks that are denoised one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dllm.models.families import qwen
from dllm.models.families.base import Config, Family, read_positive_int
from dllm.types import BlockCausal, Geometry


@dataclass(frozen=True)
class SDAR(Family):
    """SDAR: block-causal, no token shift.

    References:
        Cheng et al. 2025, SDAR (arXiv:2510.06303).
    """

    name: str = "sdar"
    title: str = "SDAR"
    model_types: tuple[str, ...] = ("sdar",)
    architectures: tuple[str, ...] = ("SDARForCausalLM",)
    stock: str = "Qwen3ForCausalLM"
    settings: str = "Qwen3Config"
    needs_left: int = 0
    mask_id: int | None = 151669
    stop_id: int | None = 151645
    pad_id: int | None = 151643
    stops_in: str = "generation_config"
    chat_template: str | None = qwen.TURNS
    chat_token: str | None = "<|im_start|>"
    tokenizer: str | None = "Qwen2Tokenizer"
    examples: tuple[str, ...] = ("JetLM/SDAR-1.7B-Chat", "JetLM/SDAR-4B-Chat", "JetLM/SDAR-8B-Chat")
    reference: str = "Cheng et al. 2025 (arXiv:2510.06303)"

    def translate(self, config: Config) -> dict[str, Any]:
        return qwen.translate_config(self.title, config)

    def geometry(self, config: Config) -> Geometry:
        return BlockCausal(read_positive_int(config, "block_size", 4))
