"""Muon for the matrices of a decoder, Adam for the rest, in float32; all state is one flat dictionary of tensors.

Source: Jordan et al. 2024, Muon (momentum, then an orthogonal update by Newton-Schulz); Kingma & Ba 2014, Adam.
Departs from it: matrices of one shape are orthogonalised together, and in float32 (bfloat16 is slow on CPUs).
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

NS = (3.4445, -4.7750, 2.0315)


def orthogonalise(update: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of each matrix of `update` (n, rows, cols) towards 1."""
    tall = update.shape[1] > update.shape[2]
    x = update.mT if tall else update
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = NS
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    result: Tensor = x.mT if tall else x
    return result


class Muon:
    """Optimiser over named parameters: hidden matrices by Muon, embeddings and vectors by Adam.

    rate is given to each `step`, as a fraction of the two base rates, so that a schedule is the caller's business.
    """

    def __init__(
        self, named: dict[str, Tensor], *, matrix_rate: float = 0.02, adam_rate: float = 3e-3, decay: float = 0.01
    ):
        self.named = named
        self.matrix_rate, self.adam_rate, self.decay = matrix_rate, adam_rate, decay
        self.state: dict[str, Tensor] = {"count": torch.zeros(())}
        self.groups: dict[torch.Size, list[str]] = defaultdict(list)
        for name, tensor in named.items():
            if tensor.ndim == 2 and "embed" not in name and "lm_head" not in name:
                self.groups[tensor.shape].append(name)
                self.state[f"{name}.momentum"] = torch.zeros_like(tensor)
            else:
                self.state[f"{name}.mean"] = torch.zeros_like(tensor)
                self.state[f"{name}.square"] = torch.zeros_like(tensor)

    @torch.no_grad()
    def step(self, rate: float, momentum: float = 0.95) -> None:
        """Apply one update from the parameters' `.grad` and clear them; `rate` in 0..1 scales both base rates."""
        self.state["count"] += 1
        for shape, names in self.groups.items():
            grads = torch.stack([_grad(self.named[name]) for name in names])
            held = torch.stack([self.state[f"{name}.momentum"] for name in names]).lerp_(grads, 1 - momentum)
            update = orthogonalise(grads.lerp(held, momentum)) * max(1.0, shape[0] / shape[1]) ** 0.5
            for name, kept, change in zip(names, held, update, strict=True):
                self.state[f"{name}.momentum"].copy_(kept)
                self.named[name].mul_(1 - rate * self.matrix_rate * self.decay).add_(
                    change, alpha=-rate * self.matrix_rate
                )
        self._adam(rate * self.adam_rate)
        for tensor in self.named.values():
            tensor.grad = None

    def _adam(self, rate: float, first: float = 0.9, second: float = 0.98) -> None:
        count = float(self.state["count"])
        for name, tensor in self.named.items():
            if f"{name}.mean" in self.state:
                grad = _grad(tensor)
                mean = self.state[f"{name}.mean"].lerp_(grad, 1 - first) / (1 - first**count)
                square = self.state[f"{name}.square"].lerp_(grad * grad, 1 - second) / (1 - second**count)
                tensor.sub_(rate * mean / (square.sqrt() + 1e-8))


def _grad(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
