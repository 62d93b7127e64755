"""Time a strategy on a model of a real shape, beside the floor of the hardware."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from dllm.errors import ConfigError

from .error_messages import print_message, report_errors

ShapeOption = Annotated[
    str,
    typer.Option(help="Shape of the model, random weights: a published one, or small, small-126k, small-blocks."),
]
ModelOption = Annotated[str | None, typer.Option(help="A checkpoint instead of a shape.", show_default=False)]
StrategyOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Strategy expression or recipe; give several. Default: the shape's own recipe.", show_default=False
    ),
]
BatchOption = Annotated[list[int] | None, typer.Option(help="Rows; give several.", show_default="1")]
ContextOption = Annotated[list[int] | None, typer.Option(help="Prompt tokens; give several.", show_default="128")]
NewOption = Annotated[int, typer.Option(help="New tokens.")]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16, float16 or auto. Default: float32 on a CPU, bfloat16 for shapes on CUDA.",
        show_default=False,
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu or cuda.", show_default=False)]
QuantizeOption = Annotated[
    list[str] | None,
    typer.Option(help="Weights: none, int8, int8-dynamic or int4 (dllm[quant]); give several.", show_default="none"),
]
PackOption = Annotated[bool, typer.Option("--pack", help="Lay the weights out for this CPU.")]
CompileOption = Annotated[bool, typer.Option("--compile", help="Compile the forwards (on CUDA as graphs).")]
AutoregressiveOption = Annotated[
    bool, typer.Option("--autoregressive", help="Also time greedy autoregressive decoding on the same weights.")
]
RepeatsOption = Annotated[int, typer.Option(help="Counted runs of each.")]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads.", show_default=False)]
OutputOption = Annotated[Path | None, typer.Option(help="Also append the JSON rows to this file.", show_default=False)]


def bench(
    shape: ShapeOption = "small", model: ModelOption = None, strategy: StrategyOption = None,
    batch: BatchOption = None, context: ContextOption = None, new: NewOption = 128, dtype: DtypeOption = None,
    device: DeviceOption = None, quantize: QuantizeOption = None, pack: PackOption = False,
    compile: CompileOption = False, autoregressive: AutoregressiveOption = False, repeats: RepeatsOption = 5,
    threads: ThreadsOption = None, output: OutputOption = None,
) -> None:  # fmt: skip
    """Time strategies: per window step, refresh and token, and how far each is from the hardware's limit.

    The floor of a forward is the longer of two times: the bytes that it must move (weights, keys and values) at the
    measured copy bandwidth, and its matrix products at the measured rate. "x" is measured time over floor.
    One JSON row for each measurement on stdout, a table on stderr.
    """
    with report_errors():
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        ways = [None if way == "none" else way for way in quantize or ["none"]]
        for way in ways:
            _check_quantization(way, device)
        rows: list[dict[str, Any]] = []
        rates: Any = None
        for way in ways:
            found = _make_model(shape, model, dtype, device, compile, way, pack)
            rates = rates or _measure_and_print_rates(found)
            about = {"model": model or shape, "quantize": way, "packed": pack, "compiled": compile, "new_tokens": new}
            plans = _make_strategies(found, strategy, new)
            for row in _time_strategies(
                found, rates, batch or [1], context or [128], new, plans, autoregressive, repeats
            ):
                rows.append(about | row)
                _write_row(rows[-1], output)
            del found
        _print_rows(rows)


def _measure_and_print_rates(model: Any) -> Any:
    """Measure the rates of the machine in the model's precision, and print them on stderr."""
    from dllm.bench import measure_rates

    rates = measure_rates(model.device, model.dtype)
    speeds = f"copies {rates.bytes / 1e9:.1f} GB/s, multiplies {rates.operations / 1e12:.2f} Tflop/s"
    print_message(f"{model.device}: {speeds}", "dim")
    return rates


def _time_strategies(
    model: Any,
    rates: Any,
    batch: list[int],
    context: list[int],
    new: int,
    strategies: list[Any],
    autoregressive: bool,
    repeats: int,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one model, a row for each batch size, context and strategy."""
    import torch

    from dllm.bench import time_autoregressive, time_strategy
    from dllm.models.compiled import CompiledModel
    from dllm.models.quantizing import stored_bytes
    from dllm.requests import Request

    place, precision = model.device, model.dtype
    about = {
        "dtype": str(precision), "device": _name_device(place), "torch": torch.__version__,
        "threads": torch.get_num_threads(), "repeats": repeats,
        "weights": sum(stored_bytes(p) for p in model.network.parameters()),
        "bytes_per_second": rates.bytes, "operations_per_second": rates.operations,
    }  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    for columns in context:
        for b in batch:
            ids = torch.randint(model.vocabulary - 1, (b, columns), generator=draw)
            here = about | {"batch": b, "context": columns}
            if autoregressive:
                for compiled in (False, True) if isinstance(model, CompiledModel) else (False,):
                    speed = time_autoregressive(model.network, ids.to(place), new, repeats, compiled)
                    name = "autoregressive" + (" (compiled)" if compiled else "")
                    yield here | {"strategy": name, "tokens_per_second": speed}
            for plan in strategies:
                requests = [Request(tuple(row), new, stop_ids=()) for row in ids.tolist()]
                timing = time_strategy(model, requests, plan, rates, repeats)
                yield here | {"strategy": repr(plan)} | timing.row()


def _check_quantization(way: str | None, device: str | None) -> None:
    """Raise ConfigError for a way to quantise that cannot work here, before anything is timed."""
    from dllm.models.placement import resolve_device
    from dllm.models.quantizing import make_torchao_config

    if way is not None:
        make_torchao_config(way, resolve_device(device, None))


def _make_model(
    shape: str,
    model: str | None,
    dtype: str | None,
    device: str | None,
    compile: bool,
    quantize: str | None,
    pack: bool,
) -> Any:
    """Load or make the model to be timed."""
    from dllm.bench import SHAPES, make_random_model
    from dllm.models import load, packing
    from dllm.models.compiled import CompiledModel
    from dllm.models.placement import resolve_device, resolve_dtype

    if model is None and shape not in SHAPES:
        raise ConfigError(f"--shape {shape}: choose from {', '.join(SHAPES)}")
    place = resolve_device(device, None)
    if model is not None:
        found: Any = load(model, dtype=dtype, device=device, quantize=quantize, pack=pack)
    else:
        import torch

        default = torch.float32 if place.type == "cpu" else torch.bfloat16
        precision = default if dtype in (None, "auto") else resolve_dtype(dtype, place)
        found = make_random_model(SHAPES[shape], place, precision, quantize=quantize)
        if pack:
            packing.pack_linear_layers(found.network)
    return CompiledModel.of(found) if compile else found


def _make_strategies(model: Any, given: list[str] | None, new: int) -> list[Any]:
    """Make the strategies to be timed; by default the one that suits the geometry."""
    from dllm.compose.options import Options
    from dllm.types import BlockCausal

    family = "fast_dllm_v2" if isinstance(model.geometry, BlockCausal) else "fast_dllm"
    return [Options(recipe=text).strategy(model, new) for text in given or [family]]


def _name_device(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def _write_row(row: dict[str, Any], output: Path | None) -> None:
    line = json.dumps(row) + "\n"
    sys.stdout.write(line)
    sys.stdout.flush()
    if output is not None:
        with output.open("a") as file:
            file.write(line)


def _print_rows(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from .listing import WIDE

    head = (
        "strategy",
        "weights",
        "batch",
        "context",
        "tokens/s",
        "TPF",
        "window ms",
        "x",
        "refresh ms",
        "x",
        "run x",
        "outside",
        "peak GiB",
    )
    table = Table(*head, header_style="bold")
    for row in rows:
        kinds = [row["quantize"]] * bool(row["quantize"]) + ["packed"] * row["packed"]
        weights = " ".join([f"{row['weights'] / 2**20:.0f} MiB", *kinds])
        cells = [_shorten_strategy(row["strategy"]), weights, str(row["batch"]), str(row["context"])]
        cells.append(f"{row['tokens_per_second']:.1f}")
        if "window" in row:
            cells += [
                f"{row['tokens_per_forward']:.2f}",
                f"{1e3 * row['window']:.2f}", _format_ratio(row["window"], row["window_floor"]),
                f"{1e3 * row['refresh']:.2f}", _format_ratio(row["refresh"], row["refresh_floor"]),
                _format_ratio(row["seconds"], row["floor"]), f"{row['outside']:.1%}", f"{row['memory'] / 2**30:.1f}",
            ]  # fmt: skip
        table.add_row(*cells)
    console = Console(stderr=True)
    (console if console.is_terminal else Console(stderr=True, width=WIDE)).print(table)


def _shorten_strategy(strategy: str) -> str:
    """Name policy, scheduler and cache of a strategy's repr, without their fields."""
    names = ("policy=", "scheduler=", "cache=")
    return ", ".join(strategy.split(n)[1].split("(")[0] for n in names if n in strategy) or strategy


def _format_ratio(time: float, floor: float) -> str:
    return f"{time / floor:.2f}" if floor else "-"
