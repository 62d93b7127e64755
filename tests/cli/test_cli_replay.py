"""`dllm decode --trace` and `dllm replay`: a run is kept, played again, made into a page and checked."""

from __future__ import annotations

import json
import os
import re

import pytest

from tests.cli.terminals import terminal

__all__ = ["terminal"]

SURE = ("--policy", "threshold", "--tau", "0.3", "--cache", "none", "--max-new-tokens", 24)


@pytest.fixture
def trace(dllm, checkpoints, jsonl, tmp_path):
    """A trace of three rows, two of a batch."""
    source = jsonl({"prompt": "w5 w6"}, {"prompt": "w7"}, {"prompt": "w8 w9 w10"})
    file = tmp_path / "run.jsonl"
    options = ("--input", source, "--batch-size", 2, "--model", checkpoints["talking"])
    result = dllm("decode", *options, *SURE, "--trace", file, "--trace-top", 3, "--quiet")
    assert result.exit_code == 0, result.output
    return file, [json.loads(line) for line in result.stdout.splitlines()]


def test_a_run_is_played_again(dllm, trace):
    file, rows = trace
    for request, row in enumerate(rows, start=1):
        result = dllm("replay", file, "--request", request)
        *steps, answer = result.stdout.splitlines()
        assert result.exit_code == 0 and answer == row["text"]
        assert len(steps) >= row["nfe"] - 1 and all("NFE" in step for step in steps)


def test_a_run_is_checked(dllm, trace, tmp_path):
    file, _ = trace
    result = dllm("replay", file, "--check")
    assert result.exit_code == 0 and "3 results; 0 faults" in result.stdout
    lines = file.read_text().splitlines()
    bad = tmp_path / "bad.jsonl"
    bad.write_text("\n".join(line.replace('"nfe":1,', '"nfe":7,') for line in lines) + "\n")
    assert dllm("replay", bad, "--check").exit_code == 1
    bad.write_text("\n".join(lines[:-1]) + "\n")
    result = dllm("replay", bad, "--check")
    assert result.exit_code == 1 and "cut short" in result.stderr


def test_a_page_is_written_once(dllm, trace, tmp_path):
    file, rows = trace
    page = tmp_path / "out.html"
    assert dllm("replay", file, "--html", page).exit_code == 0
    assert rows[0]["strategy"].split("(")[0] in page.read_text()
    result = dllm("replay", file, "--html", page)
    assert result.exit_code == 2 and "exists already" in result.stderr
    assert not list(tmp_path.glob("*.part"))


def test_misuse_is_told_before_anything_is_loaded(dllm, checkpoints, trace, tmp_path):
    file, _ = trace
    for args, told in (
        (("decode", "w5", "--trace", file), "exists already"),
        (("decode", "w5", "--trace-top", 3), "give --trace"),
        (("decode", "w5", "--trace", tmp_path / "no" / "run.jsonl"), "no folder"),
        (("decode", "w5", "--trace", tmp_path / "x.jsonl", "--model", checkpoints["baseline"]), "no denoising steps"),
        (("replay", tmp_path / "nothing.jsonl"), "no such file"),
        (("replay", file, "--request", 9), "the trace has 3 requests"),
    ):
        result = dllm(*args)
        assert result.exit_code == 2 and told in result.stderr, (args, result.stderr)


def test_a_failed_run_leaves_no_trace(dllm, checkpoints, tmp_path):
    file = tmp_path / "run.jsonl"
    result = dllm("decode", "--input", "/dev/null", "--trace", file)
    assert result.exit_code == 2 and not file.exists()


@pytest.mark.skipif(os.name != "posix", reason="a terminal is needed")
def test_on_a_terminal_keys_step(terminal, trace):
    file, rows = trace
    child = terminal("replay", file, "--speed", "0.05")
    child.expect("step 1 of")
    child.send("n")
    child.expect("step 2 of")
    child.send("p")
    child.expect("step 1 of")
    child.expect("stopped")
    child.send("+")
    child.expect("0.1 a second")
    child.send(" ")
    child.send("q")
    child.expect_exact(rows[0]["text"].split()[0])
    child.wait_end(0)
    assert re.search("of 24 tokens", child.seen)
