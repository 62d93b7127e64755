"""The one parser of parts written as text: what a user types, and the repr of a part or of a strategy.

    klass(kl=0.01, history=3)
    certainty-prior(early-commit(top-k(k=1)), sigma=3)
    Strategy(policy=Factor(f=1.0), scheduler=blocks(32), cache=dual)

A part is called by its name or by its class, and its fields by place or by name; without brackets it has its defaults.
Nothing is evaluated: the text is read as syntax, and only registered parts and plain values can be made from it.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from inspect import Parameter, signature
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from dllm.compose import names
from dllm.errors import ConfigError
from dllm.registry import Registry, normalize_name, suggest_name

KINDS: dict[Any, names.PartRegistry] = {table.protocol: table for table in names.TABLES.values()}
"""Names that a field may hold, by its annotation."""

PLAIN: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
    NoneType: "None",
}
CONTAINERS = (tuple, list, dict, Mapping, Literal, Callable)
VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
NUMBERS = {"inf": math.inf, "nan": math.nan}

TOKEN = re.compile(
    r"""(?P<kept>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\.?\d[\d._]*(?:[eE][+-]?\d+)?)|(?P<name>[^\W\d]\w*(?:-\w+)*)"""
)

Known = Mapping[str, type]


class ParsedCall(NamedTuple):
    """A name with its fields, not yet made into a part.

    Attributes:
        text: What was written.
        called: The member of a registry that the name stands for.
        make: What makes a part of the fields: a class, or the function of a recipe.
        fields: The values given, by field; None for a bare name, without brackets.
    """

    text: str
    called: Any
    make: Callable[..., Any]
    fields: dict[str, Any] | None

    def part(self) -> Any:
        """Make the part; a bare name gives one with all fields at their defaults."""
        reader = _ExpressionReader(self.text, {})
        fields = reader.bind(self.make, self.text, None) if self.fields is None else self.fields
        return reader.make(self.make, fields, self.text)


def read_part(text: str, kind: Any, known: Known | None = None) -> Any:
    """Make the part of a kind that a text describes.

    Args:
        text: A name or an expression.
        kind: The protocol or class that is expected: `Policy`, `Strategy`, …
        known: Classes that may be used by name though they are not registered.

    Raises:
        ConfigError: A name or a field is wrong; the message lists the right ones.
    """
    return _ExpressionReader(text, known or {}).part(_parse_expression(text), kind)


def read_call(text: str, registry: Registry[Any], constructor: Callable[[Any], Callable[..., Any]]) -> ParsedCall:
    """Read the name of a registry's member, with fields or without them; the fields are checked, the part not yet made.

    Args:
        text: A name or an expression.
        registry: The names that may stand first.
        constructor: Gives what takes the fields, for a member of the registry.
    """
    if registry.knows(name := text.strip()) or not is_expression(text):
        found = registry.find(name)
        return ParsedCall(text, found, constructor(found), None)
    reader = _ExpressionReader(text, {})
    name, arguments = reader.split(_parse_expression(text))
    found = reader.find(name, registry.protocol) if isinstance(registry, names.PartRegistry) else registry.find(name)
    return ParsedCall(text, found, constructor(found), reader.bind(constructor(found), name, arguments))


def is_expression(text: str) -> bool:
    """Return whether a text is an expression rather than a bare name."""
    return "(" in text


def _parse_expression(text: str) -> ast.expr:
    """Parse a text in which names may hold dashes."""
    # Python would read a dash as a minus. Texts in quotes and numbers such as 1e-3 are matched first and kept.
    dashless = TOKEN.sub(lambda m: m["kept"] or m["name"].replace("-", "_"), text.strip())
    try:
        return ast.parse(dashless, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", None) or str(error) or "too deep"
        raise ConfigError(f"{text!r} is no expression such as klass(tau=0.9, kl=0.01): {reason}") from None


class _ExpressionReader:
    """Reader of one text; messages quote the part of it that is wrong."""

    def __init__(self, text: str, known: Known) -> None:
        self.text, self.known = text, known

    def part(self, node: ast.expr, hint: Any) -> Any:
        """Make the part that a node describes where `hint` is expected."""
        name, arguments = self.split(node)
        made = self.find(name, hint)
        return self.make(made, self.bind(made, name, arguments), ast.unparse(node))

    def make(self, made: Callable[..., Any], given: dict[str, Any], written: str) -> Any:
        """Make a part with these fields; an error of its constructor becomes a `ConfigError`."""
        try:
            return made(**given)
        except ConfigError:
            raise
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{written}: {error}") from error

    def split(self, node: ast.expr) -> tuple[str, ast.Call | None]:
        """Split a node into the name that is called, and its call if it has brackets."""
        inner = node.func if isinstance(node, ast.Call) else node
        if not isinstance(inner, ast.Name):
            raise ConfigError(
                f"{self.text!r}: {ast.unparse(node)} is neither a part, such as klass(tau=0.9), nor a plain value"
            )
        return inner.id, node if isinstance(node, ast.Call) else None

    def find(self, name: str, hint: Any) -> Any:
        """Find the class called `name` among those that `hint` allows."""
        tables = _find_registries(hint)
        for registry in tables:
            if registry.knows(name):
                return registry.find(name)
        for member in _list_alternatives(hint):
            if is_dataclass(member):
                if getattr(member, "__name__", "") == name:
                    return member
                for registry in names.TABLES.values():
                    if registry.knows(name) and issubclass(registry.find(name), member):  # type: ignore[arg-type]
                        return registry.find(name)
        if name in self.known:
            return self.known[name]
        other = [registry.kind for registry in names.TABLES.values() if registry.knows(name)]
        if len(tables) == 1 and not other:
            return tables[0].find(normalize_name(name))
        what = (
            f"{normalize_name(name)} is a {other[0]}"
            if other
            else f"unknown part {normalize_name(name)!r} (is its package installed?)"
        )
        raise ConfigError(f"{self.text!r}: {what}; here must be {describe_annotation(hint)}")

    def bind(self, made: Callable[..., Any], name: str, node: ast.Call | None) -> dict[str, Any]:
        """Assign the values of a call to fields; a wrong, missing or doubled one is an error that lists them."""
        fields = {k: p for k, p in signature(made).parameters.items() if p.kind not in VARIADIC}
        takes = f"it is {normalize_name(name)}({', '.join(_format_parameter(p) for p in fields.values())})"
        places = [k for k, p in fields.items() if p.kind is not Parameter.KEYWORD_ONLY]
        hints = get_annotations(made)
        given: dict[str, Any] = {}
        values = [] if node is None else [(None, x) for x in node.args] + [(k.arg, k.value) for k in node.keywords]
        for place, (field, value) in enumerate(values):
            if isinstance(value, ast.Starred) or (field is None and place >= len(node.args if node else ())):
                raise ConfigError(f"{self.text!r}: write out {ast.unparse(value)}; {takes}")
            if field is None:
                if place >= len(places):
                    raise ConfigError(f"{self.text!r}: too many values for {normalize_name(name)}; {takes}")
                field = places[place]
            if field not in fields:
                raise ConfigError(
                    f"{normalize_name(name)} has no field {field!r}{suggest_name(field, fields)}: {takes}"
                )
            if field in given:
                raise ConfigError(f"{self.text!r}: {field} of {normalize_name(name)} is given twice")
            given[field] = self.value(
                value, hints.get(field, Any), f"{normalize_name(name)}({field}={ast.unparse(value)})"
            )
        missing = [k for k, p in fields.items() if p.default is Parameter.empty and k not in given]
        if missing:
            raise ConfigError(f"{normalize_name(name)} needs {', '.join(missing)}: {takes}")
        return given

    def value(self, node: ast.expr, hint: Any, where: str) -> Any:
        """Read a field's value, which must be of the type that its annotation names."""
        if isinstance(node, ast.Call | ast.Name) and not (isinstance(node, ast.Name) and node.id in NUMBERS):
            if not _allows_part(hint):
                raise ConfigError(f"{where}: must be {describe_annotation(hint)}")
            return self.part(node, hint)
        for member in _list_alternatives(hint):
            found = self.literal(node, member, where)
            if found is not ABSENT:
                return found
        raise ConfigError(f"{where}: must be {describe_annotation(hint)}")

    def literal(self, node: ast.expr, hint: Any, where: str) -> Any:
        """Read a plain value of one type; ABSENT where the node is none."""
        kind = get_origin(hint) or hint
        if kind is Literal:
            return next((x for x in get_args(hint) if _read_plain_value(node, type(x)) == x), ABSENT)
        if isinstance(node, ast.Tuple | ast.List) and kind in (tuple, list, Any):
            inner = get_args(hint) or (Any, ...)
            inner = inner if inner[-1] is ... else (inner * len(node.elts) if kind is list else inner)
            hints = [inner[0]] * len(node.elts) if inner[-1] is ... else list(inner)
            if len(hints) != len(node.elts):
                return ABSENT
            items = [self.value(x, h, where) for x, h in zip(node.elts, hints, strict=True)]
            return items if kind is list else tuple(items)
        if isinstance(node, ast.Dict) and kind in (dict, Mapping, Any) and None not in node.keys:
            key, value = get_args(hint) or (Any, Any)
            pairs = zip(node.keys, node.values, strict=True)
            return {self.value(k, key, where): self.value(v, value, where) for k, v in pairs if k is not None}
        return _read_plain_value(node, kind)


ABSENT = object()
"""Result of reading a value that is not there, as None is a value."""


def _read_plain_value(node: ast.expr, kind: Any) -> Any:
    """Read a number, text, truth value or None, if it is of that type; else ABSENT. A whole number is a float too."""
    negative = False
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node, negative = node.operand, True
    if isinstance(node, ast.Name):
        found: Any = NUMBERS.get(node.id, ABSENT)
    else:
        found = node.value if isinstance(node, ast.Constant) else ABSENT
    if type(found) is int and kind is float:
        found = float(found)
    if type(found) not in PLAIN or kind not in (type(found), Any):
        return ABSENT
    if negative:
        return -found if type(found) in (int, float) else ABSENT
    return found


def _list_alternatives(hint: Any) -> tuple[Any, ...]:
    """List the alternatives of an annotation."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _find_registries(hint: Any) -> list[names.PartRegistry]:
    """List the tables whose names an annotation allows; all of them for `Any`."""
    found = []
    for member in _list_alternatives(hint):
        if member in KINDS:
            found.append(KINDS[member])
        elif get_origin(member) is Callable:
            found.append(names.PROCESSORS)
        elif member is Any:
            return list(names.TABLES.values())
    return list(dict.fromkeys(found))


def _allows_part(hint: Any) -> bool:
    return bool(_find_registries(hint)) or any(is_dataclass(x) for x in _list_alternatives(hint))


def describe_annotation(hint: Any) -> str:
    """Describe in words what an annotation allows."""
    tables = _find_registries(hint)
    words = [f"a {r.kind} ({', '.join(r)})" if r else f"a {r.kind}" for r in tables if len(tables) < len(names.TABLES)]
    for member in _list_alternatives(hint):
        if member in PLAIN:
            words.append(PLAIN[member])
        elif get_origin(member) is Literal:
            words += map(repr, get_args(member))
        elif get_origin(member) in (tuple, list):
            words.append("values in brackets, such as (1, 2)")
        elif get_origin(member) in (dict, Mapping):
            words.append("pairs in braces")
        elif is_dataclass(member):
            words.append(f"{getattr(member, '__name__', member)}(…)")
    return " or ".join(words) or "a part or a plain value"


def get_annotations(made: Callable[..., Any]) -> dict[str, Any]:
    """Read the annotations of a class's fields or of a function; `Any` stands for those that are not understood."""
    try:
        hints = get_type_hints(made)
    except Exception:  # a package may import the names of its annotations for type checkers only
        return {}
    return {
        name: hint if all(map(_is_known_annotation, _list_alternatives(hint))) else Any for name, hint in hints.items()
    }


def _is_known_annotation(hint: Any) -> bool:
    return hint in KINDS or hint in PLAIN or is_dataclass(hint) or get_origin(hint) in CONTAINERS


def _format_parameter(parameter: Parameter) -> str:
    """Format a field with its default."""
    return parameter.name if parameter.default is Parameter.empty else f"{parameter.name}={parameter.default!r}"
