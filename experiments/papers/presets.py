"""Presets: the rows of published tables, read from the YAML files beside this one; what does not belong is refused."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from dllm.compose.options import Options
from dllm.errors import ConfigError
from dllm.files import read_yaml
from dllm.registry import suggest_name
from dllm.sweeps.grid import STRATEGY, check_fields
from dllm.sweeps.tuning import format_flag

FOLDER = Path(__file__).parent
FIGURES = ("accuracy", "tokens_per_second", "nfe", "speedup")
"""What may be published: accuracy in percent, tokens/s, forwards per answer, tokens/s over those of the first row."""


@dataclass(frozen=True)
class PaperPreset:
    """One row of a published table.

    name        FILE/ROW
    paper       its citation; `table` says where in it the figures stand
    family      of the checkpoint, so that the strategy can be checked without it
    task        of lm-eval, and the metric that is published, without its filter
    strategy    options as `dllm decode` has them
    published   of `FIGURES`
    chat        questions are put into the chat template
    code        the task runs programs that the model writes
    assumed     what the source does not say, and we therefore chose
    """

    name: str
    paper: str
    table: str
    family: str
    model: str
    task: str
    metric: str
    num_fewshot: int
    max_new_tokens: int
    strategy: Mapping[str, Any]
    published: Mapping[str, float]
    dtype: str | None = None
    chat: bool = False
    code: bool = False
    assumed: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        self.options  # noqa: B018 refuses what does not belong
        if not self.published or (bad := [name for name in self.published if name not in FIGURES]):
            raise ConfigError(
                f"{self.name}: published {dict(self.published)}: give some of {', '.join(FIGURES)}; {bad}"
            )

    @property
    def options(self) -> Options:
        return Options(**check_fields(f"{self.name}: strategy", self.strategy, STRATEGY))

    def command(self, output: Path | None = None, limit: int | None = None, more: tuple[str, ...] = ()) -> list[str]:
        """The `dllm eval` command of the row."""
        words = ["dllm", "eval", "--tasks", self.task, "--model", self.model, "--num-fewshot", str(self.num_fewshot)]
        words += ["--max-new-tokens", str(self.max_new_tokens)]
        words += [word for name, value in self.strategy.items() for word in format_flag(name, value)]
        words += ["--dtype", self.dtype] if self.dtype else []
        words += ["--apply-chat-template"] if self.chat else []
        words += ["--allow-code"] if self.code else []
        words += ["--limit", str(limit)] if limit is not None else []
        words += ["--output", str(output / self.name)] if output is not None else []
        return [*words, *more]

    def __str__(self) -> str:
        return shlex.join(self.command())


def read_presets(path: Path) -> list[PaperPreset]:
    """The rows of a file; what stands above `rows` holds for each that does not say otherwise. Raises ConfigError."""
    found = read_yaml(path)
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        raise ConfigError(f"{path}: must hold `rows`, a list")
    shared = {name: value for name, value in found.items() if name != "rows"}
    return [_make_preset(f"{path.stem}/{row.get('name')}", shared | row, path) for row in found["rows"]]


def _make_preset(name: str, given: Mapping[str, Any], path: Path) -> PaperPreset:
    known = {f.name: f for f in fields(PaperPreset)}
    if bad := [key for key in given if key not in known]:
        raise ConfigError(f"{path}: {name}: {bad[0]}{suggest_name(bad[0], known)}: a preset has {', '.join(known)}")
    if lacking := [n for n, f in known.items() if f.default is MISSING and n not in given]:
        raise ConfigError(f"{path}: {name}: lacks {', '.join(lacking)}")
    return PaperPreset(**{**given, "name": name, "assumed": tuple(given.get("assumed", ()))})


def read_all_presets() -> dict[str, PaperPreset]:
    """All of them by name."""
    rows = [row for path in sorted(FOLDER.glob("*.yaml")) for row in read_presets(path)]
    found = {row.name: row for row in rows}
    if len(found) < len(rows):
        raise ConfigError(f"{FOLDER}: two presets have the same name")
    return found
