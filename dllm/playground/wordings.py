"""The wordings and words of word problems and sums, which lie in wordings.toml beside this file."""

from __future__ import annotations

import tomllib
from importlib.resources import files

_FOUND = tomllib.loads(files("dllm.playground").joinpath("wordings.toml").read_text("utf-8"))

HOLDERS: dict[str, str] = _FOUND.pop("holders")
"""What things can lie in: one of them by its plural."""

PAST: dict[str, str] = _FOUND.pop("past")
"""Past forms that no rule makes."""

WORDINGS: dict[str, list[str]] = _FOUND
"""Alternatives by what they are for."""
