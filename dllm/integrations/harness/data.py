"""Documents of our task configurations, read from files of a folder or from the Hub.

lm-eval calls these functions with the metadata of its TaskManager, which here is `data`: the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dllm.errors import ConfigError
from dllm.integrations.harness.json_lines import read_json_lines
from dllm.sweeps.questions import DATA

TEST, SHOTS = range(11, 511), (2, 3, 4)
"""Numbers of the MBPP problems that are asked, and of those that are shown as examples."""


def load_gsm8k(data: str, **_: Any) -> dict[str, Any]:
    """Load GSM8K from gsm8k_train.jsonl and gsm8k_test.jsonl of openai/grade-school-math.

    References:
        Cobbe et al. 2021 (arXiv:2110.14168).
    """
    return build_splits(train=read_data_file(data, "gsm8k_train.jsonl"), test=read_data_file(data, "gsm8k_test.jsonl"))


def load_ifeval(data: str, **_: Any) -> dict[str, Any]:
    """Load IFEval from ifeval_input_data.jsonl of google-research.

    References:
        Zhou et al. 2023 (arXiv:2311.07911).
    """
    return build_splits(train=read_data_file(data, "ifeval_input_data.jsonl"))


def load_humaneval(data: str | None = None, hub: str = "openai/openai_humaneval", **_: Any) -> dict[str, Any]:
    """Load HumanEval from HumanEval.jsonl.gz of openai/human-eval, or from the Hub.

    References:
        Chen et al. 2021 (arXiv:2107.03374).
    """
    return (
        build_splits(test=read_data_file(data, "HumanEval.jsonl.gz", "HumanEval.jsonl"))
        if data
        else _load_from_hub(hub)
    )


def load_mbpp(data: str | None = None, **_: Any) -> dict[str, Any]:
    """Load MBPP from mbpp.jsonl of google-research, or from the Hub; problems 11 to 510 are asked.

    References:
        Austin et al. 2021 (arXiv:2108.07732).
    """
    if data:
        rows = {int(row["task_id"]): row for row in read_data_file(data, "mbpp.jsonl")}
        missing = [number for number in (*SHOTS, *TEST) if number not in rows]
        if missing:
            raise ConfigError(f"--data {data}: mbpp.jsonl lacks problem {missing[0]}: it should have 1 to 974")
    else:
        found = _load_from_hub("google-research-datasets/mbpp", "full")
        rows = {int(row["task_id"]): row for part in ("prompt", "test") for row in found[part]}
    shots = [rows[number] | {"is_fewshot": True} for number in SHOTS]
    return build_splits(test=[rows[number] for number in TEST], prompt=shots)


def load_word_problems(**_: Any) -> dict[str, Any]:
    """Load the word problems of this package, which are not in the embedded model's training data."""
    return build_splits(test=read_data_file(str(DATA), "word-problems.jsonl"))


def build_splits(**rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Turn rows into data sets of lm-eval, one for each split."""
    from datasets import Dataset

    return {name: Dataset.from_list(list(part)) for name, part in rows.items()}


def _load_from_hub(name: str, configuration: str | None = None) -> Any:
    """Load a data set of the Hub; raise ConfigError if it cannot be had."""
    from datasets import load_dataset

    try:
        return load_dataset(name, configuration)
    except Exception as error:  # the reader of data sets raises nearly anything
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{name}: the Hub did not deliver it ({reason}); or give --data FOLDER with its file"
        ) from None


def read_data_file(folder: str, *names: str) -> list[dict[str, Any]]:
    """Read the objects of a JSONL file of a folder: the first of `names` that exists.

    Raises:
        ConfigError: If none exists, or for a file or a line that cannot be read.
    """
    path = next((path for name in names if (path := Path(folder).expanduser() / name).is_file()), None)
    if path is None:
        raise ConfigError(f"--data {folder}: has no {' or '.join(names)}, which this task is read from")
    return list(read_json_lines(path))
