"""Probes that any decoder of `transformers` can fill: attention weights and hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dllm.errors import ConfigError
from dllm.types import Probe, Query


@dataclass(frozen=True)
class Attention(Probe):
    """Attention weight of each slot on every column of the canvas, (b, k, t), averaged over heads and layers.

    With a token-shifted model it is that of the column which predicts the slot. Columns that are not looked at have
    weight 0. A forward that fills it runs the network's eager attention, which is slower.

    Attributes:
        layers: Layers to average over, counted from 0, negative from the end. None for all.
    """

    layers: tuple[int, ...] | None = None

    attentions: ClassVar[bool] = True

    def extract(self, output: Any, query: Query, columns: int, /) -> Float[Tensor, "r q t"]:
        weights = _choose_layers(self, output.attentions, self.layers)
        mean = torch.stack([layer.mean(1) for layer in weights]).mean(0)[..., : query.width]
        return torch.nn.functional.pad(mean, (0, columns - mean.shape[-1]))


@dataclass(frozen=True)
class Hidden(Probe):
    """State of each slot behind one layer, (b, k, d).

    Attributes:
        layer: 0 for the embedding, 1 for the first layer, -1 for the last.
    """

    layer: int = -1

    hidden_states: ClassVar[bool] = True

    def extract(self, output: Any, query: Query, columns: int, /) -> Float[Tensor, "r q d"]:
        return _choose_layers(self, output.hidden_states, (self.layer,))[0].float()


def _choose_layers(probe: Probe, values: Any, layers: tuple[int, ...] | None) -> list[Tensor]:
    """Take some layers' values.

    Raises:
        ConfigError: The network has no such layer, or returns no such values.
    """
    if not values or any(value is None for value in values):
        raise ConfigError(f"{probe}: this network returns no such values")
    chosen = range(len(values)) if layers is None else layers
    if bad := [layer for layer in chosen if not -len(values) <= layer < len(values)]:
        raise ConfigError(f"{probe}: layer {bad[0]} does not exist; there are {len(values)}")
    return [values[layer] for layer in chosen]
