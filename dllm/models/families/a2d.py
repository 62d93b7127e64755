"""A2D: Llama, Qwen2 and Qwen3 adapted to diffusion by the project dLLM, masked (MDLM) or in blocks (BD3-LM)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from dllm.errors import CheckpointError
from dllm.models.families import qwen
from dllm.models.families.base import Config, Family, read_positive_int
from dllm.types import Bidirectional, BlockCausal, Geometry


class _AdaptedBase(NamedTuple):
    """The kind of model that was adapted.

    Attributes:
        stock: Class of `transformers` that runs it.
        settings: Class of `transformers` that holds its config.
        drop: Fields that its config class does not compute with.
        mask_id: Id that its tokenizer gives to a new token. None where there is no such tokenizer.
    """

    stock: str
    settings: str
    drop: tuple[str, ...]
    mask_id: int | None


BASES = {
    "a2d-llama": _AdaptedBase("LlamaForCausalLM", "LlamaConfig", (), None),
    "a2d-qwen2": _AdaptedBase("Qwen2ForCausalLM", "Qwen2Config", ("head_dim", "attention_bias"), 151665),
    "a2d-qwen3": _AdaptedBase("Qwen3ForCausalLM", "Qwen3Config", (), 151669),
}


@dataclass(frozen=True)
class A2D(Family):
    """A2D trained masked: bidirectional, no token shift.

    Config and tensors are those of the model that was adapted, under another `model_type`. config.json does not say
    whether a checkpoint was trained masked or in blocks, so the second kind is loaded by asking for `A2DBlocks` by
    its name.

    References:
        Zhou et al., dLLM (github.com/ZHZisZZ/dllm), `pipelines/a2d`; MDLM (arXiv:2406.07524).

    Note:
        Not verified: the mask id of Qwen2.5 (the first that its tokenizer has free; a tokenizer's own comes first), and
        whether a published config ties a head that its weights hold apart: such a checkpoint is refused.
    """

    name: str = "a2d"
    title: str = "A2D, masked (Llama, Qwen2, Qwen3)"
    model_types: tuple[str, ...] = tuple(BASES)
    architectures: tuple[str, ...] = ("A2DLlamaLMHeadModel", "A2DQwen2LMHeadModel", "A2DQwen3LMHeadModel")
    stock: str = "Llama-, Qwen2- or Qwen3ForCausalLM"
    settings: str = "LlamaConfig, Qwen2Config or Qwen3Config"
    needs_left: int = 0
    mask_token: str | None = "<|mask|>"
    stop_tokens: tuple[str, ...] = ("<|im_end|>",)
    tokenizer: str | None = "Qwen2Tokenizer"
    examples: tuple[str, ...] = (
        "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1",
        "dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1",
    )
    reference: str = "Zhou et al. (github.com/ZHZisZZ/dllm)"

    def settle(self, config: Config) -> Family:
        kind = config.get("model_type")
        if kind not in BASES:
            raise CheckpointError(
                f"config.json: model_type is {kind!r}; {self.title} is known for {', '.join(map(repr, BASES))}"
            )
        base = BASES[kind]
        return replace(self, stock=base.stock, settings=base.settings, mask_id=base.mask_id)

    def translate(self, config: Config) -> dict[str, Any]:
        fields = qwen.translate_config(self.title, config, drop=BASES[config["model_type"]].drop)
        if config["model_type"] == "a2d-llama":
            fields["mlp_bias"] = bool(config.get("mlp_bias", False))
        return fields

    def geometry(self, config: Config) -> Geometry:
        return Bidirectional()


@dataclass(frozen=True)
class A2DBlocks(A2D):
    """A2D trained in blocks: block-causal, no token shift.

    Blocks have 32 columns where config.json has no `block_size`.

    References:
        As `A2D`; BD3-LM (Arriola et al. 2025, arXiv:2503.09573).

    Departures:
        Blocks lie at multiples of their size from the first column, as in its training; its sampler moves them so that
        the prompt ends with a block.
    """

    name: str = "a2d_bd3lm"
    title: str = "A2D, block diffusion (Llama, Qwen2, Qwen3)"
    model_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    on_request: tuple[str, ...] = tuple(BASES)
    examples: tuple[str, ...] = (
        "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1",
        "dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-bd3lm-v0.1",
    )

    def geometry(self, config: Config) -> Geometry:
        return BlockCausal(read_positive_int(config, "block_size", 32))
