"""Open-dCoder (0.5B): Qwen2.5-Coder without the causal mask, token shift kept, under Qwen2's own config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dllm.models.families import qwen
from dllm.models.families.base import Config, Family
from dllm.types import Bidirectional, Geometry


@dataclass(frozen=True)
class OpenDCoder(Family):
    """Open-dCoder: bidirectional, token-shifted.

    config.json is that of a plain Qwen2; only the mask token `<M>` in added_tokens.json shows that it denoises.

    References:
        Peng et al. 2025, Open-dLLM (github.com/pengzhangzhi/Open-dLLM).

    Note:
        Not verified: the published files themselves; that `<M>` (151665) stands in added_tokens.json and nowhere in
        config.json was read from another project's code.
    """

    name: str = "open_dcoder"
    title: str = "Open-dCoder"
    model_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    on_request: tuple[str, ...] = ("qwen2",)
    mark: str | None = "<M>"
    stock: str = "Qwen2ForCausalLM"
    settings: str = "Qwen2Config"
    needs_left: int = 1
    mask_token: str | None = "<M>"
    mask_id: int | None = 151665
    stop_id: int | None = 151643
    pad_id: int | None = 151643
    tokenizer: str | None = "Qwen2Tokenizer"
    examples: tuple[str, ...] = ("fredzzp/open-dcoder-0.5B",)
    reference: str = "Peng et al. 2025 (github.com/pengzhangzhi/Open-dLLM)"

    def translate(self, config: Config) -> dict[str, Any]:
        return qwen.translate_config(self.title, config, drop=("head_dim", "attention_bias"))

    def geometry(self, config: Config) -> Geometry:
        return Bidirectional()
