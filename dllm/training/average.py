"""A running average of the weights in training, evaluated and exported in their place where the plan asks for it.

References:
    Polyak & Juditsky 1992; the exponential form as in Tarvainen & Valpola 2017 (arXiv:1703.01780).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

FILE = "average.safetensors"
LEAD = 10
"""Damping of the start: update `n` keeps at most (n + 1) / (n + LEAD) of the average, so that it soon forgets it."""


class WeightAverage(TrainerCallback):
    """The average of a network's trained weights.

    Args:
        network: Module whose weights change in place.
        decay: Share of the average that an update keeps, 0 < decay < 1.
        checkpoint: Folder of the checkpoint that training continues from, if any.

    Attributes:
        trained: The network's own trained parameters by name.
        averages: Their averages by the same names; empty until training begins.
    """

    def __init__(self, network: Any, decay: float, checkpoint: str | None) -> None:
        self.decay, self.checkpoint = decay, checkpoint
        self.trained = {name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad}
        self.averages: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start from the weights as they are, or from the average that the checkpoint holds."""
        self.averages = {name: tensor.detach().clone() for name, tensor in self.trained.items()}
        if self.checkpoint is not None:
            for name, tensor in load_file(Path(self.checkpoint) / FILE).items():
                self.averages[name].copy_(tensor)

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the average towards the weights after an update."""
        share = min(self.decay, (state.global_step + 1) / (state.global_step + LEAD))
        current = [tensor.detach() for tensor in self.trained.values()]
        torch._foreach_lerp_(list(self.averages.values()), current, 1 - share)

    def write(self, folder: Path) -> None:
        """Save the average into a checkpoint's folder."""
        save_file({name: tensor.contiguous() for name, tensor in self.averages.items()}, folder / FILE)

    @torch.no_grad()
    def copy_to_network(self) -> None:
        """Replace the network's weights by the average for good."""
        for name, tensor in self.trained.items():
            tensor.copy_(self.averages[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the network the average inside the context, and its own weights back afterwards."""
        own = {name: tensor.detach().clone() for name, tensor in self.trained.items()}
        self.copy_to_network()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in self.trained.items():
                    tensor.copy_(own[name])
