"""Whatever is wrong is said in one line that names culprit, value and cure, with the right exit code; no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dllm.compose.options import Options
from tests.cli.conftest import POISON, read
from tests.tiny import tiny_model

MISUSE = {
    "policy": (["--policy", "nope"], ["unknown policy 'nope'", "threshold, factor"]),
    "scheduler": (["--scheduler", "nope"], ["unknown scheduler 'nope'", "blocks, whole"]),
    "cache": (["--cache", "nope"], ["unknown cache 'nope'", "none, prefix, dual"]),
    "recipe": (["--recipe", "nope"], ["unknown recipe 'nope'", "fast_dllm"]),
    "score": (["--score", "nope"], ["unknown score 'nope'", "margin"]),
    "block-size": (["--block-size", "0"], ["size=0", "at least 1"]),
    "sub-block-size": (["--sub-block-size", "64", "--block-size", "8"], ["sub_block", "1..8"]),
    "f": (["--policy", "factor", "--f", "0"], ["f=0", "above 0"]),
    "f-negative": (["--policy", "factor", "--f", "-1"], ["f=-1", "above 0"]),
    "f-nan": (["--policy", "factor", "--f", "nan"], ["f=nan", "above 0"]),
    "tau": (["--tau", "-0.1"], ["tau=-0.1", "0 or more"]),
    "tau-nan": (["--tau", "nan"], ["tau=nan", "0 or more"]),
    "k": (["--policy", "top-k", "--k", "0"], ["k=0", "at least 1"]),
    "steps": (["--policy", "top-k", "--steps", "0"], ["--steps 0", "at least 1"]),
    "steps-whole": (["--recipe", "dream", "--steps", "0"], ["--steps 0", "at least 1"]),
    "steps-many": (["--policy", "top-k", "--steps", "999", "--block-size", "8"], ["--steps 999", "multiple of"]),
    "top-k-alone": (["--policy", "top-k"], ["--k", "--steps"]),
    "refresh": (["--cache", "dual", "--refresh", "0"], ["refresh=0", "at least 1"]),
    "temperature": (["--temperature", "-1"], ["temperature=-1", "0 or a positive"]),
    "top-p": (["--temperature", "1", "--top-p", "0"], ["top_p=0", "(0, 1]"]),
    "top-k-sampling": (["--top-k", "5"], ["temperature 0"]),
    "max-new-tokens": (["--max-new-tokens", "0"], ["max_new_tokens=0", "at least 1"]),
    "batch-size": (["--batch-size", "0"], ["batch_size=0", "at least 1"]),
    "seed": (["--seed", str(2**63)], ["seed=", "2^62"]),
    "stop": (["--stop", ""], ["empty stop string"]),
    "stop-needs-words": (["--stop", "x"], ["tokenizer", "stop ids"]),
    "stop-id": (["--stop-id", "64"], ["--stop-id 64", "0..63"]),
    "mask-id": (["--mask-id", "64"], ["--mask-id 64", "0..63"]),
    "eos": (["--ignore-eos", "--stop-id", "3"], ["--ignore-eos and --stop-id", "one of them"]),
    "both-places": (["--device", "cpu", "--device-map", "auto"], ["device", "one of the two"]),
    "device": (["--device", "warp"], ["device='warp'", "cpu"]),
    "dtype": (["--dtype", "int3"], ["dtype='int3'", "float32"]),
    "commit": (["--recipe", "fast_dllm_v2"], ["commit"]),
    "f-of-threshold": (["--policy", "threshold", "--f", "1"], ["--f does not belong to threshold", "--tau"]),
    "tau-of-factor": (["--policy", "factor", "--tau", "1"], ["--tau does not belong to factor", "--f"]),
    "k-of-factor": (["--policy", "factor", "--k", "1"], ["--k does not belong to factor"]),
    "steps-of-threshold": (["--steps", "8"], ["--steps does not belong to threshold"]),
    "refresh-of-none": (["--cache", "none", "--refresh", "3"], ["--refresh does not belong to none"]),
    "block-of-whole": (["--scheduler", "whole", "--block-size", "8"], ["--block-size does not belong to whole"]),
    "eps-of-threshold": (["--eps", "0.1"], ["--eps does not belong to threshold"]),
}


def plain(text):
    """A message without line breaks."""
    return " ".join(text.split())


@pytest.mark.parametrize("case", MISUSE)
def test_misuse(dllm, checkpoints, jsonl, tmp_path, case):
    options, fragments = MISUSE[case]
    target = tmp_path / "out.jsonl"
    source = jsonl({"prompt_ids": [5, 6]})
    command = ("decode", "--model", checkpoints["llada"], "--max-new-tokens", 32, "--input", source, "--output", target)
    result = dllm(*command, *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    for fragment in fragments:
        assert fragment in result.stderr
    assert not list(tmp_path.glob("out*")), "nothing is left behind"


MISPLACED = {
    ("--gamma", "0.1"): '--gamma is no option but a field of entropy-bound: write --policy "entropy-bound(gamma=0.1)"',
    ("--h=0.3",): 'write --policy "entropy-threshold(h=0.3)"',
    ("--delta", "0.5"): 'write --policy "error-budget(delta=0.5)"',
    ("--delta", "0.5", "--policy", "sequence-budget"): 'write --policy "sequence-budget(delta=0.5)"',
    ("--strict",): 'write --policy "threshold(strict=True)"',
    ("--no-strict", "--policy", "threshold"): 'write --policy "threshold(strict=False)"',
    ("--strict", "--policy=threshold(tau=0.5)"): 'write --policy "threshold(tau=0.5, strict=True)"',
    ("--while-first",): 'write --cache "dual(while_first=True)"',
}


@pytest.mark.parametrize("options", MISPLACED, ids=" ".join)
@pytest.mark.parametrize("command", [("decode", "hello"), ("chat",), ("eval", "--tasks", "gsm8k")], ids=lambda c: c[0])
def test_a_field_of_a_part_is_answered_with_the_expression_to_write(dllm, command, options):
    result = dllm(*command, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: --") and result.stderr.count("\n") == 1
    assert MISPLACED[options] in result.stderr
    expression = result.stderr.partition('"')[2].rpartition('"')[0]
    kind = result.stderr.partition("write --")[2].split()[0]
    assert getattr(Options(**{kind: expression}).strategy(tiny_model("bidirectional"), 8), kind)


def test_a_misspelt_option_is_told_the_right_one(dllm):
    result = dllm("decode", "hello", "--polcy", "factor")
    assert result.exit_code == 2 and "--policy" in result.stderr


@pytest.mark.parametrize(
    "option", ["--policy=factor", "--tau=1", "--k=1", "--steps=4", "--cache=dual", "--block-size=4", "--recipe=llada"]
)
def test_a_causal_model_refuses_what_only_diffusion_has(dllm, checkpoints, jsonl, option):
    result = dllm("decode", "--model", checkpoints["qwen2"], "--input", jsonl({"prompt_ids": [5]}), option)
    assert result.exit_code == 2
    assert option.split("=")[0] in result.stderr and "causal language model" in result.stderr
    result = dllm("decode", "--model", checkpoints["qwen2"], "--input", jsonl({"prompt_ids": [5]}), "--mask-id", 3)
    assert result.exit_code == 2 and "--mask-id" in result.stderr


@pytest.mark.parametrize(
    ("args", "stdin", "fragment"),
    [
        (["hi", "--input", "{rows}"], None, "one of them"),
        (["--input", "{rows}.not"], None, "No such file"),
        (["--input", "{folder}"], None, "directory"),
        (["--input", "{empty}"], None, "no rows"),
        ([""], None, "prompt is empty"),
        (["  \n"], None, "prompt is empty"),
        ([], "", "prompt is empty"),
        (["w5 " * 200], None, "context is 128"),
        (["w5", "--max-new-tokens", "500"], None, "context is 128"),
    ],
)
def test_prompts_that_are_none(dllm, checkpoints, jsonl, tmp_path, args, stdin, fragment):
    places = {"rows": jsonl({"prompt_ids": [1]}), "folder": tmp_path, "empty": jsonl(name="empty.jsonl")}
    args = [arg.format(**places) for arg in args]
    result = dllm("decode", "--model", checkpoints["talking"], *args, stdin=stdin)
    assert (result.exit_code, result.stdout) == (2, "")
    assert fragment in result.stderr


def test_a_prompt_for_a_model_without_words(dllm, checkpoints):
    result = dllm("decode", "hello", "--model", checkpoints["llada"])
    assert result.exit_code == 2 and "no tokenizer" in result.stderr and "prompt_ids" in result.stderr


def test_models_that_are_none(dllm, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "config.json").write_text('{"model_type": "alien"}')
    for name, fragment in ((str(tmp_path / "nowhere"), "no such folder"), (str(tmp_path), "known families: LLaDA")):
        for command in (["decode", "hi", "--model", name], ["info", name]):
            result = dllm(*command)
            assert result.exit_code in (1, 2) and fragment in plain(result.stderr) and "Traceback" not in result.stderr
    assert dllm("decode", "hi", "--model", str(tmp_path)).exit_code == 2


def test_weights_that_cannot_be_read(dllm, checkpoints, jsonl, tmp_path):
    folder = tmp_path / "corrupt"
    folder.mkdir()
    (folder / "config.json").write_text((Path(checkpoints["llada"]) / "config.json").read_text())
    command = ("decode", "--model", folder, "--input", jsonl({"prompt_ids": [5]}), "--output", tmp_path / "out.jsonl")
    result = dllm(*command)
    assert result.exit_code == 1 and "no weights" in result.stderr
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert "never loaded" in dllm(*command).stderr
    (folder / "model.safetensors").write_bytes(b"nonsense")
    result = dllm(*command)
    assert result.exit_code == 1 and "corrupt" in result.stderr and str(folder) in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


BAD_ROWS = {
    "not json": "{oops",
    "half a row": '{"prompt_ids": [1, 2',
    "holds a list": "[1, 2]",
    "no prompt": {"id": "x"},
    "the prompt is empty": {"prompt": " "},
    "prompt_ids=[]": {"prompt_ids": []},
    "must be a list of token ids": {"prompt_ids": "12"},
    "token ids are whole numbers": {"prompt_ids": [1, 2.5]},
    "holds true": {"prompt_ids": [True]},
    "prompt=5": {"prompt": 5},
    "prompt and prompt_ids": {"prompt": "w5", "prompt_ids": [1]},
    "a role and a content": {"messages": [{"role": "user"}]},
    "messages=[]": {"messages": []},
    "outside the vocabulary": {"prompt_ids": [1, 64]},
    "id -1 is outside": {"prompt_ids": [-1]},
    "context is 128": {"prompt_ids": [1] * 121},
    "max_new_tokens=0": {"prompt_ids": [1], "max_new_tokens": 0},
    "max_new_tokens='9'": {"prompt_ids": [1], "max_new_tokens": "9"},
    "max_new_tokens=1000": {"prompt_ids": [1], "max_new_tokens": 10**30},
    "stop_ids=3": {"prompt_ids": [1], "stop_ids": 3},
    "stop_ids holds 64": {"prompt_ids": [1], "stop_ids": [64]},
    "seed=1.5": {"prompt_ids": [1], "seed": 1.5},
    "seed=9223372036854775808": {"prompt_ids": [1], "seed": 2**63},
    "id=[1]": {"prompt_ids": [1], "id": [1]},
    "id 'good'": {"prompt_ids": [1], "id": "good"},
    "id=true": {"prompt_ids": [1], "id": True},
}


def test_bad_rows_do_not_cost_the_others(dllm, checkpoints, jsonl, tmp_path):
    good = {"prompt_ids": [5, 6]}
    source = jsonl({**good, "id": "good"}, "", *BAD_ROWS.values(), {**good, "note": "what else a row says is its own"})
    with source.open("ab") as file:
        file.write(b'{"prompt": "\xff"}\n')
    target = tmp_path / "out.jsonl"
    options = ("--model", checkpoints["talking"], "--max-new-tokens", 8, "--input", source, "--output", target)
    result = dllm("decode", *options)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    for number, fragment in enumerate([*BAD_ROWS, None, "not UTF-8"], start=3):
        told = [line for line in lines if line.startswith(f"error: {source}:{number}: ")]
        assert len(told) == (fragment is not None), (number, fragment)
        if fragment in ("not json", "half a row"):
            assert "not JSON (" in told[0]
        elif fragment is not None:
            assert fragment in told[0]
    assert [row["id"] for row in read(target)] == ["good", 1 + len(BAD_ROWS)]


def test_no_good_row(dllm, checkpoints, jsonl):
    result = dllm("decode", "--model", checkpoints["llada"], "--input", jsonl("{"))
    assert result.exit_code == 1 and "rows.jsonl:1:" in result.stderr


def test_logits_that_are_no_numbers_fail_their_row_alone(dllm, checkpoints, jsonl, tmp_path):
    rows = [{"prompt_ids": [5, 6]}, {"prompt_ids": [5, POISON]}, {"prompt_ids": [8, 9]}]
    target, options = tmp_path / "out.jsonl", ("--max-new-tokens", 8)
    result = dllm("decode", "--model", checkpoints["broken"], "--input", jsonl(*rows), "--output", target, *options)
    assert result.exit_code == 1
    assert "rows.jsonl:2: the model's logits are not numbers" in result.stderr
    assert [row["id"] for row in read(target)] == [0, 2]
    good = dllm("decode", "--model", checkpoints["llada"], "--input", jsonl(*rows), *options).stdout.splitlines()
    assert [row["output_ids"] for row in read(target)] == [json.loads(good[i])["output_ids"] for i in (0, 2)]


def test_outputs_that_cannot_be_written(dllm, checkpoints, jsonl, tmp_path):
    source = jsonl({"prompt_ids": [5]})
    command = ("decode", "--model", checkpoints["llada"], "--input", source, "--max-new-tokens", 4, "--output")
    cases = (
        (tmp_path / "missing" / "out.jsonl", "No such file"),
        (tmp_path, "directory"),
        (Path("/proc/out.jsonl"), ""),
        (Path("/dev/full"), "No space left"),
    )
    for target, fragment in cases:
        result = dllm(*command, target)
        assert result.exit_code == 1, target
        assert result.stderr.startswith(f"error: {target}: ") and fragment in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_full_stdout(fork, checkpoints):
    options = ("--model", checkpoints["talking"], "--max-new-tokens", 4)
    child = fork("decode", "w5 w6", *options, stdout="/dev/full")
    assert child.wait() == 1
    assert child.err.read_text() == "error: standard output: No space left on device\n"
