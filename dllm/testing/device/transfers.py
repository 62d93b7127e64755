"""Copies between the host and the pretended device: those that block, and those that arrive later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dllm.testing.device.operations import bound_arguments
from dllm.testing.device.record import Record
from dllm.testing.device.tensor import CPU, PINNED, PretendedTensor, bytes_of, fill_with_poison, host_of


class Transfers:
    """The copies that are under way.

    Args:
        record: Record of events.
        wait: Function called where the host waits for the device.
        launch: Function called where kernels are enqueued, with the operation, their number, its arguments and results.
    """

    def __init__(self, record: Record, wait: Callable[[str], None], launch: Callable[..., None]) -> None:
        self._record, self._wait, self._launch = record, wait, launch
        self._to_host: list[tuple[Tensor, Tensor]] = []
        self._to_device: list[tuple[Tensor, Tensor, str]] = []

    def arrive(self) -> None:
        """Complete the copies that are under way, as they are when the host has waited for the device.

        Raises:
            RuntimeError: A pinned tensor was overwritten meanwhile.
        """
        to_host, to_device, self._to_host, self._to_device = self._to_host, self._to_device, [], []
        for target, value in to_host:
            target.copy_(value)
        for source, copied, site in to_device:
            if not torch.equal(source, copied):
                raise RuntimeError(
                    f"a pinned tensor was overwritten while its copy to the device was under way: {site}"
                )

    def move(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run `to` or `_to_copy`: between devices, and between dtypes."""
        bound = bound_arguments(func, args, kwargs)
        x: Tensor = bound["self"]
        other = bound.get("other")
        device = other.device if other is not None else bound.get("device")
        dtype = other.dtype if other is not None else bound.get("dtype")
        device, dtype = x.device if device is None else torch.device(device), x.dtype if dtype is None else dtype
        if device.type not in ("cpu", "cuda") or x.device.type not in ("cpu", "cuda"):
            return NotImplemented
        if device.type == x.device.type:
            return self._convert(func, x, dtype, bound)
        out = torch.ops.aten._to_copy.default(host_of(x), dtype=dtype)
        converts, non_blocking = dtype != x.dtype, bool(bound.get("non_blocking"))
        if device.type == "cuda":
            self._note_to_device(func.name(), x, non_blocking, converts)
            return PretendedTensor(out)
        if converts or not host_of(x).is_contiguous():
            self._launch(func.name(), 1, [x], [])
        if non_blocking:
            value, out = out, torch.empty_like(out)
            PINNED[out] = True  # so PyTorch allocates it
        self._write_to_host(func.name(), out, out if not non_blocking else value, non_blocking)
        return out

    def _convert(self, func: Any, x: Tensor, dtype: torch.dtype, bound: dict[str, Any]) -> Any:
        """Convert to another dtype, or copy, on the same device."""
        layout = bound.get("memory_format")
        copies = bool(bound.get("copy")) or func.overloadpacket.__name__ == "_to_copy"
        if dtype == x.dtype and not copies and layout in (None, torch.preserve_format):
            return x
        options = {} if layout is None else {"memory_format": layout}
        out = torch.ops.aten._to_copy.default(host_of(x), dtype=dtype, **options)
        if not isinstance(x, PretendedTensor):
            self._record.note("host", func.name())
            return out
        self._launch(func.name(), 1, [x], [out])
        return PretendedTensor(out)

    def copy(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run `copy_`, the only operation that writes from one device to another."""
        target, source, *rest = args
        if not (isinstance(target, PretendedTensor) or isinstance(source, PretendedTensor)):
            return NotImplemented
        name, non_blocking = func.name(), bool(rest[0] if rest else kwargs.get("non_blocking"))
        if target.device == source.device:
            self._launch(name, 1, [source], [host_of(target)])
            host_of(target).copy_(host_of(source))
        elif isinstance(target, PretendedTensor):
            converts = target.dtype != source.dtype or not target.host.is_contiguous()
            self._note_to_device(name, source, non_blocking, converts)
            target.host.copy_(source)
        else:
            value = host_of(source).to(target.dtype).expand_as(target).clone()
            self._write_to_host(name, target, value, non_blocking and target in PINNED)
        return target

    def _note_to_device(self, name: str, x: Tensor, non_blocking: bool, converts: bool) -> None:
        if not non_blocking:
            self._record.note("blocking", name, 0, bytes_of(x))
            self._wait(f"{name} to the device")
        elif x in PINNED:
            self._record.note("pinned", name, 0, bytes_of(x))
            self._to_device.append((x, x.clone(), " ".join(self._record.site())))
        else:
            self._record.note("h2d", name, 0, bytes_of(x))
        if converts:
            self._launch(name, 1, [x], [])

    def _write_to_host(self, name: str, target: Tensor, value: Tensor, non_blocking: bool) -> None:
        if non_blocking:
            self._record.note("d2h", name, 0, bytes_of(value))
            fill_with_poison(target)
            self._to_host.append((target, value))
            return
        self._wait(f"{name} to the host")
        if value is not target:
            target.copy_(value)

    def pin(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run `pin_memory`: copy a host tensor to pinned memory."""
        if args[0].device != CPU:
            raise RuntimeError("cannot pin a CUDA tensor: only dense CPU tensors can be pinned")
        self._record.note("host", func.name())
        out = args[0].clone()
        PINNED[out] = True
        return out
