"""`dllm bench`: measured rows beside their floor, and clear refusals."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
import torch

from dllm.bench import measure_rates


def test_rows(dllm, tmp_path):
    target = tmp_path / "bench.jsonl"
    result = dllm(
        "bench", "--model", "embedded", "--new", 8, "--context", 8, "--repeats", 1, "--threads", 1, "--autoregressive",
        "--strategy", "fast_dllm_v2", "--output", target,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    plain, ours = (json.loads(line) for line in result.stdout.splitlines())
    assert plain["strategy"] == "autoregressive" and plain["tokens_per_second"] > 0
    assert ours["nfe"] >= 1 and ours["tokens_per_second"] > 0 and 0 < ours["outside"] < 1
    assert 0 < ours["refresh_floor"] < ours["refresh"], "nothing is faster than its floor"
    assert target.read_text() == result.stdout
    assert "Threshold, Blocks, PrefixCache" in result.stderr


def test_unknown_shape(dllm):
    result = dllm("bench", "--shape", "huge")
    assert result.exit_code == 2
    assert "choose from llada-8b" in result.stderr and "Traceback" not in result.stderr


def test_a_way_to_quantise_is_checked_before_anything_is_timed(dllm):
    result = dllm("bench", "--model", "embedded", "--quantize", "none", "--quantize", "int3")
    assert result.exit_code == 2
    assert "choose from int8" in result.stderr and not result.stdout


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao (extra quant)")
def test_quantised_weights_beside_the_others(dllm):
    result = dllm(
        "bench", "--shape", "small-blocks", "--new", 8, "--context", 8, "--repeats", 1, "--quantize", "none",
        "--quantize", "int8",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    plain, small = (json.loads(line) for line in result.stdout.splitlines())
    assert (plain["quantize"], small["quantize"]) == (None, "int8")
    assert small["weights"] < plain["weights"] and 0 < small["refresh_floor"] <= plain["refresh_floor"]


def test_packed_weights(dllm):
    options = ("--new", 8, "--context", 8, "--repeats", 1, "--pack", "--dtype", "auto")
    result = dllm("bench", "--shape", "small-blocks", *options)
    assert result.exit_code == 0, result.stderr
    (row,) = (json.loads(line) for line in result.stdout.splitlines())
    assert row["dtype"] == "torch.float32", "what is usual on a CPU"
    assert row["packed"] and row["tokens_per_second"] > 0 and row["refresh_floor"] > 0
    assert row["weights"] < row["memory"] < 100 * 2**30


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_the_limit_is_that_of_the_fastest_product(monkeypatch):
    seconds = iter((1.0, 8.0, 2.0))
    monkeypatch.setattr(
        sys.modules["dllm.bench.floor"], "_time_fastest_run", lambda run, device: (run(), next(seconds))[1]
    )
    found = measure_rates(torch.device("cpu"), torch.float32)
    assert (found.bytes, found.operations) == (2 * 2**26, 2 * 1024**3 / 2)


def test_what_cannot_be_packed_is_told(dllm):
    result = dllm("bench", "--model", "embedded", "--dtype", "float16", "--pack")
    assert result.exit_code == 2 and not result.stdout
    assert "pack: only weights in float32" in result.stderr and "Traceback" not in result.stderr
