"""Commands that take the options of a strategy, and answer the fields of a part that are no options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperCommand

from dllm.errors import ConfigError

from .error_messages import report_errors


class StrategyCommand(TyperCommand):
    """A command that answers `--gamma 0.1` with the expression to write, `--policy "entropy-bound(gamma=0.1)"`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; an unknown option that is a field of a part is refused with that expression."""
        written = list(args)  # the parser empties the list that it is given
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # The class is known by its name alone: newer versions of typer bring their own copy of click.
            if type(error).__name__ == "NoSuchOption":
                with report_errors():
                    _refuse_misplaced_field(str(getattr(error, "option_name", "")), written)
            raise


def _refuse_misplaced_field(option: str, args: Sequence[str]) -> None:
    """Raise ConfigError where an unknown option is a field of a part."""
    from dllm.compose.misplaced_fields import explain_misplaced_field

    if option.startswith("--"):
        given: dict[str, Any] = dict(_pair_options(args))
        message = explain_misplaced_field(option[2:], given.get(option[2:]), given)
        if message is not None:
            raise ConfigError(f"--{message}")


def _pair_options(args: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield long options with what follows them, after a blank or an equals sign."""
    for word, following in zip(args, [*args[1:], None], strict=True):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            yield name, value if equals else None if following is None or following.startswith("--") else following
