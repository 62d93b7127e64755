"""Train the embedded models: an autoregressive one from nothing, and from it one of each diffusion format.

Question: can models of three million parameters, trained for some hours on two CPU cores, do tasks on which decoding
          strategies differ?
Method:   batches of generated examples (`experiments.playground_text`), never the same twice, packed without seeing
          each other into rows of 128 columns. `ar`: next-token prediction with a Llama without biases. `v2`: from it
          Fast-dLLM v2's block diffusion as a Qwen2 whose biases start at zero. `llada`: from it masked diffusion with
          attention both ways. Muon, bfloat16 autocast, and of the weights their running average. The learning rate
          falls to zero at the end of a time that is given, since how fast a shared machine runs is not known before.
Read:     one JSON line every fifty updates on stdout: update, minutes, learning rate, loss a token, positions a second.
          OUT/checkpoint goes on where a stopped run stood; OUT/model is the average in Hub format, rewritten with it.
Run:      python -m experiments.train_playground ar --out runs/ar --minutes 40
          python -m experiments.train_playground v2 --out runs/v2 --start runs/ar/model --minutes 60
          python -m experiments.train_playground llada --out runs/llada --start runs/ar/model --minutes 60
"""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from dllm.models.outside import quiet
from dllm.training.attention import FILLER
from dllm.training.export import export, hub_config, llada_checkpoint, next_token_config, swap
from dllm.training.noise import IGNORE
from dllm.training.objective import view_loss
from dllm.training.optim import Muon, divided
from dllm.training.packing import fitted
from dllm.training.tokenizer import ASSISTANT, END, MASK, USER
from dllm.training.views import BlockDiffusion, FullDiffusion, NextToken, Packed
from experiments.playground_text import Mixture, build_tokenizer

CONTEXT, BLOCK, HEAD = 128, 32, 32
SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "rms_norm_eps", "rope_parameters", "eos_token_id", "pad_token_id",
)  # fmt: skip
"""What a Llama's config and a Qwen2's have in common."""

Stage = Literal["ar", "v2", "llada"]
SUB_BLOCKS = (32, 32, 16, 8)
"""Columns that share a noise rate, drawn for each batch, so that sub-block decoding meets what was trained."""

TAILS = (0, 0, 0, 16, 32, 128)
"""Columns of end tokens behind an answer, beyond those that fill its last 16, of the model with attention both ways."""


@dataclass
class Progress:
    """Updates and seconds of training so far."""

    update: int = 0
    seconds: float = 0.0


class Batches:
    """Packed batches of the mixture, by number."""

    def __init__(self, tokenizer: Any, stage: Stage, rows: int, seed: int) -> None:
        self.mixture, self.stage, self.rows, self.seed = Mixture(seed), stage, rows, seed
        self.encode = tokenizer.backend_tokenizer.encode
        self.user, self.assistant, self.end = tokenizer.convert_tokens_to_ids([USER, ASSISTANT, END])

    def __getitem__(self, number: int) -> Packed:
        """Examples for about as many rows as asked for, each row of `CONTEXT` columns at most."""
        rng, room = Random(f"tails-{self.seed}-{number}"), self.rows * CONTEXT
        texts: list[tuple[list[int], int]] = []
        for sample in self.mixture.samples(number):
            text = self._padded(*self._encoded(sample.prompt, sample.answer), rng)
            if len(text[0]) > CONTEXT:
                continue
            room -= len(text[0])
            if room < 0:
                break
            texts.append(text)
        groups = fitted([len(ids) for ids, _ in texts], CONTEXT)
        return _packed([[texts[i] for i in group] for group in groups])

    def _encoded(self, prompt: str | None, answer: str) -> tuple[list[int], int]:
        """Token ids, and how many of them are not learnt."""
        before = [] if prompt is None else [self.user, *self.encode(prompt).ids, self.assistant]
        return [*before, *self.encode(answer).ids, self.end], len(before)

    def _padded(self, ids: list[int], given: int, rng: Random) -> tuple[list[int], int]:
        """With learnt end tokens behind, as many as the stage's format needs."""
        if self.stage == "ar":
            return ids, given
        grain = BLOCK if self.stage == "v2" else 16
        size = len(ids) + -len(ids) % grain + (rng.choice(TAILS) if self.stage == "llada" else 0)
        return ids + [self.end] * (max(len(ids), min(size, CONTEXT)) - len(ids)), given


def _packed(rows: list[list[tuple[list[int], int]]]) -> Packed:
    width = max(sum(len(ids) for ids, _ in row) for row in rows)
    fields = [torch.full((len(rows), width), fill) for fill in (0, IGNORE, FILLER, 0)]
    for line, row in enumerate(rows):
        at = 0
        for number, (ids, given) in enumerate(row):
            place = slice(at, at + len(ids))
            tokens = torch.tensor(ids)
            fields[0][line, place], fields[2][line, place] = tokens, number
            fields[1][line, at + given : at + len(ids)] = tokens[given:]
            fields[3][line, place] = torch.arange(len(ids))
            at += len(ids)
    return Packed(*fields)


def fresh(vocabulary: int, width: int, layers: int, end: int, pad: int) -> Any:
    """A Llama without biases and with tied embeddings."""
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=8 * width // 3 // 32 * 32, num_hidden_layers=layers,
        num_attention_heads=width // HEAD, num_key_value_heads=width // HEAD, max_position_embeddings=2048,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None, eos_token_id=end, pad_token_id=pad,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def as_qwen2(network: Any) -> Any:
    """The same function as a Qwen2, whose biases are zero."""
    old = network.config
    config = Qwen2Config(**{key: getattr(old, key) for key in SHARED}, tie_word_embeddings=True, bos_token_id=None)
    copy = Qwen2ForCausalLM(config)
    missing, unexpected = copy.load_state_dict(network.state_dict(), strict=False)
    assert not unexpected and all(name.endswith(".bias") for name in missing), (missing, unexpected)
    for name, tensor in copy.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.zeros_(tensor)
    return copy


class Run:
    """A training run in a folder: network, average, optimiser and progress, all of which a checkpoint holds."""

    def __init__(self, out: Path, stage: Stage, network: Any, tokenizer: Any, decay: float) -> None:
        self.out, self.stage, self.network, self.tokenizer, self.decay = out, stage, network, tokenizer, decay
        self.progress = Progress()
        self.optimizer = Muon(divided(network, 0.0), lr=1e-3, dtype=torch.bfloat16)
        self.parameters = dict(network.named_parameters())
        self.average = {name: tensor.detach().clone() for name, tensor in self.parameters.items()}
        self._resume()

    def _resume(self) -> None:
        place = self.out / "checkpoint"
        if not place.exists():
            return
        self.progress = Progress(**json.loads((place / "progress.json").read_text()))
        state = load_file(place / "state.safetensors")
        with torch.no_grad():
            for key, tensor in state.items():
                kind, _, rest = key.partition("/")
                if kind == "weights":
                    self.parameters[rest].copy_(tensor)
                elif kind == "average":
                    self.average[rest].copy_(tensor)
                else:
                    self.optimizer.state[self.parameters[rest]][kind] = tensor

    def save(self) -> None:
        """Write the checkpoint and the model; a kill leaves the last ones whole."""
        state = {f"weights/{name}": tensor.detach() for name, tensor in self.parameters.items()}
        state |= {f"average/{name}": tensor for name, tensor in self.average.items()}
        for name, parameter in self.parameters.items():
            state |= {f"{kind}/{name}": tensor for kind, tensor in self.optimizer.state[parameter].items()}
        aside = self.out / ".checkpoint"
        aside.mkdir(parents=True, exist_ok=True)
        save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, aside / "state.safetensors")
        (aside / "progress.json").write_text(json.dumps(vars(self.progress)))
        swap(aside, self.out / "checkpoint")
        self._export()

    def _export(self) -> None:
        weights = {name: tensor.to(torch.bfloat16) for name, tensor in self.average.items()}
        weights.pop("lm_head.weight", None)
        ids: dict[str, Any] = {
            "mask_id": self.tokenizer.convert_tokens_to_ids(MASK),
            "end_id": self.tokenizer.eos_token_id,
            "pad_id": self.tokenizer.pad_token_id,
        }
        if self.stage == "llada":
            config, weights = llada_checkpoint(self.network.config, weights, **ids)
        elif self.stage == "v2":
            config = hub_config(self.network.config, block=BLOCK, **ids)
        else:
            config = next_token_config(self.network.config, stock="LlamaForCausalLM", **ids)
        aside = self.out / ".model"
        export(aside, weights, {**config, "torch_dtype": "bfloat16"}, self.tokenizer)
        swap(aside, self.out / "model")

    def step(self, loss: Tensor, rate: float) -> None:
        """One update of the weights and of their average."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.update += 1
        # Early updates are averaged over a tenth of what there is, so that the start is soon forgotten.
        keep = min(self.decay, (self.progress.update + 1) / (self.progress.update + 10))
        live = [tensor.detach() for tensor in self.parameters.values()]
        torch._foreach_lerp_(list(self.average.values()), live, 1 - keep)


def objective_of(stage: Stage, rng: Random) -> NextToken | BlockDiffusion | FullDiffusion:
    if stage == "ar":
        return NextToken()
    return BlockDiffusion(BLOCK, rng.choice(SUB_BLOCKS)) if stage == "v2" else FullDiffusion(eps=0.02)


def rate_at(share: float, update: int, peak: float, decay: float, warmup: int = 100) -> float:
    """Warm-up, then the peak, then down to zero over the last `decay` of the time."""
    return peak * min(1.0, (update + 1) / warmup, max(0.0, 1 - share) / decay)


def main(
    stage: Annotated[Stage, typer.Argument(help="next-token prediction, Fast-dLLM v2's format or LLaDA's")],
    out: Annotated[Path, typer.Option(help="folder of the run; one that exists is gone on with")],
    start: Annotated[Path | None, typer.Option(help="model folder of an `ar` run to start from")] = None,
    minutes: Annotated[float, typer.Option(help="minutes of training in all, over all sittings")] = 40.0,
    until: Annotated[str | None, typer.Option(help="end at this local time, HH:MM, instead")] = None,
    lr: Annotated[float, typer.Option(help="peak learning rate")] = 3e-3,
    decay: Annotated[float, typer.Option(help="share of the time over which the rate falls to zero")] = 0.5,
    average: Annotated[float, typer.Option(help="share of the running average that an update keeps")] = 0.998,
    rows: Annotated[int, typer.Option(help="rows of 128 columns an update")] = 16,
    width: Annotated[int, typer.Option(help="width, a multiple of 32")] = 192,
    layers: Annotated[int, typer.Option(help="layers")] = 4,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 2,
    seed: Annotated[int, typer.Option(help="text, weights and noise")] = 0,
    save_every: Annotated[float, typer.Option(help="minutes between checkpoints")] = 2.0,
) -> None:
    """Train one stage, or go on with it."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    if start is None:
        earlier = out / "model"
        tokenizer = PreTrainedTokenizerFast.from_pretrained(earlier) if earlier.exists() else build_tokenizer()
        network = fresh(len(tokenizer), width, layers, tokenizer.eos_token_id, tokenizer.pad_token_id)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(start)
        with quiet():
            network = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    network = as_qwen2(network) if stage == "v2" else network
    network.set_attn_implementation("sdpa")
    run = Run(out, stage, network, tokenizer, average)
    done = run.progress.seconds
    total = minutes * 60 if until is None else done + _seconds_until(until)
    learn(run, Batches(tokenizer, stage, rows, seed), total, lr, decay, save_every * 60, seed)


def learn(run: Run, batches: Batches, total: float, peak: float, decay: float, save_every: float, seed: int) -> None:
    """Train until `total` seconds of training have passed, or until SIGTERM; either way the last update is saved."""
    mask_id = run.tokenizer.convert_tokens_to_ids(MASK)
    progress, saved, told = run.progress, run.progress.seconds, []
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    run.network.train()
    while progress.seconds < total and not stopped:
        begun = time.perf_counter()
        packed, objective = batches[progress.update], objective_of(run.stage, Random(f"{seed}-{progress.update}"))
        noise = objective.noise(packed, torch.Generator().manual_seed(seed * 1_000_003 + progress.update))
        view = objective.view(packed, noise, mask_id)
        with torch.autocast("cpu", torch.bfloat16):
            loss = view_loss(run.network, view, objective.attention_block)
        loss = loss / max(1, int((view["labels"] != IGNORE).sum()))
        rate = rate_at(progress.seconds / total, progress.update, peak, decay)
        run.step(loss, rate)
        seconds = time.perf_counter() - begun
        progress.seconds += seconds
        told.append((loss.item(), view["input_ids"].numel(), seconds))
        if len(told) == 50:
            losses, positions, times = (sum(part) for part in zip(*told, strict=True))
            told = []
            line = {"update": progress.update, "minutes": round(progress.seconds / 60, 2), "lr": round(rate, 6)}
            line |= {"loss": round(losses / 50, 4), "positions_per_second": round(positions / times)}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        if progress.seconds - saved > save_every:
            run.save()
            saved = progress.seconds
    run.save()


def _seconds_until(clock: str) -> float:
    hour, minute = map(int, clock.split(":"))
    return max(0.0, (datetime.now().replace(hour=hour, minute=minute, second=0) - datetime.now()).total_seconds())


if __name__ == "__main__":
    typer.run(main)
