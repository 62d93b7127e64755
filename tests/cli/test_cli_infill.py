"""Texts with holes, guidance and constraints on the command line, with the model in the package."""

from __future__ import annotations

import json
import re

import pytest
from rich.console import Console

import dllm as library
from dllm import Blocks, DualCache, Request, Strategy, Threshold
from dllm.cli.live_display import TerminalFrame, make_token_formatter, render_frame
from tests.cli.conftest import read
from tests.processors.words import WORDS, speaking

QUESTION = "Tom has 3 apples and buys 4 more. How many has he?"


def test_infill_prints_the_text_filled(dllm):
    result = dllm("decode", "--infill", "Tom has __ apples and ____ pears.", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert re.fullmatch(r"Tom has .+ apples and .+ pears\.\n", result.stdout)
    assert "_" not in result.stdout


def test_hole_and_what_comes_behind(dllm, jsonl, tmp_path):
    source = jsonl(
        {"infill": "Tom has __ apples", "id": "a"},
        {"infill": "Tom has __ apples", "hole": 4, "id": "b"},
        {"infill": "Tom has __ apples", "max_new_tokens": 5, "id": "c"},
        {"prompt": "Tom", "id": "d"},
    )
    target = tmp_path / "out"
    args = ("decode", "--input", source, "--output", target, "--hole", 3, "--max-new-tokens", 7, "--ignore-eos")
    assert dllm(*args).exit_code == 0
    rows = read(target, "seconds")
    assert [len(row["output_ids"]) for row in rows] == [3, 4, 8, 7]
    assert all(row["text"].startswith("Tom has ") for row in rows[:3])
    mask = library.load().mask_id
    assert [row["prompt_ids"].count(mask) for row in rows] == [3, 4, 3, 0]
    before = target.read_bytes()
    assert dllm(*args).exit_code == 0, "run again it finds all rows done"
    assert target.read_bytes() == before
    other = dllm(*args[:-4], 2, *args[-3:])
    assert other.exit_code == 2
    assert "belongs to another job" in other.stderr


def test_infill_follows_the_options(dllm):
    """One token a step is as many steps as holes have tokens: nothing is written behind the text."""
    result = dllm(
        "decode", "--infill", "Tom has __ apples and ____ pears.", "--policy", "top-k", "--k", 1, "--cache", "none"
    )
    assert "6 tokens · 6 forwards" in result.stderr


def test_steps_are_shared_out_over_the_text_from_the_first_hole_on(dllm):
    args = ("--policy", "top-k", "--scheduler", "whole", "--cache", "none")
    assert "3 forwards" in dllm("decode", "--infill", "Tom has ______ apples", "--steps", 3, *args).stderr


def test_a_regular_expression(dllm):
    result = dllm("decode", QUESTION, "--regex", "[0-9]{1,2} (apples|pears)", "--max-new-tokens", 12, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert re.fullmatch("[0-9]{1,2} (apples|pears)\n", result.stdout)


def test_a_schema(dllm, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}')
    result = dllm("decode", QUESTION, "--json-schema", schema, "--max-new-tokens", 24, "--quiet", "--policy", "factor")
    assert result.exit_code == 0, result.stderr
    assert list(json.loads(result.stdout)) == ["n"]


def test_rows_that_a_constraint_cannot_fit_fail_alone(dllm, jsonl):
    source = jsonl({"prompt": QUESTION, "max_new_tokens": 2}, {"prompt": QUESTION, "max_new_tokens": 12})
    result = dllm("decode", "--input", source, "--regex", "[0-9]{5}", "--quiet")
    assert result.exit_code == 1
    assert ":1: " in result.stderr
    assert "raise max_new_tokens" in result.stderr
    (row,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert re.fullmatch("[0-9]{5}", row["text"])
    assert "Regex(pattern='[0-9]{5}')" in row["strategy"]


def test_guidance_changes_the_answer_and_is_noted(dllm, tmp_path):
    target = tmp_path / "out.jsonl"
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"prompt": QUESTION}) + "\n")
    found = [dllm("decode", QUESTION, "--guidance", w, "--quiet", "--max-new-tokens", 24).stdout for w in (0, 3)]
    assert found[0] == dllm("decode", QUESTION, "--quiet", "--max-new-tokens", 24).stdout
    assert found[0] != found[1]
    args = ("decode", "--input", source, "--output", target, "--max-new-tokens", 24)
    assert dllm(*args, "--guidance", 3).exit_code == 0
    assert read(target)[0]["text"] + "\n" == found[1]
    assert dllm(*args).exit_code == 2, "the file's rows were guided"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("x", "--infill", "a __"), "--infill, PROMPT and --input"),
        (("--infill", "a _ b"), "has no hole"),
        (("--infill", "__ b"), "begins with a hole"),
        (("--infill", "a __", "--hole", 0), "hole=0"),
        (("x", "--hole", 2), "--hole says"),
        (("x", "--max-new-tokens", 0), "at least 1"),
        (("x", "--guidance", -1), "guidance=-1.0"),
        (("x", "--regex", "(a"), "(a"),
        (("x", "--regex", "a", "--json-schema", "y"), "give one of them"),
        (("x", "--json-schema", "/nowhere"), "--json-schema /nowhere: No such file"),
        (("x", "--regex", "[a-z]{9}", "--max-new-tokens", 1), "raise max_new_tokens"),
        (("x", "--regex", "a", "--stop", "b"), "stop string"),
        (("x", "--regex", "a", "--stop-id", 60), "is text"),
    ],
)
def test_what_cannot_be(dllm, args, said):
    result = dllm("decode", *args)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


@pytest.mark.parametrize("args", [("--infill", "w5 __ w6"), ("w5 w6", "--guidance", 2), ("w5 w6", "--regex", "a")])
def test_what_a_plain_causal_model_cannot_do(dllm, checkpoints, args):
    result = dllm("decode", *args, "--model", checkpoints["baseline"])
    assert result.exit_code == 2, result.output
    assert "causal" in result.stderr


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"infill": 3}, "must be a text with holes"),
        ({"infill": "a"}, "has no hole"),
        ({"infill": "a __", "hole": 0}, "hole=0"),
        ({"infill": "a __", "prompt": "b"}, "give one of them"),
        ({"infill": "a __", "max_new_tokens": -1}, "at least 0"),
        ({"prompt": "a", "max_new_tokens": 0}, "at least 1"),
    ],
)
def test_rows_that_are_none(dllm, jsonl, row, said):
    result = dllm("decode", "--input", jsonl(row))
    assert result.exit_code == 1
    assert said in result.stderr


def test_the_live_view_shows_what_is_given_between_holes():
    m = speaking("bidirectional")
    row = Request(tuple(WORDS.index(w) for w in ("0", "a", "b", "c", "1")), 0, holes=(1, 3), stop_ids=())
    stream = list(library.steps(m, [row], Strategy(Threshold(2.0), Blocks(8), DualCache())))
    console = Console(width=60, height=20)
    first, last = (
        render_frame(TerminalFrame.of(step, 0), make_token_formatter(m.tokenizer), console)
        for step in (stream[0], stream[-1])
    )
    assert first.title == "1 of 2 tokens · 1 forwards · 1.00 per forward"
    shown = first.renderable.plain
    assert shown.startswith("0")
    assert shown.endswith("1")
    assert shown.count("░") == 1
    assert last.renderable.plain == m.tokenizer.decode(stream[-1].canvas.tokens[0])
