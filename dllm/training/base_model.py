"""The model to be adapted: inspected without its weights, then opened and given a mask token and perhaps an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dllm.errors import ConfigError
from dllm.models import describe_checkpoint, load
from dllm.models.checkpoint import read_checkpoint
from dllm.models.families.qwen import CHATML
from dllm.models.tokenizers import read_tokenizer
from dllm.training.arguments import uses_bf16
from dllm.training.plan import TrainingPlan

MASK_TOKEN = "|<MASK>|"
"""Name of the token that Fast-dLLM v2 adds."""

KINDS = {"LlamaForCausalLM": "Llama", "Qwen2ForCausalLM": "Qwen", "Qwen3ForCausalLM": "Qwen3"}
"""Stock classes that can be adapted, and their names in Hub formats."""

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers that every one of them has."""


@dataclass(frozen=True)
class BaseModelInfo:
    """Facts about a base that are known before its weights are read.

    Attributes:
        name: Folder or Hub id as the plan names it.
        folder: Local folder that holds it.
        stock: Its class of `transformers`.
        tokenizer: Tokenizer with the mask token, and with a chat template where there is one.
        mask_id: Id of the mask token.
        fresh: True if nothing has trained the mask's row of the embedding yet.
        stop_ids: Ids that end a turn or a text; the first one ends documents.
        pad_id: Id of padding.
        dtype: Dtype of its weights on disk, as safetensors names it.
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


def inspect_base(plan: TrainingPlan) -> BaseModelInfo:
    """Read the small files of a plan's base and settle its special tokens.

    Raises:
        ConfigError: For a class that cannot be adapted, unknown LoRA targets, a context beyond the base's positions, a
            tokenizer that cannot be read, or a missing end token.
    """
    found, facts = read_checkpoint(plan.base), describe_checkpoint(plan.base)
    if facts.stock == "AutoModelForCausalLM" or facts.stock not in KINDS:
        raise ConfigError(
            f"base / --base {plan.base}: is a {facts.stock}; those that can be adapted are "
            "Qwen2 and Qwen2.5, Qwen3, Llama and SmolLM2"
        )
    if plan.lora_targets != "all-linear" and (
        unknown := [name for name in plan.lora_targets.split(",") if name not in LINEAR]
    ):
        raise ConfigError(
            f"lora_targets / --lora-targets {unknown[0]}: must be all-linear or some of {', '.join(LINEAR)}"
        )
    if facts.context is not None and plan.context > facts.context:
        raise ConfigError(f"context / --context {plan.context}: {plan.base} has {facts.context} positions")
    tokenizer = read_tokenizer(found.folder, found.family)
    if tokenizer is None:
        raise ConfigError(f"base / --base {plan.base}: has no tokenizer that can be read, and data are texts")
    if plan.chat_template is not None:
        tokenizer.chat_template = _read_chat_template(plan.chat_template, tokenizer)
    if not facts.stop_ids:
        raise ConfigError(f"base / --base {plan.base}: names no end token (eos_token_id in its generation_config.json)")
    mask_id, fresh = _settle_mask_token(plan, tokenizer, facts.mask_id)
    return BaseModelInfo(
        plan.base, found.folder, facts.stock, tokenizer, mask_id, fresh, facts.stop_ids, facts.pad_id, facts.dtype
    )


def _read_chat_template(name: str, tokenizer: Any) -> str:
    """Return the chat template that a plan names: ChatML, or the contents of a file."""
    if name == "chatml":
        if missing := {"<|im_start|>", "<|im_end|>"} - tokenizer.get_vocab().keys():
            raise ConfigError(f"chat_template / --chat-template chatml: the tokenizer has no token {min(missing)}")
        return CHATML
    if not Path(name).is_file():
        raise ConfigError(f"chat_template / --chat-template {name}: neither chatml nor a file")
    return Path(name).read_text("utf-8")


def _settle_mask_token(plan: TrainingPlan, tokenizer: Any, known: int | None) -> tuple[int, bool]:
    """Choose the mask token and set it in the tokenizer.

    Returns:
        Id of the mask token, and whether it is new.
    """
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


def open_network(base: BaseModelInfo, plan: TrainingPlan) -> Any:
    """Load the base's network and make it ready for training: mask row, adapter, attention function.

    A new row of the embedding starts as the mean of the others. With `lora` the weights stay frozen, except an adapter
    on the linear layers and the mask's row of the embedding.
    """
    # Weights that are trained stay float32 (mixed precision casts them per operation); frozen ones need no more than
    # bfloat16.
    half = plan.lora and uses_bf16(plan)
    network: Any = load(base.name, dtype="bfloat16" if half else "float32", device="cpu").network
    if base.fresh:
        _add_embedding_row(network, base.mask_id)
    network.config.use_cache = False
    network.set_attn_implementation("flex_attention" if torch.cuda.is_available() else "sdpa")
    if plan.gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    return _add_adapter(network, plan, base.mask_id) if plan.lora else network


@torch.no_grad()
def _add_embedding_row(network: Any, index: int) -> None:
    """Add row `index` to the embedding, and to an untied head, as the mean of the rows that were there.

    Rows before it that are new as well get the same mean.
    """
    rows = network.get_input_embeddings().num_embeddings
    network.resize_token_embeddings(max(index + 1, rows), mean_resizing=False)
    known = min(index, rows)
    for layer in (network.get_input_embeddings(), network.get_output_embeddings()):
        layer.weight[known : index + 1] = layer.weight[:known].float().mean(0).to(layer.weight.dtype)


def _add_adapter(network: Any, plan: TrainingPlan, mask_id: int) -> Any:
    """Wrap a network in a LoRA adapter that also trains the mask's row of the embedding."""
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
    for tensor in trained_parameters(adapted):
        tensor.data = tensor.data.float()
    return adapted


def trained_parameters(network: Any) -> Iterator[torch.nn.Parameter]:
    """Iterate over the parameters that training changes."""
    return (parameter for parameter in network.parameters() if parameter.requires_grad)
