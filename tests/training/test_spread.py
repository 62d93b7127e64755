"""A run that is killed while it saves, or spread over two processes, has the losses of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from dllm.training.plan import TrainingPlan
from dllm.training.run import run_training

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
PATIENCE = 300
"""Seconds after which a process that should be done in ten is given up."""


@pytest.fixture
def fields(make_base: Callable[..., Path], data_file: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "base": str(make_base()), "data": [str(data_file)], "out": str(tmp_path / "whole"), "steps": 6, "batch": 4,
        "micro_batch": 1, "context": 256, "block": 16, "lr": 3e-3, "log_every": 1, "save_every": 2, "eval_every": 3,
        "eval_rows": 3, "lora_dropout": 0.0,
    }  # fmt: skip


def as_plan(fields: dict[str, Any]) -> TrainingPlan:
    return TrainingPlan(**{**fields, "data": tuple(fields["data"])})


def history(out: Path) -> dict[tuple[int, str], float]:
    """Every loss that the last checkpoint knows of, by step and name."""
    state = json.loads((out / "checkpoints" / "checkpoint-6" / "trainer_state.json").read_text())
    entries = state["log_history"]
    return {(e["step"], key): e[key] for e in entries for key in ("loss", "eval_loss", "grad_norm") if key in e}


@pytest.mark.parametrize(
    "change",
    [{}, {"lora": 4, "lora_dropout": 0.1}, {"optimizer": "muon", "average": 0.9}],
    ids=["full", "lora", "muon and average"],
)
def test_killed_while_saving_and_run_again_it_has_the_same_losses_and_weights(
    fields: dict[str, Any], change: dict[str, Any], tmp_path: Path
) -> None:
    fields |= change
    whole = run_training(as_plan(fields))
    fields["out"] = str(tmp_path / "killed")
    (tmp_path / "plan.json").write_text(json.dumps(fields))
    command = [sys.executable, "-m", "tests.training.killed", str(tmp_path / "plan.json"), "4"]
    ended = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    out = tmp_path / "killed"
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["checkpoint-2"]
    assert (out / "writing" / "checkpoint-4").is_dir(), "it was to be killed while it saved"
    again = run_training(as_plan(fields))
    assert not (out / "writing").exists()
    want, got = history(tmp_path / "whole"), history(out)
    assert {step for step, name in want if name == "loss"} == {1, 2, 3, 4, 5, 6}
    assert got == want
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, again))
    assert one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_weights_in_parts_give_the_same_loss_and_gradients() -> None:
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    command = [sys.executable, *launch, "-m", "tests.training.sharded"]
    ended = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("change", [{}, {"optimizer": "muon", "average": 0.9}], ids=["adamw", "muon and average"])
def test_two_processes_have_the_losses_of_one(fields: dict[str, Any], change: dict[str, Any], tmp_path: Path) -> None:
    fields |= change
    run_training(as_plan(fields))
    options = [
        part
        for name, value in {**fields, "out": str(tmp_path / "two")}.items()
        for part in (f"--{name.replace('_', '-')}", *(value if name == "data" else [str(value)]))
    ]
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "configs" / "cpu.yaml"),
        "--main_process_port", free_port(), "-m", "tests.training.command", "train", *options,
    ]  # fmt: skip
    ended = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    assert "2 x cpu" in ended.stderr
    want, got = history(tmp_path / "whole"), history(tmp_path / "two")
    assert got.keys() == want.keys()
    assert got == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_launch_config_is_one_that_accelerate_reads(file: Path) -> None:
    config = load_config_from_file(str(file))
    assert config.num_processes >= 2
    assert ("fsdp" in file.stem or "node" in file.stem) == bool(config.fsdp_config)
