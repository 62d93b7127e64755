"""`dllm chat`: over a pipe, on a terminal, on a narrow one; commands, errors, Ctrl-C and a changing size."""

from __future__ import annotations

import json

from tests.cli.conftest import teach
from tests.cli.terminals import terminal
from tests.models.conftest import write

__all__ = ["terminal"]


def test_over_a_pipe_only_answers_go_to_stdout(dllm, checkpoints):
    asked = "w5 w6\n\n/set policy factor f=1.0\nw7\nexit\nw8\n"
    result = dllm("chat", "--model", checkpoints["talking"], "--max-new-tokens", 16, stdin=asked)
    assert result.exit_code == 0, result.output
    answers = result.stdout.splitlines()
    assert len(answers) == 2 and all(answers), "two questions before exit"
    assert result.stderr.count("forwards (NFE)") == 2 and "policy factor, f 1.0" in result.stderr
    assert "\x1b" not in result.stdout


def test_turns_are_those_of_a_conversation(dllm, checkpoints, jsonl):
    """The second answer is what decoding the whole chat gives; with and without what was kept."""
    model = checkpoints["talking"]
    said = dllm("chat", "--model", model, "--max-new-tokens", 40, stdin="w5 w6 w7 w8 w9 w10\nw11 w12\n")
    again = dllm("chat", "--model", model, "--max-new-tokens", 40, "--no-reuse", stdin="w5 w6 w7 w8 w9 w10\nw11 w12\n")
    first, second = said.stdout.splitlines()
    assert said.stdout == again.stdout
    assert "prompt tokens reused" in said.stderr and "reused" not in again.stderr
    messages = [
        {"role": "user", "content": "w5 w6 w7 w8 w9 w10"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "w11 w12"},
    ]
    alone = dllm(
        "decode", "--input", jsonl({"messages": messages}), "--model", model, "--max-new-tokens", 40, "--quiet"
    )
    assert json.loads(alone.stdout)["text"].strip() == second.strip()


def test_errors_do_not_end_it(dllm, checkpoints):
    asked = "\n".join((
        "/set tau 0.5 nope 3", "/set gamma 0.1",
        "/set tau abc", "/set", "/set policy", "/set 'a", "/nothing", "/set policy unknown",
        "/set block_size 0", "/set max_new_tokens 0", "/set max_new_tokens 100000", "w5", "/set max_new_tokens 8", "w5",
        "/show", "/help", "/clear", "//w6",
    ))  # fmt: skip
    result = dllm("chat", "--model", checkpoints["talking"], stdin=asked + "\n")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    for told in ("nope: there is no such setting",
                 'write /set policy "entropy-bound(gamma=0.1)"',
                 "must be a number", "say what", "give a value", "no such command",
                 "unknown policy", "size must be at least 1", "at least 1", "context is", "Strategy(", "Ctrl-C",
                 "forgotten"):  # fmt: skip
        assert told in result.stderr, told
    assert "Traceback" not in result.stderr


def test_what_cannot_work_is_refused_at_once(dllm, checkpoints):
    for args, told in (
        (("--model", checkpoints["llada"]), "no chat template"),
        (("--model", checkpoints["talking"], "--policy", "nothing"), "nothing"),
        (("--model", checkpoints["talking"], "--recipe", "sdar", "--strategy", "x"), "give one of them"),
    ):
        result = dllm("chat", *args, stdin="w5\n")
        assert result.exit_code == 2 and told in result.stderr and not result.stdout


def test_a_plain_causal_model_talks_too(dllm, checkpoints):
    result = dllm("chat", "--model", checkpoints["baseline"], "--max-new-tokens", 8, stdin="w5\n")
    assert result.exit_code == 0 and "forwards (NFE)" in result.stderr


def test_a_character_that_moves_the_cursor_is_not_drawn():
    from dllm.cli.answer_display import replace_control_characters

    assert replace_control_characters("a\x1b[2Jb\nc é") == "a\ufffd[2Jb\nc é"


def test_on_a_terminal(terminal, tmp_path):
    """Denoising is seen, Ctrl-C stops the answer alone, the size may change, exit leaves."""
    model = write(tmp_path / "long", "fast_dllm_v2", max_position_embeddings=8192)
    teach(model)
    child = terminal("chat", "--model", model, "--policy", "top-k", "--k", 1, "--ignore-eos", "--max-new-tokens", 4000)
    child.expect("> ")
    child.sendline("w5 w6")
    child.expect("░")
    child.setwinsize(12, 24)
    child.expect("░")
    child.sendintr()
    child.expect("stopped")
    child.expect("> ")
    child.sendintr()
    child.expect("> ")
    child.sendline("/set max_new_tokens 8")
    child.expect("max_new_tokens")
    child.expect("> ")
    child.sendline("w7")
    child.expect("tokens/s")
    child.expect("> ")
    child.sendline("clear")
    child.expect("forgotten")
    child.expect("> ")
    child.sendline("exit")
    child.wait_end(0)
    assert "Traceback" not in child.seen
