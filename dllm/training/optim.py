"""Muon for the matrices of a network, Adam for the rest, as one optimiser with one learning rate.

Sources: Jordan et al. 2024, Muon (momentum, then an orthogonal update by Newton-Schulz); Liu et al. 2025, Muon is
scalable (arXiv:2502.16982): updates of the size of AdamW's, so that one rate serves both; Kingma & Ba 2014, Adam.
Departs from `torch.optim.Muon`: matrices of one shape are orthogonalised together, in the dtype of the weights unless
another is asked for (bfloat16, torch's choice, is many times slower on CPUs without instructions for it and three times
faster on those with them), and embeddings and vectors are trained by the same object.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

NS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration (Jordan et al. 2024)."""

ROWS = ("trainable_tokens", "lora_embedding")
"""What PEFT calls rows of the vocabulary that it trains apart from their embedding."""

RMS = 0.2
"""Root mean square of AdamW's updates, which Muon's are scaled to (Liu et al. 2025, section 2.2)."""


def orthogonalise(update: Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """Push the singular values of each matrix of `update` (n, rows, cols) towards 1, in `dtype` or in its own."""
    tall = update.shape[1] > update.shape[2]
    x = update.mT if tall else update
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype or x.dtype)
    a, b, c = NS
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    result: Tensor = (x.mT if tall else x).to(update.dtype)
    return result


def divided(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameter groups of `Muon`: the trained matrices between embedding and head, then what Adam trains.

    decay  weight decay of the matrices; the others have none
    """
    vocabulary = {
        id(parameter)
        for module in network.modules()
        for parameter in module.parameters(recurse=False)
        if isinstance(module, nn.Embedding)
    }
    head = getattr(network, "get_output_embeddings", lambda: None)()
    vocabulary |= {id(parameter) for parameter in head.parameters()} if head is not None else set()
    vocabulary |= {id(p) for name, p in network.named_parameters() if any(rows in name for rows in ROWS)}
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    inner = {id(p) for p in trained if p.ndim == 2 and id(p) not in vocabulary}
    return [
        {"params": [p for p in trained if id(p) in inner], "orthogonal": True, "weight_decay": decay},
        {"params": [p for p in trained if id(p) not in inner], "orthogonal": False, "weight_decay": 0.0},
    ]


class Muon(torch.optim.Optimizer):
    """Groups marked `orthogonal` by Muon, the others by Adam.

    params    groups as `divided` makes them
    lr        learning rate of both; 1e-3 and above for training from nothing
    momentum  of Muon, Nesterov's
    betas     of Adam
    dtype     in which matrices are orthogonalised; None: that of the weights
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        dtype: torch.dtype | None = None,
    ):
        super().__init__(params, {"lr": lr, "orthogonal": False, "weight_decay": 0.0})
        self.momentum, self.betas, self.dtype = momentum, betas, dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update from the parameters' `.grad`; a parameter without one stays as it is."""
        assert closure is None, "no closure is taken"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
            (self._orthogonal if group["orthogonal"] else self._adam)(group)

    def _orthogonal(self, group: dict[str, Any]) -> None:
        shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                shapes[parameter.shape].append(parameter)
        for shape, parameters in shapes.items():
            grads = torch.stack([_grad(parameter) for parameter in parameters])
            held = torch.stack([self._kept(parameter, "momentum") for parameter in parameters])
            held.lerp_(grads, 1 - self.momentum)
            update = orthogonalise(grads.lerp(held, self.momentum), dtype=self.dtype)
            for parameter, kept, change in zip(parameters, held, update, strict=True):
                self.state[parameter]["momentum"].copy_(kept)
                parameter.add_(change, alpha=-group["lr"] * RMS * max(shape) ** 0.5)

    def _adam(self, group: dict[str, Any]) -> None:
        first, second = self.betas
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            grad = _grad(parameter)
            count = self._kept(parameter, "step", torch.zeros(())).add_(1).item()
            mean = self._kept(parameter, "mean").lerp_(grad, 1 - first) / (1 - first**count)
            square = self._kept(parameter, "square").lerp_(grad * grad, 1 - second) / (1 - second**count)
            parameter.sub_(group["lr"] * mean / (square.sqrt() + 1e-8))

    def _kept(self, parameter: Tensor, name: str, start: Tensor | None = None) -> Tensor:
        """The state `name` of a parameter, `start` (zeros of its shape) at first."""
        held: dict[str, Tensor] = self.state[parameter]
        if name not in held:
            held[name] = torch.zeros_like(parameter) if start is None else start
        return held[name]


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
