"""On a terminal there is a live view, of text or of ids, and a bar for many rows; elsewhere nothing is drawn."""

from __future__ import annotations

import re

import pytest

from dllm.cli import live_display

SLOW = ("--policy", "top-k", "--k", 1, "--ignore-eos", "--max-new-tokens", 96)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Every step is drawn, however fast the machine is."""
    monkeypatch.setattr(live_display, "PAUSE", 0)
    monkeypatch.setattr(live_display, "SHARE", 0)


def drawing(child):
    """What a child draws, without colours and movements of the cursor."""
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", child.watch().decode())
    assert child.wait() == 0, drawn
    return drawn


def test_a_prompt(fork, checkpoints):
    child = fork("decode", "w5 w6", "--model", checkpoints["talking"], *SLOW, terminal=True)
    drawn = drawing(child)
    assert "░" in drawn and "of 96 tokens" in drawn and "forwards" in drawn
    assert drawn.count("of 96 tokens ·") > 2, "it moves"
    last = drawn[drawn.rindex("░") :]
    assert "w" in last and "96 tokens" in last and "tokens per forward" in last, "then the text and the figures"


@pytest.mark.parametrize("option", ["--quiet", "--no-live"])
def test_a_terminal_can_be_kept_still(fork, checkpoints, option):
    child = fork("decode", "w5 w6", "--model", checkpoints["talking"], *SLOW, option, terminal=True)
    drawn = drawing(child)
    assert "░" not in drawn and "w" in drawn
    assert ("forwards (NFE)" in drawn) == (option == "--no-live")


def test_many_rows_have_a_bar_and_ids(fork, checkpoints, jsonl, tmp_path):
    source = jsonl({"prompt_ids": [5, 6]}, {"prompt_ids": [7]})
    options = ("--model", checkpoints["llada"], "--input", source, "--batch-size", 1)
    child = fork("decode", *options, *SLOW, "--output", tmp_path / "out.jsonl", terminal=True)
    drawn = drawing(child)
    assert "░" in drawn and "0/2" in drawn and "1/2" in drawn
    assert "2 rows" in drawn


def test_a_pipe_sees_no_drawing(fork, checkpoints):
    child = fork("decode", "--model", checkpoints["talking"], *SLOW, stdin=b"w5 w6\n")
    assert child.wait() == 0
    assert child.out.read_text().count("\n") == 1 and "\x1b" not in child.out.read_text() + child.err.read_text()
    assert "░" not in child.out.read_text() + child.err.read_text()
