"""A tensor that reports the device `cuda:0`, and holds the ordinary CPU tensor with which it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")

_DATA: Any = torch.Tensor.data
PINNED: Any = WeakIdKeyDictionary()
"""Host tensors that count as pinned memory."""


class PretendedDeviceError(RuntimeError):
    """A failure of the pretended device itself, not of the code under test."""


def _refuse_numpy(*_: Any, **__: Any) -> Any:
    raise TypeError(
        "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
    )


class PretendedTensor(torch.Tensor):
    """A tensor on the pretended device.

    Attributes:
        host: The CPU tensor that holds the values.
        handler: The active device, which runs operations outside every dispatch mode.
    """

    host: Tensor
    handler: Callable[[Any, Any, Any], Any] | None = None

    @staticmethod
    def __new__(cls, host: Tensor, is_ordinary_view: bool = False) -> PretendedTensor:
        """Wrap a CPU tensor.

        Args:
            host: The values.
            is_ordinary_view: This is a view of a tensor that was made outside inference mode; PyTorch makes such a view
                an ordinary tensor, even within that mode.
        """
        if is_ordinary_view and torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return PretendedTensor(host)
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            layout=host.layout,
            device=CUDA,
            requires_grad=False,
        )
        made.host = host
        return made

    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation where no dispatch mode is on."""
        assert PretendedTensor.handler is not None
        return PretendedTensor.handler(func, args, kwargs or {})

    @property
    def data(self) -> Any:
        return _DATA.__get__(self)

    @data.setter
    def data(self, other: Any) -> None:
        if not isinstance(other, PretendedTensor):
            raise PretendedDeviceError("`data` of a tensor on the device is set to a tensor that is not there")
        _DATA.__set__(self, other)
        self.host = other.host

    def tolist(self) -> Any:
        return self.cpu().tolist()

    numpy = __array__ = _refuse_numpy

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made: Any = PretendedTensor(self.host.detach().clone())
        memo[id(self)] = made = torch.nn.Parameter(made, self.requires_grad) if hasattr(self, "_is_param") else made
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise PretendedDeviceError("a tensor on the pretended device cannot be pickled: bring it to the host first")

    def __repr__(self, *, tensor_contents: Any = None) -> Any:  # type: ignore[override]
        return f"{self.host!r} on cuda:0"


def tensors_of(args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """List all tensors among the arguments of an operation, those in lists too."""
    found = []
    for x in (*args, *kwargs.values()):
        if isinstance(x, Tensor):
            found.append(x)
        elif isinstance(x, (list, tuple)):
            found += [y for y in x if isinstance(y, Tensor)]
    return found


def host_of(x: Any) -> Any:
    """Return the CPU tensor in a tensor of the device; anything else as it is."""
    return x.host if isinstance(x, PretendedTensor) else x


def map_tensors(x: Any, change: Callable[[Tensor], Any]) -> Any:
    """Replace every tensor in a value, or in the values of a list."""
    if isinstance(x, Tensor):
        return change(x)
    if type(x) in (list, tuple):
        return type(x)(map_tensors(y, change) for y in x)
    return type(x)([map_tensors(y, change) for y in x]) if isinstance(x, tuple) else x  # torch.return_types


def bytes_of(x: Tensor) -> int:
    """Count the bytes that a tensor covers; an axis that is repeated (expanded) counts once."""
    n = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        n *= size if stride else min(size, 1)
    return n * x.element_size()


def fill_with_poison(x: Tensor) -> None:
    """Fill memory that was never written with values that are noticed when they are read: NaN, large numbers, True."""
    if x.dtype == torch.bool:
        x.fill_(True)
    elif x.dtype.is_floating_point or x.dtype.is_complex:
        x.fill_(float("nan"))
    else:
        x.fill_(min(0x5A5A5A5A, torch.iinfo(x.dtype).max))
