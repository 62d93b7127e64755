"""A job that was interrupted, killed or out of disk goes on where it stopped; what is not its own it leaves alone."""

from __future__ import annotations

import fcntl
import os
import signal

import pytest

from dllm.jobs import running
from tests.cli.conftest import read, rows_in
from tests.waiting import until

ROWS = [{"prompt_ids": [3 + i, 5, 6], "id": f"row {i}"} for i in range(9)]
SLOW = ("--policy", "top-k", "--k", 1, "--max-new-tokens", 64, "--ignore-eos", "--temperature", 1)


@pytest.fixture
def command(checkpoints, jsonl, tmp_path):
    """The arguments of a job of nine rows, with a file to write to."""
    source, target = jsonl(*ROWS), tmp_path / "out.jsonl"
    return ("decode", "--model", checkpoints["llada"], "--input", source, "--output", target, *SLOW), target


@pytest.fixture
def undisturbed(dllm, command, tmp_path):
    """What the job writes when nothing happens to it."""
    (*args,), target = command
    elsewhere = tmp_path / "undisturbed.jsonl"
    args[args.index(target)] = elsewhere
    assert dllm(*args).exit_code == 0
    return read(elsewhere, "seconds")


def test_killed_and_run_again(dllm, fork, command, undisturbed):
    args, target = command
    child = fork(*args, "--batch-size", 2, held=lambda: rows_in(target) > 4)
    until(lambda: rows_in(target) >= 3)
    child.send(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    kept = target.read_bytes()
    assert 3 <= kept.count(b"\n") < len(ROWS), "it was killed on the way"
    with target.open("ab") as file:  # what a kill within a write leaves
        file.write(b'{"id": "row 7", "prompt_ids": [10, 5, 6], "output_ids": [1, 2')
    result = dllm(*args)
    assert result.exit_code == 0, result.stderr
    assert f"{kept.count(b'%c' % 10)} of 9 rows are in {target} already" in result.stderr
    assert target.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1]), "what was there is as it was"
    assert read(target, "seconds") == undisturbed
    before = target.read_bytes()
    assert dllm(*args).exit_code == 0
    assert target.read_bytes() == before, "run once more it does nothing"


def test_ctrl_c(dllm, fork, command, undisturbed):
    args, target = command
    child = fork(*args, "--batch-size", 1, held=lambda: rows_in(target) > 4)
    until(lambda: rows_in(target) >= 2)
    child.send(signal.SIGINT)
    assert child.wait() == 130
    said = child.err.read_text()
    kept = read(target, "seconds")
    assert kept == undisturbed[: len(kept)] and 2 <= len(kept) < len(ROWS)
    assert f"error: interrupted; {len(kept)} of 9 rows are kept in {target}: run the same command again" in said
    assert "Traceback" not in said
    assert dllm(*args).exit_code == 0
    assert read(target, "seconds") == undisturbed


def test_ctrl_c_within_a_batch_keeps_its_finished_rows(dllm, checkpoints, jsonl, tmp_path, monkeypatch):
    source = jsonl(*({"prompt_ids": [4, 5], "max_new_tokens": n} for n in (4, 8, 32, 8)))
    target = tmp_path / "out.jsonl"
    options = ("--policy", "top-k", "--k", 1, "--batch-size", 4, "--ignore-eos")
    steps = running.steps

    def interrupted(*args, **options):
        for step in steps(*args, **options):
            if step.nfe.max() > 12:
                raise KeyboardInterrupt
            yield step

    command = ("decode", "--model", checkpoints["llada"], "--input", source, "--output", target, *options)
    with monkeypatch.context() as patch:
        patch.setattr(running, "steps", interrupted)
        result = dllm(*command)
    assert result.exit_code == 130
    assert "2 of 4 rows are kept" in result.stderr
    assert [len(row["output_ids"]) for row in read(target)] == [4, 8], "the fourth would come before the third"
    assert dllm(*command).exit_code == 0
    assert [len(row["output_ids"]) for row in read(target)] == [4, 8, 32, 8]


def test_a_disk_that_fills_up(dllm, command, undisturbed, monkeypatch):
    args, target = command
    write, budget = os.write, [2000]

    def full(file, data):
        if budget[0] <= 0:
            raise OSError(28, "No space left on device")
        budget[0] -= (n := write(file, data[: budget[0]]))
        return n

    with monkeypatch.context() as patch:
        patch.setattr("dllm.files.os.write", full)
        result = dllm(*args)
    assert result.exit_code == 1
    kept = read(target, "seconds")
    assert 0 < len(kept) < 9
    assert f"{target}: No space left on device; {len(kept)} of 9 rows are kept" in result.stderr
    assert dllm(*args).exit_code == 0
    assert read(target, "seconds") == undisturbed


CHANGES = {
    "another policy": ["--k", "2"],
    "another seed": ["--seed", "1"],
    "another length": ["--max-new-tokens", "32"],
    "another model": ["--model", "{broken}"],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_of_another_job_is_left_alone(dllm, command, checkpoints, tmp_path, change):
    args, target = command
    args = (*args, "--max-new-tokens", 4)
    assert dllm(*args).exit_code == 0
    before = target.read_bytes()
    result = dllm(*args, *(option.format(**checkpoints) for option in CHANGES[change]))
    assert result.exit_code == 2
    assert f"{target} belongs to another job" in result.stderr and "choose another --output" in result.stderr
    assert target.read_bytes() == before
    (tmp_path / "out.jsonl.job").unlink()
    if change in ("another policy", "another length"):
        assert dllm(*args, *CHANGES[change]).exit_code == (2 if change == "another policy" else 0)
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b"my notes\n", b"my notes", b'{"id": 0}\n', b"[1]\n", b"\n", b'{"id": "row 0", "prompt_ids": [9', b"\xff\n"],
)
def test_a_file_of_the_users_is_left_alone(dllm, command, content):
    args, target = command
    target.write_bytes(content)
    result = dllm(*args, "--max-new-tokens", 2)
    assert result.exit_code == 2 and "belongs to another job (line 1" in result.stderr
    assert target.read_bytes() == content


def test_other_inputs_are_other_jobs(dllm, checkpoints, jsonl, tmp_path):
    target = tmp_path / "out.jsonl"

    def decode(*rows):
        source = jsonl(*rows)
        options = ("--output", target, "--max-new-tokens", 2)
        return dllm("decode", "--model", checkpoints["llada"], "--input", source, *options)

    first, second = {"prompt_ids": [5], "id": "a"}, {"prompt_ids": [6], "id": "b"}
    assert decode(first).exit_code == 0
    assert "another prompt of id 'a'" in decode({**first, "prompt_ids": [9]}).stderr
    assert "row 'a', which this job does not have" in decode(second).stderr
    assert "not up to 1" in decode({**first, "max_new_tokens": 1}).stderr
    assert decode(first, second).exit_code == 0, "rows may be added"
    assert [row["id"] for row in read(target)] == ["a", "b"]
    target.write_bytes(target.read_bytes() * 2)
    assert "or has already" in decode(first, second).stderr


def test_an_empty_file_and_a_strangers_facts(dllm, command, tmp_path):
    args, target = command
    args = (*args, "--max-new-tokens", 2)
    facts = tmp_path / "out.jsonl.job"
    target.touch()
    facts.write_text("a stranger's")
    result = dllm(*args)
    assert result.exit_code == 2 and "holds something else" in result.stderr
    assert target.exists() and facts.read_text() == "a stranger's"
    facts.unlink()
    assert dllm(*args).exit_code == 0
    assert len(read(target)) == 9


def test_one_job_at_a_time(dllm, command):
    args, target = command
    with target.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = dllm(*args)
    assert result.exit_code == 2 and "another job is writing" in result.stderr
