"""`dllm train`: options and a config become a plan, and what the run tells is drawn on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dllm.cli.error_messages import report_errors

if TYPE_CHECKING:
    from dllm.models import TransformerModel

TRAIN_EXAMPLES = """[bold]Examples[/bold]

dllm train --config laptop_lora --data chats.jsonl --out runs/first

dllm train --base Qwen/Qwen2.5-0.5B-Instruct --data alpaca.json --epochs 3 --batch 64 --lr 2e-5 --out runs/full

accelerate launch --config_file configs/fsdp.yaml "$(command -v dllm)" train --config fast_dllm_v2_7b --data … --out …

dllm decode "…" --model runs/first/model

[bold]Config[/bold] A YAML file whose fields are the options' names with underscores, or a shipped recipe:
fast_dllm_v2_1.5b, fast_dllm_v2_7b (as published), laptop_lora. Options replace its fields.

[bold]Interrupted[/bold] and run again, the same command goes on from the last checkpoint, with the same losses.

[bold]Exit code[/bold] 0: all is well · 1: something failed · 2: it cannot be done as asked · 130: Ctrl-C."""

WHAT, HOW, ROWS, FIT, OUT = ("What to train", "Objective", "Rows", "Optimisation", "Run")

ANSWER = 128
"""Most tokens of the answer that is shown at each evaluation."""


def _make_option(panel: str, text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


def train(
    base: Annotated[
        str | None,
        _make_option(WHAT, "Folder or Hub id of a Qwen2, Qwen2.5, Qwen3, Llama or SmolLM2, or of an adapted one."),
    ] = None,
    data: Annotated[
        list[str] | None,
        _make_option(
            WHAT,
            "File to train on; repeatable. .jsonl or .json: `messages`, Alpaca's `instruction`/`input`/`output`, "
            "`prompt`/`completion`, `question`/`answer`, or `text`; .txt: plain text. Responses are learnt, "
            "prompts are not.",
        ),
    ] = None,
    config: Annotated[str | None, _make_option(WHAT, "YAML file, or a shipped recipe (below).")] = None,
    chat_template: Annotated[
        str | None, _make_option(WHAT, "chatml, or a file with a template, for a tokenizer without one.")
    ] = None,
    mask_token: Annotated[
        str | None, _make_option(WHAT, "A spare token of the tokenizer to serve as the mask. Default: a new one.")
    ] = None,
    held_out: Annotated[
        float | None, _make_option(WHAT, "Share of the samples kept for the held-out loss. Default: 0.02.")
    ] = None,
    strict_data: Annotated[
        bool | None,
        _make_option(
            WHAT, "Stop at the first row that cannot be used, instead of skipping and counting it.", "--strict-data"
        ),
    ] = None,
    objective: Annotated[
        str | None,
        _make_option(HOW, "block-diffusion (Fast-dLLM v2, default) · full-attention (LLaDA's loss) · next-token."),
    ] = None,
    format: Annotated[
        str | None, _make_option(HOW, "What full-attention exports: a2d (default) · llada, of a Llama without biases.")
    ] = None,
    block: Annotated[int | None, _make_option(HOW, "Columns of a block. Default: 32.")] = None,
    sub_block: Annotated[int | None, _make_option(HOW, "Columns that share a noise rate. Default: the block.")] = None,
    complementary: Annotated[
        bool | None,
        _make_option(
            HOW,
            "Train on the complement of each noised copy too (default).",
            "--complementary/--no-complementary",
        ),
    ] = None,
    pad: Annotated[
        str | None,
        _make_option(HOW, "Fill samples to whole blocks with: mask (default; blocks only) · end (learnt) · none."),
    ] = None,
    isolate: Annotated[
        bool | None,
        _make_option(
            HOW,
            "Samples that share a row do not see each other (default); --no-isolate joins them as the published code.",
            "--isolate/--no-isolate",
        ),
    ] = None,
    context: Annotated[
        int | None, _make_option(ROWS, "Columns of a row, into which samples are packed. Default: 1024.")
    ] = None,
    batch: Annotated[int | None, _make_option(ROWS, "Rows an update, over all processes. Default: 32.")] = None,
    micro_batch: Annotated[int | None, _make_option(ROWS, "Rows at once on each process. Default: 1.")] = None,
    steps: Annotated[int | None, _make_option(FIT, "Updates; 0 only writes the base in Hub format.")] = None,
    epochs: Annotated[float | None, _make_option(FIT, "Times through the data, instead of --steps.")] = None,
    lr: Annotated[float | None, _make_option(FIT, "Peak learning rate; a cosine leads to zero. Default: 2e-5.")] = None,
    warmup: Annotated[float | None, _make_option(FIT, "Share of the steps that lead up to it. Default: 0.03.")] = None,
    optimizer: Annotated[
        str | None, _make_option(FIT, "adamw (default), or muon: faster from nothing, its --lr is of AdamW's size.")
    ] = None,
    average: Annotated[
        float | None,
        _make_option(FIT, "Export a running average of the weights, of which each update keeps this share; try 0.995."),
    ] = None,
    weight_decay: Annotated[float | None, _make_option(FIT, "Of matrices. Default: 0.")] = None,
    clip: Annotated[float | None, _make_option(FIT, "Largest gradient norm; 0: any. Default: 1.")] = None,
    lora: Annotated[
        int | None,
        _make_option(FIT, "Rank of a LoRA adapter (and the mask's embedding row); 0: all weights. Default: 0."),
    ] = None,
    lora_alpha: Annotated[int | None, _make_option(FIT, "Its scale. Default: twice the rank.")] = None,
    lora_dropout: Annotated[float | None, _make_option(FIT, "Its dropout. Default: 0.")] = None,
    lora_targets: Annotated[
        str | None, _make_option(FIT, "Its layers, separated by commas. Default: all-linear.")
    ] = None,
    bf16: Annotated[
        bool | None, _make_option(FIT, "Mixed precision. Default: where the accelerator has it.", "--bf16/--no-bf16")
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None, _make_option(FIT, "Less memory, a third more time.", "--gradient-checkpointing")
    ] = None,
    seed: Annotated[int | None, _make_option(FIT, "Decides order, noise and fresh weights. Default: 0.")] = None,
    out: Annotated[
        str | None, _make_option(OUT, "Folder of the run: checkpoints, logs, and at the end model (and adapter).")
    ] = None,
    log_every: Annotated[int | None, _make_option(OUT, "Steps between two lines. Default: 10.")] = None,
    eval_every: Annotated[int | None, _make_option(OUT, "Steps between held-out losses. Default: 200.")] = None,
    save_every: Annotated[int | None, _make_option(OUT, "Steps between checkpoints. Default: 200.")] = None,
    keep: Annotated[int | None, _make_option(OUT, "Checkpoints that are kept. Default: 2.")] = None,
    eval_rows: Annotated[int | None, _make_option(OUT, "Most held-out rows that are evaluated. Default: 64.")] = None,
    sample_prompt: Annotated[
        str | None, _make_option(OUT, "Prompt to answer at each evaluation. Default: that of a held-out sample.")
    ] = None,
    report_to: Annotated[
        list[str] | None, _make_option(OUT, "tensorboard, wandb, … as transformers calls them; repeatable.")
    ] = None,
    quiet: Annotated[bool, _make_option(OUT, "Nothing but errors.", "--quiet", "-q")] = False,
) -> None:
    """Adapt a causal language model to block diffusion, as Fast-dLLM v2 does, and export it for `dllm decode`.

    Everything is checked before any work is done. Rows that cannot be used are counted and reported by kind.
    """
    given = dict(locals())
    for name in ("config", "quiet"):
        given.pop(name)
    for name in ("data", "report_to"):
        given[name] = tuple(given[name]) if given[name] else None
    with report_errors():
        from dllm.training.plan import make_training_plan, read_training_config

        plan = make_training_plan(read_training_config(config) if config is not None else {}, given)
        from dllm.cli.training_display import TrainingDisplay
        from dllm.training.card import format_command_line
        from dllm.training.run import run_training as carry_out

        carry_out(plan, TrainingDisplay(quiet), answer_prompt, format_command_line(sys.argv))


def answer_prompt(model: TransformerModel, prompt: str | Sequence[int]) -> str:
    """What a model in training answers, decoded as its format is by default."""
    import dllm
    from dllm.compose.recipes import default_recipe

    recipe = default_recipe("fast_dllm" if model.needs_left == 0 else "fast_dllm_v2")
    room = model.max_columns - (len(prompt) if not isinstance(prompt, str) else 0)
    return dllm.decode(model, [prompt], recipe.make(), max_new_tokens=max(1, min(ANSWER, room)))[0].text or ""
