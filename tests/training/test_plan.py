"""A plan is refused as a whole before any work, by the name of the field; recipes are what was published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dllm.errors import ConfigError
from dllm.training.plan import PASSING, RECIPES, TrainingPlan, make_training_plan, read_training_config
from dllm.training.views import BlockDiffusion, FullDiffusion, NextToken

NEEDED: dict[str, Any] = {"base": "b", "data": ("d.jsonl",), "out": "o", "steps": 10}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": ""}, "base / --base: not given"),
        ({"data": ()}, "data / --data: not given"),
        ({"out": ""}, "out / --out: not given"),
        ({"steps": None}, "give one of --steps and --epochs"),
        ({"epochs": 1.0}, "give one of --steps and --epochs"),
        ({"steps": -1}, "--steps -1: must not be negative"),
        ({"steps": None, "epochs": 0.0}, "--epochs 0.0: must be positive"),
        ({"objective": "magic"}, "--objective magic: must be one of block-diffusion"),
        ({"pad": "zeros"}, "--pad zeros: must be one of mask, end, none"),
        ({"block": 0}, "--block 0: must be at least 1"),
        ({"context": 100}, "--context 100: must be a multiple of --block 32"),
        ({"sub_block": 5}, "--sub-block 5: must divide --block 32"),
        ({"objective": "next-token", "sub_block": 8}, "sub_block and complementary belong to block-diffusion"),
        ({"objective": "full-attention", "complementary": False}, "belong to block-diffusion"),
        ({"format": "llada"}, "format / --format llada: belongs to --objective full-attention"),
        ({"format": "gguf"}, "must be one of a2d, llada"),
        ({"batch": 6, "micro_batch": 4}, "--batch 6: must be a multiple of --micro-batch 4"),
        ({"lr": 0.0}, "--lr 0.0: must lie between 0 and 1"),
        ({"warmup": 1.0}, r"--warmup 1.0: must lie in \[0, 1\)"),
        ({"held_out": -0.1}, r"--held-out -0.1: must lie in \[0, 1\)"),
        ({"lora": -1}, "--lora -1: must not be negative"),
        ({"lora_alpha": 0}, "--lora-alpha 0: must be at least 1"),
        ({"optimizer": "sgd"}, "--optimizer sgd: must be one of adamw, muon"),
        ({"average": 1.0}, r"--average 1.0: must lie in \[0, 1\)"),
        ({"save_every": 0}, "--save-every 0: must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingPlan(**{**NEEDED, **change})


def test_the_objective_is_a_value() -> None:
    assert TrainingPlan(**NEEDED, sub_block=8).task == BlockDiffusion(32, 8)
    assert TrainingPlan(**NEEDED, objective="full-attention", context=100).task == FullDiffusion()
    assert TrainingPlan(**NEEDED, objective="next-token", context=100).task == NextToken()
    assert [TrainingPlan(**NEEDED, pad=pad).fills for pad in ("mask", "end", "none")] == [32, 32, 1]
    full = [TrainingPlan(**NEEDED, pad=pad, objective="full-attention").fills for pad in ("mask", "end", "none")]
    assert full == [1, 32, 1]


@pytest.mark.parametrize(("name", "rate", "steps"), [("1.5b", 2e-5, 6000), ("7b", 1e-5, 2500)])
def test_the_published_recipes(name: str, rate: float, steps: int) -> None:
    plan = make_training_plan(read_training_config(f"fast_dllm_v2_{name}"), {"data": ("d.jsonl",), "out": "o"})
    assert (plan.lr, plan.steps, plan.batch, plan.block, plan.context) == (rate, steps, 256, 32, 2048)
    assert plan.task == BlockDiffusion(32) and plan.lora == 0 and plan.pad == "mask"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_a_plan(path: Path) -> None:
    make_training_plan(read_training_config(path.stem), {"data": ("d.jsonl",), "out": "o"})


def test_what_is_given_replaces_the_config(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: b\ndata: d.jsonl\nout: o\nsteps: 5\nlr: 2e-4\nreport_to: [tensorboard]\nlora_alpha: null\n")
    plan = make_training_plan(read_training_config(str(path)), {"lr": None, "batch": 8})
    assert (plan.data, plan.lr, plan.batch, plan.report_to) == (("d.jsonl",), 2e-4, 8, ("tensorboard",))
    assert make_training_plan(read_training_config(str(path)), {"epochs": 2.0}).steps is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "learning_rat: no such field; fields are base"),
        ("warm_up: 1", "warm_up: no such field; did you mean warmup?"),
        ("steps: many", "steps 'many': must be a whole number or null"),
        ("steps: 2.5", "steps 2.5: must be a whole number"),
        ("lr: fast", "lr 'fast': must be a number"),
        ("lr: true", "lr True: must be"),
        ("bf16: 1", "bf16 1: must be true or false"),
        ("data: [1, 2]", "data .1, 2.: must be a text or a list of texts"),
        ("a: [", "broken YAML"),
        ("- a", "must hold fields of a plan"),
        ("", "must hold fields of a plan"),
    ],
)
def test_a_config_that_is_wrong_says_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_training_config(str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match=r"shipped recipes are fast_dllm_v2_1.5b, fast_dllm_v2_7b, laptop_lora"):
        read_training_config("fast_dllm_v3")


def test_going_on_needs_the_same_plan_but_for_what_changes_no_weight() -> None:
    plan = TrainingPlan(**NEEDED)
    plan.check_continues(plan.record())
    plan.check_continues(TrainingPlan(**NEEDED, log_every=3, keep=9).record())
    with pytest.raises(ConfigError, match=r"--lr 2e-05: the run in o was started with 0.001"):
        plan.check_continues(TrainingPlan(**NEEDED, lr=1e-3).record())
    assert {"lr", "seed", "batch", "data", "block"}.isdisjoint(PASSING)


def test_a_run_from_before_a_field_existed_had_its_default() -> None:
    old = {
        name: value for name, value in TrainingPlan(**NEEDED).record().items() if name not in ("optimizer", "average")
    }
    TrainingPlan(**NEEDED).check_continues(old)
    with pytest.raises(ConfigError, match="--optimizer muon: the run in o was started with 'adamw'"):
        TrainingPlan(**NEEDED, optimizer="muon").check_continues(old)
