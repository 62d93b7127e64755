"""Quantised weights by name, through torchao; anything else goes to `load` as a `quantization_config`."""

from __future__ import annotations

from typing import Any

import torch

from dllm.errors import ConfigError

WAYS = ("int8", "int8-dynamic", "int4")
"""Names of ways to quantise.

- int8: weights in int8, one scale a row; products as before. Half or a quarter of the bytes to read.
- int8-dynamic: activations in int8 too, quantised as they come.
- int4: weights in int4, in groups of 128; CUDA and bfloat16 only.
"""


def make_quantization_config(way: str, device: torch.device) -> Any:
    """Make the `quantization_config` of a way to quantise, as `from_pretrained` takes it.

    Raises:
        ConfigError: As in `make_torchao_config`.
    """
    made = make_torchao_config(way, device)
    from transformers import TorchAoConfig

    return TorchAoConfig(made)


def quantize_network(network: Any, way: str) -> None:
    """Quantise a network's linear layers in place, but for its head, as loading a checkpoint does.

    Raises:
        ConfigError: As in `make_torchao_config`.
    """
    made = make_torchao_config(way, next(network.parameters()).device)
    from torchao.quantization import quantize_

    head = network.get_output_embeddings()
    quantize_(network, made, lambda module, name: isinstance(module, torch.nn.Linear) and module is not head)


def stored_bytes(parameter: torch.Tensor) -> int:
    """Count the bytes that a parameter holds: of a quantised one its levels and scales."""
    if not hasattr(parameter, "__tensor_flatten__"):
        return parameter.numel() * parameter.element_size()
    names, _ = parameter.__tensor_flatten__()
    return sum(stored_bytes(getattr(parameter, name)) for name in names)


def make_torchao_config(way: str, device: torch.device) -> Any:
    """Make torchao's configuration of a way to quantise.

    Raises:
        ConfigError: The way is unknown, cannot work on the device, or torchao is not installed.
    """
    if way not in WAYS:
        raise ConfigError(f"quantize={way!r}: choose from {', '.join(WAYS)}")
    if way == "int4" and device.type != "cuda":
        raise ConfigError(f"quantize='int4': there are int4 products for CUDA only, not for {device}; take int8")
    try:
        from torchao import quantization as torchao
    except ImportError:
        raise ConfigError(f"quantize={way!r} needs torchao: pip install 'dllm[quant]'") from None
    made = {
        "int8": lambda: torchao.Int8WeightOnlyConfig(version=2),
        "int8-dynamic": lambda: torchao.Int8DynamicActivationInt8WeightConfig(version=2),
        "int4": lambda: torchao.Int4WeightOnlyConfig(group_size=128),
    }
    return made[way]()
