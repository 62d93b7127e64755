"""The speed experiment end to end on a model that takes no time: equal tokens, shares that add up, a plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import speed
from dllm.models.packing import is_packing_supported

pytest.importorskip("matplotlib")
TINY = "--vocabulary 640 --hidden 32 --layers 1 --heads 2 --prompt 9 --new 24 --block 8 --repeats 1 --threads 1"


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_rows_and_plot(cache: str, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(speed.main)
    output = tmp_path / "speed.jsonl"
    done = CliRunner().invoke(
        app, [*TINY.split(), "--no-compile", "--least", "1", "--cache", cache, "--output", str(output)]
    )
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    half = is_packing_supported(torch.device("cpu"), torch.bfloat16)
    assert [row["way"] for row in rows] == ["plain", "head", "packed", *["bfloat16"] * half]
    assert all(row["same_tokens_and_nfe"] for row in rows[:3])
    for row in rows:
        assert 0 < row["outside_share"] < 1 and row["model_ms"] < row["step_ms"] and row["floor_ms"] > 0
        assert row["outside_ms"] == pytest.approx(row["step_ms"] - row["model_ms"]) and row["warm_ms"] > 0
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
