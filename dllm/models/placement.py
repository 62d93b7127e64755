"""The device of a network, its precision, and the attention kernels that suit the device."""

from __future__ import annotations

from typing import Any

import torch

from dllm.errors import ConfigError
from dllm.models.third_party import one_line


def choose_attention_kernels(device: torch.device, cudnn: bool) -> None:
    """Allow or forbid cuDNN's attention where a model is put on CUDA; it holds for the whole process.

    PyTorch prefers cuDNN on an H100 and later. There it builds an execution plan for every new shape, which takes
    0.1 to 0.5 s, and decoding without `compile` asks for a new shape at every other step.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(cudnn)


def resolve_device(device: str | torch.device | None, device_map: Any) -> torch.device:
    """Choose a device: the one given, else CUDA where there is one, else the CPU.

    Raises:
        ConfigError: The device that was given is not usable.
    """
    if device is None:
        only_cpu = device_map in ("cpu", {"": "cpu"})
        return torch.device("cuda" if torch.cuda.is_available() and not only_cpu else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device={str(device)!r}: not usable here ({one_line(error)}); try 'cpu'") from None


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> Any:
    """Choose what `transformers` takes as dtype; None is the checkpoint's on an accelerator, and float32 on a CPU.

    Raises:
        ConfigError: It is no floating-point dtype.
    """
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype != "auto" else dtype
    if kind != "auto" and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise ConfigError(f"dtype={dtype!r}: must be 'auto', 'float32', 'bfloat16' or 'float16'")
    return kind
