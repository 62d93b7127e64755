"""Time a strategy on a model of a real shape, beside the floor of the hardware."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dllm.cli.failing import plainly, say
from dllm.errors import ConfigError


def bench(
    shape: Annotated[
        str,
        typer.Option(help="Shape of the model, random weights: a published one, or small, small-126k, small-blocks."),
    ] = "small",
    model: Annotated[str | None, typer.Option(help="A checkpoint instead of a shape.", show_default=False)] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            help="Strategy expression or recipe; give several. Default: the shape's own recipe.", show_default=False
        ),
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Rows; give several.", show_default="1")] = None,
    context: Annotated[list[int] | None, typer.Option(help="Prompt tokens; give several.", show_default="128")] = None,
    new: Annotated[int, typer.Option(help="New tokens.")] = 128,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, …", show_default=False)] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.", show_default=False)] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the forwards (on CUDA as graphs).")] = False,
    autoregressive: Annotated[
        bool, typer.Option("--autoregressive", help="Also time greedy autoregressive decoding on the same weights.")
    ] = False,
    repeats: Annotated[int, typer.Option(help="Counted runs of each.")] = 5,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option(help="Also append the JSON rows to this file.", show_default=False)
    ] = None,
) -> None:
    """Time strategies: per window step, refresh and token, and how far each is from the hardware's limit.

    The floor of a forward is the longer of two times: the bytes that it must move (weights, keys and values) at the
    measured copy bandwidth, and its matrix products at the measured rate. "x" is measured time over floor.
    One JSON row for each measurement on stdout, a table on stderr.
    """
    with plainly():
        import torch

        from dllm.bench import measure_rates, time_autoregressive, time_strategy
        from dllm.requests import Request

        if threads is not None:
            torch.set_num_threads(threads)
        found = made(shape, model, dtype, device, compile)
        place, precision = found.device, next(found.network.parameters()).dtype
        rates = measure_rates(place, precision)
        say(f"{place}: copies {rates.bytes / 1e9:.1f} GB/s, multiplies {rates.operations / 1e12:.2f} Tflop/s", "dim")
        rows: list[dict[str, Any]] = []
        about = {
            "model": model or shape, "dtype": str(precision), "device": name_of(place), "compiled": compile,
            "new_tokens": new, "torch": torch.__version__, "threads": torch.get_num_threads(), "repeats": repeats,
            "bytes_per_second": rates.bytes, "operations_per_second": rates.operations,
        }  # fmt: skip
        draw = torch.Generator().manual_seed(0)
        for columns in context or [128]:
            for b in batch or [1]:
                ids = torch.randint(found.vocabulary - 1, (b, columns), generator=draw)
                if autoregressive:
                    for compiled in (False, True) if compile else (False,):
                        speed = time_autoregressive(found.network, ids.to(place), new, repeats, compiled)
                        what = {"strategy": "autoregressive" + (" (compiled)" if compiled else "")}
                        rows.append(about | what | {"batch": b, "context": columns, "tokens_per_second": speed})
                        tell(rows[-1], output)
                for plan in strategies(found, strategy, new):
                    requests = [Request(tuple(row), new, stop_ids=()) for row in ids.tolist()]
                    timing = time_strategy(found, requests, plan, rates, repeats)
                    rows.append(about | {"strategy": repr(plan), "batch": b, "context": columns} | timing.row())
                    tell(rows[-1], output)
        show(rows)


def made(shape: str, model: str | None, dtype: str | None, device: str | None, compile: bool) -> Any:
    """The model to be timed."""
    from dllm.bench import SHAPES, random_model
    from dllm.models import load
    from dllm.models.compiled import CompiledModel
    from dllm.models.placing import usable_device, usable_dtype

    if model is None and shape not in SHAPES:
        raise ConfigError(f"--shape {shape}: choose from {', '.join(SHAPES)}")
    place = usable_device(device, None)
    if model is not None:
        found: Any = load(model, dtype=dtype, device=device)
    else:
        import torch

        default = torch.float32 if place.type == "cpu" else torch.bfloat16
        found = random_model(SHAPES[shape], place, default if dtype is None else usable_dtype(dtype, place))
    return CompiledModel.of(found) if compile else found


def strategies(model: Any, given: list[str] | None, new: int) -> list[Any]:
    """The strategies to be timed; by default the one that suits the geometry."""
    from dllm.options import Options

    family = "fast_dllm_v2" if hasattr(model.geometry, "size") else "fast_dllm"
    return [Options(recipe=text).strategy(model, new) for text in given or [family]]


def name_of(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def tell(row: dict[str, Any], output: Path | None) -> None:
    line = json.dumps(row) + "\n"
    sys.stdout.write(line)
    sys.stdout.flush()
    if output is not None:
        with output.open("a") as file:
            file.write(line)


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from dllm.cli.listing import WIDE

    head = ("strategy", "batch", "context", "tokens/s", "TPF", "window ms", "x", "refresh ms", "x", "run x", "outside")
    table = Table(*head, header_style="bold")
    for row in rows:
        cells = [short(row["strategy"]), str(row["batch"]), str(row["context"]), f"{row['tokens_per_second']:.1f}"]
        if "window" in row:
            cells += [
                f"{row['tokens_per_forward']:.2f}",
                f"{1e3 * row['window']:.2f}", ratio(row["window"], row["window_floor"]),
                f"{1e3 * row['refresh']:.2f}", ratio(row["refresh"], row["refresh_floor"]),
                ratio(row["seconds"], row["floor"]), f"{row['outside']:.1%}",
            ]  # fmt: skip
        table.add_row(*cells)
    console = Console(stderr=True)
    (console if console.is_terminal else Console(stderr=True, width=WIDE)).print(table)


def short(strategy: str) -> str:
    """Policy, scheduler and cache of a strategy's repr, without their fields."""
    names = ("policy=", "scheduler=", "cache=")
    return ", ".join(strategy.split(n)[1].split("(")[0] for n in names if n in strategy) or strategy


def ratio(time: float, floor: float) -> str:
    return f"{time / floor:.2f}" if floor else "-"
