"""`dllm decode`: options in, a job out, and what the job tells drawn on the terminal."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from dllm.cli.engine_options import (
    CpusPerWorker,
    EngineName,
    GpusPerWorker,
    TensorParallel,
    Workers,
    choose_engine,
    silence_follower,
    uses_tensor_parallel,
)
from dllm.cli.error_messages import FAILED, report_errors
from dllm.cli.job_output import JobOutput, TraceTarget, run_job
from dllm.compose.names import CACHES, POLICIES, PROCESSORS, SCHEDULERS, SCORES
from dllm.errors import CheckpointError, ConfigError, RequestError

if TYPE_CHECKING:
    from dllm.jobs import Job, PromptRow, RowProblem
    from dllm.registry import Registry

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

WHAT, MODEL, HOW, WHERE, REUSE, DRAW, STOP, OUT = (
    "What to decode",
    "Model",
    "Strategy: which positions to commit",
    "Strategy: where to work and how fast",
    "Strategy: what to recompute",
    "Sampling",
    "Stopping",
    "Output",
)


def make_option(panel: str, text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


def _describe_part_option(table: Registry[type], meaning: str, more: str = "") -> str:
    """Help for an option that takes a part: what it means, the names there are, and more."""
    return f"{meaning}: {escape(', '.join(table) or 'none installed')}. {more}".rstrip()


def decode(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; read from stdin where there is none.", show_default=False)
    ] = None,
    input: Annotated[
        Path | None,
        make_option(
            WHAT,
            "JSONL file: a row has `prompt`, `messages`, `prompt_ids` or `infill` (with `hole`), and may have `id`, "
            "`max_new_tokens`, `stop_ids` and `seed`. Rows are decoded, and written, in their order; equal neighbours "
            "share a batch.",
        ),
    ] = None,
    infill: Annotated[
        str | None,
        make_option(
            WHAT,
            "A text with holes, instead of a prompt; prints it filled. Two or more underscores are a hole of as many "
            "tokens. All else stays as it is, blanks next to a hole too. Taken as plain text, without a chat template.",
        ),
    ] = None,
    hole: Annotated[int | None, make_option(WHAT, "Tokens of every hole, whatever its underscores.")] = None,
    max_new_tokens: Annotated[
        int | None,
        make_option(WHAT, "Most tokens to write, for rows that do not say. Default: 128; behind a text with holes 0."),
    ] = None,
    batch_size: Annotated[
        int, make_option(WHAT, "Rows decoded together; the results do not depend on it. Default: 8.")
    ] = 8,
    raw: Annotated[
        bool,
        make_option(WHAT, "Take the prompt as plain text, also where there is a chat template.", "--raw", "--no-chat"),
    ] = False,
    model: Annotated[
        str, make_option(MODEL, "A folder, a Hub id, or `embedded`, the small model in the package (default).")
    ] = ("embedded"),
    dtype: Annotated[
        str | None,
        make_option(MODEL, "float32, bfloat16, float16 or auto. Default: auto on an accelerator, else float32."),
    ] = None,
    device: Annotated[str | None, make_option(MODEL, "cpu, cuda, cuda:1, … Default: cuda where there is one.")] = None,
    device_map: Annotated[str | None, make_option(MODEL, "Spread the weights, e.g. auto; instead of --device.")] = None,
    quantize: Annotated[
        str | None, make_option(MODEL, "Quantise the weights as they are loaded (torchao): int8, int8-dynamic or int4.")
    ] = None,
    compile: Annotated[
        bool, make_option(MODEL, "Compile the forwards (on CUDA as graphs): slow at first, for long jobs.", "--compile")
    ] = False,
    pack: Annotated[
        bool | None,
        make_option(
            MODEL,
            "Lay large weights out for this CPU: faster, results differ by rounding. Default: on a CPU, in float32 or, "
            "where the CPU multiplies it itself, bfloat16.",
            "--pack/--no-pack",
        ),
    ] = None,
    adapter: Annotated[str | None, make_option(MODEL, "A PEFT adapter: folder or Hub id.")] = None,
    mask_id: Annotated[int | None, make_option(MODEL, "The mask token, instead of the checkpoint's.")] = None,
    family: Annotated[
        str | None,
        make_option(MODEL, "The family, where config.json does not tell: a2d_bd3lm, open_dcoder (dllm models)."),
    ] = None,
    guidance: Annotated[
        float | None,
        make_option(
            MODEL, "Classifier-free guidance of this scale, for twice the columns: away from what it says unprompted."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        make_option(
            HOW,
            "A published decoder, setting every part: fast_dllm, llada, dream, … (dllm recipes); with arguments of its "
            "own if need be, 'pc_sampler(decay=0.5)'.",
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        make_option(
            HOW, "All parts written out, as a result file says them: 'Strategy(policy=…, …)'; instead of a recipe."
        ),
    ] = None,
    policy: Annotated[
        str | None,
        make_option(
            HOW,
            _describe_part_option(
                POLICIES,
                "Which positions a step commits",
                "With fields of its own, 'klass(kl=0.02)', or with the options "
                "below; one that the policy does not have is refused by name.",
            ),
        ),
    ] = None,
    tau: Annotated[
        float | None, make_option(HOW, "Least score that is committed: 0 commits all at once, above 1 one at a time.")
    ] = None,
    f: Annotated[
        float | None, make_option(HOW, "Factor: up to 1 parallel commits are provably greedy (Theorem 1).")
    ] = None,
    k: Annotated[int | None, make_option(HOW, "Tokens a step.")] = None,
    score: Annotated[str | None, make_option(HOW, _describe_part_option(SCORES, "What the policy prefers"))] = None,
    strict: Annotated[
        bool | None, make_option(HOW, "Whether a score equal to tau is not enough.", "--strict/--no-strict")
    ] = None,
    scheduler: Annotated[str | None, make_option(WHERE, _describe_part_option(SCHEDULERS, "Where to work"))] = None,
    block_size: Annotated[
        int | None, make_option(WHERE, "Columns of a block; of a block-causal model's attention too.")
    ] = None,
    sub_block_size: Annotated[
        int | None, make_option(WHERE, "Work through a block in windows of so many columns.")
    ] = None,
    steps: Annotated[
        int | None, make_option(WHERE, "Steps in total over a generation, for policies with a pace (top-k, …).")
    ] = None,
    gamma: Annotated[
        float | None, make_option(HOW, "Entropy that a step may spend, of policies with such a bound.")
    ] = None,
    h: Annotated[float | None, make_option(HOW, "Largest entropy that is committed, of entropy-threshold.")] = None,
    delta: Annotated[
        float | None, make_option(HOW, "Error that may be risked, of policies with such a budget.")
    ] = None,
    eps: Annotated[
        float | None, make_option(WHERE, "Where Dream's time schedule ends, just above 0. Default: 0.001.")
    ] = None,
    cache: Annotated[
        str | None, make_option(REUSE, _describe_part_option(CACHES, "What to keep from one step to the next"))
    ] = None,
    refresh: Annotated[
        int | None, make_option(REUSE, "Refresh the cache every so many forwards. Default: when a block is entered.")
    ] = None,
    temperature: Annotated[
        float | None, make_option(DRAW, "0 takes the likeliest token (default of every recipe).")
    ] = None,
    top_p: Annotated[
        float | None, make_option(DRAW, "Sample from the likeliest tokens that reach this probability.")
    ] = None,
    top_k: Annotated[int | None, make_option(DRAW, "Sample from so many likeliest tokens; 0: all.")] = None,
    processor: Annotated[
        list[str] | None,
        make_option(DRAW, _describe_part_option(PROCESSORS, "Changes the logits before a token is drawn; repeatable")),
    ] = None,
    regex: Annotated[
        str | None,
        make_option(
            DRAW,
            "The answer matches this regular expression, from its first character to its last (Rust's syntax; no ^ and "
            "$). It fits into --max-new-tokens, or the row is refused.",
        ),
    ] = None,
    json_schema: Annotated[
        Path | None, make_option(DRAW, "The answer is JSON of the schema in this file; as --regex otherwise.")
    ] = None,
    seed: Annotated[int, make_option(DRAW, "Row i draws from seed + i, unless it has its own. Default: 0.")] = 0,
    stop: Annotated[list[str] | None, make_option(STOP, "A text that ends the answer; repeatable.")] = None,
    stop_id: Annotated[
        list[int] | None, make_option(STOP, "End token, instead of the checkpoint's; repeatable.")
    ] = None,
    ignore_eos: Annotated[
        bool,
        make_option(
            STOP, "No token ends an answer (recipes llada and dream: as published, none does).", "--ignore-eos"
        ),
    ] = False,
    output: Annotated[
        Path | None,
        make_option(
            OUT,
            "JSONL file, a row per prompt: id, prompt_ids, output_ids, text, nfe, tokens_per_forward, certified, "
            "seconds, strategy, seed, device, versions and more. Interrupted and run again it continues; FILE.job "
            "beside it says what made it.",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        make_option(OUT, "Write every step to this file, to be replayed, shown as a page or checked: see dllm replay."),
    ] = None,
    trace_top: Annotated[
        int, make_option(OUT, "With --trace: keep so many of the likeliest candidates of each pending column.")
    ] = 0,
    quiet: Annotated[
        bool, make_option(OUT, "The text and nothing else: no live view, no figures.", "--quiet", "-q")
    ] = False,
    no_live: Annotated[bool, make_option(OUT, "Figures, but no live view.", "--no-live")] = False,
    engine: EngineName = "local",
    workers: Workers = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
    tensor_parallel: TensorParallel = None,
) -> None:
    """Decode a prompt, or a file of them, and watch it happen.

    A strategy is a policy (which positions to commit), a scheduler (where to work) and a cache (what to recompute).
    A recipe sets all of them, each option replaces its part, and an option that no part has is refused.

    Only the answer goes to stdout: the text, or without --output one JSON row for each row of --input.
    """
    with report_errors():
        if ignore_eos and stop_id:
            raise ConfigError(
                "--ignore-eos and --stop-id: give one of them; the first means that no token ends an answer"
            )
        if recipe is not None and strategy is not None:
            raise ConfigError("--recipe and --strategy: give one of them; each sets every part")
        source, rows, problems = _collect_rows(prompt, infill, input, max_new_tokens, hole)
        from dllm.compose.options import Options
        from dllm.jobs import Job, check_length, check_seed

        options = Options(
            recipe=strategy if recipe is None else recipe, policy=policy, score=score, scheduler=scheduler, cache=cache,
            tau=tau, f=f, k=k, strict=strict, gamma=gamma, h=h, delta=delta, eps=eps, block_size=block_size,
            sub_block_size=sub_block_size, steps=steps, refresh=refresh, temperature=temperature, top_k=top_k,
            top_p=top_p, processor=(*(processor or ()), *make_constraint_processors(regex, json_schema)), stop=tuple(stop or ()),
            stop_ids=() if ignore_eos else tuple(stop_id) if stop_id else None,
        )  # fmt: skip
        length = 128 if max_new_tokens is None else check_length(max_new_tokens, least=int(infill is None))
        job = Job(options, length, check_seed(seed), not raw, batch_size, guidance or 0.0)
        loading = {
            "dtype": dtype, "device": device, "device_map": device_map, "adapter": adapter, "mask_id": mask_id,
            "stop_ids": stop_id or None, "family": family, "quantize": quantize, "compile": compile,
            "pack": pack,
        }  # fmt: skip
        made = {
            "model": _resolve_checkpoint(model), "adapter": _resolve_checkpoint(adapter), "dtype": dtype, "mask_id": mask_id, "family": family,
            "quantize": quantize, "max_new_tokens": length, "seed": seed, "guidance": guidance or 0.0,
        }  # fmt: skip
        tracing = _check_trace_target(trace, trace_top)
        place_of_work = choose_engine(engine, workers, cpus_per_worker, gpus_per_worker, tensor_parallel)
        if uses_tensor_parallel(tensor_parallel) and silence_follower():
            output, tracing, quiet = None, None, True
        if tracing is not None and engine != "local":
            raise ConfigError(f"--trace {trace}: steps are seen in this process only; leave --engine {engine} out")
        desk = JobOutput(source, input is not None, quiet, not no_live)
        desk.report(problems)
        if rows:
            _check_job(model, family, job, rows, tracing is not None)
            run_job(desk, place_of_work(model, loading), job, rows, output, made, tracing)
        if desk.failed:
            raise typer.Exit(FAILED)


def make_constraint_processors(regex: str | None, schema: Path | None) -> list[str]:
    """The processors that hold an answer to a regular expression or a schema."""
    if regex is not None and schema is not None:
        raise ConfigError("--regex and --json-schema: give one of them")
    if regex is None and schema is None:
        return []
    from dllm.processors import JsonSchema, Regex

    if regex is not None:
        return [repr(Regex(regex))]
    assert schema is not None
    try:
        return [repr(JsonSchema(schema.read_text("utf-8")))]
    except OSError as error:
        raise ConfigError(f"--json-schema {schema}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"--json-schema {schema}: not UTF-8 ({error.reason} at byte {error.start})") from None


def _collect_rows(
    prompt: str | None, infill: str | None, path: Path | None, max_new_tokens: int | None, hole: int | None
) -> tuple[str, list[PromptRow], list[RowProblem]]:
    """Where the prompts come from, as rows; `hole` is for those with holes that do not say."""
    from dllm.jobs import check_hole
    from dllm.prompts import Infill

    hole = None if hole is None else check_hole(hole)
    source, rows, problems = _read_given_rows(prompt, infill, path, max_new_tokens)
    if hole is not None and not any(isinstance(row.prompt, Infill) for row in rows):
        raise ConfigError("--hole says how long holes are, and there is no text with holes: use --infill")
    filled = [
        row._replace(prompt=replace(row.prompt, hole=row.prompt.hole or hole))
        if isinstance(row.prompt, Infill)
        else row
        for row in rows
    ]
    return source, filled, problems


def _read_given_rows(
    prompt: str | None, infill: str | None, path: Path | None, max_new_tokens: int | None
) -> tuple[str, list[PromptRow], list[RowProblem]]:
    """Where the prompts come from, as rows."""
    from dllm.jobs import PromptRow, check_text, read_rows
    from dllm.prompts import Infill

    if infill is not None:
        if prompt is not None or path is not None:
            raise ConfigError("--infill, PROMPT and --input: give one of them")
        return "prompt", [PromptRow(1, 0, 0, Infill(infill), max_new_tokens)], []
    if path is not None:
        if prompt is not None:
            raise ConfigError(f"PROMPT {prompt[:40]!r} and --input {path}: give one of them")
        try:
            rows, problems = read_rows(path)
        except OSError as error:
            raise ConfigError(f"--input {path}: {error.strerror}") from None
        if not rows and not problems:
            raise ConfigError(f'--input {path}: holds no rows; a row is a line such as {{"prompt": "…"}}')
        return str(path), rows, problems
    if prompt is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise RequestError("no prompt: give PROMPT, --input FILE.jsonl, or a text on stdin")
        try:
            prompt = sys.stdin.read().rstrip("\n")
        except UnicodeDecodeError as error:
            raise RequestError(f"the prompt on stdin is not UTF-8 ({error.reason} at byte {error.start})") from None
    return "prompt", [PromptRow(1, 0, 0, check_text(prompt))], []


def _resolve_checkpoint(name: str | None) -> str | None:
    """A checkpoint by a name that does not depend on the working folder."""
    return str(Path(name).resolve()) if name is not None and Path(name).is_dir() else name


def _check_trace_target(path: Path | None, top: int) -> TraceTarget | None:
    """Where a trace goes, if one is wanted. Raises ConfigError where that is taken."""
    if path is None:
        if top:
            raise ConfigError(f"--trace-top {top}: candidates are kept in a trace; give --trace FILE too")
        return None
    if top < 0:
        raise ConfigError(f"--trace-top {top}: must be 0 (none) or more candidates")
    if path.exists():
        raise ConfigError(f"--trace {path} exists already: choose another name, or move the file away")
    if not path.parent.is_dir():
        raise ConfigError(f"--trace {path}: there is no folder {path.parent}")
    return TraceTarget(path, top)


def _check_job(model: str, family: str | None, job: Job, rows: list[PromptRow], traced: bool = False) -> None:
    """Refuse what cannot work before any weights are read."""
    from dllm.jobs import ModelOutline
    from dllm.models.families import AUTOREGRESSIVE

    try:
        outline = ModelOutline.of(model, family)
    except CheckpointError as error:
        raise ConfigError(f"--model {error}") from None
    if traced and outline.family == AUTOREGRESSIVE.name:
        raise ConfigError("--trace does not belong to a plain causal language model, which has no denoising steps")
    job.check(outline, rows)
