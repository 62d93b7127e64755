"""Tiny random models of every geometry, made on the spot."""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from dllm.models import TransformerModel
from dllm.types import Bidirectional, BlockCausal, Geometry

VOCABULARY = 32
MASK = 31
STOP = 30

GEOMETRIES: dict[str, tuple[Geometry, int]] = {
    "bidirectional": (Bidirectional(), 0),
    "bidirectional-shift": (Bidirectional(), 1),
    "block-causal": (BlockCausal(8), 0),
    "block-causal-shift": (BlockCausal(8), 1),
}


@functools.cache
def tiny_network(shift: int) -> torch.nn.Module:
    """Make a random two-layer decoder whose predictions are neither flat nor certain."""
    kind: Any
    kind, config = (Qwen2ForCausalLM, Qwen2Config) if shift else (LlamaForCausalLM, LlamaConfig)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5 + shift)
        net: torch.nn.Module = kind(
            config(
                vocab_size=VOCABULARY,
                hidden_size=24,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=256,
                initializer_range=0.35,
            )
        )
    return net.eval()


@functools.cache
def tiny_model(geometry: str) -> TransformerModel:
    """Make a tiny model of a named geometry. No token ends a text unless a request has end tokens of its own."""
    kind, shift = GEOMETRIES[geometry]
    return TransformerModel(tiny_network(shift), kind, needs_left=shift, mask_id=MASK)
