"""The pretended device: a dispatch mode that raises, waits and counts as CUDA would, and computes on the CPU."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dllm.testing.device import indexing, operations
from dllm.testing.device.patches import patch_torch
from dllm.testing.device.record import Record
from dllm.testing.device.tensor import (
    CPU,
    CUDA,
    PINNED,
    PretendedDeviceError,
    PretendedTensor,
    bytes_of,
    fill_with_poison,
    host_of,
    map_tensors,
    tensors_of,
)
from dllm.testing.device.transfers import Transfers

MOVES = ("to", "_to_copy")
INDEXES = ("index", "_unsafe_index", *operations.INDEX_WRITES)
PINS = ("pin_memory", "_pin_memory")


class _Mode(TorchDispatchMode):
    """The mode of one thread."""

    def __init__(self, device: PretendedDevice) -> None:
        TorchDispatchMode.__init__(self)
        self.device = device

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the detour around dynamo takes time

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.device.dispatch(func, args, kwargs or {}, self)


class PretendedDevice:
    """A context manager within which `cuda:0` exists. Only one may be on at a time.

    Args:
        watch: Names of packages (folders) to whose lines events are attributed.
        poison: Fill memory that `torch.empty` gives with NaN and large numbers.
        scramble: Of repeated indices in a scatter let the first win.

    Attributes:
        record: What happened, by step.
        compiled: The options of every call of `torch.compile`, which gives the function back as it is.
    """

    _current: PretendedDevice | None = None

    def __init__(self, watch: Sequence[str] = ("dllm",), poison: bool = True, scramble: bool = True) -> None:
        self._poison, self._scramble = poison, scramble
        self._active = False
        self._undo: list[Any] = []
        self.record = Record(watch)
        self.compiled: list[dict[str, Any]] = []
        self.clear()

    def clear(self) -> None:
        """Forget all that happened."""
        self.record.clear()
        self._enqueued = 0
        self._transfers = Transfers(self.record, self.wait, self.launch)

    def put(self, model: Any) -> Any:
        """Copy a model of dllm, a module or a tensor to this device; the original stays where it is."""
        if isinstance(model, torch.nn.Module):
            return copy.deepcopy(model).to("cuda")
        if isinstance(model, Tensor):
            return model.to("cuda")
        name = next(name for name in ("network", "joint", "model") if hasattr(model, name))
        return dataclasses.replace(model, **{name: self.put(getattr(model, name))})

    def __enter__(self) -> PretendedDevice:
        if PretendedDevice._current is not None:
            raise PretendedDeviceError("there is a pretended device already")
        if torch.backends.cuda.is_built():
            raise PretendedDeviceError("this torch knows real CUDA devices: use a CPU build")
        importlib.import_module("torch._dynamo")  # it looks at functions of torch once, and must see the true ones
        PretendedDevice._current, PretendedTensor.handler, self._active = self, self.dispatch, True
        self._undo = patch_torch(self)
        self._mode: Any = _Mode(self)
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            with contextlib.suppress(RuntimeError) if error and error[0] else contextlib.nullcontext():
                self._transfers.arrive()
        finally:
            self._mode.__exit__(*error)
            self._active, PretendedDevice._current = False, None
            for undo in reversed(self._undo):
                undo()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing within the context, in which only CPU tensors may be used: to compute expected values."""
        self._active = False
        try:
            yield
        finally:
            self._active = True

    @property
    def active(self) -> bool:
        return self._active

    def mode(self) -> TorchDispatchMode:
        """Make the dispatch mode of a thread that begins now."""
        return _Mode(self)

    def launch(self, name: str, kernels: int, given: Sequence[Tensor], results: Sequence[Any]) -> None:
        """Enqueue kernels."""
        tensors = [*map(host_of, given), *(x for x in results if isinstance(x, Tensor))]
        self._enqueued += kernels
        self.record.note("launch", name, kernels, sum(map(bytes_of, tensors)), tuple(tuple(x.shape) for x in tensors))

    def wait(self, operation: str) -> None:
        """Let the host wait until the device has done everything."""
        self.record.note("wait", operation)
        if self._enqueued:
            self.record.note("stall", operation)
        self._enqueued = 0
        self._transfers.arrive()

    def dispatch(self, func: Any, args: Any, kwargs: Any, mode: Any = None) -> Any:
        """Run one operation as a device would."""
        given = tensors_of(args, kwargs)
        there = [x for x in given if isinstance(x, PretendedTensor)]
        if not self._active:
            if there:
                raise PretendedDeviceError("a tensor of a pretended device that is off")
            return func(*args, **kwargs)
        op = func.overloadpacket.__name__
        if func.namespace == "aten" and (out := self._special(op, func, args, kwargs)) is not NotImplemented:
            return out
        target = kwargs.get("device")
        device = torch.device(target) if target is not None else CUDA if there else CPU
        if not there and device.type != "cuda":
            return self._on_host(func, op, args, kwargs)
        if operations.is_composite(func) and func.namespace == "aten" and op != "scaled_dot_product_attention":
            with mode or _Mode(self):
                return func.decompose(*args, **kwargs)
        operations.check_kernel(func.name(), op, given)
        operations.check_devices(func.name(), given)
        return self._on_device(func, op, args, kwargs, device)

    def _special(self, op: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Run what is unlike all else: copies between devices, and indices."""
        if op in MOVES:
            return self._transfers.move(func, args, kwargs)
        if op == "copy_":
            return self._transfers.copy(func, args, kwargs)
        if op in INDEXES:
            return indexing.index(self, func, args, kwargs)
        if op in PINS:
            return self._transfers.pin(func, args, kwargs)
        if op == "is_pinned":
            return args[0] in PINNED
        if op == "_has_compatible_shallow_copy_type" and any(isinstance(x, PretendedTensor) for x in args):
            return False
        return NotImplemented

    def _on_host(self, func: Any, op: str, args: Any, kwargs: Any) -> Any:
        if not operations.is_view(func) and op not in operations.WITHOUT_KERNEL:
            self.record.note("host", func.name())
        pinned = kwargs.pop("pin_memory", None)
        out = func(*args, **kwargs)
        if pinned:
            PINNED[out] = True
        return out

    def _on_device(self, func: Any, op: str, args: Any, kwargs: Any, device: torch.device) -> Any:
        name, given = func.name(), tensors_of(args, kwargs)
        there = [x for x in given if isinstance(x, PretendedTensor)]
        if name == "aten::where.self":
            for _ in range(len(given) - len(there)):
                self.record.note("blocking", f"{name} with a number on the CPU")
                self.wait(f"{name} with a number on the CPU")
        args, kwargs = map_tensors(args, host_of), {key: map_tensors(x, host_of) for key, x in kwargs.items()}
        out = self._compute(func, op, args, kwargs)
        if not (operations.is_view(func) or op in operations.WITHOUT_KERNEL):
            kernels = operations.kernels_of(op, args, kwargs)
            self.launch(name, kernels, given, out if isinstance(out, (tuple, list)) else (out,))
        unknown_size = name == "aten::repeat_interleave.Tensor" and kwargs.get("output_size") is None
        if op in operations.WAITING or unknown_size:
            self.wait(name)
        if device.type != "cuda":
            return out
        wrapped = {id(x.host): x for x in there}
        ordinary = operations.is_view(func) and bool(there) and not there[0].is_inference()
        return map_tensors(out, lambda x: wrapped[id(x)] if id(x) in wrapped else PretendedTensor(x, ordinary))

    def _compute(self, func: Any, op: str, args: Any, kwargs: Any) -> Any:
        """Run an operation on CPU tensors, with the adversaries that are on."""
        if kwargs.get("device") is not None:
            kwargs["device"] = CPU
        kwargs.pop("pin_memory", None)
        if self._scramble and op in operations.SCATTERS:
            args, kwargs = indexing.first_write_wins(self, func, args, kwargs)
        out = func(*operations.CPU_ARGUMENTS.get(op, lambda same: same)(args), **kwargs)
        if op == "histc" and not args[0].dtype.is_floating_point:
            out = out.to(args[0].dtype)
        if self._poison and op in operations.ALLOCATIONS:
            fill_with_poison(out)
        return out
