"""Families of other packages: the entry point is named like the `model_type`, or the architecture, that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dllm.errors import ConfigError
from dllm.models.families.base import Config, Family
from dllm.registry import Registry, RegistryEntry


def _adopt_family(entry: RegistryEntry, found: Any) -> Family:
    """Take a `Family`, or make one of a class whose fields all have defaults.

    Raises:
        ConfigError: It is neither.
    """
    try:
        family = found() if isinstance(found, type) else found
    except TypeError as error:
        raise ConfigError(f"{entry.attribute} cannot be made without arguments: {error}") from error
    if not isinstance(family, Family):
        raise ConfigError(f"a family is a `dllm.models.Family`, and {entry.attribute} is none")
    return family


PLUGGED: Registry[Family] = Registry("family", "dllm.families", {}, _adopt_family)


def find_plugged_family(config: Config, own: Sequence[Family]) -> Family | None:
    """Find the family of another package that reads a checkpoint. No other package is imported.

    Args:
        config: The checkpoint's config.json.
        own: Our own families.

    Raises:
        ConfigError: The family cannot be loaded, or one of our own reads the same checkpoints.
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
