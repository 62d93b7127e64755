"""Plain causal language models that `transformers` supports by itself: the autoregressive baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dllm.models.families.base import Config, Family
from dllm.types import BlockCausal, Geometry


@dataclass(frozen=True)
class AutoregressiveFamily(Family):
    """Any native causal-LM class; its config and tensors are left to `transformers`."""

    name: str = "autoregressive"
    title: str = "plain causal language models (Qwen2.5, Qwen3, Llama, SmolLM2, …)"
    model_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    stock: str = "AutoModelForCausalLM"
    settings: str = "AutoConfig"
    needs_left: int = 1
    stops_in: str = "generation_config"
    examples: tuple[str, ...] = ("Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen3-1.7B", "HuggingFaceTB/SmolLM2-135M-Instruct")

    def translate(self, config: Config) -> dict[str, Any]:
        return {}

    def geometry(self, config: Config) -> Geometry:
        return BlockCausal(1)


def causal_lm_class(config: Config) -> str | None:
    """Find the native class that runs this config as a causal language model; None if there is none.

    The class that `architectures` names must be a native causal-LM class too: an encoder, or a checkpoint that borrows
    a native `model_type` for code of its own, is not a plain causal language model.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    named = KNOWN.get(str(config.get("model_type")))
    if named is None:
        return None
    classes = (named,) if isinstance(named, str) else tuple(named)
    named_classes = config.get("architectures") or [classes[0]]
    return named_classes[0] if named_classes[0] in classes else None
