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

from dllm.errors import ConfigError

from . import options
from .error_messages import INTERRUPTED, print_error, print_message, report_errors
from .listing import WIDE
from .options import MODEL, OUTPUT, make_loading, make_option, make_options

if TYPE_CHECKING:
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

TASKS, LIKELIHOOD = "What to evaluate", "Likelihoods, for tasks that judge texts"

TasksOption = Annotated[
    list[str] | None, make_option(TASKS, "Names, with commas between; repeatable.", "--tasks", "-t")
]
FewshotOption = Annotated[
    int | None, make_option(TASKS, "Examples before each question. Default: as the task says; a 0 there stays 0.")
]
LimitOption = Annotated[
    float | None, make_option(TASKS, "The first so many documents of each task; below 1: a share of them.")
]
DataOption = Annotated[Path | None, make_option(TASKS, "Folder of the data files, instead of the Hub.")]
IncludePathOption = Annotated[list[Path] | None, make_option(TASKS, "Folder with tasks of your own; repeatable.")]
ChatTemplateOption = Annotated[
    bool, make_option(TASKS, "Put the questions into the checkpoint's chat template.", "--apply-chat-template")
]
SystemOption = Annotated[str | None, make_option(TASKS, "A system message.")]
MultiturnOption = Annotated[
    bool,
    make_option(TASKS, "Examples as turns of the chat (default), or all in one message.", "--multiturn/--one-turn"),
]
GenerationOption = Annotated[
    list[str] | None, make_option(TASKS, "name=value in place of what tasks say of generation; repeatable.")
]
AllowCodeOption = Annotated[
    bool,
    make_option(
        TASKS,
        "Run programs that the model writes (humaneval, mbpp), each in a process with limits on time, memory and "
        "files, and without network where the system allows that. No protection against malice.",
        "--allow-code",
    ),
]
MaxNewTokensOption = Annotated[
    int | None, make_option(TASKS, "Most tokens of an answer, whatever its task says. Default: what it says, or 256.")
]
BatchSizeOption = Annotated[int, make_option(TASKS, "Rows run together; no result depends on it. Default: 8.")]
AgreementOption = Annotated[
    bool,
    make_option(
        TASKS, "Also decode one token a step, without a cache, and tell how many answers agree.", "--agreement"
    ),
]
TruncateOption = Annotated[
    bool, make_option(TASKS, "Leave out the beginning of prompts that do not fit, instead of an error.", "--truncate")
]
RevisionOption = Annotated[str | None, make_option(MODEL, "Branch, tag or commit on the Hub.")]
LikelihoodOption = Annotated[
    str | None,
    make_option(
        LIKELIHOOD,
        "sequential: exact, one token at a time from left to right (default of block-causal families); bound: by "
        "Monte Carlo, as LLaDA's evaluation (default of bidirectional ones).",
    ),
]
SamplesOption = Annotated[int, make_option(LIKELIHOOD, "Monte-Carlo samples of the bound. Default: 128.")]
CheckGreedyOption = Annotated[
    bool,
    make_option(
        LIKELIHOOD, "Whether greedy decoding would write a text: some tasks score it.", "--check-greedy/--no-greedy"
    ),
]
OutputOption = Annotated[
    Path | None,
    make_option(
        OUTPUT,
        "Folder: results.json, samples_TASK.jsonl with a line for each document, and finished answers as they "
        "come. Interrupted and run again it continues.",
    ),
]
QuietOption = Annotated[bool, make_option(OUTPUT, "No progress and no table.", "--quiet", "-q")]


def run_evaluation(
    tasks: TasksOption = None, num_fewshot: FewshotOption = None, limit: LimitOption = None, data: DataOption = None,
    include_path: IncludePathOption = None, apply_chat_template: ChatTemplateOption = False,
    system_instruction: SystemOption = None, fewshot_as_multiturn: MultiturnOption = True,
    gen_kwargs: GenerationOption = None, allow_code: AllowCodeOption = False,
    max_new_tokens: MaxNewTokensOption = None, batch_size: BatchSizeOption = 8, agreement: AgreementOption = False,
    truncate: TruncateOption = False,
    model: options.ModelOption = "embedded", revision: RevisionOption = None, dtype: options.DtypeOption = None,
    device: options.DeviceOption = None, device_map: options.DeviceMapOption = None,
    quantize: options.QuantizeOption = None, compile: options.CompileOption = False, pack: options.PackOption = None,
    adapter: options.AdapterOption = None, mask_id: options.MaskIdOption = None, family: options.FamilyOption = None,
    guidance: options.GuidanceOption = None,
    recipe: options.RecipeOption = None, strategy: options.StrategyOption = None, policy: options.PolicyOption = None,
    tau: options.TauOption = None, f: options.FactorOption = None, k: options.TokensPerStepOption = None,
    score: options.ScoreOption = None,
    scheduler: options.SchedulerOption = None, block_size: options.BlockSizeOption = None,
    sub_block_size: options.SubBlockSizeOption = None, steps: options.StepsOption = None,
    eps: options.EpsOption = None,
    cache: options.CacheOption = None, refresh: options.RefreshOption = None,
    temperature: options.TemperatureOption = None, top_p: options.TopPOption = None, top_k: options.TopKOption = None,
    processor: options.ProcessorOption = None, regex: options.RegexOption = None,
    json_schema: options.JsonSchemaOption = None, seed: options.SeedOption = 0, stop: options.StopOption = None,
    stop_id: options.StopIdOption = None, ignore_eos: options.IgnoreEosOption = False,
    likelihood: LikelihoodOption = None, samples: SamplesOption = 128, check_greedy: CheckGreedyOption = True,
    output: OutputOption = None, quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Evaluate a checkpoint and a strategy on tasks of lm-eval (extra: eval).

    The strategy is given as for [bold]dllm decode[/bold], and decodes the same texts. One JSON row for each task on
    stdout, a table on stderr: scores, forwards, tokens per forward, tokens per second.
    """
    given = dict(locals())
    with report_errors():
        _silence_lm_eval()
        try:
            plan = _make_plan(given)
        except ImportError as error:
            raise ConfigError(f"dllm eval needs lm-eval ({error}): pip install 'dllm[eval]'") from None
        _run_evaluation(plan, _make_settings(given), quiet)


def _silence_lm_eval() -> None:
    """Silence progress and warnings of lm-eval and its packages, in favour of our own; before they are imported."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def _make_plan(given: dict[str, Any]) -> EvaluationPlan:
    """Build the plan of the tasks from the command's values. Raises ImportError where lm-eval is not installed."""
    from dllm.integrations.harness.task_plan import EvaluationPlan

    limit = given["limit"]
    alike = ("num_fewshot", "apply_chat_template", "system_instruction", "fewshot_as_multiturn", "allow_code")
    return EvaluationPlan(
        tasks=tuple(name for text in given["tasks"] or () for name in text.split(",") if name),
        limit=None if limit is None else int(limit) if limit >= 1 else limit,
        data=None if given["data"] is None else str(given["data"].resolve()),
        include=tuple(str(path.resolve()) for path in given["include_path"] or ()),
        gen_kwargs=tuple(sorted(_parse_generation_arguments(given["gen_kwargs"] or []).items())),
        **{name: given[name] for name in alike},
    )


def _make_settings(given: dict[str, Any]) -> HarnessSettings:
    """Build the settings of the model from the command's values."""
    from dllm.integrations.harness.settings import HarnessSettings

    alike = ("revision", "batch_size", "max_new_tokens", "seed", "likelihood", "samples", "check_greedy", "agreement")
    return HarnessSettings(
        pretrained=given["model"],
        options=make_options(given),
        guidance=given["guidance"] or 0.0,
        truncate=given["truncate"],
        output=None if given["output"] is None else str(given["output"]),
        **make_loading(given),
        **{name: given[name] for name in alike},
    )


def _parse_generation_arguments(texts: list[str]) -> dict[str, Any]:
    """Read texts name=value, where a value that is JSON is read as such."""
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
    """Evaluate, keep the results and print them; of several processes only the first keeps and prints."""
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
    """Make a table with a line for each score, and the task's figures beside its first."""
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
        metrics = row["metrics"] | ({"agreement,sequential greedy": row["agreement"]} if "agreement" in row else {})
        for i, (name, value) in enumerate((n, v) for n, v in metrics.items() if "_stderr," not in n):
            metric, _, part = name.partition(",")
            error = row["metrics"].get(f"{metric}_stderr,{part}")
            score = f"{value:.4f}" + (f" ± {error:.4f}" if isinstance(error, float) else "")
            about = (task, str(row["documents"]), str(row["num_fewshot"])) if i == 0 else ("", "", "")
            shown.add_row(
                about[0], metric if part == "none" else f"{metric} ({part})", score, *about[1:],
                *(figures if i == 0 else ["", "", "", ""]),
            )  # fmt: skip
    for name, values in found["groups"].items():
        for metric, value in values.items():
            if "_stderr," not in metric:
                shown.add_row(name, metric.partition(",")[0], f"{value:.4f}")
    return shown
