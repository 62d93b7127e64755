"""Train the embedded model: first autoregressively, then by the block-diffusion objective (Fast-dLLM v2's recipe).

Question: can a model of a few million parameters, trained in minutes on a CPU, answer unseen word problems, and does
decoding by confidence threshold then cost accuracy?
Run:      python -m experiments.train_embedded --out runs/embedded
Read:     one progress line every ten seconds; at each checkpoint a table of held-out accuracy and tokens per denoising
          forward. The adapted model is left in OUT/model, the autoregressive one in OUT/ar, both in Hub format.
Running the same command again resumes from OUT/checkpoint; a larger or smaller --minutes stretches the schedule.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from dllm import Blocks, LeftToRight, PrefixCache, Strategy, Threshold, TopK
from dllm.models import TransformerModel
from dllm.training.checkpoint import load_checkpoint, save_checkpoint
from dllm.training.export import export, hub_config
from dllm.training.noise import draw_noise
from dllm.training.objective import diffusion_loss, next_token_loss
from dllm.training.optim import Muon
from dllm.training.rows import Batch, Row, block_batches, causal_batches, encode, special_ids
from dllm.training.tokenizer import word_tokenizer
from dllm.types import BlockCausal
from experiments.embedded_accuracy import measure
from experiments.embedded_text import examples

BLOCK = 32
BLOCKS = (32, 32, 32, 32, 16, 8)
ROPE_THETA = 10_000.0
POSITIONS = 2_000
PEAK = {"ar": 1.0, "diffusion": 0.2}
FALL = {"ar": 0.6, "diffusion": 0.8}
SHAPE: dict[str, Any] = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6}


@dataclass(frozen=True)
class Progress:
    """How far a run is: updates, seconds of training alone, and columns run through the model."""

    stage: str = "ar"
    step: int = 0
    seconds: float = 0.0
    positions: int = 0
    seed: int = 0
    stage_started: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The budget: minutes of training, of which the first `ar_minutes` autoregressive."""

    minutes: float
    ar_minutes: float

    def rate(self, now: Progress) -> float:
        """Learning rate 0..1: a short warm-up, flat at `PEAK`, then linear to zero over the last `FALL` of the stage.

        The adaptation peaks low: at the full rate it forgets what the autoregressive stage taught before it has
        learnt to denoise.
        """
        end = self.ar_minutes if now.stage == "ar" else self.minutes
        done = (now.seconds - now.stage_started) / max(60 * end - now.stage_started, 1)
        warm = min(1.0, (now.seconds - now.stage_started + 1) / 20)
        return PEAK[now.stage] * warm * max(0.0, min(1.0, (1 - done) / FALL[now.stage]))


def build_model(vocabulary: int) -> Qwen2ForCausalLM:
    """A Qwen2 decoder of the embedded shape with fresh weights."""
    config = Qwen2Config(
        vocab_size=vocabulary,
        num_key_value_heads=SHAPE["num_attention_heads"],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        **SHAPE,
    )
    config._attn_implementation = "sdpa"
    return Qwen2ForCausalLM(config)


def build_tokenizer() -> Any:
    """The tokenizer of the first 20,000 training examples; the same for every seed."""
    return word_tokenizer(
        (text for e in islice(examples(0, held=False), 20_000) for text in (e.prompt, e.completion)), 640
    )


def rows(seed: str, tokenizer: Any) -> Iterator[Row]:
    for example in examples(seed, held=False):
        yield encode(tokenizer, example.prompt, example.completion)


def batches(stage: str, seed: str, tokenizer: Any) -> Iterator[Batch]:
    end, pad = special_ids(tokenizer)
    if stage == "ar":
        return causal_batches(rows(seed, tokenizer), grain=8, positions=POSITIONS * 3 // 4, pad=pad)
    return block_batches(rows(seed, tokenizer), block=BLOCK, positions=POSITIONS, end=end)


def loss_of(model: Any, stage: str, batch: Batch, mask_id: int, dice: Random) -> tuple[Tensor, int]:
    if stage == "ar":
        return next_token_loss(model, batch.tokens, batch.labels)
    block = dice.choice(BLOCKS)
    noised = draw_noise(batch.labels, block)
    return diffusion_loss(model, batch.tokens, batch.labels, noised, block=block, mask_id=mask_id)


class Run:
    """A training run: the live model, its moving average, the optimiser and how far it is."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.now = out, Progress(seed=seed)
        torch.manual_seed(seed)
        self.tokenizer = build_tokenizer()
        self.mask_id = self.tokenizer.mask_token_id
        self.model = build_model(len(self.tokenizer))
        self.named: dict[str, Tensor] = dict(self.model.named_parameters())
        self.average = {name: tensor.detach().clone() for name, tensor in self.named.items()}
        self.optimiser = Muon(self.named)
        if (out / "checkpoint").exists():
            self.now = Progress(**load_checkpoint(out / "checkpoint", self.tensors()))

    def update(self, batch: Batch, rate: float, dice: Random) -> float:
        """One optimiser step; returns its loss."""
        began = time.monotonic()
        loss, positions = loss_of(self.model, self.now.stage, batch, self.mask_id, dice)
        loss.backward()
        self.optimiser.step(rate)
        keep = min(0.995, (self.now.step + 1) / (self.now.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), [t.detach() for t in self.named.values()], 1 - keep)
        spent = self.now.seconds + time.monotonic() - began
        self.now = replace(self.now, step=self.now.step + 1, seconds=spent, positions=self.now.positions + positions)
        return loss.item()

    def save(self) -> None:
        """Write OUT/checkpoint aside, then swap it in."""
        save_checkpoint(self.out / "checkpoint", self.tensors(), asdict(self.now))

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All that a checkpoint holds."""
        return {"live": self.named, "average": self.average, "optimiser": self.optimiser.state}

    def export(self, name: str) -> None:
        """Write the averaged weights to OUT/name in Hub format."""
        end, pad = special_ids(self.tokenizer)
        config = hub_config(self.model.config, block=BLOCK, mask_id=self.mask_id, end_id=end, pad_id=pad)
        export(self.out / name, self.average, config, self.tokenizer)

    def averaged(self) -> Any:
        """A copy of the model with the averaged weights, for evaluation."""
        model: Any = build_model(len(self.tokenizer))
        model.eval()
        model.load_state_dict(self.average, strict=False)
        model.tie_weights()
        return model


def table(network: Any, tokenizer: Any, count: int, *, block: int = BLOCK, in_order: bool = False) -> list[str]:
    """Held-out results per kind of problem, one line each: by threshold 0.9, or one at a time from left to right.

    A causal network is a block-causal one with blocks of 1.
    """
    end, _ = special_ids(tokenizer)
    ids = {"mask_id": tokenizer.mask_token_id, "stop_ids": (end,)}
    model = TransformerModel(network, BlockCausal(block), needs_left=1, tokenizer=tokenizer, **ids)
    policy = TopK(k=1, score=LeftToRight()) if in_order else Threshold(0.9, strict=True)
    lines = []
    for kind in ("word", "sum"):
        held = list(islice(examples("held", held=True, kinds=(kind,)), count if kind == "word" else max(1, count // 4)))
        found = measure(model, held, Strategy(policy, Blocks(commit=True), PrefixCache()), batch_size=len(held))
        rule = "in order" if in_order else "tau 0.9"
        line = f"{kind:6s} block {block:2d} {rule:9s} {found['accuracy']:.3f} of {len(held)}"
        speed = f"  {found['tokens_per_denoising_forward']:.2f} tokens a denoising forward"
        lines.append(line if in_order else line + speed)
    return lines


def train(run: Run, plan: Plan, *, steps: int, save_every: float, watch: int) -> None:
    """Run the stages that are left; `steps` > 0 stops after that many more updates."""
    for stage, end in (("ar", plan.ar_minutes), ("diffusion", plan.minutes)):
        if run.now.stage == "diffusion" and stage == "ar":
            continue
        if run.now.stage != stage:
            run.export("ar")
            run.now = replace(run.now, stage=stage, stage_started=run.now.seconds)
        if run.now.seconds < 60 * end:
            steps = _stage(run, plan, end, steps, save_every, watch)
        if steps < 0:
            return
    run.export("model")


def _stage(run: Run, plan: Plan, end: float, steps: int, save_every: float, watch: int) -> int:
    """Train one stage to its end; returns the updates left of `steps` (0: no limit, -1: used up)."""
    seed = f"{run.now.seed}/{run.now.step}"
    dice, losses, told = Random(seed), [], (time.monotonic(), run.now.positions)
    saved = time.monotonic()
    for batch in batches(run.now.stage, seed, run.tokenizer):
        rate = plan.rate(run.now)
        losses.append(run.update(batch, rate, dice))
        if time.monotonic() - told[0] > 10:
            speed = (run.now.positions - told[1]) / (time.monotonic() - told[0])
            typer.echo(
                f"{run.now.stage} step {run.now.step} {run.now.seconds / 60:.1f} min "
                f"loss {sum(losses) / len(losses):.4f} rate {rate:.2f} "
                f"{run.now.positions / 1e6:.2f}M positions {speed:.0f} a second"
            )
            losses, told = [], (time.monotonic(), run.now.positions)
        finished, steps = run.now.seconds >= 60 * end, steps - 1 if steps else 0
        if finished or steps == 1 or (steps == 0 and time.monotonic() - saved > 60 * save_every):
            run.save()
            run.export("ar" if run.now.stage == "ar" else "model")
            causal = run.now.stage == "ar"
            for line in table(run.averaged(), run.tokenizer, watch, block=1 if causal else BLOCK, in_order=causal):
                typer.echo(f"  {line}")
            saved = time.monotonic()
        if finished or steps == 1:
            return -1 if steps == 1 else steps
    return steps


def main(
    out: Annotated[Path, typer.Option(help="folder of the run: checkpoint, model, ar")],
    minutes: Annotated[float, typer.Option(help="training time, both stages together")] = 41.0,
    ar_minutes: Annotated[float, typer.Option(help="of which autoregressive")] = 10.0,
    steps: Annotated[int, typer.Option(help="stop after this many updates (0: by time)")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
    seed: Annotated[int, typer.Option(help="weights, noise and text")] = 0,
    save_every: Annotated[float, typer.Option(help="minutes between checkpoints")] = 6.0,
    watch: Annotated[int, typer.Option(help="held-out word problems at each checkpoint")] = 32,
) -> None:
    """Train the embedded model, or go on from OUT/checkpoint."""
    torch.set_num_threads(threads)
    run = Run(out, seed)
    typer.echo(f"{sum(t.numel() for t in run.named.values()):,} parameters, {len(run.tokenizer)} tokens; {run.now}")
    train(run, Plan(minutes, ar_minutes), steps=steps, save_every=save_every, watch=watch)


if __name__ == "__main__":
    typer.run(main)
