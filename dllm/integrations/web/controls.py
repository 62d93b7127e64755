"""The settings that a page offers, taken from the tables of parts, and the job that a choice of them makes.

A part is chosen by name. Each of its fields gets a text box, called a knob, which takes the same text as
`klass(tau=0.6, kl=0.02)` on the command line; an empty knob leaves the field's default. So the parts of an installed
package have their knobs too.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, NamedTuple

from dllm.compose.expressions import describe_annotation, get_annotations
from dllm.compose.names import CACHES, POLICIES, SCHEDULERS
from dllm.compose.options import Options
from dllm.compose.recipes import RECIPES
from dllm.errors import ConfigError, DllmError
from dllm.jobs import Job, check_length, check_seed
from dllm.registry import Registry

AS_RECIPE = "as the recipe has it"
OWN_RECIPE = "the model family's own"
SET_APART = {"policy": (), "scheduler": ("size", "sub_block", "steps"), "cache": ()}
"""Fields of parts that have a control of their own."""
TABLES: dict[str, Registry[type]] = {"policy": POLICIES, "scheduler": SCHEDULERS, "cache": CACHES}
MOST_RECORDED = 20
FLAG = re.compile(r"--([a-z][a-z-]*)")


class _PartField(NamedTuple):
    """A field of a part.

    Attributes:
        name: Its name.
        default: Its default as text; "" where it has none.
        takes: A description of the values that it takes.
    """

    name: str
    default: str
    takes: str


def list_recipes() -> list[str]:
    """Return the choices of a recipe."""
    return [OWN_RECIPE, *RECIPES]


def list_parts(kind: str) -> list[str]:
    """Return the choices of a policy, a scheduler or a cache; parts that cannot be imported are left out."""
    importable = [AS_RECIPE]
    for name in TABLES[kind]:
        try:
            TABLES[kind].find(name)
        except ConfigError:
            continue
        importable.append(name)
    return importable


def list_part_fields(kind: str, name: str | None) -> list[_PartField]:
    """Return the fields of a part that get a knob; none for a part as the recipe has it."""
    if name is None or name == AS_RECIPE:
        return []
    part = TABLES[kind].find(name)
    hints = get_annotations(part)
    return [
        _PartField(field, _format_default(parameter), describe_annotation(hints.get(field, Any)))
        for field, parameter in inspect.signature(part).parameters.items()
        if field not in SET_APART[kind]
    ]


def describe_part(kind: str, name: str | None) -> str:
    """Return the first paragraph of a part's docstring."""
    if name is None or name == AS_RECIPE:
        return ""
    return " ".join((inspect.getdoc(TABLES[kind].find(name)) or "").split("\n\n")[0].split())


def _format_default(parameter: Parameter) -> str:
    """Return a field's default as an expression, with `Confidence()` shortened to `Confidence`."""
    return "" if parameter.default is Parameter.empty else re.sub(r"\(\)$", "", repr(parameter.default))


def count_most_part_fields(kind: str) -> int:
    """Return the number of fields of the part that has the most."""
    return max(len(list_part_fields(kind, name)) for name in list_parts(kind))


def build_part_expression(kind: str, name: str | None, values: Iterable[str | None]) -> str | None:
    """Return a part with the values of its knobs as an expression; None for a part as the recipe has it."""
    if name is None or name == AS_RECIPE:
        return None
    pairs = zip(list_part_fields(kind, name), values, strict=False)
    given = [f"{knob.name}={text.strip()}" for knob, text in pairs if text and text.strip()]
    return f"{name}({', '.join(given)})" if given else name


@dataclass(frozen=True)
class AnswerSettings:
    """The settings for one answer, as the page's controls hold them: as text, "" where a text box is empty.

    Attributes:
        parts: For each kind of part its name, and the text of its knobs in order.
        top: Likeliest tokens to record for each position.
    """

    model: str
    recipe: str | None = None
    parts: Mapping[str, tuple[str | None, tuple[str, ...]]] | None = None
    block_size: str = ""
    sub_block_size: str = ""
    steps: str = ""
    temperature: str = ""
    top_p: str = ""
    top_k: str = ""
    processors: str = ""
    stop: str = ""
    max_new_tokens: str = "64"
    seed: str = "0"
    top: str = "5"

    def options(self) -> Options:
        """Return the decoding options, as the command line has them.

        Raises:
            ConfigError: A text is not the number that its option needs.
        """
        chosen = {kind: build_part_expression(kind, *value) for kind, value in (self.parts or {}).items()}
        return Options(
            recipe=None if self.recipe in (None, "", OWN_RECIPE) else self.recipe,
            policy=chosen.get("policy"),
            scheduler=chosen.get("scheduler"),
            cache=chosen.get("cache"),
            block_size=_parse_whole_number("block size", self.block_size),
            sub_block_size=_parse_whole_number("sub-block size", self.sub_block_size),
            steps=_parse_whole_number("steps", self.steps),
            temperature=_parse_number("temperature", self.temperature),
            top_p=_parse_number("top-p", self.top_p),
            top_k=_parse_whole_number("top-k", self.top_k),
            processor=_split_field_lines(self.processors),
            stop=_split_field_lines(self.stop),
        )

    def length(self, longest: int) -> int:
        """Return the number of new tokens.

        Args:
            longest: Most new tokens that the page allows.

        Raises:
            ConfigError: The length is missing, not a whole number, or not between 1 and `longest`.
        """
        length = _parse_whole_number("length", self.max_new_tokens)
        if length is None:
            raise ConfigError("length: say how many tokens to write at most")
        if length > longest:
            raise ConfigError(f"length {length}: this page writes at most {longest} tokens at a time")
        return check_length(length)

    def recorded(self) -> int:
        """Return how many likeliest tokens are recorded for each position.

        Raises:
            ConfigError: The number is not a whole one from 0 to `MOST_RECORDED`.
        """
        top = _parse_whole_number("candidates", self.top) or 0
        if not 0 <= top <= MOST_RECORDED:
            raise ConfigError(f"candidates {top}: from 0 to {MOST_RECORDED} are recorded for each position")
        return top

    def job(self, longest: int, causal: bool = False) -> Job:
        """Return the job.

        Args:
            longest: Most new tokens that the page allows.
            causal: Whether the model is a plain causal one. Options that only a diffusion model has are then left out
                rather than refused, so that a visitor can switch between models.

        Raises:
            ConfigError: A setting has a value that no job can have.
        """
        options, seed = self.options(), _parse_whole_number("seed", self.seed)
        if causal:
            options = Options(
                temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, stop=options.stop
            )
        return Job(options, self.length(longest), check_seed(seed or 0))


def _split_field_lines(text: str | None) -> tuple[str, ...]:
    """Return the lines of a text that are not empty."""
    return tuple(line.strip() for line in (text or "").splitlines() if line.strip())


def _parse_number(name: str, text: str | float | None) -> float | None:
    """Parse a text box that holds a finite number or nothing.

    Raises:
        ConfigError: It holds something else.
    """
    if text is None or not str(text).strip():
        return None
    try:
        number = float(str(text).strip())
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{name} {text}: must be a number")
    return number


def _parse_whole_number(name: str, text: str | float | None) -> int | None:
    """Parse a text box that holds a whole number or nothing.

    Raises:
        ConfigError: It holds something else.
    """
    if text is None or not str(text).strip():
        return None
    try:
        return int(str(text).strip())
    except ValueError:
        raise ConfigError(f"{name} {text}: must be a whole number") from None


def strip_option_dashes(error: DllmError | str) -> str:
    """Return a message in which the command line's options have no dashes, since a page has none: `top p`."""
    return FLAG.sub(lambda flag: flag[1].replace("-", " "), " ".join(str(error).split()))
