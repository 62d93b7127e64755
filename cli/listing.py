"""Listings: recipes, families, and the description of a checkpoint."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .error_messages import report_errors

WIDE = 250
"""Columns of a listing that no terminal limits."""


def make_console() -> Console:
    """Make a console for a listing, wide where no terminal limits it."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDE)


def recipes() -> None:
    """List the published decoders: name, families, citation and the expression over the parts.

    Use one with [bold]dllm decode --recipe NAME[/bold]; single options then replace single parts of it.
    """
    with report_errors():
        from dllm.compose.recipes import RECIPES, default_recipe
        from dllm.errors import ConfigError
        from dllm.registry import HERE

        table = Table("recipe", "families", "what it is", box=None, header_style="bold", padding=(0, 2, 1, 0))
        for entry in RECIPES.entries():
            try:
                recipe = RECIPES[entry.name]
                expression = format_part(recipe.make())
            except ConfigError as error:
                table.add_row(Text(entry.name, "bold red"), "", Text(str(error), "red"))
                continue
            families = [f + (" (default)" if default_recipe(f) is recipe else "") for f in recipe.families]
            origin = "" if entry.origin == HERE else f" (from {entry.origin})"
            what = Text.assemble(recipe.citation, (origin, "dim"), "\n", (expression, "cyan"))
            table.add_row(Text(recipe.name, "bold green"), "\n".join(families), what)
        make_console().print(table)


def models() -> None:
    """List the model families: what is loaded how, how it attends, and the recipe it decodes with by default.

    Any folder or Hub id of these families works as [bold]--model[/bold]; the default is the embedded model.
    """
    with report_errors():
        from dllm.errors import CheckpointError, ConfigError
        from dllm.models import FAMILIES, describe_checkpoint
        from dllm.models.families import AUTOREGRESSIVE, PLUGGED

        head = ("family", "checkpoints", "stock class", "attention", "default recipe")
        table = Table(*head, box=None, header_style="bold", padding=(0, 2, 1, 0))
        for family in (*FAMILIES, AUTOREGRESSIVE):
            recipe = _get_default_recipe(family.name)
            name = Text.assemble((family.name, "bold green"), "\n", family.title)
            table.add_row(name, "\n".join(family.examples), family.stock, _describe_attention(family), recipe)
        for entry in PLUGGED.entries():
            try:
                family = PLUGGED[entry.name]
            except ConfigError as error:
                table.add_row(Text(entry.name, "bold red"), Text(str(error), "red"), "", "", "")
                continue
            name = Text.assemble((family.name, "bold green"), "\n", family.title, "\n", (entry.origin, "dim"))
            table.add_row(
                name,
                "\n".join(family.examples),
                family.stock,
                _describe_attention(family),
                _get_default_recipe(family.name),
            )
        try:
            embedded = describe_checkpoint("embedded")
            size = f"{embedded.parameters / 1e6:.1f} M parameters, inside the package"
            name = Text.assemble(("embedded", "bold green"), "\n", "default of --model")
            kind = f"{embedded.geometry}, blocks of {embedded.block_size}"
            table.add_row(name, size, embedded.stock, kind, _get_default_recipe(embedded.family))
        except CheckpointError as error:
            table.add_row(Text("embedded", "bold green"), str(error), "", "", "")
        make_console().print(table)


def info(
    model: Annotated[str, typer.Argument(help="A folder, a Hub id, or 'embedded'.")] = "embedded",
    family: Annotated[
        str | None, typer.Option(help="The family, where config.json does not tell.", show_default=False)
    ] = None,
) -> None:
    """Say what a checkpoint is, without loading its weights: family, size, attention, special ids, tokenizer."""
    with report_errors():
        from dllm.models import describe_checkpoint

        about = describe_checkpoint(model, family=family)
        block = "" if about.block_size is None else f", blocks of {about.block_size}"
        facts = {
            "model": about.name,
            "folder": about.folder,
            "family": f"{about.family} ({about.title})",
            "stock class": about.stock,
            "parameters": f"{about.parameters:,} ({about.dtype})",
            "attention": about.geometry + block,
            "token shift": "yes: the output at a column predicts the next one" if about.token_shift else "no",
            "vocabulary": f"{about.vocabulary:,}",
            "context": "no limit named" if about.context is None else f"{about.context:,} columns",
            "mask id": _format_mask_id(about.mask_id, about.family),
            "stop ids": ", ".join(map(str, about.stop_ids)) or "none: give --stop-id",
            "pad id": str(about.pad_id),
            "tokenizer": "yes" if about.tokenizer else "none: give prompts as prompt_ids",
            "chat template": "yes" if about.chat_template else "none",
            "default recipe": _get_default_recipe(about.family),
        }
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, value in facts.items():
            table.add_row(Text(name, "bold"), Text(value))
        make_console().print(table)


def _format_mask_id(found: int | None, family: str) -> str:
    if found is not None:
        return str(found)
    return "none, and needs none" if family == "autoregressive" else "none named: give --mask-id"


def _get_default_recipe(family: str) -> str:
    """Name the recipe that `decode` takes for a family."""
    from dllm.compose.recipes import default_recipe

    return "none: one token a forward" if family == "autoregressive" else default_recipe(family).name


def _describe_attention(family: Any) -> str:
    """Describe how a family attends, by its own defaults."""
    from dllm.types import Bidirectional

    geometry = family.geometry({})
    if isinstance(geometry, Bidirectional):
        return "bidirectional"
    return "causal" if geometry.size == 1 else f"block-causal, blocks of {geometry.size}"


def format_part(part: Any) -> str:
    """Write a part as the shortest expression that makes it: fields at their defaults are left out."""
    if not is_dataclass(part) or isinstance(part, type):
        return repr(part)
    written, skipped = [], False
    for field in fields(part):
        value = getattr(part, field.name)
        if value == field.default:
            skipped = True  # fields behind one that is left out cannot be given by place
            continue
        written.append(f"{field.name}={format_part(value)}" if skipped else format_part(value))
    return f"{type(part).__name__}({', '.join(written)})"
