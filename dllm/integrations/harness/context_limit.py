"""The columns that a checkpoint has for a prompt and what follows it, and the rule for prompts that are too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dllm.errors import RequestError
from dllm.models import AutoregressiveModel
from dllm.types import BlockCausal


@dataclass
class ContextLimit:
    """The longest canvas of a checkpoint, and whether a prompt may lose its beginning to fit it.

    Attributes:
        columns: Columns of the longest canvas.
        checkpoint: Name of the checkpoint, for messages.
        truncate: Leave out the beginning of a prompt that does not fit; False makes that an error.
        truncated: Number of prompts that have lost their beginning.
    """

    columns: int
    checkpoint: str
    truncate: bool
    truncated: int = 0

    def fit(self, prompt: Sequence[int], following: int, description: str, cure: str) -> tuple[int, ...]:
        """Return a prompt behind which there is room for `following` columns.

        Args:
            prompt: Token ids.
            following: Columns of the answer or the continuation.
            description: The prompt and what follows it in words, for the error.
            cure: Remedies other than truncation, for the error.

        Raises:
            RequestError: If the prompt does not fit and may not be truncated, or if nothing of it would be left.
        """
        excess = len(prompt) + following - self.columns
        if excess <= 0:
            return tuple(prompt)
        if not self.truncate or excess >= len(prompt):
            raise RequestError(
                f"{description} do not fit the {self.columns} columns of {self.checkpoint}: {cure}, or truncate=True "
                "to leave out its beginning"
            )
        self.truncated += 1
        return tuple(prompt[excess:])


def count_usable_columns(model: Any) -> int:
    """Return the columns of a model's longest canvas, in whole blocks of attention."""
    columns = int(model.max_columns)
    if isinstance(model, AutoregressiveModel) or not isinstance(model.geometry, BlockCausal):
        return columns
    return columns // model.geometry.size * model.geometry.size
