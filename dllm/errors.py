"""One root error; every message names the culprit, its value and the cure."""

from __future__ import annotations

from collections.abc import Sequence


class DllmError(Exception):
    """Root of everything this library raises on purpose."""


class ConfigError(DllmError, ValueError):
    """A part, a strategy or an option that cannot work: caught before the first forward."""


class CheckpointError(DllmError):
    """A checkpoint that cannot be found, read, or is of a family we do not know."""


class RequestError(DllmError, ValueError):
    """One prompt or row that cannot be decoded; the other rows of a job are not affected."""


class NumericsError(DllmError, ArithmeticError):
    """The model produced logits that are not numbers. `prompts`: for which requests, by their place in the job."""

    def __init__(self, message: str, prompts: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.prompts = tuple(prompts)
