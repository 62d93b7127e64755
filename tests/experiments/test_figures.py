"""Every experiment end to end on two problems: rows that say what was measured, a plot, and what must hold of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dllm import Factor, NoCache, Request, Strategy, Threshold, TopK, Whole
from dllm.bench.shapes import SHAPES, ModelShape
from dllm.models import TabularModel
from experiments import (
    autoregressive,
    block_size,
    cache_block_size,
    cache_equality,
    calibration,
    kv_similarity,
    sub_block_cache,
    theorem1,
    thresholds,
    token_order,
)

pytest.importorskip("matplotlib")


def run(experiment: Any, output: Path, **options: Any) -> list[dict[str, Any]]:
    """The rows of an experiment, which leaves a plot beside them."""
    experiment.main(count=2, threads=1, output=output, **options)
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    for row in rows:
        assert {"model", "versions", "device", "machine", "threads", "seed"} <= set(row)
    return rows


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "found.jsonl"


def test_thresholds(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {"tokens a step": {1: TopK(k=1), 8: TopK(k=8)}, "threshold": {0.9: Threshold(0.9)}, "factor": {1: Factor()}}
    monkeypatch.setattr(thresholds, "RULES", rules)
    rows = run(thresholds, output, repeats=2)
    assert [row["repeat"] for row in rows] == [0, 0, 0, 0, 1, 1, 1, 1]
    found = thresholds.summarize_settings(rows)
    assert found[0]["speedup"] == 1
    assert [row["strategy"] for row in rows[:4]] == [row["strategy"] for row in rows[4:]]


def test_a_run_goes_on_where_it_stopped(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_size, "SETTINGS", block_size.SETTINGS[2:3] + block_size.SETTINGS[-2:])
    rows = run(block_size, output)
    whole = output.read_text()
    output.write_text(whole[: len(whole) - 40])  # killed in the middle of the last line
    again = [json.loads(line) for line in read_whole(output)]
    assert len(again) == len(rows) - 1
    block_size.main(count=2, output=output)
    kept = [json.loads(line) for line in read_whole(output)]
    measured = ("accuracy", "tokens", "nfe", "queries", "strategy")
    assert [[row[name] for name in measured] for row in kept] == [[row[name] for name in measured] for row in rows]


def read_whole(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.endswith("}")]


def test_cache_block_size(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_block_size, "SIZES", (16,))
    rows = run(cache_block_size, output, repeats=1)
    work = {(row["rule"], row["cache"]): row["queries"] / row["tokens"] for row in rows}
    for rule in cache_block_size.RULES:
        assert work[rule, "dual cache"] <= work[rule, "prefix cache"] <= work[rule, "no cache"]
    rule = "one token a step"  # a threshold decides a sure block at once, and nothing is left to save
    assert work[rule, "dual cache"] < work[rule, "prefix cache"] < work[rule, "no cache"]


def test_sub_block_cache(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sub_block_cache, "SIZES", (8, 32))
    monkeypatch.setattr(sub_block_cache, "BATCHES", (1, 2))
    monkeypatch.setattr(sub_block_cache, "BUSY", ((8,), (1, 2)))
    monkeypatch.setitem(SHAPES, "tiny", ModelShape("Qwen2", 32, 64, 1, 2, 2, 16, 100, block=32, needs_left=1))
    rows = run(sub_block_cache, output, shape="tiny", repeats=1)
    texts = {(row["size"], row["cache"], row["batch_size"]): row["texts"] for row in rows if row["shape"] is None}
    assert len(texts) == len(rows) - 4
    for size, cache, _ in texts:
        assert texts[size, cache, 1] == texts[size, cache, 2]  # a row does not depend on its batch


def test_the_prefix_cache_is_exact_where_attention_is_in_blocks(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_equality, "POLICIES", {"one a step": TopK(k=1), "factor 1": Factor()})
    rows = run(cache_equality, output)
    assert len(rows) == 2 * (len(cache_equality.CAUSAL) + len(cache_equality.EVERYWHERE))
    for row in rows:
        if row["way"].startswith(("blocks", "sub-blocks, prefix")):
            assert row["same"] == 1
        assert row["work"] <= 1
        assert row["work"] < 1 or row["policy"] != "one a step"


def test_autoregressive(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoregressive, "BATCHES", (2,))
    rows = run(autoregressive, output, repeats=1)
    forwards = {row["way"]: row["tokens_per_forward"] for row in rows}
    assert forwards.pop(autoregressive.PLAIN) == 1
    assert min(forwards.values()) > 1.5


def test_finished_blocks_keep_their_keys_and_values(output: Path) -> None:
    """... where attention is in blocks; where it is not, they go stale."""
    blocks, everywhere = run(kv_similarity, output)
    for row in (blocks, everywhere):
        for matrix in row["matrices"].values():
            assert all(line[i] is None or line[i] > 0.999 for i, line in enumerate(matrix))
    assert min(x for x in blocks["lags"]["given"] if x is not None) > 0.999
    assert min(x for x in everywhere["lags"]["given"] if x is not None) < 0.999


def test_calibration(output: Path) -> None:
    rows = run(calibration, output)
    for row in rows:
        assert all(right <= n for right, n in zip(row["right"], row["guesses"], strict=True))
    decoding = calibration.pool_bins(rows, "while decoding")
    assert sum(decoding["right"]) > 0.5 * sum(decoding["guesses"])


def test_theorem1(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theorem1, "RULES", {"factor 1": Factor(), "threshold 0.5": Threshold(0.5)})
    for row in run(theorem1, output):
        assert row["theorem1"] <= row["exact"] <= row["groups"]
        assert sum(row["bins"]) == row["groups"]
        if row["rule"] == "factor 1":
            assert row["theorem1"] == row["groups"]
        assert row["tokens"] >= 2 * row["groups"]


def test_what_is_certified_agrees_where_marginals_come_from_one_joint() -> None:
    torch.manual_seed(0)
    strategy = Strategy(Threshold(0.3), Whole(), NoCache())
    counts = torch.zeros(3, dtype=torch.int64)
    for _ in range(60):
        model = TabularModel((60 * torch.rand(3**4, dtype=torch.float64)).softmax(0).reshape(3, 3, 3, 3))
        found = list(theorem1.collect_groups(model, [Request((0,), 4, seed=0)], strategy))
        same = theorem1.check_agreement(model, found)
        exact = torch.tensor([g.exact for g in found], dtype=torch.bool)
        assert bool(same[exact].all())
        counts += torch.stack([exact.sum(), same.sum(), torch.tensor(len(found))])
    assert 0 < counts[0] < counts[1] < counts[2]  # the criterion speaks, claims too little, and is needed


def test_token_order(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ("left to right, one a step", "threshold 0.9")
    monkeypatch.setattr(token_order, "RULES", {name: token_order.RULES[name] for name in kept})
    rows = {row["rule"]: row for row in run(token_order, output)}
    assert rows["left to right, one a step"]["order"] == pytest.approx(1)
    assert rows["threshold 0.9"]["order"] < 1


def test_order() -> None:
    assert token_order.correlate_ranks([1, 2, 3, 4]) == pytest.approx(1)
    assert token_order.correlate_ranks([4, 3, 2, 1]) == pytest.approx(-1)
    assert token_order.correlate_ranks([5, 5, 5]) is None
