"""The running average: its formula, that weights in training come back, and that it is what is evaluated and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dllm.training.average import FILE, LEAD, WeightAverage
from dllm.training.events import Event, LossEvaluated
from dllm.training.plan import TrainingPlan
from dllm.training.run import run_training


def after(average: WeightAverage, step: int) -> None:
    average.on_step_end(None, SimpleNamespace(global_step=step), None)


def test_it_averages_and_gives_the_weights_back(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(1.0)
    average = WeightAverage(network, 0.5, None)
    average.on_train_begin(None, None, None)
    want = 1.0
    for step, value in ((1, 3.0), (2, -1.0), (50, 7.0)):
        network.weight.data.fill_(value)
        after(average, step)
        keep = min(0.5, (step + 1) / (step + LEAD))
        want = keep * want + (1 - keep) * value
    with average.applied():
        assert network.weight.item() == pytest.approx(want)
    assert network.weight.item() == 7.0
    average.write(tmp_path)
    again = WeightAverage(network, 0.5, str(tmp_path))
    again.on_train_begin(None, None, None)
    again.copy_to_network()
    assert network.weight.item() == pytest.approx(want)


def test_frozen_weights_are_none_of_its_business() -> None:
    network = torch.nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    assert list(WeightAverage(network, 0.5, None).trained) == ["weight"]


@pytest.mark.parametrize("lora", [0, 4], ids=["full", "lora"])
def test_the_average_is_evaluated_and_exported(
    lora: int, make_base: Callable[..., Path], data_file: Path, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {
        "base": str(make_base()), "data": (str(data_file),), "steps": 4, "batch": 4, "micro_batch": 2, "context": 256,
        "block": 16, "lr": 3e-2, "save_every": 4, "eval_every": 4, "eval_rows": 3, "lora": lora,
    }  # fmt: skip
    told: dict[float, list[Event]] = {0.0: [], 0.01: [], 0.9: []}
    for decay, events in told.items():
        run_training(TrainingPlan(**fields, average=decay, out=str(tmp_path / str(decay))), events.append)
    plain, light, averaged = ([e.loss for e in events if isinstance(e, LossEvaluated)] for events in told.values())
    assert plain[0] == light[0] == averaged[0]
    assert 0 < abs(light[1] - plain[1]) < 0.2 * abs(averaged[1] - plain[1])
    again: list[Event] = []
    run_training(
        TrainingPlan(
            **{**fields, "base": str(tmp_path / "0.9" / "model"), "lora": 0, "steps": 1}, out=str(tmp_path / "again")
        ),
        again.append,
    )
    assert next(e.loss for e in again if isinstance(e, LossEvaluated)) == pytest.approx(averaged[1], rel=1e-5)
    if not lora:
        kept = load_file(tmp_path / "0.9" / "checkpoints" / "checkpoint-4" / FILE)
        shipped = load_file(tmp_path / "0.9" / "model" / "model.safetensors")
        assert all(torch.equal(kept[name], shipped[name]) for name in shipped)
