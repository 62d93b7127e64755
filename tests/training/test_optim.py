"""The optimiser: orthogonal updates, progress on a small problem, and a state that is enough to go on from."""

from __future__ import annotations

import torch
from torch import Tensor

from dllm.training.optim import Muon, orthogonalise


def test_orthogonalise_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((2, 6, 10), (3, 10, 6), (1, 5, 5)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.3 and values.max() < 1.5


def problem() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {"layer": (torch.randn(4, 6) * 0.1).requires_grad_(), "embed": torch.randn(6, 3, requires_grad=True)}


def descend(named: dict[str, Tensor], muon: Muon, steps: int) -> float:
    want = torch.linspace(-1, 1, 12).view(4, 3)
    for _ in range(steps):
        loss = (named["layer"] @ named["embed"] - want).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        muon.step(1.0)
    return loss.item()


def test_a_small_problem_is_learnt() -> None:
    named = problem()
    muon = Muon(named)
    assert descend(named, muon, 300) < 0.1 * descend(problem(), Muon(problem()), 1)


def test_state_and_parameters_are_all_there_is() -> None:
    named = problem()
    muon = Muon(named)
    descend(named, muon, 5)
    copy = {name: tensor.detach().clone().requires_grad_() for name, tensor in named.items()}
    again = Muon(copy)
    for key, value in muon.state.items():
        again.state[key].copy_(value)
    assert descend(named, muon, 5) == descend(copy, again, 5)
