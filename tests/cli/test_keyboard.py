"""Every key counts, however many come at once."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from dllm.cli.keyboard import KeyReader


@pytest.mark.skipif(os.name != "posix", reason="a terminal is needed")
def test_keys_that_come_together_are_given_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    typist, terminal = os.openpty()
    with os.fdopen(terminal) as screen:
        monkeypatch.setattr(sys, "stdin", screen)
        with KeyReader() as keys:
            os.write(typist, b" q\x1b[Cn\x1b[D")
            found: list[Any] = [keys.wait(5) for _ in range(5)]
            assert found == [" ", "q", "right", "n", "left"]
            assert keys.wait(0) is None
    os.close(typist)
