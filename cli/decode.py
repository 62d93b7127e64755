"""`dllm decode`: options in, a job out, and the progress of the job drawn on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dllm.errors import CheckpointError, ConfigError

from . import engine_options, options
from .engine_options import choose_engine, silence_follower, uses_tensor_parallel
from .error_messages import FAILED, report_errors
from .job_output import JobOutput, check_trace_target, run_job
from .options import OUTPUT, make_loading, make_option, make_options
from .prompt_rows import collect_rows

if TYPE_CHECKING:
    from dllm.jobs import Job, PromptRow
    from dllm.models.checkpoint import CheckpointFiles

EXAMPLES = """[bold]Examples[/bold]

dllm decode "Tom has 3 apples and buys 4 more. How many has he?" --policy factor --f 1.0 --cache dual

dllm decode "…" --model GSAI-ML/LLaDA-8B-Instruct --recipe fast_dllm --tau 0.9 --dtype bfloat16

dllm decode "…" --model Dream-org/Dream-v0-Instruct-7B --policy top-k --steps 64 --max-new-tokens 128

dllm decode "…" --policy "klass(tau=0.6, kl=0.015)" --scheduler "blocks(64)" --cache "dual(refresh=4)"

dllm decode --infill "Tom has __ apples and buys ____ more."

dllm decode "How many?" --regex "[0-9]{1,3} apples" --policy factor

dllm decode --input questions.jsonl --output answers.jsonl --batch-size 16

[bold]What is not given[/bold] is as the recipe has it, by default that of the model's family:
see [bold]dllm recipes[/bold] and [bold]dllm models[/bold]; [bold]dllm parts[/bold] lists the parts and their fields.

[bold]Exit code[/bold] 0: all is well · 1: something failed, or some row did · 2: it cannot be done as asked ·
130: Ctrl-C."""

PROMPTS = "What to decode"

PromptArgument = Annotated[
    str | None, typer.Argument(help="The prompt; read from stdin where there is none.", show_default=False)
]
InputOption = Annotated[
    Path | None,
    make_option(
        PROMPTS,
        "JSONL file: a row has `prompt`, `messages`, `prompt_ids` or `infill` (with `hole`), and may have `id`, "
        "`max_new_tokens`, `stop_ids` and `seed`. Rows are decoded, and written, in their order; equal neighbours "
        "share a batch.",
    ),
]
InfillOption = Annotated[
    str | None,
    make_option(
        PROMPTS,
        "A text with holes, instead of a prompt; prints it filled. Two or more underscores are a hole of as many "
        "tokens. All else stays as it is, blanks next to a hole too. Taken as plain text, without a chat template.",
    ),
]
HoleOption = Annotated[int | None, make_option(PROMPTS, "Tokens of every hole, whatever its underscores.")]
MaxNewTokensOption = Annotated[
    int | None,
    make_option(PROMPTS, "Most tokens to write, for rows that do not say. Default: 128; behind a text with holes 0."),
]
BatchSizeOption = Annotated[
    int, make_option(PROMPTS, "Rows decoded together; the results do not depend on it. Default: 8.")
]
RawOption = Annotated[
    bool,
    make_option(PROMPTS, "Take the prompt as plain text, also where there is a chat template.", "--raw", "--no-chat"),
]
OutputOption = Annotated[
    Path | None,
    make_option(
        OUTPUT,
        "JSONL file, a row per prompt: id, prompt_ids, output_ids, text, nfe, tokens_per_forward, certified, "
        "seconds, strategy, seed, device, versions and more. Interrupted and run again it continues; FILE.job "
        "beside it says what made it.",
    ),
]
TraceOption = Annotated[
    Path | None,
    make_option(OUTPUT, "Write every step to this file, to be replayed, shown as a page or checked: see dllm replay."),
]
TraceTopOption = Annotated[
    int, make_option(OUTPUT, "With --trace: keep so many of the likeliest candidates of each pending column.")
]
QuietOption = Annotated[
    bool, make_option(OUTPUT, "The text and nothing else: no live view, no figures.", "--quiet", "-q")
]
NoLiveOption = Annotated[bool, make_option(OUTPUT, "Figures, but no live view.", "--no-live")]


def decode(
    prompt: PromptArgument = None, input: InputOption = None, infill: InfillOption = None, hole: HoleOption = None,
    max_new_tokens: MaxNewTokensOption = None, batch_size: BatchSizeOption = 8, raw: RawOption = False,
    model: options.ModelOption = "embedded", dtype: options.DtypeOption = None, device: options.DeviceOption = None,
    device_map: options.DeviceMapOption = None, quantize: options.QuantizeOption = None,
    compile: options.CompileOption = False, pack: options.PackOption = None, adapter: options.AdapterOption = None,
    mask_id: options.MaskIdOption = None, family: options.FamilyOption = None, guidance: options.GuidanceOption = None,
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
    output: OutputOption = None, trace: TraceOption = None, trace_top: TraceTopOption = 0, quiet: QuietOption = False,
    no_live: NoLiveOption = False,
    engine: engine_options.EngineOption = "local", workers: engine_options.WorkersOption = None,
    cpus_per_worker: engine_options.CpusPerWorkerOption = None,
    gpus_per_worker: engine_options.GpusPerWorkerOption = None,
    tensor_parallel: engine_options.TensorParallelOption = None,
) -> None:  # fmt: skip
    """Decode a prompt, or a file of them, and watch it happen.

    A strategy is a policy (which positions to commit), a scheduler (where to work) and a cache (what to recompute).
    A recipe sets all of them, each option replaces its part, and an option that no part has is refused.

    Only the answer goes to stdout: the text, or without --output one JSON row for each row of --input.
    """
    given = dict(locals())  # every option by its name, for the functions that many commands share
    with report_errors():
        from dllm.jobs import Job, check_length, check_seed

        settings = make_options(given)
        found = collect_rows(prompt, infill, input, max_new_tokens, hole)
        length = 128 if max_new_tokens is None else check_length(max_new_tokens, least=int(infill is None))
        job = Job(settings, length, check_seed(seed), not raw, batch_size, guidance or 0.0)
        target = check_trace_target(trace, trace_top)
        open_engine = choose_engine(engine, workers, cpus_per_worker, gpus_per_worker, tensor_parallel)
        if uses_tensor_parallel(tensor_parallel) and silence_follower():
            output, target, quiet = None, None, True
        if target is not None and engine != "local":
            raise ConfigError(f"--trace {trace}: steps are seen in this process only; leave --engine {engine} out")
        shown = JobOutput(found.source, input is not None, quiet, not no_live)
        shown.report(found.problems)
        if found.rows:
            checkpoint = _check_job(model, family, job, found.rows, target is not None)
            loading = make_loading(given) | {"stop_ids": stop_id or None}
            made = _describe_settings(given, length)
            run_job(shown, open_engine(checkpoint, loading), job, found.rows, output, made, target)
        if shown.failed:
            raise typer.Exit(FAILED)


def _describe_settings(given: Mapping[str, Any], length: int) -> dict[str, Any]:
    """Describe what decides the results of a job besides its strategy, for the file beside them."""
    names = ("dtype", "mask_id", "family", "quantize", "seed")
    return {name: given[name] for name in names} | {
        "model": _resolve_checkpoint(given["model"]),
        "adapter": _resolve_checkpoint(given["adapter"]),
        "max_new_tokens": length,
        "guidance": given["guidance"] or 0.0,
    }


def _resolve_checkpoint(name: str | None) -> str | None:
    """Name a checkpoint so that the name does not depend on the working folder."""
    return str(Path(name).resolve()) if name is not None and Path(name).is_dir() else name


def _check_job(model: str, family: str | None, job: Job, rows: list[PromptRow], traced: bool) -> CheckpointFiles:
    """Refuse what cannot work before any weights are read, and return the checkpoint's small files."""
    from dllm.jobs import ModelOutline
    from dllm.models.checkpoint import read_checkpoint
    from dllm.models.families import AUTOREGRESSIVE

    try:
        files = read_checkpoint(model, family=family)
    except CheckpointError as error:
        raise ConfigError(f"--model {error}") from None
    if traced and files.family.name == AUTOREGRESSIVE.name:
        raise ConfigError("--trace does not belong to a plain causal language model, which has no denoising steps")
    job.check(ModelOutline.of_files(files), rows)
    return files
