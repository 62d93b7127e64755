"""The plan of a training run: everything that decides it, in one value that is checked as a whole before any work."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from dllm.errors import ConfigError
from dllm.training.views import BlockDiffusion, FullDiffusion, NextToken, Objective

RECIPES = Path(__file__).parent / "recipes"
OBJECTIVES = ("block-diffusion", "full-attention", "next-token")
PADDING = ("mask", "end", "none")
OPTIMIZERS = ("adamw", "muon")
PASSING = ("out", "log_every", "save_every", "eval_every", "keep", "report_to", "sample_prompt", "micro_batch")
"""Fields that may differ between an interrupted run and the run that continues it: no weight depends on them."""


@dataclass(frozen=True)
class TrainingPlan:
    """A model to adapt, its data, its objective, and all settings of the run.

    A row is `context` columns of packed samples; a batch is a number of rows.

    Attributes:
        base: Folder or Hub id of a causal language model.
        data: Files to train on.
        out: Folder of the run.
        held_out: Share of the samples that is never trained on.
        chat_template: "chatml" or a file, for a tokenizer without a chat template.
        mask_token: Existing token to serve as the mask; None: the tokenizer's own, else a new one.
        objective: block-diffusion (Fast-dLLM v2), full-attention (LLaDA's loss) or next-token.
        block: Columns of a block; see `BlockDiffusion`.
        sub_block: Columns that share a noise rate; see `BlockDiffusion`.
        complementary: Also train on the complement of each noised copy; see `BlockDiffusion`.
        pad: Fill samples to whole blocks with the mask token ("mask"), with a learnt end token ("end"), or not at all
            ("none").
        isolate: Samples of a row do not see each other.
        context: Columns of a row.
        steps: Updates of the run; give this or `epochs`. 0 exports the base.
        epochs: Passes over the rows; give this or `steps`.
        batch: Rows of an update, over all processes.
        micro_batch: Rows of an update that a process takes at once.
        lr: Peak learning rate.
        warmup: Share of the steps in which the rate rises to its peak; it then falls to zero along a cosine.
        optimizer: "adamw", or "muon" for matrices with Adam for the rest (see `Muon`).
        average: Share of a running average of the weights that an update keeps; the average is evaluated and exported.
            0: the weights themselves.
        weight_decay: Decay of matrices (with AdamW: of all weights but norms and biases).
        clip: Largest gradient norm; 0 for no limit.
        lora: Rank of the adapter; 0 trains all weights.
        lora_alpha: Scale of the adapter; None: twice the rank.
        lora_dropout: Dropout of the adapter's input.
        lora_targets: "all-linear", or names of modules separated by commas.
        bf16: Mixed precision; None: wherever there is an accelerator with bfloat16.
        gradient_checkpointing: Take less memory for about a third more time.
        seed: Decides order, noise and fresh weights.
        log_every: Steps between logged losses.
        save_every: Steps between checkpoints.
        eval_every: Steps between evaluations.
        keep: Number of checkpoints that are kept.
        eval_rows: Most held-out rows that are evaluated.
        sample_prompt: Prompt to answer at each evaluation; None: that of a held-out conversation.
        report_to: Other loggers of `transformers`, such as tensorboard or wandb.
        strict_data: Stop at the first unusable row instead of skipping and counting it.

    Raises:
        ConfigError: For a field out of its range, or fields that contradict each other.
    """

    base: str = ""
    data: tuple[str, ...] = ()
    out: str = ""
    held_out: float = 0.02
    chat_template: str | None = None
    mask_token: str | None = None
    objective: str = "block-diffusion"
    block: int = 32
    sub_block: int | None = None
    complementary: bool = True
    pad: str = "mask"
    isolate: bool = True
    context: int = 1024
    steps: int | None = None
    epochs: float | None = None
    batch: int = 32
    micro_batch: int = 1
    lr: float = 2e-5
    warmup: float = 0.03
    optimizer: str = "adamw"
    average: float = 0.0
    weight_decay: float = 0.0
    clip: float = 1.0
    lora: int = 0
    lora_alpha: int | None = None
    lora_dropout: float = 0.0
    lora_targets: str = "all-linear"
    bf16: bool | None = None
    gradient_checkpointing: bool = False
    seed: int = 0
    log_every: int = 10
    save_every: int = 200
    eval_every: int = 200
    keep: int = 2
    eval_rows: int = 64
    sample_prompt: str | None = None
    report_to: tuple[str, ...] = ()
    strict_data: bool = False

    def __post_init__(self) -> None:
        for name in ("base", "data", "out"):
            if not getattr(self, name):
                raise ConfigError(f"{name} / --{name}: not given")
        for name, choices in (("objective", OBJECTIVES), ("pad", PADDING), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{_format_option(self, name)}: must be one of {', '.join(choices)}")
        for name in ("block", "context", "batch", "micro_batch", "log_every", "save_every", "eval_every", "keep"):
            self._demand(name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("lora", "eval_rows", "seed", "weight_decay", "clip"):
            self._demand(name, getattr(self, name) >= 0, "must not be negative")
        self._demand("lr", 0 < self.lr < 1, "must lie between 0 and 1")
        for name in ("warmup", "lora_dropout", "held_out", "average"):
            self._demand(name, 0 <= getattr(self, name) < 1, "must lie in [0, 1)")
        self._demand("lora_alpha", self.lora_alpha is None or self.lora_alpha >= 1, "must be at least 1")
        if (self.steps is None) == (self.epochs is None):
            raise ConfigError(f"steps={self.steps}, epochs={self.epochs}: give one of --steps and --epochs")
        self._demand("steps", self.steps is None or self.steps >= 0, "must not be negative (0 exports the base)")
        self._demand("epochs", self.epochs is None or self.epochs > 0, "must be positive")
        self._demand(
            "batch", self.batch % self.micro_batch == 0, f"must be a multiple of --micro-batch {self.micro_batch}"
        )
        self._check_blocks()

    def _check_blocks(self) -> None:
        """Check the fields that describe blocks, which only block diffusion has."""
        if self.objective == "block-diffusion":
            self._demand("context", self.context % self.block == 0, f"must be a multiple of --block {self.block}")
            sub = self.sub_block
            if sub is not None and (sub < 1 or self.block % sub):
                raise ConfigError(f"{_format_option(self, 'sub_block')}: must divide --block {self.block}")
        elif self.sub_block is not None or not self.complementary:
            raise ConfigError(
                f"{_format_option(self, 'objective')}: sub_block and complementary belong to block-diffusion"
            )

    def _demand(self, name: str, holds: bool, rule: str) -> None:
        """Raise ConfigError, naming the field and its option, unless the rule holds."""
        if not holds:
            raise ConfigError(f"{_format_option(self, name)}: {rule}")

    @property
    def task(self) -> Objective:
        """The objective as a value."""
        if self.objective == "block-diffusion":
            return BlockDiffusion(self.block, self.sub_block, self.complementary)
        return FullDiffusion() if self.objective == "full-attention" else NextToken()

    @property
    def fills(self) -> int:
        """The number of columns to whose multiples samples are padded."""
        return self.block if self.objective == "block-diffusion" and self.pad != "none" else 1

    def record(self) -> dict[str, Any]:
        """Return all fields as JSON represents them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def check_continues(self, earlier: Mapping[str, Any]) -> None:
        """Check that this plan continues an earlier run rather than mixing two runs.

        Args:
            earlier: Record of the plan that the run was started with; fields it lacks had their defaults.

        Raises:
            ConfigError: For the first field that differs and affects the weights.
        """
        defaults = {field.name: field.default for field in fields(self)}
        for name, value in self.record().items():
            before = earlier.get(name, defaults[name])
            if name not in PASSING and before != value:
                raise ConfigError(
                    f"{_format_option(self, name)}: the run in {self.out} was started with {before!r}; "
                    "give the same to go on with it, or another --out"
                )


def _format_option(plan: TrainingPlan, name: str) -> str:
    """Format a field with its command-line option and its value, for an error message."""
    return f"{name} / --{name.replace('_', '-')} {getattr(plan, name)}"


def read_training_config(name: str) -> dict[str, Any]:
    """Read plan fields from a YAML file, or from a shipped recipe by its name.

    Raises:
        ConfigError: For a missing file, broken YAML, or anything that is not a field of a plan.
    """
    import yaml

    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise ConfigError(f"config / --config {name}: no such file; shipped recipes are {known}")
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config / --config {path}: broken YAML ({' '.join(str(error).split())})") from None
    if not isinstance(found, dict):
        raise ConfigError(f"config / --config {path}: must hold fields of a plan, one a line, such as lr: 2e-5")
    return {key: _convert_field(f"config / --config {path}: {key}", key, value) for key, value in found.items()}


def make_training_plan(config: Mapping[str, Any], given: Mapping[str, Any]) -> TrainingPlan:
    """Build a plan from a config's fields, replaced by those that are given explicitly.

    Args:
        config: Fields of a config file.
        given: Fields from the command line; None for those not given. If it has `steps` or `epochs`, the config's other
            one of the two is dropped.
    """
    merged = dict(config)
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if given.get(one) is not None:
            merged.pop(other, None)
    return TrainingPlan(**{**merged, **{key: value for key, value in given.items() if value is not None}})


def _convert_field(place: str, key: str, value: Any) -> Any:
    """Convert a YAML value to the type of its field: YAML reads 2e-5 as text, and a tuple as a list."""
    hints = get_type_hints(TrainingPlan)
    if key not in hints:
        near = difflib.get_close_matches(str(key), hints, 1)
        cure = f"did you mean {near[0]}?" if near else f"fields are {', '.join(f.name for f in fields(TrainingPlan))}"
        raise ConfigError(f"{place}: no such field; {cure}")
    kinds = get_args(hints[key]) or (hints[key],)
    if hints[key] == tuple[str, ...]:
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise ConfigError(f"{place} {value!r}: must be a text or a list of texts")
        return tuple(value)
    if float in kinds and not isinstance(value, bool):
        try:
            return None if value is None and NoneType in kinds else float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"{place} {value!r}: must be a number") from None
    if type(value) not in kinds:
        names = " or ".join({str: "a text", int: "a whole number", bool: "true or false"}.get(k, "null") for k in kinds)
        raise ConfigError(f"{place} {value!r}: must be {names}")
    return value
