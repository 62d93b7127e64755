"""Commands that take the options of another, so that an option is written once and means the same everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Command = TypeVar("Command", bound=Callable[..., None])


def with_options_of(source: Callable[..., Any], names: Sequence[str]) -> Callable[[Command], Command]:
    """Give a command, which has `**given`, the named options of another; they arrive in `given`."""

    def give(command: Command) -> Command:
        theirs = inspect.signature(source, eval_str=True).parameters
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
        borrowed = [theirs[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in names]
        parameters = [*own, *borrowed]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        return command

    return give
