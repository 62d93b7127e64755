"""Muon for the matrices of a network and Adam for the rest, as one optimiser with one learning rate.

References:
    Jordan et al. 2024, Muon (momentum, then an orthogonal update by Newton-Schulz).
    Liu et al. 2025, Muon is scalable (arXiv:2502.16982): updates of the size of AdamW's, so that one rate serves both.
    Kingma & Ba 2014, Adam.

Departures:
    From `torch.optim.Muon`: matrices of one shape are orthogonalised together, in the dtype of the weights (bfloat16,
    torch's choice, is many times slower on CPUs), and embeddings and vectors are trained by the same object.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration (Jordan et al. 2024)."""

VOCABULARY_ROWS = ("trainable_tokens", "lora_embedding")
"""Parts of the names that PEFT gives to vocabulary rows trained separately from their embedding."""

UPDATE_RMS = 0.2
"""Root mean square of AdamW's updates, to which Muon's are scaled (Liu et al. 2025, section 2.2)."""


def orthogonalise_matrices(update: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of each matrix of `update` (n, rows, cols) towards 1."""
    tall = update.shape[1] > update.shape[2]
    x = update.mT if tall else update  # the Gram matrix below is then as small as it can be
    # The Frobenius norm bounds the largest singular value, and the iteration converges from (0, 1].
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    result: Tensor = x.mT if tall else x
    return result


def make_parameter_groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Split the trained parameters into groups for `Muon`.

    Args:
        network: Network to train.
        decay: Weight decay of the matrices; other parameters have none.

    Returns:
        Two groups: the matrices between embedding and head, then the parameters that Adam trains.
    """
    vocabulary = {
        id(parameter)
        for module in network.modules()
        for parameter in module.parameters(recurse=False)
        if isinstance(module, nn.Embedding)
    }
    head = getattr(network, "get_output_embeddings", lambda: None)()
    vocabulary |= {id(parameter) for parameter in head.parameters()} if head is not None else set()
    vocabulary |= {id(p) for name, p in network.named_parameters() if any(rows in name for rows in VOCABULARY_ROWS)}
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    inner = {id(p) for p in trained if p.ndim == 2 and id(p) not in vocabulary}
    return [
        {"params": [p for p in trained if id(p) in inner], "orthogonal": True, "weight_decay": decay},
        {"params": [p for p in trained if id(p) not in inner], "orthogonal": False, "weight_decay": 0.0},
    ]


class Muon(torch.optim.Optimizer):
    """Optimiser that applies Muon to groups marked `orthogonal` and Adam to the others.

    Args:
        params: Groups as `make_parameter_groups` makes them.
        lr: Learning rate of both; 1e-3 and above when training from random weights.
        momentum: Nesterov momentum of Muon.
        betas: Decay rates of Adam's two moments.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, *, momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.98)
    ):
        super().__init__(params, {"lr": lr, "orthogonal": False, "weight_decay": 0.0})
        self.momentum, self.betas = momentum, betas

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update from the parameters' `.grad`; a parameter without one stays as it is."""
        assert closure is None, "no closure is taken"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
            (self._apply_muon if group["orthogonal"] else self._apply_adam)(group)

    def _apply_muon(self, group: dict[str, Any]) -> None:
        """Update matrices by their orthogonalised Nesterov momentum, all matrices of one shape in one batch."""
        shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                shapes[parameter.shape].append(parameter)
        for shape, parameters in shapes.items():
            grads = torch.stack([_require_gradient(parameter) for parameter in parameters])
            momenta = torch.stack([self._get_state(parameter, "momentum") for parameter in parameters])
            momenta.lerp_(grads, 1 - self.momentum)
            update = orthogonalise_matrices(grads.lerp(momenta, self.momentum))
            for parameter, average, change in zip(parameters, momenta, update, strict=True):
                self.state[parameter]["momentum"].copy_(average)  # the stack above is a copy
                parameter.add_(change, alpha=-group["lr"] * UPDATE_RMS * max(shape) ** 0.5)

    def _apply_adam(self, group: dict[str, Any]) -> None:
        """Update parameters by Adam with bias correction."""
        first, second = self.betas
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            grad = _require_gradient(parameter)
            count = self._get_state(parameter, "step", torch.zeros(())).add_(1).item()
            mean = self._get_state(parameter, "mean").lerp_(grad, 1 - first) / (1 - first**count)
            square = self._get_state(parameter, "square").lerp_(grad * grad, 1 - second) / (1 - second**count)
            parameter.sub_(group["lr"] * mean / (square.sqrt() + 1e-8))

    def _get_state(self, parameter: Tensor, name: str, start: Tensor | None = None) -> Tensor:
        """Return a named state tensor of a parameter, made as `start` (zeros of the parameter's shape) on first use."""
        state: dict[str, Tensor] = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter) if start is None else start
        return state[name]


def _require_gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
