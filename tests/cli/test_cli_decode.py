"""What `dllm decode` writes: the library's results, in order, whatever the batch; and what each option does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import dllm as library
from dllm import Request
from dllm.jobs import Autoregressive
from tests.cli.conftest import read

FIELDS = [
    "id", "prompt_ids", "output_ids", "text", "stopped", "tokens", "nfe", "tokens_per_forward", "queries", "parallel",
    "certified", "seconds", "prefill_seconds", "prefill_tokens", "tokens_per_second",
    "tokens_per_second_without_prefill", "strategy", "seed", "model", "device", "dtype", "versions",
]  # fmt: skip
PROMPTS = [[3, 4, 5], [9, 8, 7, 6, 5, 4, 3, 2, 1], [11] * 8, [1, 2]]
ROWS = [{"prompt_ids": p, "max_new_tokens": n} for p, n in zip(PROMPTS, (9, 16, 12, 16), strict=True)]


def args(checkpoint, source, target, *more):
    return "decode", "--model", checkpoint, "--input", source, "--output", target, *more


@pytest.mark.parametrize("family", ["llada", "dream", "fast_dllm_v2", "sdar"])
def test_rows_are_the_librarys_results(dllm, checkpoints, jsonl, tmp_path, family):
    result = dllm(*args(checkpoints[family], jsonl(*ROWS), tmp_path / "out.jsonl"))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    rows = read(tmp_path / "out.jsonl")
    model = library.load(checkpoints[family])
    requests = [Request(tuple(r["prompt_ids"]), r["max_new_tokens"], seed=i) for i, r in enumerate(ROWS)]
    strategy = eval(rows[0]["strategy"], vars(library))
    for i, (row, expected) in enumerate(zip(rows, library.decode(model, requests, strategy), strict=True)):
        assert list(row) == FIELDS
        assert row["id"] == i
        assert row["prompt_ids"] == PROMPTS[i]
        assert row["output_ids"] == list(expected.output_ids)
        assert row["text"] is None
        assert row["nfe"] == expected.nfe
        assert row["tokens_per_forward"] == expected.tokens_per_forward
        assert row["certified"] == expected.certified_share
        assert row["seconds"] >= row["prefill_seconds"] > 0
        assert row["seed"] == i
        assert row["versions"]["dllm"] == library.__version__


@pytest.mark.parametrize("family", ["llada", "fast_dllm_v2", "sdar", "qwen2"])
def test_batch_size_changes_nothing(dllm, checkpoints, jsonl, tmp_path, family):
    made = []
    for size in (1, 3, 8):
        file = tmp_path / f"{size}.jsonl"
        more = ("--batch-size", size, "--temperature", 1.5, "--seed", 4)
        assert dllm(*args(checkpoints[family], jsonl(*ROWS, *ROWS), file, *more)).exit_code == 0
        made.append(read(file, "seconds"))
    assert made[0] == made[1] == made[2]
    assert made[0][0]["output_ids"] != made[0][4]["output_ids"], "the same row draws otherwise at another place"


def test_steps_are_a_total_for_each_row(dllm, checkpoints, jsonl, tmp_path):
    rows = [{"prompt_ids": [5, 6], "max_new_tokens": n} for n in (8, 16, 8, 12)]
    options = ("--recipe", "llada", "--block-size", 8, "--steps", 4)
    result = dllm(*args(checkpoints["llada"], jsonl(*rows), tmp_path / "out.jsonl", *options))
    assert result.exit_code == 0, result.stderr
    made = read(tmp_path / "out.jsonl")
    assert [row["nfe"] for row in made] == [4, 4, 4, 4]
    assert [f"steps={n}" in row["strategy"] for row, n in zip(made, (4, 2, 4, 2), strict=True)] == [True] * 4
    assert [len(row["output_ids"]) for row in made] == [8, 16, 8, 12]


def test_steps_that_suit_no_row_and_steps_that_suit_some(dllm, checkpoints, jsonl, tmp_path):
    options = ("--recipe", "llada", "--block-size", 8, "--steps", 3)
    rows = [{"prompt_ids": [5, 6], "max_new_tokens": n} for n in (16, 8)]
    result = dllm(*args(checkpoints["llada"], jsonl(*rows), tmp_path / "out.jsonl", *options))
    assert result.exit_code == 1
    assert "rows.jsonl:1: --steps 3: 16 new tokens are 2 blocks of 8" in result.stderr
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == [1]
    result = dllm(*args(checkpoints["llada"], jsonl(rows[0]), tmp_path / "other.jsonl", *options))
    assert result.exit_code == 2
    assert "multiple of 2" in result.stderr


def test_rows_carry_their_own_settings(dllm, checkpoints, jsonl, tmp_path):
    options = ("--ignore-eos", "--max-new-tokens", 40, "--temperature", 2)
    source = jsonl({"prompt_ids": [5], "seed": 1})
    first = dllm("decode", "--model", checkpoints["llada"], "--input", source, *options)
    tokens = json.loads(first.stdout)["output_ids"]
    stop = tokens[5]
    assert len(set(tokens)) > 9, "the stop is met on the way"
    rows = [
        {"prompt_ids": [5], "id": "stopped", "seed": 1, "stop_ids": [stop], "max_new_tokens": 40},
        {"prompt_ids": [5], "id": "never", "seed": 1, "stop_ids": []},
        {"prompt_ids": [5], "id": "short", "max_new_tokens": 3, "seed": None},
    ]
    result = dllm(*args(checkpoints["llada"], jsonl(*rows), tmp_path / "out.jsonl", *options))
    assert result.exit_code == 0, result.stderr
    made = {row["id"]: row["output_ids"] for row in read(tmp_path / "out.jsonl")}
    assert made["stopped"][-1] == stop and made["stopped"].count(stop) == 1
    assert made["never"] == tokens and len(tokens) == 40
    assert len(made["short"]) == 3


def test_seed_of_a_row_is_its_own_or_its_place(dllm, checkpoints, jsonl):
    rows = [{"prompt_ids": [5]}, {"prompt_ids": [5], "seed": 10}, {"prompt_ids": [5]}]
    options = ("--max-new-tokens", 12, "--temperature", 2, "--seed", 8)
    result = dllm("decode", "--model", checkpoints["llada"], "--input", jsonl(*rows), *options)
    a, b, c = (json.loads(line)["output_ids"] for line in result.stdout.splitlines())
    assert a != b and b == c, "the third row draws from 8 + 2"


@pytest.mark.parametrize("name", ["llada", "qwen2"])
def test_stop_ids_replace_the_checkpoints(dllm, checkpoints, jsonl, name):
    def tokens(*options):
        source = jsonl({"prompt_ids": [9, 8, 7]})
        more = ("--max-new-tokens", 24, "--temperature", 2, *options)
        result = dllm("decode", "--model", checkpoints[name], "--input", source, *more)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)["output_ids"]

    free = tokens("--ignore-eos")
    assert len(free) == 24
    early, late = list(dict.fromkeys(free))[3:5]
    assert tokens("--stop-id", late, "--stop-id", early) == tokens("--stop-id", early) == free[: free.index(early) + 1]
    assert tokens("--stop-id", late) == free[: free.index(late) + 1]


def test_a_causal_model_is_the_baseline(dllm, checkpoints, jsonl, tmp_path):
    source = jsonl(*ROWS)
    assert dllm(*args(checkpoints["qwen2"], source, tmp_path / "out.jsonl", "--ignore-eos")).exit_code == 0
    model = library.load(checkpoints["qwen2"])
    for row, given in zip(read(tmp_path / "out.jsonl"), ROWS, strict=True):
        n = given["max_new_tokens"]
        assert row["output_ids"] == model.generate([given["prompt_ids"]], n, stop_ids=())[0]
        assert (row["nfe"], row["tokens_per_forward"], row["certified"]) == (n, 1, None)
        plan = eval(row["strategy"], {**vars(library), "Autoregressive": Autoregressive})
        assert plan.sampling.temperature == 0 and plan.stopping.ids == ()


@pytest.mark.parametrize("model", ["talking", "baseline"])
def test_a_prompt_gives_its_text_alone_on_stdout(dllm, checkpoints, model):
    options = ("--model", checkpoints[model], "--max-new-tokens", 10, "--ignore-eos")
    result = dllm("decode", "w5 w6 w7", *options)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.endswith("\n") and len(result.stdout.split()) <= 10
    assert "10 tokens" in result.stderr and "tokens per forward" in result.stderr and "tokens/s" in result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    assert dllm("decode", *options, stdin="w5 w6 w7\n").stdout == result.stdout
    assert dllm("decode", "w5 w6 w7", *options, "--quiet").stderr == ""
    assert dllm("decode", "user w5 w6 w7 assistant", "--raw", *options).stdout == result.stdout
    word = result.stdout.split()[2]
    cut = dllm("decode", "w5 w6 w7", *options, "--stop", word).stdout
    assert cut.strip() == result.stdout.split(word)[0].strip()


def test_texts_messages_and_ids_are_one_prompt(dllm, checkpoints, jsonl):
    ids = [0, 5, 6, 7, 1]
    rows = [{"prompt": "w5 w6 w7"}, {"messages": [{"role": "user", "content": "w5 w6 w7"}]}, {"prompt_ids": ids}]
    result = dllm("decode", "--model", checkpoints["talking"], "--input", jsonl(*rows), "--max-new-tokens", 8)
    made = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["prompt_ids"] for row in made] == [ids] * 3
    assert made[0]["text"] == made[1]["text"] == made[2]["text"] is not None


def test_block_size_sets_the_attention_block(dllm, checkpoints, jsonl):
    source = jsonl({"prompt_ids": [9, 8, 7], "max_new_tokens": 20})
    made = [
        json.loads(dllm("decode", "--model", checkpoints["sdar"], "--input", source, *more, "--ignore-eos").stdout)
        for more in (("--block-size", 8, "--tau", 1), ("--tau", 1))
    ]
    model = library.load(checkpoints["sdar"], block_size=8)
    (expected,) = library.decode(model, Request((9, 8, 7), 20, stop_ids=()), eval(made[0]["strategy"], vars(library)))
    assert made[0]["output_ids"] == list(expected.output_ids) != made[1]["output_ids"]
    assert "Blocks(size=8" in made[0]["strategy"]


def test_the_installed_command_reads_stdin(checkpoints):
    command = [
        sys.executable,
        "-c",
        "from dllm.cli.main import run; run()",
        "decode",
        "--model",
        checkpoints["talking"],
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [*command, "--max-new-tokens", "6"], input=b"w5 w6\n", capture_output=True, env=environment
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count(b"\n") == 1 and b"\x1b" not in process.stdout + process.stderr
    assert b"tokens per forward" in process.stderr


@pytest.mark.parametrize("half", [False, True], ids=["float32-cpu", "bfloat16-cpu"])
def test_weights_are_packed_where_that_helps_unless_told_otherwise(
    dllm, checkpoints, jsonl, tmp_path, monkeypatch, half
):
    from dllm.models import packing

    packed = []
    monkeypatch.setattr(packing, "pack_linear_layers", lambda network: packed.append("packed") or network)
    monkeypatch.setattr(packing, "multiplies_bfloat16", lambda: half)
    for options in ((), ("--pack",), ("--no-pack",), ("--dtype", "bfloat16"), ("--compile",)):
        target = tmp_path / f"{len(packed)}.jsonl"
        result = dllm(*args(checkpoints["llada"], jsonl({"prompt_ids": [3], "max_new_tokens": 1}), target, *options))
        assert result.exit_code == 0, result.stderr
        packed.append(options)
    assert packed == [
        "packed", (), "packed", ("--pack",), ("--no-pack",), *["packed"] * half, ("--dtype", "bfloat16"),
        "packed", ("--compile",),
    ]  # fmt: skip
    refused = dllm("decode", "--model", checkpoints["llada"], "--pack", "--dtype", "float16", "x")
    assert refused.exit_code == 2 and "pack: only weights in float32" in refused.stderr


def test_a_job_reads_the_checkpoint_and_makes_a_strategy_once_for_each_length(dllm, checkpoints, jsonl, monkeypatch):
    from dllm.compose.options import Options
    from dllm.models import checkpoint

    read_files, lengths = [], []
    read_json, strategy = checkpoint.read_json, Options.strategy
    monkeypatch.setattr(checkpoint, "read_json", lambda path: read_files.append(path.name) or read_json(path))
    monkeypatch.setattr(Options, "strategy", lambda options, model, n: lengths.append(n) or strategy(options, model, n))
    rows = [{"prompt_ids": [5, 6 + i], "max_new_tokens": 4 + 4 * (i % 2)} for i in range(6)]
    result = dllm("decode", "--model", checkpoints["llada"], "--input", jsonl(*rows), "--policy", "top-k", "--k", 1)
    assert result.exit_code == 0, result.stderr
    assert lengths == [4, 8]
    assert read_files.count("config.json") == 1
