"""Invented rows of a sweep's table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dllm.sweeps.intervals import wilson_interval

STRATEGY = "Strategy(policy=Threshold(tau=0.9), scheduler=Blocks(), cache=PrefixCache())"


@pytest.fixture
def row() -> Callable[..., dict[str, Any]]:
    """Function `row(name, right, tpf)` that makes a cell with `right` right answers to its hundred questions."""

    def make(name: str, right: int, tpf: float = 1.0, *, total: int = 100, **more: Any) -> dict[str, Any]:
        low, high = wilson_interval(right, total)
        return {
            "cell": name, "model": "embedded", "prompts": "questions", "name": name, "rows": total, "failed": 0,
            "scored": total, "correct": right, "accuracy": right / total, "accuracy_low": low, "accuracy_high": high,
            "tokens_per_forward": tpf, "tokens_per_second": 100 * tpf, "certified_share": 1.0, "max_new_tokens": 32,
            "seed": 0, "batch_size": 8, "options": {}, "strategy": STRATEGY, "samples": f"samples/{name}.jsonl",
            "device": "cpu", "dtype": "float32", "versions": {"dllm": "1"},
        } | more  # fmt: skip

    return make


@pytest.fixture
def keep(tmp_path: Path) -> Callable[[dict[str, Any], set[int]], None]:
    """Function `keep(row, right)` that writes the file of a cell's samples, of which those in `right` are right."""
    (tmp_path / "samples").mkdir()

    def put(row: dict[str, Any], right: set[int]) -> None:
        lines = (json.dumps({"id": i, "correct": i in right}) + "\n" for i in range(row["scored"]))
        (tmp_path / row["samples"]).write_text("".join(lines))

    return put
