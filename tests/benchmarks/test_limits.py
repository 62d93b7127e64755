"""The script for an accelerator runs from end to end, on shapes that take no time here."""

from __future__ import annotations

import json
from dataclasses import replace

import typer
from typer.testing import CliRunner

from benchmarks import limits
from dllm.bench import SHAPES

TINY = {"hidden": 32, "inner": 48, "layers": 1, "heads": 2, "kv_heads": 2, "head_width": 16, "vocabulary": 512}


def test_every_question_is_answered(monkeypatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", replace(SHAPES["small"], **TINY))
    monkeypatch.setitem(SHAPES, "tiny-blocks", replace(SHAPES["small-blocks"], **TINY))
    app = typer.Typer()
    app.command()(limits.main)
    asked = "--whole tiny --blocks tiny-blocks --context 40 --new 40 --repeats 1 --batch 2 --device cpu --no-compile"
    done = CliRunner().invoke(app, asked.split())
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["what"].split(",")[0] for row in rows] == [
        "published loop", "ours", "autoregressive", "blocks of 32", "blocks of 32", "blocks of 32", "lock-step",
        "no waiting", "lock-step", "no waiting",
    ]  # fmt: skip
    for row in rows:
        assert row["tokens_per_second"] > 0
        assert row.get("window_floor", 1) > 0 and row["device"] and row["torch"]
    assert rows[1]["tokens_per_forward"] == 1 and 1 < rows[3]["tokens_per_forward"] <= 3
