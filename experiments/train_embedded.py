"""Train the embedded model from nothing: next-token prediction, then block diffusion (Fast-dLLM v2's recipe).

Question: can a model of a few million parameters, trained for an hour or two on a CPU, answer unseen word problems, and
          does decoding several tokens at once then cost accuracy?
Method:   `samples` generated examples (experiments/embedded_text.py) and a fresh Qwen2 with a tokenizer of whole words;
          then `dllm train` twice: first next-token prediction of the answers, then block diffusion with complementary
          masks, the token shift and answers filled up to their block's end with learnt end tokens. Muon, and of the
          weights their running average.
Read:     progress on stderr; when all is done held-out accuracy and tokens per denoising forward, one JSON line a
          strategy, on stdout. OUT/ar/model is the autoregressive model, OUT/adapted/model the adapted one, both in Hub
          format with a card. `python -m experiments.embedded_accuracy --model OUT/adapted/model` measures more.
Run:      python -m experiments.train_embedded --out runs/embedded
          (stopped and run again it goes on from the last checkpoint, with the same losses)
"""

from __future__ import annotations

import json
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import Qwen2Config, Qwen2ForCausalLM

import dllm
from dllm import Blocks, LeftToRight, PrefixCache, Strategy, Threshold, TopK
from dllm.cli.train import answer_prompt
from dllm.cli.training_display import TrainingDisplay
from dllm.models.third_party import silence_transformers
from dllm.training.card import format_command_line
from dllm.training.export import replace_folder
from dllm.training.plan import TrainingPlan
from dllm.training.run import run_training
from dllm.training.tokenizer import build_word_tokenizer
from experiments.embedded_accuracy import measure_accuracy
from experiments.embedded_text import generate_examples

BLOCK, CONTEXT = 32, 128
ROPE_THETA = 10_000.0
VOCABULARY = 640
HEAD = 32


def build_tokenizer() -> Any:
    """The tokenizer of the first 20,000 training examples; the same for every seed."""
    texts = (text for e in islice(generate_examples(0, held=False), 20_000) for text in (e.prompt, e.completion))
    return build_word_tokenizer(texts, VOCABULARY)


def _write_training_text(path: Path, seed: int, count: int) -> None:
    """`count` training examples as prompt and completion, one JSON object a line."""
    aside = path.with_name(f".{path.name}")
    with aside.open("w", encoding="utf-8") as out:
        for e in islice(generate_examples(seed, held=False), count):
            out.write(json.dumps({"prompt": e.prompt, "completion": e.completion}) + "\n")
    os.replace(aside, path)


def _write_fresh_model(folder: Path, seed: int, hidden: int, layers: int) -> None:
    """A fresh Qwen2 of the size with its tokenizer, as a folder that `dllm train` takes for a base."""
    tokenizer = build_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=8 * hidden // 3,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // HEAD),
        num_key_value_heads=max(1, hidden // HEAD),
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    aside = folder.with_name(f".{folder.name}")
    with silence_transformers():
        Qwen2ForCausalLM(config).save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    replace_folder(aside, folder)


def _print_accuracy(place: Path, count: int) -> None:
    """Tell held-out accuracy of an adapted model on stdout, one token at a time and in parallel."""
    model: Any = dllm.load(str(place))
    for name, policy in (("left to right", TopK(k=1, score=LeftToRight())), ("threshold 0.9", Threshold(0.9))):
        strategy = Strategy(policy, Blocks(commit=True), PrefixCache())
        for kind in ("word", "sum"):
            held = list(islice(generate_examples("held", held=True, kinds=(kind,)), count))
            found = measure_accuracy(model, held, strategy, batch_size=50)
            sys.stdout.write(json.dumps({"strategy": name, "kind": kind, "count": count, **found}) + "\n")


def main(
    out: Annotated[Path, typer.Option(help="folder of both runs, of the text and of the fresh start")],
    samples: Annotated[
        int, typer.Option(help="examples to train on; they come again when all have been met")
    ] = 120_000,
    ar_steps: Annotated[int, typer.Option(help="updates of next-token prediction")] = 2_000,
    steps: Annotated[int, typer.Option(help="updates of block diffusion")] = 4_500,
    ar_lr: Annotated[float, typer.Option(help="peak learning rate of next-token prediction")] = 3e-3,
    lr: Annotated[float, typer.Option(help="peak learning rate of block diffusion")] = 2e-3,
    optimizer: Annotated[str, typer.Option(help="muon or adamw")] = "muon",
    average: Annotated[
        float, typer.Option(help="share of the weights' running average that an update keeps; 0: no average")
    ] = 0.995,
    batch: Annotated[int, typer.Option(help=f"rows of {CONTEXT} columns an update, about two examples each")] = 8,
    hidden: Annotated[int, typer.Option(help=f"width, a multiple of {HEAD}")] = 192,
    layers: Annotated[int, typer.Option(help="layers")] = 4,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
    seed: Annotated[int, typer.Option(help="text, weights, order and noise")] = 0,
    count: Annotated[int, typer.Option(help="held-out problems of each kind at the end")] = 100,
) -> None:
    """Train the embedded model, or go on with it."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    text, start = out / f"text-{seed}-{samples}.jsonl", out / f"start-{seed}-{hidden}x{layers}"
    if not text.exists():
        _write_training_text(text, seed, samples)
    if not start.exists():
        _write_fresh_model(start, seed, hidden, layers)
    common: dict[str, Any] = {
        "data": (str(text),), "context": CONTEXT, "batch": batch, "micro_batch": batch, "seed": seed,
        "held_out": 0.001, "eval_rows": 64, "eval_every": 500, "save_every": 500, "log_every": 50, "warmup": 0.02,
        "optimizer": optimizer, "average": average,
    }  # fmt: skip
    command = format_command_line(["python -m experiments.train_embedded", *sys.argv[1:]])
    causal = TrainingPlan(
        base=str(start), out=str(out / "ar"), objective="next-token", steps=ar_steps, lr=ar_lr, pad="none", **common
    )
    begun = run_training(causal, TrainingDisplay(), answer_prompt, command)
    adapted = TrainingPlan(
        base=str(begun), out=str(out / "adapted"), block=BLOCK, pad="end", steps=steps, lr=lr, **common
    )
    _print_accuracy(run_training(adapted, TrainingDisplay(), answer_prompt, command), count)


if __name__ == "__main__":
    typer.run(main)
