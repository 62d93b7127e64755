"""Speed of the loop, beside the published loop and the cost of the arithmetic alone.

Question: against the published loop on the same weights, how many tokens per second; and of our time, how much is the
          model's necessary matrix products, how much the rest of its forward, how much our own?
Method:   a LLaDA-format model with random weights (sharpened, so that confidences spread), one prompt; the published
          loop and each of our ways, each followed by the bare matrix products of every forward of its run (its own
          layers, and those of attention), `repeats` times in turn; medians and the median of the ratios pair by pair.
          Our ways: "plain", the weights as they lie; "packed", laid out for the CPU (`dllm.load(pack=True)`, the
          command line's default); "head", the head's alone (`dllm.models.packing.pack` with a larger `least`);
          "compiled", packed and the decoder compiled; "bfloat16", packed in that precision, where the CPU multiplies it
          itself: rounded weights, so perhaps other tokens than the published loop's in float32.
Read:     "times the floor" is our whole decode over its matrix products alone; 1.0 is the limit. "outside" is the share
          of our time not spent in the model (its decoder and its head). In the plot a step's time is split so.
          "warm_ms" is what a step costs outside when the model only plays back what it gave before: the difference to
          "outside_ms" is the price of caches that every forward fills with weights.
Run:      python -m benchmarks.speed --output benchmarks/results/speed.jsonl
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import dllm
from benchmarks.baselines.fast_dllm_v1 import decode_as_published
from dllm import Blocks, DualCache, FactorAsPublished, NoCache, PrefixCache, Request, Stopping, Strategy, Threshold
from dllm.bench.timing import ForwardTimer
from dllm.metrics import package_versions
from dllm.models import TransformerModel
from dllm.models.compiled import CompiledModel
from dllm.models.packing import LEAST, is_packing_supported, pack_linear_layers
from dllm.types import Bidirectional, Cache, Step
from experiments import common
from experiments.common import OutputOption, RepeatsOption, Row, ThreadsOption

CACHES: dict[str, Cache] = {"none": NoCache(), "prefix": PrefixCache(), "dual": DualCache()}


def _build_network(
    hidden: int, layers: int, heads: int, vocabulary: int, sharpness: float, attention: float
) -> LlamaForCausalLM:
    """A random model of the shape; its attention tells columns apart and its logits are spread, so that a threshold
    commits some tokens and not others."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
    )
    network: LlamaForCausalLM = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        network.lm_head.weight.mul_(sharpness)
        for layer in network.model.layers:
            layer.self_attn.q_proj.weight.mul_(attention)
            layer.self_attn.k_proj.weight.mul_(attention)
    return network


@torch.inference_mode()
def _time_matrix_products(network: LlamaForCausalLM, shapes: list[tuple[int, int]], length: int) -> float:
    """Seconds for the matrix products alone of forwards over (columns, slots that need logits) in a row of `length`."""
    linears = [m for m in network.model.modules() if isinstance(m, torch.nn.Linear)]
    layers, heads = network.config.num_hidden_layers, network.config.num_attention_heads
    width = network.config.hidden_size // heads
    random = partial(torch.randn, dtype=network.dtype)
    keys, values = random(heads, width, length), random(heads, length, width)
    widths = {m.in_features for m in linears}
    most = max(q for q, _ in shapes)
    inputs = {w: random(most, w) for w in widths}
    queries, weights = random(heads, most, width), random(heads, most, length)
    start = time.perf_counter()
    for columns, slots in shapes:
        for linear in linears:
            linear(inputs[linear.in_features][:columns])
        for _ in range(layers):
            torch.bmm(queries[:, :columns], keys)
            torch.bmm(weights[:, :columns], values)
        network.lm_head(inputs[network.config.hidden_size][:slots])
    return time.perf_counter() - start


def _time_call(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    out = run()
    return time.perf_counter() - start, out


def _time_outside_model(model: Any, run: Callable[[], Any], repeats: int) -> float:
    """Seconds outside the model in a run, if its forwards and heads only hand out what they gave before."""
    tape: list[Tensor] = []
    kept = model.forward, model.head

    def recorded(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def record(*args: Any) -> Tensor:
            out = original(*args)
            tape.append(out.clone())
            return out

        return record

    model.forward, model.head = (recorded(original) for original in kept)
    run()
    seconds = []
    for _ in range(repeats + 1):
        played = iter(tape)
        model.forward = model.head = lambda *_, played=played: next(played).clone()
        with ForwardTimer(model) as clock:
            seconds.append(_time_call(run)[0] - clock.inside)
    return statistics.median(seconds[1:])


def _make_variants(network: LlamaForCausalLM, ways: Sequence[str], mask: int, least: int) -> list[TransformerModel]:
    """The network in each of our ways; `least`: entries of a weight from which it is packed."""
    models = []
    for way in ways:
        own = network if way == "plain" else deepcopy(network)
        if way == "bfloat16":
            own = own.bfloat16()
        if way != "plain":
            pack_linear_layers(own, network.lm_head.weight.numel() if way == "head" else least)
        model = TransformerModel(own, Bidirectional(), mask_id=mask)
        models.append(CompiledModel.of(model) if way == "compiled" else model)
    return models


def _measure_variants(how: Row, ways: Sequence[str], repeats: int, least: int) -> list[Row]:
    """The rows of one model: each of our ways, timed in turn with the published loop and its own floor."""
    network = _build_network(
        *(how[name] for name in ("hidden", "layers", "heads", "vocabulary", "sharpness", "attention"))
    )
    prompt, new, block, cache = (how[name] for name in ("prompt", "new", "block", "cache"))
    mask = how["vocabulary"] - 1
    ids = torch.randint(mask, (1, prompt), generator=torch.Generator().manual_seed(1))
    policy = Threshold(how["tau"]) if how["f"] is None else FactorAsPublished(how["f"])
    strategy = Strategy(policy, Blocks(block), CACHES[cache], stopping=Stopping(()))
    models = _make_variants(network, ways, mask, least)
    request = Request(tuple(ids[0].tolist()), new)

    def ours(model: TransformerModel) -> Iterator[Step]:
        return dllm.steps(model, [request], strategy)

    def decode(model: TransformerModel) -> None:
        for _ in ours(model):
            pass

    def published() -> tuple[Tensor, int]:
        return decode_as_published(
            network, ids, new, block, mask, cache, None if how["f"] is not None else how["tau"], how["f"]
        )

    tokens, nfe_published = published()
    streams = [list(ours(model)) for model in models]
    shapes = [[(int(s.queries[0]), len(s.window.slots)) for s in stream] for stream in streams]
    rounds = []
    for _ in range(repeats):
        theirs, _ = _time_call(published)
        mine = []
        for model, run in zip(models, shapes, strict=True):
            with ForwardTimer(model) as clock:
                whole = _time_call(partial(decode, model))[0]
            mine.append((whole, clock.inside, _time_matrix_products(model.network, run, prompt + new)))
        rounds.append((theirs, mine))
    rows = []
    for i, stream in enumerate(streams):
        figures = [(theirs, *mine[i]) for theirs, mine in rounds]
        warm = _time_outside_model(models[i], partial(decode, models[i]), repeats)
        theirs, whole, inside, floor = (statistics.median(column) for column in zip(*figures, strict=True))
        nfe = int(stream[-1].nfe[0])
        same = bool(torch.equal(tokens, stream[-1].canvas.tokens)) and nfe == nfe_published
        rows.append({
            "strategy": repr(strategy), "same_tokens_and_nfe": same, "nfe": nfe, "tokens_per_forward": new / nfe,
            "published_tokens_per_second": new / theirs, "tokens_per_second": new / whole,
            "speedup": statistics.median(a / b for a, b, _, _ in figures),
            "times_the_floor": statistics.median(b / d for _, b, _, d in figures),
            "outside_share": statistics.median(1 - c / b for _, b, c, _ in figures),
            "step_ms": 1e3 * whole / nfe, "model_ms": 1e3 * inside / nfe, "floor_ms": 1e3 * floor / nfe,
            "published_step_ms": 1e3 * theirs / nfe_published, "outside_ms": 1e3 * (whole - inside) / nfe,
            "warm_ms": 1e3 * warm / nfe,
        })  # fmt: skip
    return rows


def _plot_step_times(rows: list[Row], output: Path) -> None:
    """Plot where the time of a step goes, with a panel for each vocabulary."""
    pyplot = common.import_pyplot()
    sizes = sorted({row["vocabulary"] for row in rows})
    figure, panels = pyplot.subplots(1, len(sizes), figsize=(6 * len(sizes), 2.6), layout="constrained", squeeze=False)
    for panel, size in zip(panels[0], sizes, strict=True):
        here = [row for row in rows if row["vocabulary"] == size]
        names = ["published loop", *(f"ours, {row['way']}" for row in here)]
        panel.barh(names[0], here[0]["published_step_ms"], color="0.6")
        for name, row in zip(names[1:], here, strict=True):
            parts = (row["floor_ms"], row["model_ms"] - row["floor_ms"], row["step_ms"] - row["model_ms"])
            left = 0.0
            for part, colour in zip(parts, ("C0", "C1", "C3"), strict=True):
                panel.barh(name, part, left=left, color=colour)
                left += part
        panel.invert_yaxis()
        panel.set(title=f"vocabulary {size:,}", xlabel="milliseconds a step")
    for label, colour in (("matrix products alone", "C0"), ("rest of the model", "C1"), ("outside", "C3")):
        panels[0][0].barh(0, 0, color=colour, label=label)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    common.save_figure(figure, output)


def main(
    vocabulary: Annotated[list[int] | None, typer.Option(help="Vocabulary; repeatable. Default 32000, 126464.")] = None,
    hidden: Annotated[int, typer.Option(help="Width.")] = 512,
    layers: Annotated[int, typer.Option(help="Layers.")] = 8,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 8,
    prompt: Annotated[int, typer.Option(help="Prompt tokens.")] = 128,
    new: Annotated[int, typer.Option(help="New tokens.")] = 128,
    block: Annotated[int, typer.Option(help="Columns of a block.")] = 32,
    cache: Annotated[str, typer.Option(help="none, prefix or dual.")] = "dual",
    tau: Annotated[float, typer.Option(help="Confidence threshold.")] = 0.9,
    f: Annotated[float | None, typer.Option(help="Use the published factor rule instead.")] = None,
    sharpness: Annotated[float, typer.Option(help="Factor on the head's weights: more tokens a forward.")] = 30.0,
    attention: Annotated[float, typer.Option(help="Factor on the weights of queries and keys.")] = 4.0,
    threads: ThreadsOption = 2,
    repeats: RepeatsOption = 3,
    compile: Annotated[bool, typer.Option(help="Also our forwards compiled.")] = True,
    least: Annotated[int, typer.Option(help="Entries of the smallest weight that is packed.")] = LEAST,
    output: OutputOption = Path("speed.jsonl"),
) -> None:
    """Time the published loop, ours, and the bare matrix products, in turn."""
    if cache not in CACHES:
        raise typer.BadParameter(f"--cache {cache}: choose from {', '.join(CACHES)}")
    torch.set_num_threads(threads)
    facts = {
        "model": "random", "versions": package_versions(), "device": "cpu", "threads": threads, "repeats": repeats,
        "machine": platform.processor() or platform.machine(),
    }  # fmt: skip
    journal, console, rows = common.MeasurementJournal(output, facts), common.make_console(), []
    for size in vocabulary or [32_000, 126_464]:
        how = {
            "vocabulary": size, "hidden": hidden, "layers": layers, "heads": heads, "prompt": prompt, "new": new,
            "block": block, "cache": cache, "tau": tau, "f": f, "sharpness": sharpness, "attention": attention,
        }  # fmt: skip
        half = is_packing_supported(torch.device("cpu"), torch.bfloat16)
        ways = ("plain", "head", "packed", *["compiled"] * compile, *["bfloat16"] * half)
        with console.status(f"vocabulary {size:,}"):
            rows += journal.rows(
                [{**how, "way": way, "least": least} for way in ways], _measure_variants, how, ways, repeats, least
            )
    shown = {
        "tokens_per_forward": "TPF", "published_tokens_per_second": "published tok/s", "tokens_per_second": "tok/s",
        "speedup": "speedup", "times_the_floor": "× floor", "outside_share": "outside", "outside_ms": "outside ms",
        "warm_ms": "warm ms", "same_tokens_and_nfe": "same",
    }  # fmt: skip
    common.print_table(
        console,
        ("vocabulary", "ours", *shown.values()),
        [[str(row["vocabulary"]), row["way"], *(row[name] for name in shown)] for row in rows],
        f"{cache} cache, {threads} threads",
    )
    _plot_step_times(rows, output)


if __name__ == "__main__":
    typer.run(main)
