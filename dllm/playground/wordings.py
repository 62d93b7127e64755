"""The wordings and words of word problems and sums, read from wordings.toml beside this file."""

from __future__ import annotations

import tomllib
from importlib.resources import files

_FOUND = tomllib.loads(files("dllm.playground").joinpath("wordings.toml").read_text("utf-8"))

HOLDERS: dict[str, str] = _FOUND.pop("holders")
"""Containers of things: the singular of each by its plural."""

PAST: dict[str, str] = _FOUND.pop("past")
"""Irregular past forms by the base form of the verb."""

WORDINGS: dict[str, list[str]] = _FOUND
"""Alternative wordings by name."""
