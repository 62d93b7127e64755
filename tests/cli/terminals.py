"""The command on a pseudo-terminal, driven as a person would."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def terminal() -> Iterator[Callable[..., Any]]:
    """`terminal("chat", …)`: a process on a terminal of 80 x 24; what is left of it at the end is killed."""
    pexpect = pytest.importorskip("pexpect")

    class Child(pexpect.spawn):  # type: ignore[misc]
        """`seen` is all that it has drawn so far."""

        @property
        def seen(self) -> str:
            return str(self.logfile_read.getvalue())

        def wait_end(self, code: int) -> None:
            self.expect(pexpect.EOF)
            self.close()
            assert self.exitstatus == code, self.seen

    children = []

    def start(*args: object, **more: Any) -> Child:
        run = "import sys; sys.argv[0] = 'dllm'; import torch; torch.set_num_threads(1); "
        run += "from dllm.cli.main import run; run()"
        child = Child(
            sys.executable,
            ["-c", run, *map(str, args)],
            encoding="utf-8",
            codec_errors="replace",
            timeout=90,
            dimensions=(24, 80),
            **more,
        )
        child.logfile_read = io.StringIO()
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)
