"""Against the same network decoding one token at a time, how much faster is block diffusion, and up to which batch?

Question: tokens per second of block diffusion over those of plain autoregressive decoding at equal size, over batch
          sizes. Published for Fast-dLLM v2 7B: up to 2.54 times the throughput of Qwen2.5-7B-Instruct.
Method:   greedy decoding of held-out word problems, each to its end token, on the same architecture: `generate` of
          transformers with its key/value cache on the autoregressive weights, and our loop by threshold 0.9 in
          sub-blocks of 8, over the prefix cache and over the sub-block cache. All ways in turn, `repeats` times; the
          ratio is the median over repeats. `generate` waits for the longest row of a batch; our loop gives a finished
          row's place to the next problem. `--autoregressive FOLDER` is what the model was adapted from
          (`experiments.train_embedded` leaves it in `runs/embedded/ar/model`); without it the model's own weights run
          causally, which takes the same time a token, whatever they write.
Read:     above 1 block diffusion is faster. On a device that a small batch leaves idle, extra columns of a forward are
          free and the ratio nears tokens per forward; where columns cost time, as on this processor and in large
          batches, it falls.
Run:      python -m experiments.autoregressive --count 64 --output experiments/results/autoregressive.jsonl
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

import dllm
from dllm import Blocks, DualCache, PrefixCache, Strategy, Threshold
from dllm.engine.autoregressive import Autoregressive
from dllm.models import AutoregressiveModel
from experiments import common
from experiments.common import CountOption, ModelOption, OutputOption, RepeatsOption, Row, ThreadsOption

BATCHES = (1, 2, 4, 8, 16, 32, 64)
PLAIN = "autoregressive"
SUB_BLOCK = Blocks(sub_block=8, commit=True)
WAYS: dict[str, Any] = {
    PLAIN: Autoregressive(),
    "block diffusion, prefix cache": Strategy(Threshold(0.9), SUB_BLOCK, PrefixCache()),
    "block diffusion, sub-block cache": Strategy(Threshold(0.9), SUB_BLOCK, DualCache(while_first=True)),
}


def _load_causal_model(source: str) -> AutoregressiveModel:
    """The plain causal model of a folder: one it is, or the network of a token-shifted model, attending causally."""
    model: Any = dllm.load(source)
    if isinstance(model, AutoregressiveModel):
        return model
    if not model.needs_left:
        raise typer.BadParameter(f"{source}: {model.family} does not predict the next token; give --autoregressive")
    model.network.config.is_causal = True
    return AutoregressiveModel(model.network, model.tokenizer, model.stop_ids, model.pad_id, model.name)


def summarize_ways(rows: list[Row]) -> list[Row]:
    """One row for each way and batch, with its throughput over the autoregressive one of the same batch."""
    cells: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["way"], row["batch_size"]), []).append(row)
    return [
        {
            **found[0],
            "speedup": common.compute_speedup(found, cells[PLAIN, batch]),
            "speed": statistics.median(map(common.get_tokens_per_second, found)),
        }
        for (_, batch), found in cells.items()
    ]


def _plot_ways(rows: list[Row], count: int, output: Path) -> None:
    pyplot = common.import_pyplot()
    figure, (speed, gain) = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for way, style in zip(WAYS, ("o-", "s--", "^:"), strict=True):
        here = [row for row in rows if row["way"] == way]
        sizes = [row["batch_size"] for row in here]
        label = f"{way} ({here[0]['accuracy']:.2f} solved, {here[0]['tokens_per_forward']:.1f} tokens a forward)"
        speed.plot(sizes, [row["speed"] for row in here], style, label=label)
        if way != PLAIN:
            gain.plot(sizes, [row["speedup"] for row in here], style, color=speed.lines[-1].get_color())
    speed.set(title="throughput (of the processor's time)", ylabel="generated tokens per second", yscale="log")
    speed.set_yticks([100, 200, 500, 1000, 2000], ["100", "200", "500", "1000", "2000"])
    speed.yaxis.minorticks_off()
    gain.set(title="gain", ylabel="throughput, × autoregressive", ylim=(0, None))
    gain.axhline(1, color="0.4", linewidth=1)
    for panel in (speed, gain):
        panel.set(xlabel="batch size (rows)", xscale="log")
        sizes = sorted({row["batch_size"] for row in rows})
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.xaxis.minorticks_off()
    figure.legend(*speed.get_legend_handles_labels(), loc="outside lower center", fontsize=9)
    common.save_figure(figure, output)


def main(
    model: ModelOption = "embedded",
    autoregressive: Annotated[Path | None, typer.Option(help="Folder of the autoregressive checkpoint.")] = None,
    count: CountOption = 64,
    repeats: RepeatsOption = 3,
    threads: ThreadsOption = 1,
    output: OutputOption = Path("autoregressive.jsonl"),
) -> None:
    """Decode held-out problems one token at a time and by block diffusion, over batch sizes."""
    loaded: Any = common.load_model(model, threads)
    source = str(autoregressive or model)
    plain = _load_causal_model(source)
    asked = common.draw_problems(count)
    journal, console = common.MeasurementJournal(output, common.describe_setup(loaded, threads)), common.make_console()
    sizes = [size for size in BATCHES if size <= count]
    turns = [(repeat, size, way) for repeat in range(repeats) for size in sizes for way in WAYS]
    rows = [
        journal.row(
            {"way": way, "batch_size": size, "count": count, "repeat": repeat, "autoregressive": source},
            common.measure_strategy,
            plain if way == PLAIN else loaded,
            asked,
            WAYS[way],
            size,
        )
        for repeat, size, way in track(turns, console=console, description="decoding")
    ]
    found = summarize_ways(rows)
    common.print_table(
        console,
        ("way", "batch", "exact", "TPF", "tokens/s", "× autoregressive"),
        [[r[n] for n in ("way", "batch_size", "accuracy", "tokens_per_forward", "speed", "speedup")] for r in found],
        f"{count} word problems, {repeats} runs of each in turn",
    )
    _plot_ways(found, count, output)


if __name__ == "__main__":
    typer.run(main)
