"""Quantised weights by name, through torchao; anything else goes to `load` as a `quantization_config`."""

from __future__ import annotations

from typing import Any

import torch

from dllm.errors import ConfigError

WAYS = ("int8", "int8-dynamic", "int4")
"""int8          weights in int8, one scale a row; products as before. Half or a quarter of the bytes to read
int8-dynamic  activations in int8 too, quantised as they come
int4          weights in int4, groups of 128; CUDA and bfloat16 only
"""


def quantization(way: str, device: torch.device) -> Any:
    """The `quantization_config` of a way to quantise. Raises ConfigError where it is unknown or cannot work here."""
    if way not in WAYS:
        raise ConfigError(f"quantize={way!r}: choose from {', '.join(WAYS)}")
    if way == "int4" and device.type != "cuda":
        raise ConfigError(f"quantize='int4': there are int4 products for CUDA only, not for {device}; take int8")
    try:
        from torchao import quantization as torchao
        from transformers import TorchAoConfig
    except ImportError:
        raise ConfigError(f"quantize={way!r} needs torchao: pip install 'dllm[quant]'") from None
    made = {
        "int8": lambda: torchao.Int8WeightOnlyConfig(version=2),
        "int8-dynamic": lambda: torchao.Int8DynamicActivationInt8WeightConfig(version=2),
        "int4": lambda: torchao.Int4WeightOnlyConfig(group_size=128),
    }
    return TorchAoConfig(made[way]())
