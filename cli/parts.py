"""Listing of the parts of a strategy: every part by kind, its fields and its summary."""

from __future__ import annotations

import inspect
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dllm.compose.names import TABLES
from dllm.errors import ConfigError
from dllm.registry import suggest_name

from .error_messages import report_errors
from .listing import format_part, make_console

if TYPE_CHECKING:
    from dllm.registry import Registry, RegistryEntry

FIELDS = ("pace", "curve", "signal")
"""Kinds that are only ever fields of policies."""


def parts(
    name: Annotated[str | None, typer.Argument(help="A part, to be told all about it.", show_default=False)] = None,
) -> None:
    """List the parts of a strategy: name, fields with their defaults, what it does, and which package brings it.

    Give one to [bold]dllm decode[/bold] by its name, or with fields of its own: [bold]--policy "klass(kl=0.02)"[/bold].
    A part may be a field of another: [bold]--policy "early-commit(top-k(k=2), curve=cosine)"[/bold].
    """
    with report_errors():
        found = 0
        for table in TABLES.values():
            entries = [entry for entry in table.entries() if name is None or _matches_entry(name, entry)]
            found += len(entries)
            if name is None and entries:
                make_console().print(_make_parts_table(table, entries), "")
            for entry in entries if name is not None else ():
                _print_part(table, entry)
        if name is not None and not found:
            _refuse_unknown_part(name)


def _matches_entry(name: str, entry: RegistryEntry) -> bool:
    return name in (entry.attribute, entry.name, entry.name.replace("-", "_"))


def _refuse_unknown_part(name: str) -> None:
    """Raise ConfigError, listing all names."""
    names = list(dict.fromkeys(name for table in TABLES.values() for name in table))
    raise ConfigError(f"unknown part {name!r}{suggest_name(name, names)}: choose from {', '.join(names)}")


def _make_parts_table(table: Registry[type], entries: list[RegistryEntry]) -> Table:
    """Make the table of the parts of one kind."""
    where = "field of a policy" if table.kind in FIELDS else f"--{table.kind}"
    head = (f"{table.kind} ({where})", "fields", "what it does", "from")
    shown = Table(*head, box=None, header_style="bold", padding=(0, 2, 0, 0))
    for entry in entries:
        try:
            part = table[entry.name]
        except ConfigError as error:
            shown.add_row(Text(entry.name, "bold red"), "", Text(str(error), "red"), entry.origin)
            continue
        shown.add_row(
            Text(entry.name, "bold green"),
            Text(", ".join(_list_parameters(part)), "cyan"),
            escape(summarize_docstring(part)),
            entry.origin,
        )
    return shown


def _print_part(table: Registry[type], entry: RegistryEntry) -> None:
    """Print name, fields, place, origin and docstring of one part."""
    part = table[entry.name]
    out = make_console()
    out.print(
        Text.assemble(
            (f"{entry.name}({', '.join(_list_parameters(part))})", "bold green"), f"  {table.kind}, {entry.place}"
        )
    )
    out.print(Text(f"from {entry.origin}\n", "dim"))
    out.print(Text((inspect.getdoc(part) or "") + "\n"))


def _list_parameters(part: type) -> list[str]:
    """List the fields of a part with their defaults."""

    def shown(parameter: Parameter) -> str:
        default: Any = parameter.default
        return parameter.name if default is Parameter.empty else f"{parameter.name}={format_part(default)}"

    return [shown(parameter) for parameter in signature(part).parameters.values()]


def summarize_docstring(part: type) -> str:
    """Return the first sentence of a part's docstring."""
    first = " ".join((inspect.getdoc(part) or "").split("\n\n")[0].split())
    return first.split(". ")[0].rstrip(".") + "." if first else ""
