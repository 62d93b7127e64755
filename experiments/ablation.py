"""Does each part of Fast-dLLM v2's training recipe help here, in the order that its paper reports?

Question: naive token shift, then + padding samples to whole blocks, then + complementary masks (the paper's ablation
          table): does the order hold on a model of this size, and how large is the spread over seeds?
Method:   a small Qwen2 learns the embedded model's text autoregressively once; then each variant adapts a copy of it
          with the same rows an update, updates and learning rate, with several seeds (of order and noise). As in the
          published code, samples are joined into one stream and cut. The complement makes an update run on about half
          as many columns again; `columns` tells. Every variant is measured alike: the held-out block-diffusion loss of
          isolated, padded samples with both copies, and the share of held-out sums and problems answered right at
          threshold 0.9 and one token at a time. A last variant isolates the samples, as `dllm train` does by default.
Read:     a table of means and standard deviations over seeds; the plot shows every seed. Lower loss is better. A
          difference smaller than the spread says nothing, and a small model on generated text says little about 7 B.
Run:      python -m experiments.ablation --out runs/ablation
          (stopped and run again it goes on: finished runs are kept in OUT/results.jsonl)
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import islice
from math import cos, pi
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from dllm import Blocks, LeftToRight, PrefixCache, Strategy, Threshold, TopK
from dllm.models import TransformerModel
from dllm.training.data import DataRecord
from dllm.training.encoding import TrainingSample, encode_records
from dllm.training.noise import IGNORE
from dllm.training.objective import compute_view_loss
from dllm.training.packing import NoisedDataset, PackedDataset, RowPacking, stack_rows
from dllm.training.views import BlockDiffusion, NextToken, Objective
from dllm.types import BlockCausal
from experiments.embedded_accuracy import measure_accuracy
from experiments.embedded_text import generate_examples
from experiments.train_embedded import build_tokenizer

BLOCK = 16
VARIANTS: dict[str, tuple[bool, bool, bool]] = {
    "naive token shift": (False, False, False),
    "+ padding": (True, False, False),
    "+ complementary masks": (True, True, False),
    "+ isolated samples": (True, True, True),
}
"""Name: (padded to whole blocks, complementary masks, samples isolated)."""


class _TrainingText:
    """The text of the embedded model as samples, and the rows that a variant makes of them."""

    def __init__(self, count: int, context: int) -> None:
        self.context, self.tokenizer = context, build_tokenizer()
        self.taught = self.samples("ablation", count, held=False)
        self.held = self.samples("held", 64, held=True)

    def samples(self, seed: str, count: int, *, held: bool) -> list[TrainingSample]:
        records = (
            DataRecord(
                f"{seed}:{i}", ({"role": "user", "content": e.prompt}, {"role": "assistant", "content": e.completion})
            )
            for i, e in enumerate(islice(generate_examples(seed, held=held), count), 1)
        )
        return encode_records(records, self.tokenizer, longest=self.context, end=0)[0]

    def rows(self, samples: list[TrainingSample], *, padded: bool, isolate: bool) -> PackedDataset:
        fill = self.tokenizer.mask_token_id
        return PackedDataset(samples, RowPacking(self.context, BLOCK if padded else 1, fill, isolate=isolate))


def _build_network(vocabulary: int, hidden: int, layers: int) -> Any:
    """A fresh Qwen2 of the size."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=hidden * 3, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=2048,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    return Qwen2ForCausalLM(config)


def _train_network(network: Any, lessons: NoisedDataset, mask_id: int, size: int, peak: float) -> dict[str, float]:
    """Train through all lessons, `size` rows an update, with AdamW and a cosine; returns figures."""
    objective = lessons.objective
    optimiser = torch.optim.AdamW(network.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.0)
    updates, columns, began, losses = len(lessons) // size, 0, time.process_time(), []
    network.train()
    for step, view in enumerate(_make_views(lessons, mask_id, size)):
        rate = peak * min(1.0, (step + 1) / 20) * (1 + cos(pi * step / updates)) / 2
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = compute_view_loss(network, view, objective.attention_block) / max(1, _count_supervised(view))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        columns += view["input_ids"].numel()
    last = losses[-max(1, updates // 10) :]
    return {"columns": columns, "cpu_seconds": time.process_time() - began, "training_loss": sum(last) / len(last)}


def _make_views(lessons: NoisedDataset, mask_id: int, size: int) -> Iterator[dict[str, torch.Tensor]]:
    for start in range(0, len(lessons) // size * size, size):
        yield lessons.objective.view(*stack_rows([lessons[i] for i in range(start, start + size)]), mask_id)


def _count_supervised(view: dict[str, torch.Tensor]) -> int:
    return int((view["labels"] != IGNORE).sum())


@torch.no_grad()
def _measure_held_out_loss(network: Any, rows: PackedDataset, objective: Objective, mask_id: int) -> float:
    """Mean loss a token on held-out rows with fixed noise."""
    network.eval()
    total, tokens = 0.0, 0
    for view in _make_views(NoisedDataset(rows, objective, 0, len(rows), shuffle=False), mask_id, 1):
        total += compute_view_loss(network, view, objective.attention_block).item()
        tokens += _count_supervised(view)
    return total / tokens


def _measure_accuracies(network: Any, tokenizer: Any, problems: int, block: int) -> dict[str, float]:
    """Share of held-out problems answered right, in parallel and one at a time, and tokens a denoising forward."""
    facts = {"mask_id": tokenizer.mask_token_id, "stop_ids": (0,)}
    model = TransformerModel(network, BlockCausal(block), needs_left=1, tokenizer=tokenizer, **facts)
    held = list(islice(generate_examples("held", held=True), problems))
    found = {}
    for name, policy in (("parallel", Threshold(0.9, strict=True)), ("in_order", TopK(k=1, score=LeftToRight()))):
        strategy = Strategy(policy, Blocks(commit=True), PrefixCache())
        result = measure_accuracy(model, held, strategy, batch_size=problems)
        found[f"accuracy_{name}"] = result["accuracy"]
        found[f"tokens_per_forward_{name}"] = result["tokens_per_denoising_forward"]
    return found


def _read_finished_runs(file: Path) -> list[dict[str, Any]]:
    """Finished runs; a line that a kill cut short is left out."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _append_run(file: Path, row: dict[str, Any]) -> None:
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def _plot_runs(results: list[dict[str, Any]], place: Path) -> None:
    """Every seed's held-out loss and accuracy, by variant."""
    try:
        import matplotlib
    except ImportError:
        Console(stderr=True).print("no plot: pip install matplotlib")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, key, label in zip(
        axes, ("held_out_loss", "accuracy_parallel"), ("held-out loss a token", "right at threshold 0.9"), strict=True
    ):
        for place_, name in enumerate(VARIANTS):
            values = [row[key] for row in results if row["variant"] == name]
            axis.plot([place_] * len(values), values, "o", alpha=0.6)
        axis.set_xticks(range(len(VARIANTS)), VARIANTS, rotation=15, fontsize=8)
        axis.set_ylabel(label)
    figure.savefig(place)


def _print_means(results: list[dict[str, Any]], start: dict[str, Any]) -> None:
    keys = ("held_out_loss", "accuracy_parallel", "tokens_per_forward_parallel", "accuracy_in_order", "columns")
    table = Table("variant", "seeds", *keys, title="mean ± standard deviation over seeds")
    for name in VARIANTS:
        rows = [row for row in results if row["variant"] == name]
        cells = []
        for key in keys:
            values = [row[key] for row in rows]
            spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4g}{spread}" if values else "")
        table.add_row(name, str(len(rows)), *cells)
    ahead = f"before adaptation: parallel {start['accuracy_parallel']:.3f}, left to right as a causal model "
    console = Console(stderr=True)
    wide = console if console.is_terminal else Console(stderr=True, width=160)
    wide.print(table, ahead + f"{start['causal_accuracy_in_order']:.3f}")


def main(
    out: Annotated[Path, typer.Option(help="folder of results, plot and the shared start")],
    seeds: Annotated[int, typer.Option(help="runs of each variant")] = 3,
    hidden: Annotated[int, typer.Option(help="width")] = 96,
    layers: Annotated[int, typer.Option(help="layers")] = 3,
    count: Annotated[int, typer.Option(help="training samples")] = 4000,
    context: Annotated[int, typer.Option(help="columns of a row")] = 256,
    size: Annotated[int, typer.Option(help="rows an update")] = 4,
    start_updates: Annotated[int, typer.Option(help="autoregressive updates, once")] = 800,
    updates: Annotated[int, typer.Option(help="updates of each run")] = 400,
    rate: Annotated[float, typer.Option(help="peak learning rate; the start's is three times that")] = 1e-3,
    problems: Annotated[int, typer.Option(help="held-out problems")] = 60,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
) -> None:
    """Run what is missing, then draw and print the table; a JSON line a run on stdout."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    course = _TrainingText(count, context)
    mask_id = course.tokenizer.mask_token_id
    settings = {
        "hidden": hidden, "layers": layers, "count": count, "context": context, "size": size, "rate": rate,
        "start_updates": start_updates, "updates": updates, "block": BLOCK, "problems": problems,
    }  # fmt: skip
    network = _build_network(len(course.tokenizer), hidden, layers)
    _train_start(out, network, course, settings, mask_id)
    file, start = out / "results.jsonl", json.loads((out / "start.json").read_text())
    if start["settings"] != settings:
        raise typer.BadParameter(f"{out} holds runs of other settings: {start['settings']}")
    evaluated = course.rows(course.held, padded=True, isolate=True)
    for seed in range(seeds):
        for name, (padded, complementary, isolate) in VARIANTS.items():
            if any((row["variant"], row["seed"]) == (name, seed) for row in _read_finished_runs(file)):
                continue
            network.load_state_dict(load_file(out / "start.safetensors"), strict=False)
            objective = BlockDiffusion(BLOCK, complementary=complementary)
            rows = course.rows(course.taught, padded=padded, isolate=isolate)
            figures = _train_network(network, NoisedDataset(rows, objective, seed, updates * size), mask_id, size, rate)
            loss = _measure_held_out_loss(network, evaluated, BlockDiffusion(BLOCK), mask_id)
            right = _measure_accuracies(network, course.tokenizer, problems, BLOCK)
            _append_run(file, {"variant": name, "seed": seed, "held_out_loss": loss, **right, **figures})
    _plot_runs(_read_finished_runs(file), out / "ablation.svg")
    _print_means(_read_finished_runs(file), start)


def _train_start(out: Path, network: Any, course: _TrainingText, settings: dict[str, Any], mask_id: int) -> None:
    """The autoregressive start that all variants share, made once."""
    if (out / "start.json").exists():
        return
    size = settings["size"]
    rows = course.rows(course.taught, padded=False, isolate=True)
    lessons = NoisedDataset(rows, NextToken(), 0, settings["start_updates"] * size)
    figures = _train_network(network, lessons, mask_id, size, 3 * settings["rate"])
    tensors = {name: t.detach().clone() for name, t in network.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, out / "start.safetensors")
    loss = _measure_held_out_loss(
        network, course.rows(course.held, padded=True, isolate=True), BlockDiffusion(BLOCK), mask_id
    )
    right = _measure_accuracies(network, course.tokenizer, settings["problems"], BLOCK)
    causal = _measure_accuracies(network, course.tokenizer, settings["problems"], 1)
    told = {"settings": settings, "held_out_loss": loss, **right, **{f"causal_{k}": v for k, v in causal.items()}}
    (out / "start.json").write_text(json.dumps({**told, **figures}) + "\n")


if __name__ == "__main__":
    typer.run(main)
