"""A sweep as its author writes it: a YAML file in which lists make a grid; what does not belong is refused.

    models: [embedded, ./my-checkpoint]
    prompts: [word-problems, {file: gsm8k.jsonl, template: "{question}", limit: 100}]
    max_new_tokens: 96
    strategies:
      - {policy: factor, f: [0.5, 1.0, 2.0], cache: [none, prefix]}     # six strategies
      - {name: published, recipe: fast_dllm_v2}
      - "Strategy(policy=Threshold(tau=0.9), scheduler=Blocks(), cache=PrefixCache())"

Strategies are told by the options of `dllm decode`, by the same names and expressions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_type_hints

from dllm.compose.misplaced_fields import explain_misplaced_field
from dllm.compose.options import Options
from dllm.errors import ConfigError
from dllm.jobs import Job, check_length, check_seed
from dllm.registry import suggest_name
from dllm.sweeps.cells import Cell, SweepCheckpoint, check_cells
from dllm.sweeps.questions import SOURCES, QuestionSet, find_source

LISTS = ("processor", "stop", "stop_ids")
"""Options whose value is a list itself: only a list of lists makes a grid of them."""
STRATEGY = {**get_type_hints(Options), "name": str | None, "only": str | None, "guidance": float | None}
CHECKPOINT = {name: kind for name, kind in get_type_hints(SweepCheckpoint).items() if name != "label"} | {
    "model": str, "name": str | None,
}  # fmt: skip
QUESTIONS = {
    "name": str | None, "file": str | None, "source": str | None, "limit": int | None, "template": str | None,
    "check": str | None,
}  # fmt: skip
SETTINGS = {"max_new_tokens": int, "seed": int, "batch_size": int}
SWEEP = {
    "models": list, "prompts": list, "strategies": list, **SETTINGS, "raw": bool, "limit": int | None,
    "dtype": str | None, "device": str | None,
}  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """All cells of a sweep in the order in which they are decoded: a model's cells stand together."""

    cells: tuple[Cell, ...]

    def limited(self, limit: int) -> Sweep:
        """With only the first so many rows of every set of prompts. Raises ConfigError."""
        if limit < 1:
            raise ConfigError(f"limit {limit}: must be at least 1")
        cells = (replace(cell, questions=replace(cell.questions, limit=limit)) for cell in self.cells)
        return Sweep(tuple(cells))

    def check(self) -> None:
        """Raise ConfigError that names every cell which cannot work, before any work is done."""
        if problems := check_cells(self.cells) or _find_duplicate_cells(self.cells):
            more = f" (and {len(problems) - 8} more)" if len(problems) > 8 else ""
            raise ConfigError("; ".join(dict.fromkeys(problems[:8])) + more)


def read_sweep(path: Path, limit: int | None = None) -> Sweep:
    """The sweep of a YAML file; files in it are looked for beside it. Raises ConfigError.

    limit  rows of every set of prompts, whatever the file says
    """
    found = read_yaml(path)
    try:
        sweep = make_sweep(found, path.parent)
        return sweep if limit is None else sweep.limited(limit)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_yaml(path: Path) -> Any:
    """What a YAML file holds. Raises ConfigError."""
    import yaml

    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: broken YAML ({' '.join(str(error).split())})") from None


def make_sweep(found: Any, folder: Path = Path()) -> Sweep:
    """The sweep that a mapping describes; relative files are under `folder`. Raises ConfigError."""
    given = check_fields("a sweep", found, SWEEP, SETTINGS)
    for name in ("prompts", "strategies"):
        if name not in given:
            raise ConfigError(f"{name}: not given; a sweep has models, prompts and strategies")
    shared: dict[str, Any] = {name: given[name] for name in ("dtype", "device") if name in given}
    models = [
        c
        for entry in _wrap_in_list(given.get("models", ["embedded"]))
        for c in _expand_checkpoints(entry, folder, shared)
    ]
    prompts = [_make_question_set(entry, folder, given.get("limit")) for entry in _wrap_in_list(given["prompts"])]
    strategies = [s for entry in _wrap_in_list(given["strategies"]) for s in _expand_strategies(entry)]
    settings = [dict(zip(SETTINGS, values, strict=True)) for values in product(*(
        _wrap_in_list(given.get(name, default)) for name, default in (("max_new_tokens", 128), ("seed", 0), ("batch_size", 8))
    ))]  # fmt: skip
    cells = [
        _make_cell(checkpoint, asked, strategy, setting | {"chat": not given.get("raw", False)})
        for checkpoint in models
        for asked in prompts
        for setting in settings
        for strategy in strategies
        if strategy.get("only") in (None, checkpoint.name, checkpoint.title)
    ]
    for strategy in strategies:
        if strategy.get("only") is not None and not any(strategy["only"] in (c.name, c.title) for c in models):
            raise ConfigError(f"only: {strategy['only']}: no such model in this sweep")
    if not cells:
        raise ConfigError("no cells: give at least one model, one set of prompts and one strategy")
    return Sweep(tuple(cells))


def _make_cell(
    checkpoint: SweepCheckpoint, asked: QuestionSet, strategy: Mapping[str, Any], settings: dict[str, Any]
) -> Cell:
    try:
        check_length(settings["max_new_tokens"])
        check_seed(settings["seed"])
    except ValueError as error:
        raise ConfigError(str(error)) from None
    own = {name: value for name, value in strategy.items() if name not in ("name", "only", "guidance", "label")}
    job = Job(Options(**own), guidance=strategy.get("guidance") or 0.0, **settings)
    shown = own | ({"guidance": job.guidance} if job.guidance else {})
    return Cell(checkpoint, asked, strategy["label"], shown, job)


def _find_duplicate_cells(cells: tuple[Cell, ...]) -> list[str]:
    """Which cells are the same."""
    seen: dict[str, Cell] = {}
    return [
        f"{cell} and {first} are the same cell: leave one out"
        for cell in cells
        if (first := seen.setdefault(cell.key, cell)) is not cell
    ]


def _expand_checkpoints(entry: Any, folder: Path, shared: Mapping[str, Any]) -> Iterator[SweepCheckpoint]:
    """The checkpoints of one entry: a name, or a mapping with `model` whose lists make a grid."""
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
    """A set of questions: the name of one that the package brings, a file, or a mapping with `source` or `file`."""
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
    """The strategies of one entry, each with a `label`: a recipe or expression, or a mapping with lists."""
    if isinstance(entry, str):
        entry = {"recipe": entry}
    if isinstance(entry, Mapping) and "strategy" in entry:
        entry = {("recipe" if name == "strategy" else name): value for name, value in entry.items()}
    given = check_fields("a strategy", entry, STRATEGY, STRATEGY)
    for values in _expand_lists(given):
        told = {name: value for name, value in values.items() if name not in ("name", "only")}
        name = values.get("name")
        varied = {key: value for key, value in told.items() if _is_grid_axis(key, given[key])}
        yield values | {"label": _format_label(name or "", varied if name else told) or "default"}


def _expand_lists(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of lists; for an option that is a list, of the lists in it."""
    choices = [value if _is_grid_axis(name, value) else [value] for name, value in given.items()]
    for values in product(*choices):
        yield {k: tuple(v) if isinstance(v, list) else v for k, v in zip(given, values, strict=True)}


def _is_grid_axis(name: str, value: Any) -> bool:
    """Whether a value stands for several."""
    if not isinstance(value, list):
        return False
    return name not in LISTS or (bool(value) and all(isinstance(one, list) for one in value))


def _format_label(name: str, values: Mapping[str, Any]) -> str:
    """A label: a name, and what sets it apart."""
    main = ("recipe", "policy")
    first = [str(values[key]) for key in main if key in values]
    return " ".join(filter(None, [name, *first, *(f"{k}={v}" for k, v in values.items() if k not in main)]))


def _wrap_in_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def check_fields(what: str, entry: Any, known: Mapping[str, Any], lists: Any = ()) -> dict[str, Any]:
    """The fields of a mapping, each of its kind; `-` and `_` in names are the same. Raises ConfigError.

    lists  fields that may hold a list of values instead
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
    """The value of an option that is a list itself, or a list of such. Raises ConfigError."""
    entries = value if isinstance(value, list) else [value]
    flat = [one for part in entries for one in (part if isinstance(part, list) else [part])]
    kind = int if name == "stop_ids" else str
    if any(type(one) is not kind for one in flat):
        raise ConfigError(f"{name}: {value!r}: must be a list of {'token ids' if kind is int else 'texts'}")
    return entries


def _convert_value(name: str, value: Any, kind: Any) -> Any:
    """A value as its field has it. Raises ConfigError. YAML reads 1e-3 as a text."""
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
