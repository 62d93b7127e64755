"""Options that several commands share, declared once, and the objects that are built from their values.

A command takes an option by annotating a parameter with its alias: `tau: TauOption = None`. Its values, by parameter
name, then become settings of a strategy (`make_options`) and arguments of `dllm.load` (`make_loading`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from dllm.compose.names import CACHES, POLICIES, PROCESSORS, SCHEDULERS, SCORES
from dllm.errors import ConfigError

if TYPE_CHECKING:
    from dllm.compose.options import Options
    from dllm.registry import Registry

MODEL, POLICY, SCHEDULER, CACHE, SAMPLING, STOPPING, OUTPUT = (
    "Model",
    "Strategy: which positions to commit",
    "Strategy: where to work and how fast",
    "Strategy: what to recompute",
    "Sampling",
    "Stopping",
    "Output",
)
"""Panels of the help."""


def make_option(panel: str, text: str, *names: str, show_default: bool = False, **settings: Any) -> Any:
    """Declare an option in a panel of the help.

    Args:
        panel: The panel's heading.
        text: The help, which names the default in words unless `show_default`.
        names: How the option is written, where that is not the parameter's name.
        show_default: Show the default behind the help.
        settings: Further arguments of `typer.Option`.
    """
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=show_default, **settings)


def _describe_part_option(registry: Registry[type], meaning: str, more: str = "") -> str:
    """Write the help of an option that takes a part: what it means, the names there are, and more."""
    return f"{meaning}: {escape(', '.join(registry) or 'none installed')}. {more}".rstrip()


ModelOption = Annotated[
    str, make_option(MODEL, "A folder, a Hub id, or `embedded`, the small model in the package (default).")
]
DtypeOption = Annotated[
    str | None,
    make_option(MODEL, "float32, bfloat16, float16 or auto. Default: auto on an accelerator, else float32."),
]
DeviceOption = Annotated[str | None, make_option(MODEL, "cpu, cuda, cuda:1, … Default: cuda where there is one.")]
DeviceMapOption = Annotated[str | None, make_option(MODEL, "Spread the weights, e.g. auto; instead of --device.")]
QuantizeOption = Annotated[
    str | None, make_option(MODEL, "Quantise the weights as they are loaded (torchao): int8, int8-dynamic or int4.")
]
CompileOption = Annotated[
    bool, make_option(MODEL, "Compile the forwards (on CUDA as graphs): slow at first, for long jobs.", "--compile")
]
PackOption = Annotated[
    bool | None,
    make_option(
        MODEL,
        "Lay large weights out for this CPU: faster, results differ by rounding. Default: on a CPU, in float32 or, "
        "where the CPU multiplies it itself, bfloat16.",
        "--pack/--no-pack",
    ),
]
AdapterOption = Annotated[str | None, make_option(MODEL, "A PEFT adapter: folder or Hub id.")]
MaskIdOption = Annotated[int | None, make_option(MODEL, "The mask token, instead of the checkpoint's.")]
FamilyOption = Annotated[
    str | None,
    make_option(MODEL, "The family, where config.json does not tell: a2d_bd3lm, open_dcoder (dllm models)."),
]
GuidanceOption = Annotated[
    float | None,
    make_option(
        MODEL, "Classifier-free guidance of this scale, for twice the columns: away from what it says unprompted."
    ),
]

RecipeOption = Annotated[
    str | None,
    make_option(
        POLICY,
        "A published decoder, setting every part: fast_dllm, llada, dream, … (dllm recipes); with arguments of its "
        "own if need be, 'pc_sampler(decay=0.5)'.",
    ),
]
StrategyOption = Annotated[
    str | None,
    make_option(
        POLICY, "All parts written out, as a result file says them: 'Strategy(policy=…, …)'; instead of a recipe."
    ),
]
PolicyOption = Annotated[
    str | None,
    make_option(
        POLICY,
        _describe_part_option(
            POLICIES,
            "Which positions a step commits",
            "With fields of its own, 'klass(kl=0.02)', or with the options below; one that the policy does not have is "
            "refused by name.",
        ),
    ),
]
TauOption = Annotated[
    float | None, make_option(POLICY, "Least score that is committed: 0 commits all at once, above 1 one at a time.")
]
FactorOption = Annotated[
    float | None, make_option(POLICY, "Factor: up to 1 parallel commits are provably greedy (Theorem 1).")
]
TokensPerStepOption = Annotated[int | None, make_option(POLICY, "Tokens a step.")]
ScoreOption = Annotated[str | None, make_option(POLICY, _describe_part_option(SCORES, "What the policy prefers"))]

SchedulerOption = Annotated[str | None, make_option(SCHEDULER, _describe_part_option(SCHEDULERS, "Where to work"))]
BlockSizeOption = Annotated[
    int | None, make_option(SCHEDULER, "Columns of a block; of a block-causal model's attention too.")
]
SubBlockSizeOption = Annotated[
    int | None, make_option(SCHEDULER, "Work through a block in windows of so many columns.")
]
StepsOption = Annotated[
    int | None, make_option(SCHEDULER, "Steps in total over a generation, for policies with a pace (top-k, …).")
]
EpsOption = Annotated[
    float | None, make_option(SCHEDULER, "Where Dream's time schedule ends, just above 0. Default: 0.001.")
]

CacheOption = Annotated[
    str | None, make_option(CACHE, _describe_part_option(CACHES, "What to keep from one step to the next"))
]
RefreshOption = Annotated[
    int | None, make_option(CACHE, "Refresh the cache every so many forwards. Default: when a block is entered.")
]

TemperatureOption = Annotated[
    float | None, make_option(SAMPLING, "0 takes the likeliest token (default of every recipe).")
]
TopPOption = Annotated[
    float | None, make_option(SAMPLING, "Sample from the likeliest tokens that reach this probability.")
]
TopKOption = Annotated[int | None, make_option(SAMPLING, "Sample from so many likeliest tokens; 0: all.")]
ProcessorOption = Annotated[
    list[str] | None,
    make_option(SAMPLING, _describe_part_option(PROCESSORS, "Changes the logits before a token is drawn; repeatable")),
]
RegexOption = Annotated[
    str | None,
    make_option(
        SAMPLING,
        "The answer matches this regular expression, from its first character to its last (Rust's syntax; no ^ and "
        "$). It fits into --max-new-tokens, or the row is refused.",
    ),
]
JsonSchemaOption = Annotated[
    Path | None, make_option(SAMPLING, "The answer is JSON of the schema in this file; as --regex otherwise.")
]
SeedOption = Annotated[int, make_option(SAMPLING, "Row i draws from seed + i, unless it has its own. Default: 0.")]

StopOption = Annotated[list[str] | None, make_option(STOPPING, "A text that ends the answer; repeatable.")]
StopIdOption = Annotated[list[int] | None, make_option(STOPPING, "End token, instead of the checkpoint's; repeatable.")]
IgnoreEosOption = Annotated[
    bool,
    make_option(
        STOPPING, "No token ends an answer (recipes llada and dream: as published, none does).", "--ignore-eos"
    ),
]

LOADING = ("dtype", "device", "device_map", "adapter", "mask_id", "family", "quantize", "compile", "pack")
"""Options that `dllm.load` takes under the same names."""


def make_loading(given: Mapping[str, Any]) -> dict[str, Any]:
    """Select the arguments of `dllm.load` among a command's values."""
    return {name: given[name] for name in LOADING if name in given}


def make_options(given: Mapping[str, Any]) -> Options:
    """Build the settings of a strategy from a command's values, by parameter name.

    Raises:
        ConfigError: Two options contradict each other.
    """
    from dataclasses import fields

    from dllm.compose.options import Options

    if given["ignore_eos"] and given["stop_id"]:
        raise ConfigError("--ignore-eos and --stop-id: give one of them; the first means that no token ends an answer")
    if given["recipe"] is not None and given["strategy"] is not None:
        raise ConfigError("--recipe and --strategy: give one of them; each sets every part")
    values = {field.name: given[field.name] for field in fields(Options) if field.name in given}
    constraints = _make_constraints(given.get("regex"), given.get("json_schema"))
    return Options(**values | {
        "recipe": given["strategy"] if given["recipe"] is None else given["recipe"],
        "processor": (*(given["processor"] or ()), *constraints),
        "stop": tuple(given["stop"] or ()),
        "stop_ids": () if given["ignore_eos"] else tuple(given["stop_id"]) if given["stop_id"] else None,
    })  # fmt: skip


def _make_constraints(regex: str | None, schema: Path | None) -> list[str]:
    """Write the processors that hold an answer to a regular expression or a schema."""
    if regex is not None and schema is not None:
        raise ConfigError("--regex and --json-schema: give one of them")
    if regex is None and schema is None:
        return []
    from dllm.processors import JsonSchema, Regex

    if regex is not None:
        return [repr(Regex(regex))]
    assert schema is not None
    try:
        return [repr(JsonSchema(schema.read_text("utf-8")))]
    except OSError as error:
        raise ConfigError(f"--json-schema {schema}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"--json-schema {schema}: not UTF-8 ({error.reason} at byte {error.start})") from None
