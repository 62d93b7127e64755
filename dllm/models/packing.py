"""Weights laid out once for this CPU's matrix products, where few columns meet many outputs.

The plain product reads a weight as it lies, which is slow for the few columns of a window, most of all at the head, and
on some CPUs for one column and for many too. oneDNN's own layout is made for them. Same weights, same precision;
results differ by rounding. bfloat16 needs a CPU that multiplies such numbers itself: with half the bytes and twice the
products a second a forward is about twice as fast again.
"""

from __future__ import annotations

import itertools
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from dllm.errors import ConfigError

LEAST = 2**18
"""Entries of a weight from which its layout is worth the call."""

_layers: WeakValueDictionary[int, PackedLinear] = WeakValueDictionary()
"""All that are in use, by number."""

_numbers = itertools.count()


class PackedLinear(nn.Linear):
    """A linear layer whose weight lies as oneDNN likes it. It cannot be trained, moved, copied or saved.

    Compilers do not know such a weight, so its product is an operation of its own, which finds the layer by number.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        laid_out = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.weight = nn.Parameter(laid_out, requires_grad=False)
        self.bias = linear.bias
        self.number = next(_numbers)
        _layers[self.number] = self

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("packed layers give no gradients; load the model with pack=False")
        if torch.compiler.is_compiling():
            out: Tensor = torch.ops.dllm.packed_linear(x, self.number, self.out_features)
            return out
        return _multiply_packed(self, x)


def _multiply_packed(layer: PackedLinear, x: Tensor) -> Tensor:
    """What a packed layer makes of x (…, in)."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")
    return out


torch.library.define("dllm::packed_linear", "(Tensor x, int number, int outputs) -> Tensor")


@torch.library.impl("dllm::packed_linear", "CPU")
def _packed_linear(x: Tensor, number: int, outputs: int) -> Tensor:
    return _multiply_packed(_layers[number], x)


@torch.library.register_fake("dllm::packed_linear")
def _shape_of_packed_linear(x: Tensor, number: int, outputs: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], outputs)


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products in bfloat16; elsewhere oneDNN imitates them, slowly."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def is_packing_supported(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether weights of such a kind can be packed here, and are the faster for it."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_bfloat16())


def check_packing_supported(device: torch.device, dtype: torch.dtype) -> None:
    """Raises ConfigError where weights of such a kind cannot be packed."""
    if not is_packing_supported(device, dtype):
        raise ConfigError(
            "pack: only weights in float32, or in bfloat16 where the CPU multiplies it (avx512_bf16, amx), on a CPU "
            f"with oneDNN, not {dtype} on {device}; leave it out"
        )


def pack_linear_layers(network: Any, least: int = LEAST) -> Any:
    """Lay out a network's large linear layers in place; a tied head gets a weight of its own. Returns the network.

    least  entries of the smallest weight that is laid out

    Raises ConfigError where that cannot be done.
    """
    place = network.get_input_embeddings().weight
    check_packing_supported(place.device, place.dtype)
    head = network.get_output_embeddings()
    _pack_children(network, head, least)
    if is_packable_layer(head, least):
        network.set_output_embeddings(PackedLinear(head))
    return network


def _pack_children(parent: Any, head: Any, least: int) -> None:
    """Holds on to no layer that it has replaced: only one weight at a time is there twice."""
    for name in [name for name, _ in parent.named_children()]:
        if (layer := getattr(parent, name)) is not head:
            if is_packable_layer(layer, least):
                setattr(parent, name, PackedLinear(layer))
            else:
                _pack_children(layer, head, least)


def is_packable_layer(layer: Any, least: int) -> bool:
    """Whether a layer can be laid out (a quantised one cannot), and is large enough."""
    if type(layer) is not nn.Linear or hasattr(layer.weight, "__tensor_flatten__"):
        return False
    return is_packing_supported(layer.weight.device, layer.weight.dtype) and layer.weight.numel() >= least
