"""Families that other packages bring: the entry point is named like the `model_type`, or the architecture, it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dllm.errors import ConfigError
from dllm.models.families.base import Config, Family
from dllm.registry import Registry, RegistryEntry


def _adopt_family(entry: RegistryEntry, found: Any) -> Family:
    """A `Family`, or a class of one whose fields all have defaults."""
    try:
        family = found() if isinstance(found, type) else found
    except TypeError as error:
        raise ConfigError(f"{entry.attribute} cannot be made without arguments: {error}") from error
    if not isinstance(family, Family):
        raise ConfigError(f"a family is a `dllm.models.Family`, and {entry.attribute} is none")
    return family


PLUGGED: Registry[Family] = Registry("family", "dllm.families", {}, _adopt_family)


def find_plugged_family(config: Config, own: Sequence[Family]) -> Family | None:
    """The family of a package whose name config.json holds, which alone is imported.

    Raises ConfigError where it cannot be loaded, or where one of our `own` families reads the same checkpoints.
    """
    for name in (config.get("model_type"), *(config.get("architectures") or ())):
        if isinstance(name, str) and (entries := [e for e in PLUGGED.entries() if e.name == name]):
            ours = [
                RegistryEntry(name, f"family {family.name}")
                for family in own
                if name in (*family.architectures, *(() if family.native else family.model_types))
            ]
            return PLUGGED.load(PLUGGED.require_one(name, [*ours, *entries]))
    return None
