"""Copies of small tensors from the host to the model's device, without the host waiting for it."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor


def to_device(values: Shaped[Tensor, "*shape"], device: torch.device) -> Shaped[Tensor, "*shape"]:
    """Copy a host tensor to a device, and let the host go on.

    With a plain `.to(device)` PyTorch waits behind the copy until the device has done all that was enqueued before. A
    copy that does not block is asynchronous for certain only from pinned memory. PyTorch does not give pinned memory to
    others before the copy is done, so the host may drop or overwrite `values` at once.

    Args:
        values: Tensor on the host; one that is on the device already is given back as it is.
        device: Where it is needed.

    Returns:
        The values on the device; on a CPU the very same tensor.
    """
    if device.type == "cuda" and values.is_cpu:
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
