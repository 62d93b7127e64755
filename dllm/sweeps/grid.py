"""The file of a sweep: YAML in which lists make a grid, and in which unknown fields are refused.

    models: [embedded, ./my-checkpoint]
    prompts: [word-problems, {file: gsm8k.jsonl, template: "{question}", limit: 100}]
    max_new_tokens: 96
    strategies:
      - {policy: factor, f: [0.5, 1.0, 2.0], cache: [none, prefix]}     # six strategies
      - {name: published, recipe: fast_dllm_v2}
      - "Strategy(policy=Threshold(tau=0.9), scheduler=Blocks(), cache=PrefixCache())"

A strategy is written with the options of `dllm decode`, by the same names and expressions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_type_hints

from dllm.compose.misplaced_fields import explain_misplaced_field
from dllm.compose.options import Options
from dllm.errors import ConfigError
from dllm.files import read_yaml
from dllm.jobs import Job, check_length, check_seed
from dllm.registry import suggest_name
from dllm.sweeps.cells import Cell, SweepCheckpoint, check_cells
from dllm.sweeps.questions import SOURCES, QuestionSet, find_source

LISTS = ("processor", "stop", "stop_ids")
"""Options whose value is a list itself: only a list of lists makes a grid of them."""
STRATEGY: dict[str, Any] = {**get_type_hints(Options), "name": str | None, "only": str | None, "guidance": float | None}
CHECKPOINT = {name: kind for name, kind in get_type_hints(SweepCheckpoint).items() if name != "label"} | {
    "model": str, "name": str | None,
}  # fmt: skip
QUESTIONS = {
    "name": str | None, "file": str | None, "source": str | None, "limit": int | None, "template": str | None,
    "check": str | None,
}  # fmt: skip
SETTINGS = {"max_new_tokens": int, "seed": int, "batch_size": int}
SETTINGS_DEFAULTS = {"max_new_tokens": 128, "seed": 0, "batch_size": 8}
SWEEP = {
    "models": list, "prompts": list, "strategies": list, **SETTINGS, "raw": bool, "limit": int | None,
    "dtype": str | None, "device": str | None,
}  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """All cells of a sweep.

    Attributes:
        cells: The cells in the order in which they are decoded. Those of one model stand together, so that it is
            loaded once.
    """

    cells: tuple[Cell, ...]

    def limited(self, limit: int) -> Sweep:
        """Return the sweep with `limit` rows of every set of prompts. Raises ConfigError if that is below 1."""
        if limit < 1:
            raise ConfigError(f"limit {limit}: must be at least 1")
        cells = (replace(cell, questions=replace(cell.questions, limit=limit)) for cell in self.cells)
        return Sweep(tuple(cells))

    def check(self) -> None:
        """Check all cells, before any work is done.

        Raises:
            ConfigError: Some cells cannot work, or are the same. The message names the first eight problems.
        """
        if problems := check_cells(self.cells) or _find_duplicate_cells(self.cells):
            more = f" (and {len(problems) - 8} more)" if len(problems) > 8 else ""
            raise ConfigError("; ".join(dict.fromkeys(problems[:8])) + more)


def read_sweep(path: Path, limit: int | None = None) -> Sweep:
    """Read the sweep of a YAML file.

    Args:
        path: The file. Relative names of files in it are relative to its folder.
        limit: Number of rows of every set of prompts, instead of what the file says.

    Raises:
        ConfigError: The file cannot be read, or does not describe a sweep.
    """
    content = read_yaml(path)
    try:
        sweep = make_sweep(content, path.parent)
        return sweep if limit is None else sweep.limited(limit)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def make_sweep(content: Any, folder: Path = Path()) -> Sweep:
    """Make the sweep that a mapping describes.

    Args:
        content: Content of a sweep's file.
        folder: Folder to which relative names of files are relative.

    Raises:
        ConfigError: The content does not describe a sweep.
    """
    given = check_fields("a sweep", content, SWEEP, SETTINGS)
    for name in ("prompts", "strategies"):
        if name not in given:
            raise ConfigError(f"{name}: not given; a sweep has models, prompts and strategies")
    shared: dict[str, Any] = {name: given[name] for name in ("dtype", "device") if name in given}
    models = [
        checkpoint
        for entry in _wrap_in_list(given.get("models", ["embedded"]))
        for checkpoint in _expand_checkpoints(entry, folder, shared)
    ]
    prompts = [_make_question_set(entry, folder, given.get("limit")) for entry in _wrap_in_list(given["prompts"])]
    strategies = [s for entry in _wrap_in_list(given["strategies"]) for s in _expand_strategies(entry)]
    cells = [
        _make_cell(checkpoint, questions, strategy, settings | {"chat": not given.get("raw", False)})
        for checkpoint in models
        for questions in prompts
        for settings in _expand_settings(given)
        for strategy in strategies
        if strategy.get("only") in (None, checkpoint.name, checkpoint.title)
    ]
    for strategy in strategies:
        if strategy.get("only") is not None and not any(strategy["only"] in (c.name, c.title) for c in models):
            raise ConfigError(f"only: {strategy['only']}: no such model in this sweep")
    if not cells:
        raise ConfigError("no cells: give at least one model, one set of prompts and one strategy")
    return Sweep(tuple(cells))


def _expand_settings(given: Mapping[str, Any]) -> list[dict[str, int]]:
    """Return every combination of the settings of a sweep, each of which may be a list."""
    choices = [_wrap_in_list(given.get(name, default)) for name, default in SETTINGS_DEFAULTS.items()]
    return [dict(zip(SETTINGS_DEFAULTS, values, strict=True)) for values in product(*choices)]


def _make_cell(
    checkpoint: SweepCheckpoint, questions: QuestionSet, strategy: Mapping[str, Any], settings: dict[str, Any]
) -> Cell:
    """Make one cell. Raises ConfigError for settings that cannot work."""
    try:
        check_length(settings["max_new_tokens"])
        check_seed(settings["seed"])
    except ValueError as error:
        raise ConfigError(str(error)) from None
    own = {name: value for name, value in strategy.items() if name not in ("name", "only", "guidance", "label")}
    job = Job(Options(**own), guidance=strategy.get("guidance") or 0.0, **settings)
    shown = own | ({"guidance": job.guidance} if job.guidance else {})
    return Cell(checkpoint, questions, strategy["label"], shown, job)


def _find_duplicate_cells(cells: tuple[Cell, ...]) -> list[str]:
    """Return a message for each cell that is the same as an earlier one."""
    seen: dict[str, Cell] = {}
    return [
        f"{cell} and {first} are the same cell: leave one out"
        for cell in cells
        if (first := seen.setdefault(cell.key, cell)) is not cell
    ]


def _expand_checkpoints(entry: Any, folder: Path, shared: Mapping[str, Any]) -> Iterator[SweepCheckpoint]:
    """Yield the checkpoints of one entry: a name, or a mapping with `model` whose lists make a grid."""
    given = check_fields("a model", {"model": entry} if isinstance(entry, str) else entry, CHECKPOINT, CHECKPOINT)
    if "model" not in given:
        raise ConfigError(f"models: {entry}: no model; say model: NAME")
    for values in _expand_lists(given):
        name = values.pop("model")
        label = values.pop("name", None) or _format_label(
            name, {k: v for k, v in values.items() if isinstance(given[k], list)}
        )
        if (folder / name).is_dir():
            name = str(folder / name)
        yield SweepCheckpoint(name, label, **(dict(shared) | values))


def _make_question_set(entry: Any, folder: Path, limit: int | None) -> QuestionSet:
    """Make the set of questions of an entry: a name of `SOURCES`, a file, or a mapping with `source` or `file`."""
    if isinstance(entry, str):
        entry = {"source" if entry in SOURCES else "file": entry}
    given = check_fields("a set of prompts", entry, QUESTIONS)
    if ("file" in given) == ("source" in given):
        raise ConfigError(f"prompts: {entry}: give one of file and source ({', '.join(SOURCES)})")
    path = folder / given["file"] if "file" in given else find_source(given["source"])
    if path is None:
        raise ConfigError(
            f"source: {given['source']!r}{suggest_name(given['source'], SOURCES)}: choose from {', '.join(SOURCES)}"
        )
    if given.get("check") is not None:
        from dllm.sweeps.answer_checks import find_check

        find_check(given["check"])
    most = given.get("limit", limit)
    if most is not None and most < 1:
        raise ConfigError(f"limit: {most}: must be at least 1")
    return QuestionSet(given.get("name") or path.stem, path, most, given.get("template"), given.get("check"))


def _expand_strategies(entry: Any) -> Iterator[dict[str, Any]]:
    """Yield the strategies of one entry, each with a `label`: a recipe or expression, or a mapping with lists."""
    if isinstance(entry, str):
        entry = {"recipe": entry}
    if isinstance(entry, Mapping) and "strategy" in entry:
        entry = {("recipe" if name == "strategy" else name): value for name, value in entry.items()}
    given = check_fields("a strategy", entry, STRATEGY, STRATEGY)
    for values in _expand_lists(given):
        options = {name: value for name, value in values.items() if name not in ("name", "only")}
        name = values.get("name")
        varied = {key: value for key, value in options.items() if _is_grid_axis(key, given[key])}
        yield values | {"label": _format_label(name or "", varied if name else options) or "default"}


def _expand_lists(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the values of lists; of an option that is a list itself, of the lists in it."""
    choices = [value if _is_grid_axis(name, value) else [value] for name, value in given.items()]
    for values in product(*choices):
        yield {k: tuple(v) if isinstance(v, list) else v for k, v in zip(given, values, strict=True)}


def _is_grid_axis(name: str, value: Any) -> bool:
    """Return whether a value stands for several, each of which makes a cell of its own."""
    if not isinstance(value, list):
        return False
    return name not in LISTS or (bool(value) and all(isinstance(one, list) for one in value))


def _format_label(name: str, values: Mapping[str, Any]) -> str:
    """Format a label: a name, and the values that distinguish it from others of that name."""
    main = ("recipe", "policy")
    first = [str(values[key]) for key in main if key in values]
    return " ".join(filter(None, [name, *first, *(f"{k}={v}" for k, v in values.items() if k not in main)]))


def _wrap_in_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def check_fields(what: str, entry: Any, known: Mapping[str, Any], lists: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a mapping, each converted to its type; `-` and `_` in names mean the same.

    Args:
        what: Name of the mapping for messages: "a sweep".
        entry: The mapping, as YAML holds it.
        known: Fields that the mapping may have, with their types.
        lists: Names of fields that may hold a list of values instead of one.

    Raises:
        ConfigError: This is not a mapping, or a field is unknown or has a value of another type.
    """
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{entry!r}: {what} is a mapping with {', '.join(known)}")
    found: dict[str, Any] = {}
    for key, value in entry.items():
        name = str(key).replace("-", "_")
        if name not in known:
            shown = None if isinstance(value, list) else value
            if known is STRATEGY and (message := explain_misplaced_field(name, shown, entry)) is not None:
                raise ConfigError(message)
            raise ConfigError(f"{key}: no field of {what}{suggest_name(str(key), known)}; it has {', '.join(known)}")
        if isinstance(value, list) and name in lists and name not in LISTS:
            if not value:
                raise ConfigError(f"{key}: []: give at least one value")
            found[name] = [_convert_value(name, one, known[name]) for one in value]
        else:
            found[name] = _convert_value(name, value, known[name])
    return found


def _check_list_option(name: str, value: Any) -> Any:
    """Return the value of an option that is a list itself, or a list of such. Raises ConfigError for other elements."""
    entries = value if isinstance(value, list) else [value]
    flat = [one for part in entries for one in (part if isinstance(part, list) else [part])]
    kind = int if name == "stop_ids" else str
    if any(type(one) is not kind for one in flat):
        raise ConfigError(f"{name}: {value!r}: must be a list of {'token ids' if kind is int else 'texts'}")
    return entries


def _convert_value(name: str, value: Any, kind: Any) -> Any:
    """Convert a value to the type of its field. Raises ConfigError if it has another.

    A text that is a number is accepted where a number belongs, because YAML 1.1 reads 1e-3, without a dot, as a text.
    """
    kinds = [k for k in get_args(kind) or (kind,)]
    if kind is list or name in LISTS:
        return value if kind is list else _check_list_option(name, value)
    if value is None and type(None) in kinds:
        return None
    if float in kinds and isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) in kinds:
        return value
    if str in kinds and isinstance(value, bool) is False and isinstance(value, int | float):
        return str(value)
    wanted = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    raise ConfigError(f"{name}: {value!r}: must be {' or '.join(wanted[k] for k in kinds if k in wanted)}")
