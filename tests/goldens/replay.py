"""Replay recorded runs of the published systems through named options, many rows of equal settings in one batch."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import dllm
from dllm import Request, Result
from dllm.compose.options import Options

Case = dict[str, Any]


def cases(shared: Path, name: str) -> list[Case]:
    found: list[Case] = json.loads((shared / "goldens" / f"{name}.json").read_text())["cases"]
    return found


@functools.cache
def checkpoint(shared: Path, name: str, mask_id: int) -> Any:
    return dllm.load(shared / "goldens" / "checkpoints" / name, mask_id=mask_id, dtype="float32", device="cpu")


def grouped(found: Iterable[Case], key: Callable[[Case], Any]) -> list[list[Case]]:
    groups: dict[Any, list[Case]] = defaultdict(list)
    for case in found:
        groups[key(case)].append(case)
    return list(groups.values())


def replay(
    shared: Path,
    group: list[Case],
    options: Options,
    max_new_tokens: int,
    rows: Sequence[tuple[list[int], int, tuple[int, ...] | None]],
) -> list[Result]:
    """Decode rows of (prompt, max_new_tokens, stop ids) with the options; `max_new_tokens` is what steps refer to."""
    model = checkpoint(shared, group[0]["checkpoint"], group[0]["mask_id"])
    strategy = options.strategy(model, max_new_tokens)
    requests = [Request(tuple(prompt), length, stop_ids=stop) for prompt, length, stop in rows]
    return dllm.decode(model, requests, strategy)


def until(tokens: list[int], stop: int | None) -> list[int]:
    """Tokens up to and with the first stop token."""
    return tokens[: tokens.index(stop) + 1] if stop in tokens else tokens
