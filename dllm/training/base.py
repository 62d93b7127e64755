"""The model that is adapted: looked at without its weights, then opened, given a mask token and perhaps an adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dllm.errors import ConfigError
from dllm.models import describe, load
from dllm.models.checkpoint import read
from dllm.models.families.qwen import CHATML
from dllm.models.tokenizers import read_tokenizer
from dllm.training.plan import Plan

MASK_TOKEN = "|<MASK>|"
"""What Fast-dLLM v2 calls the token it adds."""

KINDS = {"LlamaForCausalLM": "Llama", "Qwen2ForCausalLM": "Qwen", "Qwen3ForCausalLM": "Qwen3"}
"""Stock classes that can be adapted, and what Hub formats call them."""

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers that all of them have."""


@dataclass(frozen=True)
class Ground:
    """What is known of a base before its weights are read.

    name, folder  what was asked for, and where it is
    stock         its class of `transformers`
    tokenizer     with the mask token, and a chat template where there is one
    mask_id       id of the mask; `fresh` if nothing has trained its row of the embedding yet
    stop_ids      ids that end a turn or a text, the first one ending documents
    pad_id        id that fills nothing
    dtype         dtype of its weights on disk
    """

    name: str
    folder: Path
    stock: str
    tokenizer: Any
    mask_id: int
    fresh: bool
    stop_ids: tuple[int, ...]
    pad_id: int
    dtype: str


def look(plan: Plan) -> Ground:
    """Read the small files of a plan's base and settle its special tokens. Raises ConfigError for what cannot work."""
    found, facts = read(plan.base), describe(plan.base)
    if facts.stock == "AutoModelForCausalLM" or facts.stock not in KINDS:
        raise ConfigError(
            f"base / --base {plan.base}: is a {facts.stock}; those that can be adapted are "
            "Qwen2 and Qwen2.5, Qwen3, Llama and SmolLM2"
        )
    if plan.lora_targets != "all-linear" and (
        odd := [name for name in plan.lora_targets.split(",") if name not in LINEAR]
    ):
        raise ConfigError(f"lora_targets / --lora-targets {odd[0]}: must be all-linear or some of {', '.join(LINEAR)}")
    if facts.context is not None and plan.context > facts.context:
        raise ConfigError(f"context / --context {plan.context}: {plan.base} has {facts.context} positions")
    if plan.format == "llada" and (reason := not_llada(facts.stock, found.config)):
        raise ConfigError(
            f"format / --format llada: {plan.base} has {reason}, which LLaDA has not; --format a2d holds it"
        )
    tokenizer = read_tokenizer(found.folder, found.family)
    if tokenizer is None:
        raise ConfigError(f"base / --base {plan.base}: has no tokenizer that can be read, and data are texts")
    if plan.chat_template is not None:
        tokenizer.chat_template = _template(plan.chat_template, tokenizer)
    if not facts.stop_ids:
        raise ConfigError(f"base / --base {plan.base}: names no end token (eos_token_id in its generation_config.json)")
    mask_id, fresh = _mask(plan, tokenizer, facts.mask_id)
    return Ground(
        plan.base, found.folder, facts.stock, tokenizer, mask_id, fresh, facts.stop_ids, facts.pad_id, facts.dtype
    )


def not_llada(stock: str, config: Mapping[str, Any]) -> str | None:
    """What of a checkpoint LLaDA's format cannot hold, if anything.

    Args:
        stock: Its class of `transformers`, or that of its config.
        config: Its config.json.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    width = config.get("hidden_size", 0) // (config.get("num_attention_heads") or 1)
    reasons = {
        f"the class {stock}": not stock.startswith("Llama"),
        "biases": bool(config.get("attention_bias") or config.get("mlp_bias")),
        f"the activation {config.get('hidden_act')}": config.get("hidden_act") not in (None, "silu"),
        "scaled rotary embeddings": rope.get("rope_type", rope.get("type", "default")) != "default",
        "heads of a width of their own": config.get("head_dim") not in (None, width),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _template(name: str, tokenizer: Any) -> str:
    if name == "chatml":
        if missing := {"<|im_start|>", "<|im_end|>"} - tokenizer.get_vocab().keys():
            raise ConfigError(f"chat_template / --chat-template chatml: the tokenizer has no token {min(missing)}")
        return CHATML
    if not Path(name).is_file():
        raise ConfigError(f"chat_template / --chat-template {name}: neither chatml nor a file")
    return Path(name).read_text("utf-8")


def _mask(plan: Plan, tokenizer: Any, known: int | None) -> tuple[int, bool]:
    """(id of the mask token, whether it is new); the tokenizer has it afterwards."""
    if plan.mask_token is not None:
        words = tokenizer.get_vocab()
        if plan.mask_token not in words:
            raise ConfigError(
                f"mask_token / --mask-token {plan.mask_token!r}: not a token of {plan.base}; name a spare one, "
                f"or leave it out to add {MASK_TOKEN}"
            )
        tokenizer.mask_token = plan.mask_token
        return words[plan.mask_token], False
    if known is not None:
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(known)
        return known, False
    if tokenizer.mask_token is not None:
        return tokenizer.mask_token_id, False
    tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    return tokenizer.mask_token_id, True


def open_network(ground: Ground, plan: Plan) -> Any:
    """The base's network, ready to be trained: its mask row, its adapter, its attention function.

    A new row of the embedding starts as the mean of the others. With `lora` the weights stay as they are, but for an
    adapter on their linear layers and the mask's row of the embedding.
    """
    half = plan.lora and _bf16(plan)
    network: Any = load(ground.name, dtype="bfloat16" if half else "float32", device="cpu").network
    if ground.fresh:
        _give_row(network, ground.mask_id)
    network.config.use_cache = False
    network.set_attn_implementation("flex_attention" if torch.cuda.is_available() else "sdpa")
    if plan.gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    return _adapter(network, plan, ground.mask_id) if plan.lora else network


def _bf16(plan: Plan) -> bool:
    if plan.bf16 is not None:
        return plan.bf16
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


@torch.no_grad()
def _give_row(network: Any, index: int) -> None:
    """A row `index` of the embedding, and of an untied head, that is the mean of those before it, as all new ones."""
    held = network.get_input_embeddings().num_embeddings
    network.resize_token_embeddings(max(index + 1, held), mean_resizing=False)
    known = min(index, held)
    for layer in (network.get_input_embeddings(), network.get_output_embeddings()):
        layer.weight[known : index + 1] = layer.weight[:known].float().mean(0).to(layer.weight.dtype)


def _adapter(network: Any, plan: Plan, mask_id: int) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=plan.lora,
        lora_alpha=plan.lora_alpha or 2 * plan.lora,
        lora_dropout=plan.lora_dropout,
        target_modules="all-linear" if plan.lora_targets == "all-linear" else plan.lora_targets.split(","),
        trainable_token_indices=[mask_id],
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(network, config)
    for tensor in trained(adapted):
        tensor.data = tensor.data.float()
    return adapted


def trained(network: Any) -> Iterator[torch.nn.Parameter]:
    """The parameters that training changes."""
    return (parameter for parameter in network.parameters() if parameter.requires_grad)
