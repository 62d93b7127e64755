"""A running average of the weights in training, which is what is evaluated and exported where it is asked for.

Source: Polyak & Juditsky 1992; the exponential form as in Tarvainen & Valpola 2017 (arXiv:1703.01780).
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
"""Early updates are averaged over a tenth of what there is, so that the start is soon forgotten."""


class WeightAverage(TrainerCallback):
    """The average of a network's trained weights.

    network     whose weights change in place
    decay       share of the average that an update keeps, 0 < decay < 1
    checkpoint  folder of the checkpoint that training goes on from, if any
    """

    def __init__(self, network: Any, decay: float, checkpoint: str | None) -> None:
        self.decay, self.checkpoint = decay, checkpoint
        self.live = {name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad}
        self.held: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.held = {name: tensor.detach().clone() for name, tensor in self.live.items()}
        if self.checkpoint is not None:
            for name, tensor in load_file(Path(self.checkpoint) / FILE).items():
                self.held[name].copy_(tensor)

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        keep = min(self.decay, (state.global_step + 1) / (state.global_step + LEAD))
        live = [tensor.detach() for tensor in self.live.values()]
        torch._foreach_lerp_(list(self.held.values()), live, 1 - keep)

    def write(self, folder: Path) -> None:
        """Keep the average in a checkpoint's folder."""
        save_file({name: tensor.contiguous() for name, tensor in self.held.items()}, folder / FILE)

    @torch.no_grad()
    def settle(self) -> None:
        """Give the network the average for good."""
        for name, tensor in self.live.items():
            tensor.copy_(self.held[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the average meanwhile, and its own weights afterwards."""
        own = {name: tensor.detach().clone() for name, tensor in self.live.items()}
        self.settle()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in self.live.items():
                    tensor.copy_(own[name])
