"""Tiny checkpoints for the command line, one of each family, one that talks and one that breaks; and ways to run it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tests.models.conftest import VOCAB, write

WORDS = ["user", "assistant", "system", *(f"w{i}" for i in range(3, VOCAB))]
TEMPLATE = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}assistant"
POISON = 7
"""A token that makes the logits of the `broken` checkpoint NaN, in the rows that hold it."""

Run = Callable[..., Result]


def teach(folder: Path) -> None:
    """Give a checkpoint a tokenizer of words, and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="w3"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="w61", pad_token="w62", mask_token="w63")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders by name: the families, `talking` (with a tokenizer) and `broken` (NaN where a row holds POISON)."""
    top = tmp_path_factory.mktemp("checkpoints")
    kinds = {name: name for name in ("llada", "dream", "fast_dllm_v2", "sdar", "qwen2")}
    kinds |= {"talking": "fast_dllm_v2", "broken": "llada", "baseline": "llama"}
    found = {name: write(top / name, kind) for name, kind in kinds.items()}
    teach(found["talking"])
    teach(found["baseline"])
    file = found["broken"] / "model.safetensors"
    weights = load_file(file)
    weights["model.transformer.wte.weight"][POISON] = torch.nan
    save_file(weights, file, {"format": "pt"})
    return {name: str(folder) for name, folder in found.items()}


@pytest.fixture
def dllm() -> Run:
    """`dllm("decode", …)`: the command in this process."""
    from dllm.cli.main import app

    def run(*args: object, stdin: str | None = None) -> Result:
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(a) for a in args], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


class Child:
    """The command in a process of its own, forked from this one so that torch need not be imported again.

    Its stdout and stderr are files, or with `terminal` both a terminal of 100 x 30. As soon as `held` is true
    it decodes no further: so it is still there to be killed, however fast the machine is.
    """

    def __init__(
        self,
        folder: Path,
        args: tuple[object, ...],
        stdin: bytes,
        stdout: str | None,
        terminal: bool,
        held: Callable[[], bool] | None,
    ) -> None:
        self.out, self.err = folder / "stdout", folder / "stderr"
        (folder / "stdin").write_bytes(stdin)
        self.screen, ours = pty.openpty() if terminal else (-1, -1)
        if terminal:
            fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(os.open(folder / "stdin", os.O_RDONLY), 0)
            for target, file in ((1, stdout or self.out), (2, self.err)):
                os.dup2(ours if terminal else os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), target)
            if held is not None:
                hold(held)
            self.live(args, terminal)

    def live(self, args: tuple[object, ...], terminal: bool) -> None:
        """What the child does, to its end."""
        code: Any = 70
        try:
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
            sys.argv = ["dllm", *map(str, args)]
            os.environ.pop("COLUMNS", None)
            os.environ |= {"TERM": "xterm-256color" if terminal else "dumb"}
            signal.signal(signal.SIGINT, signal.default_int_handler)
            from dllm.cli.main import run

            run()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def send(self, what: signal.Signals) -> None:
        os.kill(self.pid, what)

    def wait(self) -> int:
        """Its exit code; minus the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def watch(self) -> bytes:
        """All that it draws on its terminal, until it ends."""
        seen = bytearray()
        while select.select([self.screen], [], [], 0.05)[0] or not os.waitid(os.P_PID, self.pid, ENDED):
            while select.select([self.screen], [], [], 0.05)[0]:
                seen += os.read(self.screen, 65536)
        return bytes(seen)


def hold(true: Callable[[], bool]) -> None:
    """Jobs of this process stand still between two steps while something is true, and end with their parent."""
    from dllm.jobs import running

    steps, parent = running.steps, os.getppid()

    def until_then(*args: Any, **options: Any) -> Iterator[Any]:
        for step in steps(*args, **options):
            while true():
                time.sleep(0.01)
                if os.getppid() != parent:
                    os._exit(70)
            yield step

    running.steps = until_then  # type: ignore[assignment]


ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT


@pytest.fixture
def fork(tmp_path: Path, checkpoints: object) -> Callable[..., Child]:
    """`fork("decode", …)`: the command as a process with files, signals and terminals of its own."""

    def start(
        *args: object,
        stdin: bytes = b"",
        stdout: str | None = None,
        terminal: bool = False,
        held: Callable[[], bool] | None = None,
    ) -> Child:
        import dllm.jobs  # noqa: F401 what the child needs is imported once, here

        return Child(tmp_path, args, stdin, stdout, terminal, held)

    return start


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """`jsonl(row, …)` writes rows to a file; a text is written as it is."""

    def put(*rows: object, name: str = "rows.jsonl") -> Path:
        file = tmp_path / name
        file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return file

    return put


def rows_in(path: Path) -> int:
    """Whole lines in a file that may not be there yet."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def read(path: Path, *without: str) -> list[dict[str, Any]]:
    """Rows of a result file, without some fields; "seconds" stands for all that was timed."""
    timed = ("prefill_seconds", "tokens_per_second", "tokens_per_second_without_prefill")
    without = (*without, *timed) if "seconds" in without else without
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b"", "the last line is whole"
    return [{k: v for k, v in json.loads(line).items() if k not in without} for line in lines]
