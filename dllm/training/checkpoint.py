"""Checkpoints of a training run: tensors as safetensors, numbers as JSON, and never a half-written folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def save_checkpoint(place: Path, tensors: Mapping[str, Mapping[str, Tensor]], progress: Mapping[str, Any]) -> None:
    """Write `place` aside and swap it in: one safetensors file a group of `tensors`, `progress` as JSON."""
    aside = place.with_name(place.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name, group in tensors.items():
        save_file({key: value.detach().contiguous() for key, value in group.items()}, aside / f"{name}.safetensors")
    (aside / "progress.json").write_text(json.dumps(dict(progress)))
    swap(aside, place)


def swap(aside: Path, place: Path) -> None:
    """Put the finished folder `aside` in the place of `place`, if that is there."""
    old = place.with_name(place.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    aside.rename(place)
    shutil.rmtree(old, ignore_errors=True)


@torch.no_grad()
def load_checkpoint(place: Path, tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """Copy a checkpoint's values into the same groups of tensors, in place; returns its progress.

    Raises ValueError if a group on disk does not hold exactly the tensors given.
    """
    for name, group in tensors.items():
        held = load_file(place / f"{name}.safetensors")
        if held.keys() != group.keys():
            odd = sorted(held.keys() ^ group.keys())[0]
            raise ValueError(f"{place}/{name}.safetensors: {odd!r} is on one side only; was it made by other code?")
        for key, value in held.items():
            group[key].copy_(value)
    progress: dict[str, Any] = json.loads((place / "progress.json").read_text())
    return progress
