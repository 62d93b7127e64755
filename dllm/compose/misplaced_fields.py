"""Fields of a part that a user gives as an option: which expression to write instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from dllm.compose.names import CACHES, POLICIES, SCHEDULERS
from dllm.errors import ConfigError
from dllm.registry import HERE, normalize_name

TABLES = (POLICIES, SCHEDULERS, CACHES)


def explain_misplaced_field(name: str, value: Any, given: Mapping[str, Any], prefix: str = "--") -> str | None:
    """Answer a name that is no option but a field of a part with the expression to write.

    `gamma` with the value 0.1 becomes `--policy "entropy-bound(gamma=0.1)"`.

    Args:
        name: The name, with dashes or underscores; `no-` before that of a flag means False.
        value: Its value, or the text of it; None where there is none.
        given: The options beside it: a policy, scheduler or cache that they name and that has the field comes first.
        prefix: What stands before the name of an option where the user writes it.

    Returns:
        The message of an error; None where no part has such a field.
    """
    for kind, text, part in _list_candidates(given):
        kinds = {field.name: str(field.type) for field in fields(part)} if is_dataclass(part) else {}
        field = name.replace("-", "_")
        off = field not in kinds and kinds.get(field.removeprefix("no_")) == "bool"
        field = field.removeprefix("no_") if off else field
        if field in kinds:
            expression = _add_field(text, f"{field}={_format_value(kinds[field], value, off)}")
            called = normalize_name(text.partition("(")[0])
            return f'{name} is no option but a field of {called}: write {prefix}{kind} "{expression}"'
    return None


def _list_candidates(given: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the parts that may have the field: kind, what to write for the part, class."""
    for registry in TABLES:
        text = given.get(registry.kind)
        if isinstance(text, str):
            try:
                yield registry.kind, text.strip(), registry.find(text.partition("(")[0].strip())
            except ConfigError:
                continue
    for registry in TABLES:
        for entry in registry.entries():
            # Parts of packages are left out: a misspelt option must not import what it has nothing to do with.
            if entry.origin == HERE:
                yield registry.kind, entry.name, registry.load(entry)


def _format_value(kind: str, value: Any, off: bool) -> str:
    if kind == "bool":  # a flag of the command line has no value of its own: what follows it may be the prompt
        return str(not off and str(value).lower() != "false")
    return "…" if value is None else str(value)


def _add_field(text: str, field: str) -> str:
    """Write a field into an expression: `klass`, `klass()` and `klass(kl=1)` become `klass(…)` with it."""
    if not text.endswith(")"):
        return f"{text}({field})"
    before = text[:-1].rstrip(" ,")
    return f"{before}{field})" if before.endswith("(") else f"{before}, {field})"
