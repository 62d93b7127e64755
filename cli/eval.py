"""`dllm eval`: tasks of lm-eval answered by any strategy, scored, and timed by the one definition of every figure."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dllm.cli.decode import MODEL, OUT, decode, make_constraint_processors, make_option
from dllm.cli.error_messages import INTERRUPTED, print_error, print_message, report_errors
from dllm.cli.listing import WIDE
from dllm.cli.shared_options import with_options_of
from dllm.errors import ConfigError

if TYPE_CHECKING:
    from dllm.compose.options import Options
    from dllm.integrations.harness.evaluation import EvaluationReport
    from dllm.integrations.harness.settings import HarnessSettings
    from dllm.integrations.harness.task_plan import EvaluationPlan

EVAL_EXAMPLES = """[bold]Examples[/bold]

dllm eval --tasks word_problems --apply-chat-template --policy factor --f 1.0 --limit 50

dllm eval --tasks gsm8k,humaneval --data DATA --allow-code --model Efficient-Large-Model/Fast_dLLM_v2_7B --output scores

dllm eval --tasks mmlu,gpqa_main_zeroshot --model GSAI-ML/LLaDA-8B-Base --samples 128 --batch-size 32

accelerate launch --no_python dllm eval --tasks gsm8k --model … --output scores

[bold]Tasks[/bold] are lm-eval's, by its names (lm-eval ls tasks): gsm8k, minerva_math, humaneval, humaneval_plus, mbpp,
mbpp_plus, ifeval, mmlu, gpqa_main_zeroshot … Their data come from the Hub, or with --data from its gsm8k_train.jsonl,
gsm8k_test.jsonl, HumanEval.jsonl.gz, mbpp.jsonl and ifeval_input_data.jsonl. word_problems is in the package."""

SHARED = (
    "model", "dtype", "device", "device_map", "quantize", "compile", "pack", "adapter", "mask_id", "family", "guidance",
    "recipe", "strategy", "policy", "tau", "f", "k", "score", "strict", "gamma", "h", "delta", "eps",
    "scheduler", "block_size", "sub_block_size", "steps", "cache", "refresh",
    "temperature", "top_p", "top_k", "processor", "regex", "json_schema", "seed", "stop", "stop_id", "ignore_eos",
)  # fmt: skip
"""Options of `dllm decode` that mean the same here."""
ALIKE = ("dtype", "device", "device_map", "quantize", "compile", "pack", "adapter", "mask_id", "family", "seed")
ASK, JUDGE = "What to evaluate", "Likelihoods, for tasks that judge texts"


@with_options_of(decode, SHARED)
def run_evaluation(
    tasks: Annotated[
        list[str] | None, make_option(ASK, "Names, with commas between; repeatable.", "--tasks", "-t")
    ] = None,
    num_fewshot: Annotated[
        int | None, make_option(ASK, "Examples before each question. Default: as the task says; a 0 there stays 0.")
    ] = None,
    limit: Annotated[
        float | None, make_option(ASK, "The first so many documents of each task; below 1: a share of them.")
    ] = None,
    data: Annotated[Path | None, make_option(ASK, "Folder of the data files, instead of the Hub.")] = None,
    include_path: Annotated[list[Path] | None, make_option(ASK, "Folder with tasks of your own; repeatable.")] = None,
    apply_chat_template: Annotated[
        bool, make_option(ASK, "Put the questions into the checkpoint's chat template.", "--apply-chat-template")
    ] = False,
    system_instruction: Annotated[str | None, make_option(ASK, "A system message.")] = None,
    fewshot_as_multiturn: Annotated[
        bool,
        make_option(ASK, "Examples as turns of the chat (default), or all in one message.", "--multiturn/--one-turn"),
    ] = True,
    gen_kwargs: Annotated[
        list[str] | None, make_option(ASK, "name=value in place of what tasks say of generation; repeatable.")
    ] = None,
    allow_code: Annotated[
        bool,
        make_option(
            ASK,
            "Run programs that the model writes (humaneval, mbpp), each in a process with limits on time, memory and "
            "files, and without network where the system allows that. No protection against malice.",
            "--allow-code",
        ),
    ] = False,
    max_new_tokens: Annotated[
        int | None, make_option(ASK, "Most tokens of an answer, whatever its task says. Default: what it says, or 256.")
    ] = None,
    batch_size: Annotated[int, make_option(ASK, "Rows run together; no result depends on it. Default: 8.")] = 8,
    agreement: Annotated[
        bool,
        make_option(
            ASK, "Also decode one token a step, without a cache, and tell how many answers agree.", "--agreement"
        ),
    ] = False,
    truncate: Annotated[
        bool, make_option(ASK, "Leave out the beginning of prompts that do not fit, instead of an error.", "--truncate")
    ] = False,
    revision: Annotated[str | None, make_option(MODEL, "Branch, tag or commit on the Hub.")] = None,
    likelihood: Annotated[
        str | None,
        make_option(
            JUDGE,
            "sequential: exact, one token at a time from left to right (default of block-causal families); bound: by "
            "Monte Carlo, as LLaDA's evaluation (default of bidirectional ones).",
        ),
    ] = None,
    samples: Annotated[int, make_option(JUDGE, "Monte-Carlo samples of the bound. Default: 128.")] = 128,
    check_greedy: Annotated[
        bool,
        make_option(
            JUDGE, "Whether greedy decoding would write a text: some tasks score it.", "--check-greedy/--no-greedy"
        ),
    ] = True,
    output: Annotated[
        Path | None,
        make_option(
            OUT,
            "Folder: results.json, samples_TASK.jsonl with a line for each document, and finished answers as they "
            "come. Interrupted and run again it continues.",
        ),
    ] = None,
    quiet: Annotated[bool, make_option(OUT, "No progress and no table.", "--quiet", "-q")] = False,
    **given: Any,
) -> None:
    """Evaluate a checkpoint and a strategy on tasks of lm-eval (extra: eval).

    The strategy is given as for [bold]dllm decode[/bold], and decodes the same texts. One JSON row for each task on
    stdout, a table on stderr: scores, forwards, tokens per forward, tokens per second.
    """
    with report_errors():
        _silence_lm_eval()
        try:
            from dllm.integrations.harness.task_plan import EvaluationPlan
        except ImportError as error:
            raise ConfigError(f"dllm eval needs lm-eval ({error}): pip install 'dllm[eval]'") from None
        from dllm.integrations.harness.settings import HarnessSettings

        plan = EvaluationPlan(
            tasks=tuple(name for text in tasks or () for name in text.split(",") if name),
            num_fewshot=num_fewshot,
            limit=None if limit is None else int(limit) if limit >= 1 else limit,
            data=None if data is None else str(data.resolve()),
            include=tuple(str(path.resolve()) for path in include_path or ()),
            apply_chat_template=apply_chat_template,
            system_instruction=system_instruction,
            fewshot_as_multiturn=fewshot_as_multiturn,
            allow_code=allow_code,
            gen_kwargs=tuple(sorted(_parse_generation_arguments(gen_kwargs or []).items())),
        )
        settings = HarnessSettings(
            pretrained=given["model"],
            options=_make_options(given),
            **{name: given[name] for name in ALIKE},
            revision=revision,
            guidance=given["guidance"] or 0.0,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            likelihood=likelihood,
            samples=samples,
            check_greedy=check_greedy,
            agreement=agreement,
            truncate=truncate,
            output=None if output is None else str(output),
        )
        _run_evaluation(plan, settings, quiet)


def _silence_lm_eval() -> None:
    """Our own progress and errors in place of those of lm-eval and its packages; before they are imported."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def _make_options(given: dict[str, Any]) -> Options:
    """The strategy's options, as `dllm decode` reads them."""
    from dataclasses import fields

    from dllm.compose.options import Options

    if given["ignore_eos"] and given["stop_id"]:
        raise ConfigError("--ignore-eos and --stop-id: give one of them; the first means that no token ends an answer")
    if given["recipe"] is not None and given["strategy"] is not None:
        raise ConfigError("--recipe and --strategy: give one of them; each sets every part")
    named = {field.name: given[field.name] for field in fields(Options) if field.name in given}
    named["recipe"] = given["strategy"] if given["recipe"] is None else given["recipe"]
    named["processor"] = (
        *(given["processor"] or ()),
        *make_constraint_processors(given["regex"], given["json_schema"]),
    )
    named["stop"] = tuple(given["stop"] or ())
    named["stop_ids"] = () if given["ignore_eos"] else tuple(given["stop_id"]) if given["stop_id"] else None
    return Options(**named)


def _parse_generation_arguments(texts: list[str]) -> dict[str, Any]:
    """name=value, where a value that is JSON is read as such."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"--gen-kwargs {text}: give name=value, such as max_gen_toks=512")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _run_evaluation(plan: EvaluationPlan, settings: HarnessSettings, quiet: bool) -> None:
    """Evaluate, keep what is found, and say it; of several processes only the first does."""
    from dllm.integrations.harness.evaluation import run_evaluation
    from dllm.integrations.harness.results_folder import EvaluationFolder

    first = os.environ.get("RANK", "0") == "0"
    folder = EvaluationFolder(Path(settings.output), plan, settings) if settings.output is not None and first else None
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not first or not console.is_terminal) as bars:
        known: dict[str, Any] = {}

        def watch(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=total)
            bars.update(known[what], completed=done, total=total)

        try:
            found = run_evaluation(plan, settings, watch)
        except KeyboardInterrupt:
            if folder is None:
                raise
            print_error(
                f"interrupted; what is finished is kept in {folder.path}: run the same command again to continue"
            )
            raise typer.Exit(INTERRUPTED) from None
    if found is None:
        return
    if folder is not None:
        folder.write(found)
    for task, row in found["tasks"].items():
        sys.stdout.write(json.dumps({"task": task, **row}) + "\n")
    if not quiet:
        for note in found["notes"]:
            print_message(note, "yellow")
        console = console if console.is_terminal else Console(stderr=True, width=WIDE)
        console.print(_make_score_table(found))


def _make_score_table(found: EvaluationReport) -> Table:
    """A line for each score, with the task's figures beside the first."""
    shown = Table("task", "metric", "value", "n", "shots", "TPF", "NFE", "tokens/s", "certified", header_style="bold")
    for task, row in found["tasks"].items():
        figures = ["", "", "", ""]
        if "nfe" in row:
            figures = [
                f"{row['tokens_per_forward']:.2f}",
                f"{row['nfe_per_answer']:.1f}",
                "–" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:.1f}",
                "–" if row["certified_share"] is None else f"{row['certified_share']:.2f}",
            ]
        told = row["metrics"] | ({"agreement,sequential greedy": row["agreement"]} if "agreement" in row else {})
        for i, (name, value) in enumerate((n, v) for n, v in told.items() if "_stderr," not in n):
            metric, _, part = name.partition(",")
            error = row["metrics"].get(f"{metric}_stderr,{part}")
            said = f"{value:.4f}" + (f" ± {error:.4f}" if isinstance(error, float) else "")
            about = (task, str(row["documents"]), str(row["num_fewshot"])) if i == 0 else ("", "", "")
            shown.add_row(
                about[0], metric if part == "none" else f"{metric} ({part})", said, *about[1:],
                *(figures if i == 0 else ["", "", "", ""]),
            )  # fmt: skip
    for name, values in found["groups"].items():
        for metric, value in values.items():
            if "_stderr," not in metric:
                shown.add_row(name, metric.partition(",")[0], f"{value:.4f}")
    return shown
