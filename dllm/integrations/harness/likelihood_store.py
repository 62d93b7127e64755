"""Likelihoods that are known already, in a file that is only ever appended to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dllm.likelihood import Likelihood


class LikelihoodJournal:
    """Likelihoods by what was asked. Lines of other questions, models or estimators stay and are not looked at.

    folder  where; None: nothing is kept
    made    what values depend on besides the texts
    rank    each process writes a file of its own, and reads those of all
    """

    def __init__(self, folder: Path | None, made: Any, rank: int = 0) -> None:
        self.made = json.dumps(made, sort_keys=True)
        self.known: dict[str, Likelihood] = {}
        self.path = None if folder is None else folder / f"likelihoods.{rank}.jsonl"
        if folder is None or self.path is None:
            return
        for path in folder.glob("likelihoods.*.jsonl"):
            for line in path.read_bytes().split(b"\n"):
                try:
                    row = json.loads(line)
                    self.known[row["key"]] = Likelihood(row["value"], row["greedy"], row["error"], row["rows"])
                except (ValueError, KeyError, TypeError):
                    continue  # cut short by a kill, or not ours
        if self.path.exists():
            _remove_partial_line(self.path)

    def key(self, prompt: Sequence[int], continuation: Sequence[int]) -> str:
        """What is asked, in a few letters."""
        asked = json.dumps([self.made, list(prompt), list(continuation)])
        return hashlib.sha256(asked.encode()).hexdigest()[:24]

    def put(self, key: str, found: Likelihood) -> None:
        """Keep a value; a killed process has lost none that was put before."""
        self.known[key] = found
        if self.path is not None:
            with self.path.open("ab") as file:
                file.write(json.dumps({"key": key, **found._asdict()}).encode("ascii") + b"\n")


def _remove_partial_line(path: Path) -> None:
    """Remove a last line without its end, so that the next one begins a line."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
