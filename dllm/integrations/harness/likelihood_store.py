"""Likelihoods that are known already, in a file that is only ever appended to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dllm.integrations.harness.json_lines import read_json_lines, remove_partial_line
from dllm.likelihood import Likelihood


class LikelihoodJournal:
    """Likelihoods by a digest of their texts and settings.

    Lines of other texts, models or estimators stay in the file and are not used.

    Args:
        folder: Folder of the files; None: nothing is kept.
        made_with: Everything that values depend on besides the texts, as JSON.
        rank: Number of this process; each writes a file of its own and reads those of all.

    Attributes:
        known: Likelihoods by key.
    """

    def __init__(self, folder: Path | None, made_with: Any, rank: int = 0) -> None:
        self.made_with = json.dumps(made_with, sort_keys=True)
        self.known: dict[str, Likelihood] = {}
        self.path = None if folder is None else folder / f"likelihoods.{rank}.jsonl"
        if folder is None or self.path is None:
            return
        for path in folder.glob("likelihoods.*.jsonl"):
            for row in read_json_lines(path, skip_broken=True):  # a kill may have cut a line short
                try:
                    self.known[row["key"]] = Likelihood(row["value"], row["greedy"], row["error"], row["rows"])
                except (KeyError, TypeError):
                    continue  # a line of something else
        if self.path.exists():
            remove_partial_line(self.path)

    def key(self, prompt: Sequence[int], continuation: Sequence[int]) -> str:
        """Return the key of a continuation of a prompt: a short digest."""
        question = json.dumps([self.made_with, list(prompt), list(continuation)])
        return hashlib.sha256(question.encode()).hexdigest()[:24]

    def add(self, key: str, found: Likelihood) -> None:
        """Keep a value; a process that is killed loses none that was added before."""
        self.known[key] = found
        if self.path is not None:
            with self.path.open("ab") as file:
                file.write(json.dumps({"key": key, **found._asdict()}).encode("ascii") + b"\n")
