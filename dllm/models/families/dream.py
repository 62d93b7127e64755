"""Dream (v0, Dream-Coder, DiffuCoder, …): Qwen2 without the causal mask, token shift kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dllm.models.families import qwen
from dllm.models.families.base import Config, Family
from dllm.types import Bidirectional, Geometry


@dataclass(frozen=True)
class Dream(Family):
    """Dream and coders of its format: bidirectional, token-shifted.

    Its tokenizer asks for code of its own, which is never run; the stock Qwen2 tokenizer reads the same files. Coders
    of this format differ from Dream in ids that are never written: Dream-Coder begins a text with 151665, DiffuCoder
    pads with a token of its own (151667) though its config says 151643.

    References:
        Ye et al. 2025, Dream 7B (arXiv:2508.15487); Xie et al. 2025, Dream-Coder (arXiv:2509.01142); Gong et al. 2025,
        DiffuCoder (arXiv:2506.20639).
    """

    name: str = "dream"
    title: str = "Dream"
    model_types: tuple[str, ...] = ("Dream", "dream")
    architectures: tuple[str, ...] = ("DreamModel",)
    stock: str = "Qwen2ForCausalLM"
    settings: str = "Qwen2Config"
    needs_left: int = 1
    mask_token: str | None = "<|mask|>"
    mask_id: int | None = 151666
    stop_tokens: tuple[str, ...] = ("<|im_end|>",)
    stop_id: int | None = 151643
    pad_id: int | None = 151643
    chat_template: str | None = qwen.CHATML
    chat_token: str | None = "<|im_start|>"
    tokenizer: str | None = "Qwen2Tokenizer"
    examples: tuple[str, ...] = (
        "Dream-org/Dream-v0-Base-7B",
        "Dream-org/Dream-v0-Instruct-7B",
        "Dream-org/Dream-Coder-v0-Instruct-7B",
        "apple/DiffuCoder-7B-Instruct",
    )
    reference: str = "Ye et al. 2025 (arXiv:2508.15487)"

    def translate(self, config: Config) -> dict[str, Any]:
        return qwen.translate_config(self.title, config, drop=("head_dim", "attention_bias"))

    def geometry(self, config: Config) -> Geometry:
        return Bidirectional()
