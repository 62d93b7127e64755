"""Single keys from the terminal, without waiting for a line."""

from __future__ import annotations

import os
import select
import sys
import time
from contextlib import suppress

ARROWS = {"\x1b[C": "right", "\x1b[D": "left", "\x1bOC": "right", "\x1bOD": "left"}


class KeyReader:
    """Reader of keys, which restores the terminal when it is closed. Where that cannot be set, no key ever comes."""

    def __enter__(self) -> KeyReader:
        self.before = None
        self.typed = ""  # keys that came in one read with the last one, and wait for their turn
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
        """Wait for a key.

        Args:
            seconds: Longest wait; None waits until a key comes.

        Returns:
            The key, or None where none came; "q" at the end of the input.
        """
        if self.before is None:
            time.sleep(1.0 if seconds is None else seconds)
            return "q" if seconds is None else None
        if not self.typed:
            if not select.select([self.file], [], [], seconds)[0]:
                return None
            self.typed = os.read(self.file, 64).decode("utf-8", "replace")
            if not self.typed:
                return "q"
        found = next((arrow for arrow in ARROWS if self.typed.startswith(arrow)), self.typed[:1])
        self.typed = self.typed.removeprefix(found)
        return ARROWS.get(found, found)
