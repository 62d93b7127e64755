"""Single keys from the terminal, without waiting for a line."""

from __future__ import annotations

import os
import select
import sys
import time
from contextlib import suppress

ARROWS = {"\x1b[C": "right", "\x1b[D": "left", "\x1bOC": "right", "\x1bOD": "left"}


class KeyReader:
    """Reads keys while it is open; the terminal is as it was afterwards. Where it cannot be set, no key ever comes."""

    def __enter__(self) -> KeyReader:
        self.before = None
        with suppress(ImportError, OSError, ValueError):
            import termios
            import tty

            self.file = sys.stdin.fileno()
            self.before = termios.tcgetattr(self.file)
            tty.setcbreak(self.file)
        return self

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            import termios

            termios.tcsetattr(self.file, termios.TCSADRAIN, self.before)

    def wait(self, seconds: float | None) -> str | None:
        """The next key within some seconds (None: whenever it comes); None where none came. The end of input is q."""
        if self.before is None:
            time.sleep(1.0 if seconds is None else seconds)
            return "q" if seconds is None else None
        if not select.select([self.file], [], [], seconds)[0]:
            return None
        found = os.read(self.file, 8).decode("utf-8", "replace")
        return ARROWS.get(found, found[:1]) if found else "q"
