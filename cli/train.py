"""`dllm train`: options and a config become a plan, and the events of the run are drawn on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from .error_messages import report_errors
from .options import make_option

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


BaseOption = Annotated[
    str | None,
    make_option(WHAT, "Folder or Hub id of a Qwen2, Qwen2.5, Qwen3, Llama or SmolLM2, or of an adapted one."),
]
DataOption = Annotated[
    list[str] | None,
    make_option(
        WHAT,
        "File to train on; repeatable. .jsonl or .json: `messages`, Alpaca's `instruction`/`input`/`output`, "
        "`prompt`/`completion`, `question`/`answer`, or `text`; .txt: plain text. Responses are learnt, "
        "prompts are not.",
    ),
]
ConfigOption = Annotated[str | None, make_option(WHAT, "YAML file, or a shipped recipe (below).")]
ChatTemplateOption = Annotated[
    str | None, make_option(WHAT, "chatml, or a file with a template, for a tokenizer without one.")
]
MaskTokenOption = Annotated[
    str | None, make_option(WHAT, "A spare token of the tokenizer to serve as the mask. Default: a new one.")
]
HeldOutOption = Annotated[
    float | None, make_option(WHAT, "Share of the samples kept for the held-out loss. Default: 0.02.")
]
StrictDataOption = Annotated[
    bool | None,
    make_option(
        WHAT, "Stop at the first row that cannot be used, instead of skipping and counting it.", "--strict-data"
    ),
]
ObjectiveOption = Annotated[
    str | None,
    make_option(HOW, "block-diffusion (Fast-dLLM v2, default) · full-attention (LLaDA's loss) · next-token."),
]
FormatOption = Annotated[
    str | None, make_option(HOW, "What full-attention exports: a2d (default) · llada, of a Llama without biases.")
]
BlockOption = Annotated[int | None, make_option(HOW, "Columns of a block. Default: 32.")]
SubBlockOption = Annotated[int | None, make_option(HOW, "Columns that share a noise rate. Default: the block.")]
ComplementaryOption = Annotated[
    bool | None,
    make_option(
        HOW,
        "Train on the complement of each noised copy too (default).",
        "--complementary/--no-complementary",
    ),
]
PadOption = Annotated[
    str | None,
    make_option(HOW, "Fill samples to whole blocks with: mask (default; blocks only) · end (learnt) · none."),
]
IsolateOption = Annotated[
    bool | None,
    make_option(
        HOW,
        "Samples that share a row do not see each other (default); --no-isolate joins them as the published code.",
        "--isolate/--no-isolate",
    ),
]
ContextOption = Annotated[
    int | None, make_option(ROWS, "Columns of a row, into which samples are packed. Default: 1024.")
]
BatchOption = Annotated[int | None, make_option(ROWS, "Rows an update, over all processes. Default: 32.")]
MicroBatchOption = Annotated[int | None, make_option(ROWS, "Rows at once on each process. Default: 1.")]
StepsOption = Annotated[int | None, make_option(FIT, "Updates; 0 only writes the base in Hub format.")]
EpochsOption = Annotated[float | None, make_option(FIT, "Times through the data, instead of --steps.")]
LrOption = Annotated[float | None, make_option(FIT, "Peak learning rate; a cosine leads to zero. Default: 2e-5.")]
WarmupOption = Annotated[float | None, make_option(FIT, "Share of the steps that lead up to it. Default: 0.03.")]
OptimizerOption = Annotated[
    str | None, make_option(FIT, "adamw (default), or muon: faster from nothing, its --lr is of AdamW's size.")
]
AverageOption = Annotated[
    float | None,
    make_option(FIT, "Export a running average of the weights, of which each update keeps this share; try 0.995."),
]
WeightDecayOption = Annotated[float | None, make_option(FIT, "Of matrices. Default: 0.")]
ClipOption = Annotated[float | None, make_option(FIT, "Largest gradient norm; 0: any. Default: 1.")]
LoraOption = Annotated[
    int | None,
    make_option(FIT, "Rank of a LoRA adapter (and the mask's embedding row); 0: all weights. Default: 0."),
]
LoraAlphaOption = Annotated[int | None, make_option(FIT, "Its scale. Default: twice the rank.")]
LoraDropoutOption = Annotated[float | None, make_option(FIT, "Its dropout. Default: 0.")]
LoraTargetsOption = Annotated[str | None, make_option(FIT, "Its layers, separated by commas. Default: all-linear.")]
Bf16Option = Annotated[
    bool | None, make_option(FIT, "Mixed precision. Default: where the accelerator has it.", "--bf16/--no-bf16")
]
GradientCheckpointingOption = Annotated[
    bool | None, make_option(FIT, "Less memory, a third more time.", "--gradient-checkpointing")
]
SeedOption = Annotated[int | None, make_option(FIT, "Decides order, noise and fresh weights. Default: 0.")]
OutOption = Annotated[
    str | None, make_option(OUT, "Folder of the run: checkpoints, logs, and at the end model (and adapter).")
]
LogEveryOption = Annotated[int | None, make_option(OUT, "Steps between two lines. Default: 10.")]
EvalEveryOption = Annotated[int | None, make_option(OUT, "Steps between held-out losses. Default: 200.")]
SaveEveryOption = Annotated[int | None, make_option(OUT, "Steps between checkpoints. Default: 200.")]
KeepOption = Annotated[int | None, make_option(OUT, "Checkpoints that are kept. Default: 2.")]
EvalRowsOption = Annotated[int | None, make_option(OUT, "Most held-out rows that are evaluated. Default: 64.")]
SamplePromptOption = Annotated[
    str | None, make_option(OUT, "Prompt to answer at each evaluation. Default: that of a held-out sample.")
]
ReportToOption = Annotated[
    list[str] | None, make_option(OUT, "tensorboard, wandb, … as transformers calls them; repeatable.")
]
QuietOption = Annotated[bool, make_option(OUT, "Nothing but errors.", "--quiet", "-q")]


def train(
    base: BaseOption = None, data: DataOption = None, config: ConfigOption = None,
    chat_template: ChatTemplateOption = None, mask_token: MaskTokenOption = None, held_out: HeldOutOption = None,
    strict_data: StrictDataOption = None, objective: ObjectiveOption = None,
    format: FormatOption = None, block: BlockOption = None,
    sub_block: SubBlockOption = None, complementary: ComplementaryOption = None, pad: PadOption = None,
    isolate: IsolateOption = None, context: ContextOption = None, batch: BatchOption = None,
    micro_batch: MicroBatchOption = None, steps: StepsOption = None, epochs: EpochsOption = None, lr: LrOption = None,
    warmup: WarmupOption = None, optimizer: OptimizerOption = None, average: AverageOption = None,
    weight_decay: WeightDecayOption = None, clip: ClipOption = None, lora: LoraOption = None,
    lora_alpha: LoraAlphaOption = None, lora_dropout: LoraDropoutOption = None, lora_targets: LoraTargetsOption = None,
    bf16: Bf16Option = None, gradient_checkpointing: GradientCheckpointingOption = None, seed: SeedOption = None,
    out: OutOption = None, log_every: LogEveryOption = None, eval_every: EvalEveryOption = None,
    save_every: SaveEveryOption = None, keep: KeepOption = None, eval_rows: EvalRowsOption = None,
    sample_prompt: SamplePromptOption = None, report_to: ReportToOption = None, quiet: QuietOption = False,
) -> None:  # fmt: skip
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
        from dllm.training.card import format_command_line
        from dllm.training.run import run_training as carry_out

        from .training_display import TrainingDisplay

        carry_out(plan, TrainingDisplay(quiet), answer_prompt, format_command_line(sys.argv))


def answer_prompt(model: TransformerModel, prompt: str | Sequence[int]) -> str:
    """Answer a prompt with a model in training, decoded as its format is by default."""
    import dllm
    from dllm.compose.recipes import default_recipe

    recipe = default_recipe("fast_dllm" if model.needs_left == 0 else "fast_dllm_v2")
    room = model.max_columns - (len(prompt) if not isinstance(prompt, str) else 0)
    return dllm.decode(model, [prompt], recipe.make(), max_new_tokens=max(1, min(ANSWER, room)))[0].text or ""
