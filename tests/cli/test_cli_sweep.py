"""`dllm sweep`, `dllm report` and `dllm tune` from end to end; a sweep that was killed goes on."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import read
from tests.waiting import until

TIMES = ("seconds", "tokens_per_second", "wall_seconds", "prefill_seconds", "tokens_per_second_without_prefill")
ROWS = [{"prompt_ids": [3 + i, 5, 6], "id": f"row {i}"} for i in range(7)]


@pytest.fixture
def slow(checkpoints, jsonl, tmp_path):
    """A sweep of four cells and 28 rows on a tiny model."""
    jsonl(*ROWS, name="questions.jsonl")
    file = tmp_path / "slow.yaml"
    file.write_text(
        f"models: {checkpoints['llada']}\nprompts: questions.jsonl\nmax_new_tokens: 32\nbatch_size: 2\n"
        "strategies: [{policy: top-k, k: [1, 2], cache: [none, dual], stop_ids: [], temperature: 1}]\n"
    )
    return file


def results(folder: Path):
    """The table and all samples of a sweep, without times."""
    table = read(folder / "table.jsonl", *TIMES)
    return table, {row["samples"]: read(folder / row["samples"], *TIMES) for row in table}


def lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("samples/*.jsonl"))


def test_killed_at_random_and_run_again(dllm, fork, slow, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert dllm("sweep", slow, "--output", undisturbed, "--quiet").exit_code == 0
    draw, deaths = random.Random(0), 0
    for _ in range(2):
        aim = lines(killed) + draw.randint(1, 8)
        child = fork("sweep", slow, "--output", killed, held=lambda aim=aim: lines(killed) > aim + 2)
        until(lambda aim=aim: lines(killed) >= aim)
        child.send(signal.SIGKILL)
        deaths += child.wait() == -signal.SIGKILL
    assert deaths == 2 and 0 < lines(killed) < 28
    with (killed / "table.jsonl").open("ab") as file:  # what a kill within a write leaves
        file.write(b'{"cell": "12')
    result = dllm("sweep", slow, "--output", killed)
    assert result.exit_code == 0, result.stderr
    assert results(killed) == results(undisturbed)
    before = (killed / "table.jsonl").read_bytes()
    assert dllm("sweep", slow, "--output", killed).exit_code == 0
    assert (killed / "table.jsonl").read_bytes() == before, "run once more it does nothing"


def test_a_cell_is_what_decode_writes(dllm, checkpoints, jsonl, slow, tmp_path):
    assert dllm("sweep", slow, "--limit", 3, "--quiet").exit_code == 0
    table, samples = results(tmp_path / "slow.results")
    row = table[1]
    assert row["options"] == {"policy": "top-k", "k": 1, "cache": "dual", "stop_ids": [], "temperature": 1.0}
    result = dllm(
        "decode", "--model", checkpoints["llada"], "--input", jsonl(*ROWS[:3]), "--policy", "top-k", "--k", 1,
        "--cache", "dual", "--ignore-eos", "--temperature", 1, "--max-new-tokens", 32, "--quiet",
    )  # fmt: skip
    decoded = [json.loads(line) for line in result.stdout.splitlines()]
    kept = samples[row["samples"]]
    assert [[r[k] for k in ("output_ids", "nfe", "strategy", "seed")] for r in kept] == [
        [r[k] for k in ("output_ids", "nfe", "strategy", "seed")] for r in decoded
    ]
    assert row["nfe"] == sum(r["nfe"] for r in decoded) and row["tokens"] == 3 * 32
    assert row["accuracy"] is None and row["strategy"] == decoded[0]["strategy"]
    assert {"device", "dtype", "versions", "model", "seed"} <= set(kept[0])


def test_a_dry_run_lists_cells_and_decodes_none(dllm, slow, tmp_path):
    result = dllm("sweep", slow, "--dry-run")
    assert result.exit_code == 0 and result.stdout.count("to do") == 4 and "top-k k=2 cache=dual" in result.stdout
    assert not (tmp_path / "slow.results").exists()
    slow.write_text(slow.read_text().replace("k: [1, 2]", "k: [1, 2], tau: 0.5, f: 1"))
    result = dllm("sweep", slow, "--dry-run")
    assert result.exit_code == 2 and "--f does not belong to top-k" in result.stderr


def test_a_cell_that_fails_does_not_stop_the_others(dllm, checkpoints, jsonl, tmp_path):
    jsonl({"prompt_ids": [3, 4]}, {"prompt_ids": [7, 4]}, {"prompt_ids": [900]}, name="q.jsonl")
    file = tmp_path / "s.yaml"
    file.write_text(
        f"models: [{checkpoints['broken']}, {checkpoints['baseline']}]\nprompts: q.jsonl\nmax_new_tokens: [4, 4000]\n"
        f"strategies: [{{name: usual}}]\n"
    )
    result = dllm("sweep", file)
    assert result.exit_code == 1
    assert "no row can be decoded" in result.stderr and "q.jsonl:3: prompt id 900" in result.stderr
    table = read(tmp_path / "s.results" / "table.jsonl")
    assert [(row["rows"], row["failed"]) for row in table] == [(3, 2), (3, 1)]


def test_tune_and_report(dllm, tmp_path):
    file = tmp_path / "candidates.yaml"
    file.write_text("strategies: [{policy: factor, f: [1.0, 1000.0], cache: prefix}]\n")
    folder = tmp_path / "tuned"
    args = ("tune", "word-problems", "--limit", 6, "--max-new-tokens", 64, "--strategies", file, "--output", folder)
    result = dllm(*args, "--target-accuracy", 0.8, "--speed", "tokens_per_forward")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("dllm decode '…' --model embedded --policy factor --f 1")
    assert "chance that its true accuracy is at least 0.8" in result.stderr and "the pick of 3" in result.stderr
    assert dllm(*args).exit_code == 2 and dllm(*args, "--tolerance", 2).exit_code == 2
    html = tmp_path / "page.html"
    assert dllm("report", folder, "--html", html).exit_code == 0
    text = html.read_text()
    assert "sequential" in text and "<svg" in text and text.count("<tr") == 4
    assert dllm("report", folder, "--html", html).exit_code == 0, "a page of ours is written anew"
    html.write_text("my notes")
    result = dllm("report", folder, "--html", html)
    assert result.exit_code == 2 and html.read_text() == "my notes"
