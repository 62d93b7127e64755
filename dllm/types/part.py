"""The common base of policies, schedulers, caches and processors: it refuses a misspelt hook."""

from __future__ import annotations

import difflib
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar


def has_field(part: object, name: str) -> bool:
    """Tell whether a part is configured by a field of that name."""
    return is_dataclass(part) and any(field.name == name for field in fields(part))


class Part:
    """Base class of everything that a strategy is composed of.

    A part is a frozen dataclass: its fields are its configuration, and its repr is its record. Its methods are *hooks*
    that a base class declares, most of them with a default that does nothing. So a method that no base declares is
    either a helper, which gets an underscore, or a misspelt hook, which would never be called; it is refused when the
    class is defined.

    A base class that adds hooks of its own for its subclasses names them:

        class PrefixRule(ScoreRule, hooks=("holds", "count")): ...

    Raises:
        TypeError: A subclass defines a public name that is neither a field, nor annotated, nor a hook.
    """

    _hooks: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, hooks: tuple[str, ...] = (), **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls._hooks = frozenset(hooks).union(*(getattr(base, "_hooks", ()) for base in cls.__mro__[1:]))
        fields = {name for base in cls.__mro__ for name in vars(base).get("__annotations__", {})}
        for name in vars(cls):
            if not name.startswith("_") and name not in cls._hooks | fields:
                close = difflib.get_close_matches(name, cls._hooks, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"the hooks are {', '.join(sorted(cls._hooks))}"
                raise TypeError(
                    f"{cls.__name__}.{name} is no hook and would never be called ({hint}); "
                    "begin the name of a helper with an underscore"
                )
