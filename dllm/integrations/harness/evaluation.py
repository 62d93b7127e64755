"""An evaluation: tasks and options checked before weights are read, answers decoded and scored, figures collected."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, NamedTuple

from lm_eval.evaluator import evaluate as run_lm_eval

from dllm.errors import CheckpointError, ConfigError
from dllm.integrations.harness.model import DiffusionLM, Records, Watch
from dllm.integrations.harness.settings import HarnessSettings
from dllm.integrations.harness.task_plan import EvaluationPlan, configure_tasks, load_tasks
from dllm.jobs import ModelOutline
from dllm.metrics import Provenance, Totals, agreement_share
from dllm.models import AutoregressiveModel


class EvaluationReport(dict[str, Any]):
    """Results of an evaluation, as JSON.

    Attributes:
        samples: By task, a line for each document.
    """

    samples: Mapping[str, Sequence[Mapping[str, Any]]]


class _ProcessResults(NamedTuple):
    """Results of one process.

    Attributes:
        records: By task, the lines of its answers.
        references: By task, the lines of sequential greedy decoding.
        seconds: Wall time by kind of answer and task.
        fresh: Number of answers decoded in that time, by kind and task.
        truncated: Number of prompts that have lost their beginning.
    """

    records: Records
    references: Records
    seconds: dict[tuple[str, str], float]
    fresh: dict[tuple[str, str], int]
    truncated: int

    @classmethod
    def of(cls, model: DiffusionLM) -> _ProcessResults:
        """Collect the results of a model."""
        return cls(dict(model.records), dict(model.references), dict(model.seconds), dict(model.fresh), model.truncated)


def run_evaluation(
    plan: EvaluationPlan, settings: HarnessSettings, watch: Watch | None = None
) -> EvaluationReport | None:
    """Carry out an evaluation.

    Args:
        plan: Tasks to evaluate.
        settings: Checkpoint, and options of decoding and scoring.
        watch: Receiver of progress; None: a progress bar.

    Returns:
        The report; None in all processes but the first.

    Raises:
        ConfigError: Before any weights are read, for tasks, data or options that cannot work.
    """
    random.seed(0)  # as lm-eval's own `simple_evaluate` does before it loads tasks
    tasks = load_tasks(plan)
    _check_options_fit_checkpoint(settings)
    model = DiffusionLM.of(settings, watch)
    found = run_lm_eval(
        model,
        configure_tasks(tasks, plan),
        limit=plan.limit,
        bootstrap_iters=1000,
        system_instruction=plan.system_instruction,
        apply_chat_template=plan.apply_chat_template,
        fewshot_as_multiturn=plan.fewshot_as_multiturn,
        confirm_run_unsafe_code=plan.allow_code,
    )
    gathered = model.gather_object(_ProcessResults.of(model))
    return None if found is None or gathered is None else _build_report(plan, model, dict(found), gathered, tasks.notes)


def _check_options_fit_checkpoint(settings: HarnessSettings) -> None:
    """Raise ConfigError for options that cannot work with the checkpoint, before its weights are read."""
    try:
        outline = ModelOutline.of(settings.pretrained, settings.family)
    except CheckpointError as error:
        raise ConfigError(f"--model {error}") from None
    length = settings.max_new_tokens or settings.options.steps or 1
    settings.job(settings.options, length).plan(outline, length)


def _build_report(
    plan: EvaluationPlan,
    model: DiffusionLM,
    found: dict[str, Any],
    parts: Sequence[_ProcessResults],
    notes: Sequence[str],
) -> EvaluationReport:
    """Assemble the report: scores, figures, and everything that they depend on."""
    # A plain causal model is adapted only while likelihoods are estimated; its estimator is always the exact one.
    plain = isinstance(model.model, AutoregressiveModel)
    estimator = "Sequential()" if plain else repr(model.settings.estimator(model.model))
    provenance = asdict(Provenance.of(model.model))
    provenance["versions"] = {**provenance["versions"], "lm_eval": version("lm_eval")}
    report = EvaluationReport(
        {
            **provenance,
            "seed": model.settings.seed,
            "options": repr(model.settings.options),
            "plan": repr(plan),
            "processes": model.world_size,
            "truncated": sum(part.truncated for part in parts),
            "notes": list(notes),
            "tasks": {
                task: {
                    "metrics": _select_scores(found["results"][task]),
                    "documents": found["n-samples"][task]["effective"],
                    "num_fewshot": found["n-shot"][task],
                    "version": found["versions"].get(task),
                    **(_compute_decoding_figures(task, parts) or {"estimator": estimator}),
                }
                for task in found["n-samples"]
            },
            "groups": {name: _select_scores(values) for name, values in found.get("groups", {}).items()},
        }
    )
    report.samples = {
        task: _merge_samples(lines, _collect_answer_lines(task, parts)) for task, lines in found["samples"].items()
    }
    return report


def _select_scores(values: Mapping[str, Any]) -> dict[str, float]:
    """Select the scores from lm-eval's results of a task: "metric,filter" and "metric_stderr,filter"."""
    return {n: v for n, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool) and "," in n}


def _collect_answer_lines(task: str, parts: Sequence[_ProcessResults]) -> list[dict[str, Any]]:
    """Return the lines of a task's answers in all processes."""
    return [line for part in parts for line in part.records.get(task, [])]


def _compute_decoding_figures(task: str, parts: Sequence[_ProcessResults]) -> dict[str, Any]:
    """Return the strategy and the figures of a task's answers; nothing for a task that only scores texts.

    Answers left by an earlier run count for forwards and tokens, not for speed.
    """
    lines, key = _collect_answer_lines(task, parts), ("answers", task)
    if not lines:
        return {}
    # Processes work at the same time, so the slowest one decides the time of all.
    whole = sum(part.fresh.get(key, 0) for part in parts) == len(lines)
    totals = Totals.of(lines, max(part.seconds.get(key, 0.0) for part in parts)).row()
    if not whole:
        totals |= dict.fromkeys(("seconds", "tokens_per_second", "tokens_per_second_without_prefill"))
    reference = {line["id"]: line for part in parts for line in part.references.get(task, [])}
    if reference:
        expected = [reference[line["id"]]["output_ids"] for line in lines]
        totals["agreement"] = agreement_share([line["output_ids"] for line in lines], expected)
    return {"strategy": lines[0]["strategy"], "nfe_per_answer": totals["nfe"] / len(lines), **totals}


def _merge_samples(judged: Sequence[Mapping[str, Any]], lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge answers and scores into one line for each answer, or for each document where texts are scored."""
    answers: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        answers.setdefault(int(str(line["id"]).split("/")[1]), []).append(line)
    found: dict[int, dict[str, Any]] = {}
    for sample in judged:
        line = found.setdefault(
            sample["doc_id"], {"doc_id": sample["doc_id"], "target": sample["target"], "filtered": {}, "metrics": {}}
        )
        name = sample["filter"]
        line["filtered"][name] = sample["filtered_resps"]
        line["metrics"] |= {f"{metric},{name}": sample[metric] for metric in sample["metrics"]}
    return [answer | line for number, line in sorted(found.items()) for answer in answers.get(number, [{"id": number}])]
