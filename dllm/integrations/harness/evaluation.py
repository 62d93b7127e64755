"""An evaluation: tasks and options checked before any weights are read, answers written and judged, figures told."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, NamedTuple

from lm_eval.evaluator import evaluate as harness

from dllm.errors import CheckpointError, ConfigError
from dllm.integrations.harness.model import DiffusionLM, Records, Watch
from dllm.integrations.harness.settings import HarnessSettings
from dllm.integrations.harness.task_plan import EvaluationPlan, configure_tasks, load_tasks
from dllm.jobs import ModelOutline
from dllm.metrics import Provenance, Totals, agreement_share


class EvaluationReport(dict[str, Any]):
    """What an evaluation found, as JSON. `samples`: by task, a line for each document."""

    samples: Mapping[str, Sequence[Mapping[str, Any]]]


class _ProcessResults(NamedTuple):
    """What one process has done."""

    records: Records
    references: Records
    seconds: dict[tuple[str, str], float]
    fresh: dict[tuple[str, str], int]
    truncated: int

    @classmethod
    def of(cls, model: DiffusionLM) -> _ProcessResults:
        return cls(dict(model.records), dict(model.references), dict(model.seconds), dict(model.fresh), model.truncated)


def run_evaluation(
    plan: EvaluationPlan, settings: HarnessSettings, watch: Watch | None = None
) -> EvaluationReport | None:
    """Carry out an evaluation; None in all processes but the first.

    Raises ConfigError before any weights are read for tasks, data or options that cannot work.
    """
    random.seed(0)
    tasks = load_tasks(plan)
    _check_options_fit_checkpoint(settings)
    model = DiffusionLM.of(settings, watch)
    found = harness(
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
    shares: Sequence[_ProcessResults],
    notes: Sequence[str],
) -> EvaluationReport:
    """Everything in one place: scores, figures, and what made them."""
    estimator = repr(model.settings.estimator(model.model)) if hasattr(model.model, "geometry") else "Sequential()"
    provenance = asdict(Provenance.of(model.model))
    provenance["versions"] = {**provenance["versions"], "lm_eval": version("lm_eval")}
    made = EvaluationReport(
        {
            **provenance,
            "seed": model.settings.seed,
            "options": repr(model.settings.options),
            "plan": repr(plan),
            "processes": model.world_size,
            "truncated": sum(share.truncated for share in shares),
            "notes": list(notes),
            "tasks": {
                task: {
                    "metrics": _select_scores(found["results"][task]),
                    "documents": found["n-samples"][task]["effective"],
                    "num_fewshot": found["n-shot"][task],
                    "version": found["versions"].get(task),
                    **(_compute_decoding_figures(task, shares) or {"estimator": estimator}),
                }
                for task in found["n-samples"]
            },
            "groups": {name: _select_scores(values) for name, values in found.get("groups", {}).items()},
        }
    )
    made.samples = {
        task: _merge_samples(lines, _collect_answer_lines(task, shares)) for task, lines in found["samples"].items()
    }
    return made


def _select_scores(values: Mapping[str, Any]) -> dict[str, float]:
    """What lm-eval found of a task: "metric,filter" and "metric_stderr,filter"."""
    return {n: v for n, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool) and "," in n}


def _collect_answer_lines(task: str, shares: Sequence[_ProcessResults]) -> list[dict[str, Any]]:
    """The lines of a task's answers in all processes."""
    return [line for share in shares for line in share.records.get(task, [])]


def _compute_decoding_figures(task: str, shares: Sequence[_ProcessResults]) -> dict[str, Any]:
    """The strategy and figures of a task's answers; nothing of a task that only judges texts.

    Answers that an earlier run has left count for forwards and tokens, not for speed.
    """
    lines, key = _collect_answer_lines(task, shares), ("answers", task)
    if not lines:
        return {}
    whole = sum(share.fresh.get(key, 0) for share in shares) == len(lines)
    totals = Totals.of(lines, max(share.seconds.get(key, 0.0) for share in shares)).row()
    if not whole:
        totals |= dict.fromkeys(("seconds", "tokens_per_second", "tokens_per_second_without_prefill"))
    reference = {line["id"]: line for share in shares for line in share.references.get(task, [])}
    if reference:
        theirs = [reference[line["id"]]["output_ids"] for line in lines]
        totals["agreement"] = agreement_share([line["output_ids"] for line in lines], theirs)
    return {"strategy": lines[0]["strategy"], "nfe_per_answer": totals["nfe"] / len(lines), **totals}


def _merge_samples(judged: Sequence[Mapping[str, Any]], lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each answer, or each document where texts are judged: what was written, and all its scores."""
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
