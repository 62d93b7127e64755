"""Facts about the operations of a CUDA build of PyTorch: kernels they enqueue, waits, devices they accept."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm.testing.device.tensor import PretendedTensor


def _split_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


WITHOUT_KERNEL = _split_words(
    "_unsafe_view _reshape_alias alias detach detach_ empty empty_like empty_strided lift lift_fresh new_empty "
    "new_empty_strided record_stream resolve_conj resolve_neg set_ squeeze_ unsqueeze_ transpose_ t_ "
    "requires_grad_"
)
"""Operations that enqueue nothing, though their schema does not say that they give a view."""

KERNELS = {
    "_local_scalar_dense": 0,
    **dict.fromkeys(
        _split_words(
            "_index_put_impl_ constant_pad_nd index_add index_copy index_fill index_put masked_fill scatter "
            "scatter_add scatter_reduce select_scatter slice_scatter"
        ),
        2,
    ),
    **dict.fromkeys(_split_words("equal isin nonzero sort multinomial repeat_interleave"), 3),
    **dict.fromkeys(_split_words("topk masked_select"), 4),
    **dict.fromkeys(_split_words("_unique2 unique_dim unique_consecutive"), 6),
}
"""Kernels, roughly, of operations that take other than one: copies of what is written into, sorts, selections."""

WAITING = _split_words(
    "_local_scalar_dense equal nonzero masked_select _unique _unique2 unique_dim unique_consecutive bincount "
    "_linalg_check_errors segment_reduce"
)
"""Operations that give the host a number before they return."""

NOT_FOR_INTEGERS = _split_words(
    "mm addmm bmm baddbmm addmv mv dot _softmax _log_softmax convolution max_pool2d_with_indices native_layer_norm"
)
"""Operations that have a kernel for whole numbers on a CPU and none on CUDA."""

ALLOCATIONS = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
INDEX_WRITES = ("index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")
SCATTERS = ("scatter", "scatter_", "index_copy", "index_copy_")

CPU_ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "_softmax": lambda args: (args[0].float(), args[1], False) if args[2] else args,
    "_log_softmax": lambda args: (args[0].float(), args[1], False) if args[2] else args,
    "histc": lambda args: (args[0].float(), *args[1:]),
}
"""What has a CUDA kernel, but no CPU kernel for some dtypes: arguments with which the CPU gives the same."""


class OperationFacts(NamedTuple):
    """Facts about one operation.

    Attributes:
        checks_devices_itself: Whether 0-dimensional CPU tensors may take part beside tensors of the device.
        has_cuda_kernel: Whether it can be called with tensors of the device.
    """

    checks_devices_itself: bool
    has_cuda_kernel: bool


@functools.cache
def _native_functions() -> dict[str, OperationFacts]:
    """Read the facts about every operation in `native_functions.yaml`, which comes with torch.

    It is read line by line, since a YAML parser needs seconds for all of it.
    """
    import torchgen

    text = (Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml").read_text()
    found: dict[str, OperationFacts] = {}
    for block in re.split(r"(?m)^- func: ", text)[1:]:
        name = block.split("(", 1)[0].strip()
        keys = re.search(r"(?m)^  dispatch:\n((?:    .*\n?)*)", block)
        cuda = keys is None or bool(re.search(r"(?m)^    [\w, ]*(CUDA|Composite\w+)", keys[1]))
        found[f"aten::{name}"] = OperationFacts(
            "device_check: NoCheck" in block, cuda or "structured_delegate:" in block
        )
    return found


@functools.cache
def _find_facts(name: str) -> OperationFacts:
    """Find the facts about an operation by its whole name; those of one from elsewhere follow from its registration."""
    if (found := _native_functions().get(name)) is not None:
        return found
    keys = ("CUDA", "CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    return OperationFacts(False, any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in keys))


@functools.cache
def is_composite(func: Any) -> bool:
    """Tell whether an operation is made of others, into which a CUDA build takes it apart."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


@functools.cache
def is_view(func: Any) -> bool:
    """Tell whether an operation gives a view and does nothing else."""
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


@functools.cache
def _parameter_names(func: Any) -> tuple[str, ...]:
    return tuple(argument.name for argument in func._schema.arguments)


def bound_arguments(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Bind the arguments of a call to their names."""
    bound: dict[str, Any] = dict(zip(_parameter_names(func), args, strict=False))
    bound.update(kwargs)
    return bound


def kernels_of(op: str, args: Any, kwargs: Any) -> int:
    """Estimate the kernels that an operation enqueues."""
    if op == "scaled_dot_product_attention":  # a boolean mask is made a float one: not, two fills, where; and expanded
        mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
        return 1 if mask is None else 2 + 4 * (mask.dtype == torch.bool)
    return KERNELS.get(op, 1)


def mixed_devices(name: str, given: Sequence[Tensor]) -> RuntimeError:
    """Make the error that PyTorch raises where tensors of two devices meet."""
    shapes = ", ".join(f"{tuple(x.shape)} {x.dtype} on {x.device}" for x in given)
    said = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
    return RuntimeError(f"{said} ({name}: {shapes})")


def check_devices(name: str, given: Sequence[Tensor]) -> None:
    """Refuse, as CUDA does, tensors of both devices in one operation.

    Where TensorIterator checks, a 0-dimensional CPU tensor may take part, but not be written; elsewhere none may.
    """
    on_host = [x for x in given if not isinstance(x, PretendedTensor)]
    if len(on_host) in (0, len(given)):
        return
    written = name.split(".")[0].endswith("_") and not isinstance(given[0], PretendedTensor)
    if not _find_facts(name).checks_devices_itself or written or any(x.dim() for x in on_host):
        raise mixed_devices(name, given)
    if len(on_host) > 1 and "where" not in name:
        raise RuntimeError(f"Trying to pass too many CPU scalars to non-CPU kernel! ({name})")


def check_kernel(name: str, op: str, given: Sequence[Tensor]) -> None:
    """Refuse, as CUDA does, an operation without a CUDA kernel, or without one for its dtype."""
    if not _find_facts(name).has_cuda_kernel:
        raise NotImplementedError(f"Could not run '{name}' with arguments from the 'CUDA' backend")
    if op in NOT_FOR_INTEGERS and given and not (given[0].dtype.is_floating_point or given[0].dtype.is_complex):
        raise NotImplementedError(f'"{op}_cuda" not implemented for {given[0].dtype}')
