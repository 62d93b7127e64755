"""What a text may be: a match of a regular expression, or JSON of a schema."""

from __future__ import annotations

import json
from dataclasses import dataclass

from dllm.errors import ConfigError
from dllm.processors.automaton import MISSING, compile_byte_automaton
from dllm.processors.constraint import Constraint


@dataclass(frozen=True)
class Regex(Constraint):
    """The text matches a regular expression, from its first character to its last.

    pattern  in the syntax of Rust's regex crate: no look-around, no back-references; ^ and $ are understood, so leave
             them out. `\\d` and `\\w` mean all of Unicode's, `[0-9]` and `[a-z]` are faster

    `.*` allows every text (except that end tokens must be special).
    """

    pattern: str

    def __post_init__(self) -> None:
        compile_byte_automaton(self.pattern)

    @property
    def regex(self) -> str:
        return self.pattern


@dataclass(frozen=True)
class JsonSchema(Constraint):
    """The text is a JSON value of a schema, with the properties of an object in the schema's order.

    schema      the JSON Schema, as text
    whitespace  pattern for the space between tokens of JSON; None: at most one blank

    What the schema may use is what `outlines-core` turns into a regular expression; recursion is cut off.
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
            raise ConfigError(MISSING) from None
        try:
            return build_regex_from_schema(self.schema, self.whitespace)
        except Exception as error:  # the library has errors of its own for what it does not know
            raise ConfigError(f"JsonSchema: this schema cannot be turned into a regular expression ({error})") from None
