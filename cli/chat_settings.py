"""Settings that `/set` changes: options of the strategy, and a few of the conversation."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from dllm.errors import ConfigError

if TYPE_CHECKING:
    from dllm.compose.options import Options

OF_POLICY = ("tau", "f", "k", "score", "eps")
OF_SCHEDULER = ("block_size", "sub_block_size", "steps")
BELONG = {
    "policy": OF_POLICY,
    "scheduler": OF_SCHEDULER,
    "cache": ("refresh",),
    "recipe": ("policy", "scheduler", "cache", *OF_POLICY, *OF_SCHEDULER, "refresh"),
}
"""Options that lose their meaning when an option is set: the fields of the part that was there before."""
NONE = ("none", "default", "")


@dataclass(frozen=True)
class ChatSettings:
    """Settings of a conversation.

    Attributes:
        options: Options of the strategy.
        max_new_tokens: Most tokens of an answer.
        seed: Seed of the conversation; turn i draws from seed + i.
        system: A system message before everything, or None.
    """

    options: Options
    max_new_tokens: int = 256
    seed: int = 0
    system: str | None = None

    def change(self, text: str) -> ChatSettings:
        """Return the settings after `/set text`, where the text holds pairs `name value` or `name=value`.

        Raises:
            ConfigError: A name or a value is wrong.
        """
        settings = self
        for name, value in _split_assignments(text):
            settings = settings._assign(name.replace("-", "_"), value)
        return settings

    def _assign(self, name: str, value: str) -> ChatSettings:
        """Return the settings with one of them set."""
        if name in ("max_new_tokens", "seed"):
            return replace(self, **{name: _parse_number(name, value, int)})
        if name == "system":
            return replace(self, system=None if value in NONE else value)
        kinds = {field.name: str(field.type) for field in fields(self.options)}
        if name not in kinds:
            from dllm.compose.misplaced_fields import explain_misplaced_field

            message = explain_misplaced_field(name, value, vars(self.options), "/set ")
            if message is not None:
                raise ConfigError(f"/set {message}")
            names = ", ".join((*kinds, "max_new_tokens", "seed", "system"))
            raise ConfigError(f"/set {name}: there is no such setting; there are {names}")
        empty: dict[str, Any] = {field.name: field.default for field in fields(self.options)}
        dropped: dict[str, Any] = {other: empty[other] for other in BELONG.get(name, ())}
        made = empty[name] if value in NONE else _parse_setting(name, value, kinds[name])
        return replace(self, options=replace(self.options, **dropped | {name: made}))

    def list_changed(self) -> list[tuple[str, str]]:
        """List what is set, by name."""
        given = [
            (field.name, getattr(self.options, field.name))
            for field in fields(self.options)
            if getattr(self.options, field.name) != field.default
        ]
        own = [("max_new_tokens", self.max_new_tokens), ("seed", self.seed)]
        own += [] if self.system is None else [("system", self.system)]  # type: ignore[list-item]
        return [(name, str(value)) for name, value in (*given, *own)]


def _split_assignments(text: str) -> list[tuple[str, str]]:
    """Split `policy factor f=1.0` into names and values."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"/set {text}: {str(error).lower()}; close the quotation") from None
    if not words:
        raise ConfigError("/set: say what, for example /set policy factor f=1.0")
    found = []
    while words:
        name, sign, value = words.pop(0).partition("=")
        if not sign or "(" in name:
            name, value = name if not sign else f"{name}={value}", words.pop(0) if words else ""
            if not value:
                raise ConfigError(f"/set {name}: give a value too, or none to leave it to the recipe")
        found.append((name, value))
    return found


def _parse_setting(name: str, value: str, kind: str) -> Any:
    """Convert a value to the type of its option."""
    if "tuple[int" in kind:
        return tuple(_parse_number(name, part, int) for part in value.split(",") if part)
    if "tuple[str" in kind:
        return (value,)
    if "float" in kind or "int" in kind:
        return _parse_number(name, value, float if "float" in kind else int)
    return value


def _parse_number(name: str, value: str, kind: type) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"/set {name} {value}: must be a {'whole ' if kind is int else ''}number") from None
