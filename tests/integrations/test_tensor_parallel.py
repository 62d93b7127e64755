"""The loop runs unchanged on a model that is spread over two processes: same tokens, forwards and certificates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dllm.errors import ConfigError
from dllm.models import load
from tests.cli.conftest import checkpoints, dllm, jsonl, read

__all__ = ["checkpoints", "dllm", "jsonl"]

FAMILIES = ("llada", "fast_dllm_v2", "sdar")
SAME = ("id", "prompt_ids", "output_ids", "nfe", "queries", "strategy", "certified", "seed")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_write_what_one_does(checkpoints, dllm, jsonl, tmp_path):
    rows = jsonl(*({"prompt_ids": [3 + i, 5, 6, 9 + i], "id": i} for i in range(5)))
    options = ("--max-new-tokens", 24, "--policy", "threshold", "--tau", 0.3, "--cache", "dual", "--quiet")
    spread = tmp_path / "spread"
    spread.mkdir()
    for name in FAMILIES:
        args = ("decode", "--model", checkpoints[name], "--input", rows, *options)
        assert dllm(*args, "--output", tmp_path / f"{name}.jsonl").exit_code == 0
    whole = read(tmp_path / "llada.jsonl")
    assert dllm("decode", "--model", checkpoints["llada"], "--input", rows, *options, "--output",
                spread / "llada.jsonl").exit_code == 0  # fmt: skip
    lines = (spread / "llada.jsonl").read_bytes().splitlines(keepends=True)
    (spread / "llada.jsonl").write_bytes(b"".join(lines[:2]))  # to be continued
    script = str(Path(__file__).with_name("sharded.py"))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, str(spread),
        str(rows), *(checkpoints[name] for name in FAMILIES),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in FAMILIES:
        one, two = ([{k: r[k] for k in SAME} for r in read(f / f"{name}.jsonl")] for f in (tmp_path, spread))
        assert one == two, f"{name}: the leading process wrote every row once, and what one process writes"
    assert (spread / "llada.jsonl").read_bytes().startswith(b"".join(lines[:2])) and len(whole) == 5
    for rank in (0, 1):
        shapes = json.loads((spread / f"shapes.{rank}.json").read_text())
        assert len(shapes) == 3 and all(2 * held == rows for held, rows in shapes.values()), "one of two key heads"


def test_without_torchrun_it_is_refused(dllm, monkeypatch):
    with pytest.raises(ConfigError, match="this one is alone"):
        load("embedded", tensor_parallel=True)
    with pytest.raises(ConfigError, match="leave device, device_map out"):
        load("embedded", tensor_parallel=True, device="cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = dllm("tune", "--tolerance", 0.1)
    assert result.exit_code == 2 and "2 processes were started together" in result.stderr
    result = dllm("decode", "hello", "--engine", "ray", "--no-tensor-parallel")
    assert result.exit_code == 2
