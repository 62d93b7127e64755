"""Constraints that describe the text: a match of a regular expression, or JSON of a schema."""

from __future__ import annotations

import json
from dataclasses import dataclass

from dllm.errors import ConfigError
from dllm.processors.byte_automaton import MISSING_PACKAGE, compile_byte_automaton
from dllm.processors.constraint import Constraint


@dataclass(frozen=True)
class Regex(Constraint):
    """A constraint under which the text matches a regular expression, from its first character to its last.

    `.*` allows every text (except that end tokens must be special).

    Attributes:
        pattern: Expression in the syntax of Rust's regex crate: no look-around, no back-references. The expression has
            to match the whole text in any case, so leave `^` and `$` out. `\\d` and `\\w` mean all of Unicode's;
            `[0-9]` and `[a-z]` are faster.
    """

    pattern: str

    def __post_init__(self) -> None:
        compile_byte_automaton(self.pattern)

    @property
    def regex(self) -> str:
        return self.pattern


@dataclass(frozen=True)
class JsonSchema(Constraint):
    """A constraint under which the text is a JSON value of a schema, with an object's properties in the schema's order.

    The schema may use whatever `outlines-core` turns into a regular expression; recursion is cut off.

    Attributes:
        schema: The JSON Schema, as text.
        whitespace: Pattern for the space between tokens of JSON. None: at most one blank.
    """

    schema: str
    whitespace: str | None = None

    def __post_init__(self) -> None:
        try:
            found = json.loads(self.schema)
        except ValueError as error:
            raise ConfigError(f"JsonSchema: the schema is not JSON ({error})") from None
        if not isinstance(found, dict | bool):
            raise ConfigError(f"JsonSchema: the schema is a {type(found).__name__}; it must be a JSON object")
        compile_byte_automaton(self.regex)

    @property
    def regex(self) -> str:
        try:
            from outlines_core.json_schema import build_regex_from_schema
        except ImportError:
            raise ConfigError(MISSING_PACKAGE) from None
        try:
            regex: str = build_regex_from_schema(self.schema, self.whitespace)
        except Exception as error:  # the library has errors of its own for what it does not know
            raise ConfigError(f"JsonSchema: this schema cannot be turned into a regular expression ({error})") from None
        return regex
