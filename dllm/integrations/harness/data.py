"""Where the documents of our task configurations come from: files of a folder, else the Hub.

lm-eval calls these functions with what its TaskManager was given as metadata, here `data`: the folder.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dllm.errors import ConfigError
from dllm.sweeps.questions import DATA

TEST, SHOTS = range(11, 511), (2, 3, 4)
"""Numbers of the MBPP problems that are asked, and of those that are shown as examples."""


def load_gsm8k(data: str, **_: Any) -> dict[str, Any]:
    """Cobbe et al. 2021 (arXiv:2110.14168): gsm8k_train.jsonl and gsm8k_test.jsonl of openai/grade-school-math."""
    return build_splits(
        train=read_json_lines(data, "gsm8k_train.jsonl"), test=read_json_lines(data, "gsm8k_test.jsonl")
    )


def load_ifeval(data: str, **_: Any) -> dict[str, Any]:
    """Zhou et al. 2023 (arXiv:2311.07911): ifeval_input_data.jsonl of google-research."""
    return build_splits(train=read_json_lines(data, "ifeval_input_data.jsonl"))


def load_humaneval(data: str | None = None, hub: str = "openai/openai_humaneval", **_: Any) -> dict[str, Any]:
    """Chen et al. 2021 (arXiv:2107.03374): HumanEval.jsonl.gz of openai/human-eval."""
    return (
        build_splits(test=read_json_lines(data, "HumanEval.jsonl.gz", "HumanEval.jsonl"))
        if data
        else _load_from_hub(hub)
    )


def load_mbpp(data: str | None = None, **_: Any) -> dict[str, Any]:
    """Austin et al. 2021 (arXiv:2108.07732): mbpp.jsonl of google-research; problems 11 to 510 are asked."""
    if data:
        rows = {int(row["task_id"]): row for row in read_json_lines(data, "mbpp.jsonl")}
        missing = [number for number in (*SHOTS, *TEST) if number not in rows]
        if missing:
            raise ConfigError(f"--data {data}: mbpp.jsonl lacks problem {missing[0]}: it should have 1 to 974")
    else:
        found = _load_from_hub("google-research-datasets/mbpp", "full")
        rows = {int(row["task_id"]): row for part in ("prompt", "test") for row in found[part]}
    shots = [rows[number] | {"is_fewshot": True} for number in SHOTS]
    return build_splits(test=[rows[number] for number in TEST], prompt=shots)


def load_word_problems(**_: Any) -> dict[str, Any]:
    """Word problems that the embedded model has never seen, in this package."""
    return build_splits(test=read_json_lines(str(DATA), "word-problems.jsonl"))


def build_splits(**rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows as data sets of lm-eval."""
    from datasets import Dataset

    return {name: Dataset.from_list(list(part)) for name, part in rows.items()}


def _load_from_hub(name: str, configuration: str | None = None) -> Any:
    """A data set of the Hub. Raises ConfigError where it cannot be had."""
    from datasets import load_dataset

    try:
        return load_dataset(name, configuration)
    except Exception as error:  # the reader of data sets raises nearly anything
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"{name}: the Hub did not deliver it ({said}); or give --data FOLDER with its file") from None


def read_json_lines(folder: str, *names: str) -> list[dict[str, Any]]:
    """The objects of a JSONL file, the first of `names` that is there. Raises ConfigError naming what is wrong."""
    path = next((path for name in names if (path := Path(folder).expanduser() / name).is_file()), None)
    if path is None:
        raise ConfigError(f"--data {folder}: has no {' or '.join(names)}, which this task is read from")
    try:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    rows = []
    for number, line in enumerate(text.split(b"\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ConfigError(f"{path}:{number}: not JSON ({error})") from None
    return rows
