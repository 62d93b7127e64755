"""What a machine lacks is named, with what brings it, before anything begins."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks.device import preflight, window_step
from benchmarks.device.preflight import missing_packages, problems, requirements


def test_nothing_is_missing_here() -> None:
    assert problems(compiles=False) == []
    assert {name.split(">=")[0] for name in requirements()} >= {"torch", "transformers", "safetensors", "accelerate"}


def test_a_package_that_is_missing_or_old_is_named() -> None:
    found = missing_packages(
        {"no-such-wheel>=1.0": "masks", "torch>=99.1": "tensors", "torch>=2.11": "tensors"}.items()
    )
    assert found["no-such-wheel>=1.0"] == "no-such-wheel is not installed (masks)"
    assert found["torch>=99.1"] == f"torch {torch.__version__} is installed, and 99.1 or later is needed (tensors)"
    assert set(found) == {"no-such-wheel>=1.0", "torch>=99.1"}


def test_a_script_ends_before_it_begins(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(preflight, "requirements", lambda: {"no-such-wheel>=1.0": "masks"})
    with pytest.raises(SystemExit) as left:
        window_step.main(["--tiny", "--device", "cpu", "--output", str(tmp_path / "found.jsonl")])
    said = capsys.readouterr().err
    assert left.value.code == 2 and not (tmp_path / "found.jsonl").exists()
    assert "no-such-wheel is not installed (masks)" in said
    assert "pip download --no-deps" in said and "'no-such-wheel>=1.0'" in said


def test_a_compiler_is_needed_only_to_compile(monkeypatch) -> None:
    monkeypatch.setattr(preflight.shutil, "which", lambda name: None)
    assert problems(compiles=False) == []
    assert "--no-compile" in problems(compiles=True)[0]


def test_a_library_that_cannot_be_imported_is_named(monkeypatch, capsys, tmp_path) -> None:
    """Versions that do not go together are seen by importing only."""
    monkeypatch.setitem(sys.modules, "dllm.bench", None)
    with pytest.raises(SystemExit) as left:
        window_step.main(["--tiny", "--device", "cpu", "--output", str(tmp_path / "found.jsonl")])
    assert left.value.code == 2 and not (tmp_path / "found.jsonl").exists()
    assert "cannot be imported on this machine" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there(capsys, tmp_path) -> None:
    with pytest.raises(SystemExit) as left:
        window_step.main(["--no-compile", "--output", str(tmp_path / "found.jsonl")])
    assert left.value.code == 2
    assert "rehearse with --tiny --device cpu" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon"])
def test_a_budget_is_a_number_of_seconds(seconds: str, capsys) -> None:
    with pytest.raises(SystemExit):
        window_step.main(["--budget", seconds])
    assert "--budget" in capsys.readouterr().err
