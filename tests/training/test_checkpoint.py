"""Checkpoints come back as they were saved, replace the one before, and refuse what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dllm.training.checkpoint import load_checkpoint, save_checkpoint


def test_a_checkpoint_replaces_the_one_before_and_comes_back(tmp_path: Path) -> None:
    place = tmp_path / "run"
    for value in (1.0, 2.0):
        save_checkpoint(place, {"live": {"w": torch.full((2, 3), value)}}, {"step": int(value)})
    back = {"live": {"w": torch.zeros(2, 3)}}
    assert load_checkpoint(place, back) == {"step": 2}
    assert back["live"]["w"].tolist() == [[2.0] * 3] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_other_tensors_are_refused_by_name(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run", {"live": {"w": torch.zeros(1)}}, {})
    with pytest.raises(ValueError, match="'v' is on one side only"):
        load_checkpoint(tmp_path / "run", {"live": {"v": torch.zeros(1)}})
