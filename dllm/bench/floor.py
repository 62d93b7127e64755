"""The floor: the time of a forward that only moves the bytes and computes the products that it must."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from dllm.models import packing
from dllm.models.quantizing import stored_bytes
from dllm.types import Step


class HardwareRates(NamedTuple):
    """Measured rates of this machine.

    Attributes:
        bytes: Bytes copied per second.
        operations: Floating-point operations of matrix products per second.
    """

    bytes: float
    operations: float


class ForwardWork(NamedTuple):
    """Work that a forward cannot avoid.

    Attributes:
        bytes: Bytes to move.
        operations: Floating-point operations.
    """

    bytes: float
    operations: float

    def seconds(self, rates: HardwareRates) -> float:
        """Return the longer of the two times, as if the other one were hidden behind it."""
        return max(self.bytes / rates.bytes, self.operations / rates.operations)


def synchronize_device(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _time_fastest_run(run: Callable[[], Any], device: torch.device, repeats: int = 7) -> float:
    """Return the seconds of the fastest of some runs, after one run to warm up."""
    run()
    seconds = []
    for _ in range(repeats):
        synchronize_device(device)
        start = time.perf_counter()
        run()
        synchronize_device(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure_rates(device: torch.device, dtype: torch.dtype) -> HardwareRates:
    """Measure copy bandwidth and matrix-product rate, here and now.

    The rate is that of the fastest known product of weights of this type: on a CPU often that of packed ones. Products
    of rounded numbers (`int8-dynamic`) can be faster still.

    Args:
        device: Device to measure.
        dtype: Dtype of the weights.
    """
    accelerator = device.type == "cuda"
    count = 2**30 if accelerator else 2**26
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    n = 8192 if accelerator else 1024
    a, b = torch.randn(n, n, device=device).to(dtype), torch.randn(n, n, device=device).to(dtype)
    copied = 2 * count / _time_fastest_run(lambda: target.copy_(source), device)
    multiplied = _time_fastest_run(lambda: a @ b, device)
    if packing.is_packing_supported(device, dtype):
        layer = packing.PackedLinear(nn.Linear(n, n, bias=False, dtype=dtype))
        multiplied = min(multiplied, _time_fastest_run(lambda: layer(a), device))
    return HardwareRates(copied, 2 * n**3 / multiplied)


def count_forward_work(model: Any, step: Step) -> ForwardWork:
    """Count the work that the forward of a step cannot avoid.

    It reads the weights and the keys and values once, and multiplies. Only the slots that get logits go through the
    head. Rows that were not run cost nothing.

    Args:
        model: Model that made the step.
        step: Step whose forward is counted.
    """
    network = model.network
    config = network.config
    size = network.get_input_embeddings().weight.element_size()
    head = network.get_output_embeddings().weight.numel()
    table = network.get_input_embeddings().weight.numel()
    tied = network.get_output_embeddings().weight is network.get_input_embeddings().weight
    # The embedding is a look-up, which costs next to nothing; the head is counted by itself, for it runs on few slots.
    body = sum(p.numel() for p in network.parameters()) - table - (0 if tied else head)
    columns, slots = int(step.queries.sum()), len(step.window.slots)
    ends = step.canvas.rows.length if model.geometry.block is None else step.window.block_end
    keys = int((ends * (step.queries > 0)).sum())
    # Configs of transformers: those of a class without grouped heads have no such field, and `head_dim` may be None.
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    weights = sum(stored_bytes(p) for p in network.parameters()) - size * (table + (0 if tied else head))
    stored = 2 * config.num_hidden_layers * heads * width
    pairs = int((ends * step.queries).sum())
    # Two products (queries with keys, weights with values) of two operations for each number.
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * width * pairs
    return ForwardWork(
        bytes=weights + size * ((head if slots else 0) + stored * keys),
        operations=2 * (body * columns + head * slots) + attention,
    )
