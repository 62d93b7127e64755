"""The registry of families, and how a checkpoint is recognised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dllm.errors import CheckpointError, ConfigError
from dllm.models.families.a2d import A2D, A2DBlocks
from dllm.models.families.autoregressive import AutoregressiveFamily, causal_lm_class
from dllm.models.families.base import Config, Family
from dllm.models.families.dream import Dream
from dllm.models.families.fast_dllm_v2 import FastDLLMv2
from dllm.models.families.llada import LLaDA
from dllm.models.families.llada2 import LLaDA2
from dllm.models.families.llada_moe import LLaDAMoE
from dllm.models.families.masked_lm import MaskedLM
from dllm.models.families.open_dcoder import OpenDCoder
from dllm.models.families.plugins import PLUGGED, find_plugged_family
from dllm.models.families.sdar import SDAR

FAMILIES: tuple[Family, ...] = (
    LLaDA(),
    Dream(),
    FastDLLMv2(),
    SDAR(),
    LLaDAMoE(),
    LLaDA2(),
    A2D(),
    A2DBlocks(),
    OpenDCoder(),
    MaskedLM(),
)
"""Every diffusion family, in the order in which they are listed."""

AUTOREGRESSIVE = AutoregressiveFamily()

REFUSED = {
    "sdar_moe": "SDAR with a mixture of experts is not mapped onto a stock class yet; use a dense SDAR",
    "llada2_moe_veomni": "LLaDA2 with merged experts is a training format; use the checkpoint it was merged from",
    "a2d-gpt2": "an adapted GPT-2 is not mapped onto a stock class yet; use an adapted Llama or Qwen",
    "bd3lm": "BD3-LM is a diffusion transformer of its own without a stock class; use SDAR or Fast-dLLM v2",
}
"""Related formats that we know and cannot run, by `model_type`, and what to do instead."""


def recognise_family(config: Config, name: str | None = None, added: Iterable[str] = ()) -> Family:
    """Find the family of a config.json, with the facts of this checkpoint.

    Args:
        config: config.json.
        name: Name of the family, where config.json does not determine it.
        added: Tokens of added_tokens.json.

    Raises:
        CheckpointError: There is none; the message lists the families.
        ConfigError: The one asked for cannot run the checkpoint.
    """
    kind, architectures = config.get("model_type"), config.get("architectures") or []
    if name is not None:
        return _family_by_name(name, config)
    if plugged := find_plugged_family(config, FAMILIES):
        return plugged.settle(config)
    known = ", ".join(family.title for family in (*FAMILIES, AUTOREGRESSIVE))
    if reason := REFUSED.get(str(kind).lower()):
        raise CheckpointError(f"config.json: model_type {kind!r}: {reason}; known families: {known}")
    if found := _matching_family(config, frozenset(added)):
        return found.settle(config)
    if stock := causal_lm_class(config):
        return replace(AUTOREGRESSIVE, stock=stock)
    raise CheckpointError(
        f"config.json: model_type {kind!r} (architectures {list(architectures)}) is of no family we know; "
        f"known families: {known}"
    )


def _matching_family(config: Config, added: frozenset[str]) -> Family | None:
    """Find the first family that config.json fits: by architecture, by a token of its own, or by model type alone.

    The order matters: several families share a model type with each other (LLaDA and LLaDA-MoE), or with a plain causal
    language model (Open-dCoder), and only the other two signs distinguish them.
    """
    kind, architectures = config.get("model_type"), set(config.get("architectures") or [])
    named = [f for f in FAMILIES if kind in (*f.model_types, None) and architectures & set(f.architectures)]
    marked = [f for f in FAMILIES if kind in f.on_request and f.mark in added]
    typed = [f for f in FAMILIES if kind in f.model_types and not f.native]
    return next(iter(named + marked + typed), None)


def _family_by_name(name: str, config: Config) -> Family:
    """Return the family of that name.

    Raises:
        ConfigError: It does not run this model type.
    """
    kind = config.get("model_type")
    if name == AUTOREGRESSIVE.name and (stock := causal_lm_class(config)):
        return replace(AUTOREGRESSIVE, stock=stock)
    if name in PLUGGED:
        return PLUGGED[name].settle(config)
    for family in FAMILIES:
        if family.name == name and kind in (*family.model_types, *family.on_request):
            return family.settle(config)
    able = [f.name for f in FAMILIES if kind in (*f.model_types, *f.on_request)]
    if causal_lm_class(config):
        able.append(AUTOREGRESSIVE.name)
    runs = f"this model_type, {kind!r}, is run by {', '.join(able)}" if able else f"no family runs model_type {kind!r}"
    raise ConfigError(f"family {name!r}: {runs}")


__all__ = ["AUTOREGRESSIVE", "FAMILIES", "PLUGGED", "Config", "Family", "recognise_family"]
