"""Weights laid out once for this CPU's matrix products, where few columns meet many outputs.

The plain product reads a weight as it lies, which is slow for the few columns of a window, most of all at the head, and
on some CPUs for one column and for many too. oneDNN's own layout is made for such products. Weights and precision stay
the same; results differ by rounding. bfloat16 needs a CPU that multiplies such numbers itself: with half the bytes and
twice the products a second a forward is about twice as fast again.
"""

from __future__ import annotations

import itertools
from typing import Any
from weakref import WeakValueDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dllm.errors import ConfigError

LEAST = 2**18
"""Entries of a weight from which its layout is worth the call."""

_layers: WeakValueDictionary[int, PackedLinear] = WeakValueDictionary()
"""All packed layers that are in use, by number. They are held weakly, so that a network that is gone leaves nothing."""

_numbers = itertools.count()


class PackedLinear(nn.Linear):
    """A linear layer whose weight lies in oneDNN's layout. It cannot be trained, moved, copied or saved.

    `torch.compile` cannot trace a tensor in that layout. So while it traces, the product is an operation of ours that
    it does not look into; as an operation takes tensors and numbers only, it finds the layer by number.

    Attributes:
        number: Key of the layer in `_layers`.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)  # that of nn.Linear would allocate a weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        laid_out = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.weight = nn.Parameter(laid_out, requires_grad=False)
        self.bias = linear.bias
        self.number = next(_numbers)
        _layers[self.number] = self

    def forward(self, x: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("packed layers give no gradients; load the model with pack=False")
        if torch.compiler.is_compiling():
            out: Tensor = torch.ops.dllm.packed_linear(x, self.number, self.out_features)
            return out
        return _multiply_packed(self, x)


def _multiply_packed(layer: PackedLinear, x: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
    """Compute the output of a packed layer."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")
    return out


torch.library.define("dllm::packed_linear", "(Tensor x, int number, int outputs) -> Tensor")


@torch.library.impl("dllm::packed_linear", "CPU")
def _packed_linear(x: Tensor, number: int, outputs: int) -> Tensor:
    return _multiply_packed(_layers[number], x)


@torch.library.register_fake("dllm::packed_linear")  # type: ignore[untyped-decorator]
def _shape_of_packed_linear(x: Tensor, number: int, outputs: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], outputs)


def multiplies_bfloat16() -> bool:
    """Tell whether this CPU has instructions for products in bfloat16; elsewhere oneDNN emulates them, slowly."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def is_packing_supported(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether weights of a dtype can be packed on a device, and whether products are faster for it."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_bfloat16())


def check_packing_supported(device: torch.device, dtype: torch.dtype) -> None:
    """Raise ConfigError where weights of a dtype cannot be packed on a device."""
    if not is_packing_supported(device, dtype):
        raise ConfigError(
            "pack: only weights in float32, or in bfloat16 where the CPU multiplies it (avx512_bf16, amx), on a CPU "
            f"with oneDNN, not {dtype} on {device}; leave it out"
        )


def pack_linear_layers(network: Any, least: int = LEAST) -> Any:
    """Lay out a network's large linear layers in place; a tied head gets a weight of its own.

    Args:
        network: A causal-LM class of `transformers`.
        least: Entries of the smallest weight that is laid out.

    Returns:
        The same network.

    Raises:
        ConfigError: Its weights cannot be laid out here.
    """
    place = network.get_input_embeddings().weight
    check_packing_supported(place.device, place.dtype)
    head = network.get_output_embeddings()
    # A tied head shares its weight with the embedding, which is read row by row and must stay as it is. So the head is
    # replaced in its own way, and last.
    _pack_children(network, head, least)
    if is_packable_layer(head, least):
        network.set_output_embeddings(PackedLinear(head))
    return network


def _pack_children(parent: Any, head: Any, least: int) -> None:
    """Lay out the large linear layers below a module, except the head.

    It holds on to no layer that it has replaced, so that only one weight at a time exists twice.
    """
    for name in [name for name, _ in parent.named_children()]:
        if (layer := parent.get_submodule(name)) is not head:
            if is_packable_layer(layer, least):
                setattr(parent, name, PackedLinear(layer))
            else:
                _pack_children(layer, head, least)


def is_packable_layer(layer: Any, least: int) -> bool:
    """Tell whether a layer can be laid out (a quantised one cannot), and is large enough."""
    # Weights of torchao are tensor subclasses inside a plain nn.Linear; this method shows it.
    if type(layer) is not nn.Linear or hasattr(layer.weight, "__tensor_flatten__"):
        return False
    return is_packing_supported(layer.weight.device, layer.weight.dtype) and layer.weight.numel() >= least
