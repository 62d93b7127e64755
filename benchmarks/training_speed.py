"""Speed and memory of training, beside the cost of the arithmetic alone.

Question: clean tokens a second and peak memory of one update, for a full fine-tune and for LoRA; and how does its time
          compare with the floor of 6 N D operations (4 N D with LoRA, whose frozen weights need no gradient)?
Method:   a Qwen2 of the given shape with random weights, one batch of one long text a row, all of it supervised; the
          forward, backward and AdamW step of `dllm train`, `repeats` times after one that is not counted; medians. The
          floor counts N without the embedding (a look-up), with the head for the columns that are scored, D as the
          columns that the model runs on, at the speed that this machine reaches in a large matrix product.
          On a CPU all seconds are CPU seconds of one thread, so that what else the machine does hardly counts.
Read:     "columns a token": what the objective costs over next-token prediction: about 3 for both noised copies and the
          clean one (the published layout runs 4). "times the floor": 1.0 is the limit; attention, norms, softmax,
          AdamW and dispatch come on top. Memory is the process's peak on a CPU, the allocator's on a GPU.
Run:      python -m benchmarks.training_speed > training_speed.jsonl
          On a GPU: python -m benchmarks.training_speed --hidden 1536 --layers 28 --heads 12 --vocabulary 151936 \
            --context 2048 --rows 8 --bf16 --checkpointing
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from dllm.bench import peak_memory
from dllm.training.base_model import trained_parameters
from dllm.training.noise import IGNORE
from dllm.training.objective import compute_view_loss
from dllm.training.views import BlockDiffusion, NextToken, Objective, PackedRows, widen_view

MASK = 3


def _build_network(shape: dict[str, Any], vocabulary: int, device: str, rank: int, checkpointing: bool) -> Any:
    """A random Qwen2 of a shape, in full or with a LoRA adapter of some rank."""
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=vocabulary, tie_word_embeddings=True, max_position_embeddings=8192, **shape)
    config._attn_implementation = "flex_attention" if device == "cuda" else "sdpa"
    network: Any = Qwen2ForCausalLM(config)
    network.to(device)
    if checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    if not rank:
        return network
    from peft import LoraConfig, get_peft_model

    return get_peft_model(network, LoraConfig(r=rank, target_modules="all-linear", trainable_token_indices=[MASK]))


def _make_view(objective: Objective, rows: int, context: int, vocabulary: int, device: str) -> dict[str, Tensor]:
    """The view of `rows` texts of `context` tokens, all supervised."""
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, vocabulary, (rows, context), generator=rng)
    position = torch.arange(context).expand(rows, context)
    packed = PackedRows(tokens, tokens.clone(), torch.zeros_like(tokens), position)
    view = widen_view(objective.view(packed, objective.noise(packed, rng), MASK), 128 if device == "cuda" else 1)
    return {name: field.to(device) for name, field in view.items()}


def _time_update(network: Any, optimiser: Any, view: dict[str, Tensor], objective: Objective, bf16: bool) -> float:
    """Seconds of one update."""
    device = view["labels"].device.type
    start = _read_clock(device)
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        loss = compute_view_loss(network, view, objective.attention_block) / (view["labels"] != IGNORE).sum()
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    return _read_clock(device) - start


def _read_clock(device: str) -> float:
    """Seconds: of work done by a CPU, passed on a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _count_operations(network: Any, view: dict[str, Tensor], lora: bool) -> float:
    """2 operations a weight and column forward, as many for the gradient of each input and (in full) of each weight."""
    inner = network.get_base_model() if lora else network
    layers = sum(m.weight.numel() for n, m in inner.named_modules() if isinstance(m, nn.Linear) and "lora" not in n)
    head = inner.lm_head.weight.numel()
    work = (layers - head) * view["input_ids"].numel() + head * view["labels"].numel()
    return float((4.0 if lora else 6.0) * work)


def _measure_product_rate(device: str, bf16: bool) -> float:
    """Operations a second of a large matrix product here, the best of five."""
    size, kind = (8192 if device == "cuda" else 1024), torch.bfloat16 if bf16 else torch.float32
    one, two = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    times = []
    for _ in range(6):
        start = _read_clock(device)
        one @ two
        times.append(_read_clock(device) - start)
    return 2.0 * size**3 / min(times[1:])


def main(
    hidden: Annotated[int, typer.Option(help="Width.")] = 256,
    layers: Annotated[int, typer.Option(help="Layers.")] = 8,
    heads: Annotated[int, typer.Option(help="Attention heads; half as many for keys and values.")] = 8,
    vocabulary: Annotated[int, typer.Option(help="Vocabulary.")] = 8192,
    context: Annotated[int, typer.Option(help="Tokens of a row.")] = 512,
    rows: Annotated[int, typer.Option(help="Rows of a batch.")] = 2,
    block: Annotated[int, typer.Option(help="Columns of a block.")] = 32,
    rank: Annotated[int, typer.Option(help="Of the LoRA adapter.")] = 16,
    bf16: Annotated[bool, typer.Option("--bf16", help="Mixed precision.")] = False,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Gradient checkpointing.")] = False,
    repeats: Annotated[int, typer.Option(help="Counted updates.")] = 5,
    only: Annotated[str, typer.Option(help="full, lora or next-token alone: its memory is then its own.")] = "",
) -> None:
    """Time updates in full, with LoRA, and of next-token prediction; a table on stderr, JSON lines on stdout."""
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = {
        "hidden_size": hidden, "intermediate_size": hidden * 4, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": max(1, heads // 2),
    }  # fmt: skip
    speed = _measure_product_rate(device, bf16)
    cases: dict[str, tuple[Objective, int]] = {
        "full": (BlockDiffusion(block), 0), "lora": (BlockDiffusion(block), rank), "next-token": (NextToken(), 0),
    }  # fmt: skip
    names = ("tokens_per_second", "columns_per_token", "seconds", "times_the_floor", "peak_gib")
    table = Table("update", *names, title=f"{device}, {speed / 1e9:.0f} Gop/s in a matrix product")
    for name, (objective, lora) in cases.items():
        if only not in ("", name):
            continue
        network = _build_network(shape, vocabulary, device, lora, checkpointing)
        optimiser = torch.optim.AdamW(trained_parameters(network), lr=1e-5)
        view = _make_view(objective, rows, context, vocabulary, device)
        times = [_time_update(network, optimiser, view, objective, bf16) for _ in range(repeats + 1)][1:]
        seconds = statistics.median(times)
        figures = {
            "update": name,
            "tokens_per_second": rows * context / seconds,
            "columns_per_token": view["input_ids"].numel() / (rows * context),
            "seconds": seconds,
            "seconds_range": [min(times), max(times)],
            "times_the_floor": seconds / (_count_operations(network, view, bool(lora)) / speed),
            "peak_gib": peak_memory(torch.device(device)) / 2**30,
            "parameters": sum(p.numel() for p in network.parameters()),
            "trained": sum(p.numel() for p in trained_parameters(network)),
            "shape": shape, "vocabulary": vocabulary, "context": context, "rows": rows, "block": block, "rank": lora,
            "bf16": bf16, "checkpointing": checkpointing, "repeats": repeats,
            "machine": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
            "torch": torch.__version__,
        }  # fmt: skip
        sys.stdout.write(json.dumps(figures) + "\n")
        table.add_row(name, *(f"{figures[key]:.3g}" for key in names))
    Console(stderr=True).print(table)


if __name__ == "__main__":
    typer.run(main)
