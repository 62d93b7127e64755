"""`dllm tune`: the fastest strategy that keeps accuracy, chosen on questions with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dllm.errors import ConfigError

from .engine_options import CpusPerWorkerOption, EngineOption, GpusPerWorkerOption, WorkersOption, choose_engine
from .error_messages import FAILED, print_message, report_errors
from .options import DeviceOption, DtypeOption, ModelOption

if TYPE_CHECKING:
    from dllm.sweeps import StrategyChoice, Sweep

TUNE_EXAMPLES = """[bold]Examples[/bold]

dllm tune --tolerance 0.02

dllm tune questions.jsonl --model GSAI-ML/LLaDA-8B-Instruct --target-accuracy 0.75 --max-new-tokens 256 --limit 200

dllm tune questions.jsonl --strategies candidates.yaml --tolerance 0.01 --confidence 0.9 --output tuned

Choose on other questions than those you report: of many strategies, the luckiest looks better than it is."""


PromptsArgument = Annotated[
    str, typer.Argument(help="JSONL file of prompts with an `answer`, or a set of the package by name.")
]
ToleranceOption = Annotated[
    float | None, typer.Option(help="Most that accuracy may fall below one token a step, e.g. 0.02.")
]
TargetAccuracyOption = Annotated[float | None, typer.Option(help="Least accuracy, instead of --tolerance.")]
StrategiesOption = Annotated[
    Path | None,
    typer.Option(help="YAML file with a list of `strategies`, as of dllm sweep, instead of the usual candidates."),
]
SpeedOption = Annotated[str, typer.Option(help="What is to be fast: tokens_per_second, or tokens_per_forward.")]
ConfidenceOption = Annotated[
    float, typer.Option(help="Least chance that the true accuracy is enough, e.g. 0.9; 0: the counts decide.")
]
LimitOption = Annotated[int | None, typer.Option(help="Only the first so many prompts.")]
MaxNewTokensOption = Annotated[int, typer.Option(help="Most tokens of an answer.")]
BatchSizeOption = Annotated[int, typer.Option(help="Rows decoded together.")]
RawOption = Annotated[bool, typer.Option("--raw", "--no-chat", help="Take prompts as plain text.")]
OutputOption = Annotated[
    Path | None, typer.Option(help="Folder to keep the cells in; run again it continues. Default: tune.results.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only the command, on stdout.")]


def tune(
    prompts: PromptsArgument = "word-problems-calibration", model: ModelOption = "embedded",
    tolerance: ToleranceOption = None, target_accuracy: TargetAccuracyOption = None,
    strategies: StrategiesOption = None, speed: SpeedOption = "tokens_per_second", confidence: ConfidenceOption = 0.0,
    limit: LimitOption = None, max_new_tokens: MaxNewTokensOption = 128, batch_size: BatchSizeOption = 8,
    raw: RawOption = False, dtype: DtypeOption = None, device: DeviceOption = None, output: OutputOption = None,
    quiet: QuietOption = False, engine: EngineOption = "local", workers: WorkersOption = None,
    cpus_per_worker: CpusPerWorkerOption = None, gpus_per_worker: GpusPerWorkerOption = None,
) -> None:  # fmt: skip
    """Pick the fastest strategy that keeps accuracy, and print it as a command.

    Accuracy is held against that of one token a step on the same questions (--tolerance), or against a number
    (--target-accuracy). The command goes to stdout; how sure it is, the other strategies and the winner spelled out go
    to stderr.
    """
    with report_errors():
        from dllm.sweeps import choose_strategy, pareto_front, read_table
        from dllm.sweeps.tuning import format_decode_command

        from .sweep_display import print_cell_table, run_sweep_with_progress

        _check_arguments(tolerance, target_accuracy, confidence, speed)
        settings = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "raw": raw, "limit": limit}
        found = _make_candidate_sweep(prompts, model, strategies, settings | {"dtype": dtype, "device": device})
        folder = Path("tune.results") if output is None else output
        failed = run_sweep_with_progress(
            found, folder, choose_engine(engine, workers, cpus_per_worker, gpus_per_worker), quiet
        )
        keys = {cell.key for cell in found.cells}
        rows = [row for row in read_table(folder) if row["cell"] in keys]
        if rows and not quiet:
            print_cell_table(
                rows, pareto_front([r for r in rows if r["scored"]], lambda r: r[speed], lambda r: r["accuracy"])
            )
        choice = choose_strategy(
            folder, rows, tolerance=tolerance, target=target_accuracy, speed=speed, confidence=confidence
        )  # fmt: skip
        if not quiet:
            _report_choice(choice, tolerance, target_accuracy)
        typer.echo(format_decode_command(choice.row, model, raw))
        if failed:
            raise typer.Exit(FAILED)


def _check_arguments(tolerance: float | None, target: float | None, confidence: float, speed: str) -> None:
    """Raise ConfigError for arguments that leave nothing to choose by; before any work."""
    from dllm.sweeps.tuning import SPEEDS

    if (tolerance is None) == (target is None):
        raise ConfigError("give one of --tolerance and --target-accuracy")
    for name, value in (("tolerance", tolerance), ("target-accuracy", target), ("confidence", confidence)):
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"--{name} {value}: must lie in 0..1")
    if speed not in SPEEDS:
        raise ConfigError(f"--speed {speed}: choose from {', '.join(SPEEDS)}")


def _make_candidate_sweep(prompts: str, model: str, strategies: Path | None, settings: dict[str, Any]) -> Sweep:
    """Make the sweep over all candidates, the sequential strategy first."""
    from dllm.files import read_yaml
    from dllm.sweeps.grid import make_sweep
    from dllm.sweeps.tuning import CANDIDATES, SEQUENTIAL

    candidates: Any = CANDIDATES
    if strategies is not None:
        found = read_yaml(strategies)
        candidates = found.get("strategies") if isinstance(found, dict) else found
        if not isinstance(candidates, list):
            raise ConfigError(f"--strategies {strategies}: must hold a list of strategies, as a sweep has it")
    sweep = make_sweep({"models": [model], "prompts": [prompts], "strategies": [SEQUENTIAL, *candidates], **settings})
    sweep.check()
    if not any(question.answer is not None for question in sweep.cells[0].questions.read()):
        raise ConfigError(f"{prompts}: no prompt has an `answer` to be held against")
    return sweep


def _report_choice(choice: StrategyChoice, tolerance: float | None, target: float | None) -> None:
    """Print on stderr the strategy that was chosen, and how sure that is."""
    row = choice.row
    interval = f"95 % interval {row['accuracy_low']:.3f}–{row['accuracy_high']:.3f}"
    print_message(f"{row['name']}: accuracy {row['accuracy']:.3f} ({interval}) on {row['scored']} questions", "bold")
    if choice.baseline is not None:
        first = choice.baseline
        faster = "" if choice.speedup is None else f", {choice.speedup:.1f} times its tokens per second"
        print_message(
            f"one token a step has {first['accuracy']:.3f}; {choice.gained} questions are answered only by this "
            f"strategy, {choice.lost} only by that one{faster}"
        )
    asked = f"accuracy is at least {target}" if target is not None else f"accuracy falls by at most {tolerance}"
    more = "" if choice.tried == 1 else f", before counting that it is the pick of {choice.tried}"
    print_message(f"chance that its true {asked}: {choice.chance:.0%} from these questions alone{more}")
    print_message(f"as a strategy: {row['strategy']}", "dim")
