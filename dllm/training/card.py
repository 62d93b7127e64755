"""The model card of a trained model: its base, objective, data, command, and the figures it reached."""

from __future__ import annotations

import platform
import shlex
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from dllm.training.base_model import BaseModelInfo
from dllm.training.encoding import DataReport
from dllm.training.plan import TrainingPlan
from dllm.version import VERSION

FACTS = (
    "objective", "block", "sub_block", "complementary", "pad", "isolate", "context", "batch", "lr", "warmup",
    "optimizer", "average", "weight_decay", "clip", "lora", "lora_alpha", "lora_dropout", "lora_targets", "bf16",
    "gradient_checkpointing", "held_out", "seed",
)  # fmt: skip


@dataclass
class ModelCard:
    """Contents of a card; the run fills in `losses`, `train`, `sample` and `place` as it goes.

    Attributes:
        plan: Plan of the run.
        base: Facts about the base.
        report: Summary of the data.
        samples: Number of samples trained on.
        held_out: Number of samples held out.
        steps: Updates of the whole run.
        command: Command that started the run, or "".
        losses: Pairs (step, held-out loss), the first before any training.
        train: Pairs (step, training loss).
        sample: Step, prompt and answer of the last answer, if there was one.
        place: Device and number of processes.
    """

    plan: TrainingPlan
    base: BaseModelInfo
    report: DataReport
    samples: int
    held_out: int
    steps: int
    command: str
    losses: list[tuple[int, float]] = field(default_factory=list)
    train: list[tuple[int, float]] = field(default_factory=list)
    sample: tuple[int, str, str] | None = None
    place: str = ""

    def finish(self, history: list[dict[str, Any]], arguments: Any) -> None:
        """Take the figures from the Trainer's log, which survives interruptions.

        Args:
            history: Entries of the Trainer's log.
            arguments: `TrainingArguments` of the run.
        """
        self.losses = sorted({(e["step"], e["eval_loss"]) for e in history if "eval_loss" in e})
        self.train = [(e["step"], e["loss"]) for e in history if "loss" in e]
        name = torch.cuda.get_device_name() if arguments.device.type == "cuda" else platform.machine() + " CPU"
        self.place = f"{arguments.world_size} x {name}"

    def text(self, *, adapter: bool) -> str:
        """Render the card in Markdown with the Hub's header.

        Args:
            adapter: True for the card of the adapter alone.
        """
        parts = [self._header(adapter), self._about(adapter), self._figures(), self._data(), self._training()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _header(self, adapter: bool) -> str:
        library = "peft" if adapter else "transformers"
        tags = "tags:\n- diffusion-language-model\n- dllm"
        parent = f"base_model: {self.base.name}\n" if not Path(self.base.name).exists() else ""
        return f"---\nlibrary_name: {library}\n{parent}{tags}\n---"

    def _about(self, adapter: bool) -> str:
        what = "LoRA adapter" if adapter else "model"
        how = {
            "block-diffusion": f"block diffusion (Fast-dLLM v2, arXiv:2509.26328) in blocks of {self.plan.block}",
            "full-attention": "masked diffusion with full attention (LLaDA, arXiv:2502.09992)",
            "next-token": "next-token prediction",
        }[self.plan.objective]
        use = "" if adapter else '\n\n    dllm decode "…" --model THIS_FOLDER'
        return (
            f"# {Path(self.base.name).name}, adapted\n\nA {what}: `{self.base.name}` adapted to {how} with "
            f"dllm {VERSION}. Mask token {self.base.tokenizer.mask_token!r}, id {self.base.mask_id}.{use}"
        )

    def _figures(self) -> str:
        if not self.steps:
            return "Not trained: the base as it was, in this format."
        lines = ["## Figures", "", "| step | held-out loss a token |", "|---|---|"]
        lines += [f"| {step} | {loss:.4f} |" for step, loss in self.losses]
        if self.train:
            lines += [
                "",
                f"Training loss, mean of the last steps before step {self.train[-1][0]}: {self.train[-1][1]:.4f}.",
            ]
        if self.sample:
            step, prompt, answer = self.sample
            quoted = "\n".join("    " + line for line in f"{prompt}\n→ {answer}".splitlines())
            lines += ["", f"A held-out prompt and what the model answers after step {step}:", "", quoted]
        return "\n".join(lines)

    def _data(self) -> str:
        lines = ["## Data", "", "| file | bytes | SHA-256 |", "|---|---|---|"]
        for name in self.plan.data:
            raw = Path(name).read_bytes()
            lines.append(f"| {Path(name).name} | {len(raw):,} | `{sha256(raw).hexdigest()}` |")
        lines += ["", *(f"- {line}" for line in self.report.lines())]
        lines += [f"- {self.samples:,} samples were trained on, {self.held_out:,} held out (by the digest of the text)"]
        return "\n".join(lines)

    def _training(self) -> str:
        facts = self.plan.record()
        lines = ["## Training", ""]
        if self.command:
            lines += [f"    {self.command}", ""]
        lines += ["| | |", "|---|---|", f"| steps | {self.steps} |"]
        lines += [f"| {name} | {facts[name]} |" for name in FACTS if facts[name] is not None]
        lines += [f"| ran on | {self.place} |"] if self.place else []
        import transformers

        lines += [f"| versions | torch {torch.__version__}, transformers {transformers.__version__} |"]
        return "\n".join(lines)


def format_command_line(arguments: list[str]) -> str:
    """Quote a command as a shell would take it, with the program's name in place of its path."""
    return shlex.join([Path(arguments[0]).name, *arguments[1:]])
