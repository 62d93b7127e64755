"""The folder of an evaluation: its settings, finished answers, samples with their scores, results."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm_eval.utils import handle_non_serializable

from dllm.errors import ConfigError
from dllm.integrations.harness.evaluation import EvaluationReport
from dllm.integrations.harness.settings import HarnessSettings
from dllm.integrations.harness.task_plan import EvaluationPlan


class EvaluationFolder:
    """Folder that belongs to one evaluation.

    answers.N.jsonl and likelihoods.N.jsonl grow while process N works; everything else is written whole, at the end.

    Args:
        path: Folder; made if it is missing.
        plan: Tasks of the evaluation. Another `limit` is the same evaluation, so that more documents may follow later.
        settings: Checkpoint and options.

    Raises:
        ConfigError: If the folder belongs to another evaluation or holds other files.
    """

    def __init__(self, path: Path, plan: EvaluationPlan, settings: HarnessSettings) -> None:
        self.path = path
        identity = {"plan": repr(replace(plan, limit=None)), "options": repr(settings.options), **settings.made_with}
        identity |= {name: getattr(settings, name) for name in ("max_new_tokens", "likelihood", "samples", "truncate")}
        facts = path / "evaluation.json"
        path.mkdir(parents=True, exist_ok=True)
        if facts.exists():
            _check_same_evaluation(facts, identity)
        elif any(path.iterdir()):
            raise ConfigError(f"--output {path}: holds files that are not of an evaluation; choose another folder")
        else:
            _write_atomically(facts, [json.dumps(identity, indent=1) + "\n"])

    def write(self, report: EvaluationReport) -> None:
        """Write the samples of each task and the results."""
        for task, lines in report.samples.items():
            _write_atomically(self.path / f"samples_{task}.jsonl", (_format_sample(sample) + "\n" for sample in lines))
        _write_atomically(
            self.path / "results.json", [json.dumps(report, indent=1, default=handle_non_serializable) + "\n"]
        )


def _check_same_evaluation(facts: Path, identity: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the folder was begun by the same evaluation."""
    try:
        before = json.loads(facts.read_text("utf-8"))
    except ValueError:
        raise ConfigError(f"{facts} is not what an evaluation writes; choose another --output") from None
    for name, value in identity.items():
        if before.get(name) != value:
            raise ConfigError(
                f"--output {facts.parent} was begun with {name} {before.get(name)}, not {value}: choose another folder"
            )


def _format_sample(sample: Mapping[str, Any]) -> str:
    return json.dumps(sample, default=handle_non_serializable)


def _write_atomically(path: Path, texts: Iterable[str]) -> None:
    """Write a file beside its place and move it there, so that it is complete or not there at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.writelines(texts)
    os.replace(aside, path)
