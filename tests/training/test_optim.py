"""The optimiser: torch's own Muon where both apply, which parameters it takes, and a state that is enough to go on."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from dllm.training.optim import Muon, make_parameter_groups, orthogonalise_matrices


def test_orthogonalise_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((2, 6, 10), (3, 10, 6), (1, 5, 5)):
        values = torch.linalg.svdvals(orthogonalise_matrices(torch.randn(shape)))
        assert values.min() > 0.3 and values.max() < 1.5


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_matrices_move_as_with_torch(shape: tuple[int, int]) -> None:
    """torch's works in bfloat16, hence the tolerance."""
    torch.manual_seed(1)
    start, grads = torch.randn(shape), torch.randn(4, *shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    group = {"params": [ours], "orthogonal": True, "weight_decay": 0.1}
    both: list[Any] = [
        Muon([group], lr=0.05),
        torch.optim.Muon([theirs], lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for grad in grads:
        for parameter, optimiser in zip((ours, theirs), both, strict=True):
            parameter.grad = grad.clone()
            optimiser.step()
    moved = (theirs - start).norm()
    assert moved > 0.1 and (ours - theirs).norm() < 0.03 * moved


def test_vectors_and_the_vocabulary_move_as_with_adam() -> None:
    torch.manual_seed(1)
    start, grads = torch.randn(6, 3), torch.randn(4, 6, 3)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    both: list[Any] = [Muon([{"params": [ours]}], lr=0.05), torch.optim.Adam([theirs], lr=0.05, betas=(0.9, 0.98))]
    for grad in grads:
        for parameter, optimiser in zip((ours, theirs), both, strict=True):
            parameter.grad = grad.clone()
            optimiser.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("tied", [True, False])
def test_only_matrices_between_embedding_and_head_are_orthogonal(tied: bool) -> None:
    config = Qwen2Config(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    network = Qwen2ForCausalLM(config)
    network.model.norm.requires_grad_(False)
    matrices, rest = make_parameter_groups(network, 0.1)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    inner = {names[id(parameter)] for parameter in matrices["params"]}
    outer = {names[id(parameter)] for parameter in rest["params"]}
    assert len(inner) == 14 and all(name.endswith("proj.weight") for name in inner)
    assert "model.embed_tokens.weight" in outer and ("lm_head.weight" in outer) is not tied
    assert inner | outer == set(names.values()) - {"model.norm.weight"} and not inner & outer
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_the_vocabulary_in_an_adapter_are_not_orthogonal(tied: bool) -> None:
    peft = pytest.importorskip("peft")
    config = Qwen2Config(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    lora = peft.LoraConfig(r=2, target_modules="all-linear", trainable_token_indices=[3], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(Qwen2ForCausalLM(config), lora)
    matrices, rest = make_parameter_groups(adapted, 0.0)
    assert len(rest["params"]) == 1 and rest["params"][0].shape == (1, 16)
    assert len(matrices["params"]) == 14


def problem() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {"layer": torch.nn.Parameter(torch.randn(4, 6) * 0.1), "table": torch.nn.Parameter(torch.randn(6, 3))}


def muon(named: dict[str, Tensor]) -> Muon:
    return Muon([{"params": [named["layer"]], "orthogonal": True}, {"params": [named["table"]]}], lr=1e-2)


def descend(named: dict[str, Tensor], optimiser: Muon, steps: int) -> float:
    want = torch.linspace(-1, 1, 12).view(4, 3)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = (named["layer"] @ named["table"] - want).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return loss.item()


def test_a_small_problem_is_learnt() -> None:
    first, named = problem(), problem()
    assert descend(named, muon(named), 300) < 0.1 * descend(first, muon(first), 1)


def test_its_state_and_the_parameters_are_all_there_is() -> None:
    named = problem()
    one = muon(named)
    descend(named, one, 5)
    copy: dict[str, Tensor] = {name: torch.nn.Parameter(tensor.detach().clone()) for name, tensor in named.items()}
    two = muon(copy)
    two.load_state_dict(deepcopy(one.state_dict()))
    assert descend(named, one, 5) == descend(copy, two, 5)


def test_what_has_no_gradient_stays() -> None:
    named = problem()
    before = {name: tensor.detach().clone() for name, tensor in named.items()}
    optimiser = muon(named)
    for group in optimiser.param_groups:
        group["weight_decay"] = 0.5
    optimiser.step()
    assert all((named[name] == before[name]).all() for name in named)


def test_orthogonalising_in_bfloat16_is_nearly_the_same() -> None:
    update = torch.randn(3, 24, 16, generator=torch.Generator().manual_seed(0))
    exact, half = orthogonalise_matrices(update), orthogonalise_matrices(update, dtype=torch.bfloat16)
    assert half.dtype == torch.float32 and not torch.equal(half, exact)
    assert (half - exact).norm() < 0.05 * exact.norm()
