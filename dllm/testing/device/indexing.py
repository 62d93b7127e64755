"""Reading and writing by index as CUDA does it: booleans are counted first, and repeated writes have no order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dllm.testing.device.operations import INDEX_WRITES, KERNELS, bound_arguments, mixed_devices
from dllm.testing.device.tensor import PretendedTensor, host_of, map_tensors, tensors_of

if TYPE_CHECKING:
    from dllm.testing.device.pretended import PretendedDevice


def index(device: PretendedDevice, func: Any, args: Any, kwargs: Any) -> Any:
    """Run `x[indices]` or `x[indices] = values`; indices may lie on the CPU, and are copied then."""
    here, indices = args[0], args[1]
    name, op, given = func.name(), func.overloadpacket.__name__, [x for x in indices if x is not None]
    values = args[2] if len(args) > 2 else kwargs.get("values")
    if not isinstance(here, PretendedTensor):
        _check_indices_of_host(name, here, given, values)
        return NotImplemented
    number = values is not None and not isinstance(values, PretendedTensor)
    if number and values.dim():
        raise mixed_devices(name, [here, values])
    _note_waits(device, name, given, number)
    accumulate = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
    if op in INDEX_WRITES and not any(map(_is_boolean, given)) and not accumulate:
        _note_repeated(device, name, here, indices)
    tensors = tensors_of(args, kwargs)
    args, kwargs = map_tensors(args, host_of), {key: map_tensors(value, host_of) for key, value in kwargs.items()}
    out = func(*args, **kwargs)
    device.launch(name, KERNELS.get(op, 1), tensors, [out])
    return here if out is here.host else PretendedTensor(out)


def _is_boolean(x: Tensor) -> bool:
    return x.dtype in (torch.bool, torch.uint8)


def _check_indices_of_host(name: str, here: Tensor, given: Sequence[Tensor], values: Any) -> None:
    if any(isinstance(x, PretendedTensor) for x in given):
        raise RuntimeError(f"indices should be either on cpu or on the same device as the indexed tensor (cpu): {name}")
    if isinstance(values, PretendedTensor):
        raise mixed_devices(name, [here, values])


def _note_waits(device: PretendedDevice, name: str, given: Sequence[Tensor], number: bool) -> None:
    """Record why the host waits, if it does.

    Args:
        device: The device.
        name: The operation.
        given: The indices that are tensors.
        number: The value that is written is a 0-dimensional CPU tensor.
    """
    fills = number and bool(given) and all(map(_is_boolean, given))  # then the kernel is that of masked_fill
    for x in given:
        if not isinstance(x, PretendedTensor) and x.dim():
            device.record.note("blocking", f"{name} with an index on the CPU")
            device.wait(f"{name} with an index on the CPU")
        elif _is_boolean(x) and not fills:
            device.launch("aten::nonzero", KERNELS["nonzero"], [x], [])
            device.wait(f"{name} with a boolean index")
    if number and not fills:
        device.record.note("blocking", f"{name} with a value on the CPU")
        device.wait(f"{name} with a value on the CPU")


def _note_repeated(device: PretendedDevice, name: str, here: PretendedTensor, indices: Sequence[Any]) -> None:
    """Record a race where two of the indices that are written are the same."""
    flat = torch.zeros((), dtype=torch.int64)
    some = torch.broadcast_tensors(*(host_of(x) for x in indices if x is not None))
    for x, size in zip(some, (here.shape[i] for i, x in enumerate(indices) if x is not None), strict=True):
        flat = flat * size + x % size
    if len(flat.flatten().unique()) < flat.numel():
        device.record.note("race", name)


def first_write_wins(device: PretendedDevice, func: Any, args: Any, kwargs: Any) -> Any:
    """Reverse the arguments of a scatter, or of a copy by index, so that of repeated indices the first wins.

    On a CPU the last wins, and on CUDA any may: code that is right is right with both.
    """
    bound = bound_arguments(func, args, kwargs)
    where, dim = bound["index"], bound["dim"]
    source = bound.get("src", bound.get("source"))
    if not isinstance(source, Tensor) or where.numel() == 0 or bound.get("reduce") is not None:
        return args, kwargs
    axis = -1 if where.dim() == 1 else dim
    if bool((where.sort(axis).values.diff(dim=axis) == 0).any()):
        device.record.note("race", func.name())
    if func.overloadpacket.__name__.startswith("index_copy"):
        return (), bound | {"index": where.flip(0), "source": source.flip(dim)}
    source = source[tuple(slice(size) for size in where.shape)]
    return (), bound | {"index": where.flip(dim), "src": source.flip(dim)}
