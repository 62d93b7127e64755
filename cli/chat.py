"""`dllm chat`: a conversation with a model, whose answers are seen denoising."""

from __future__ import annotations

from typing import Annotated, Any

from dllm.cli.decode import OUT, WHAT, decode, make_option
from dllm.cli.error_messages import report_errors
from dllm.cli.shared_options import with_options_of
from dllm.errors import ConfigError

CHAT_EXAMPLES = """[bold]Examples[/bold]

dllm chat

dllm chat --model Efficient-Large-Model/Fast_dLLM_v2_7B --dtype bfloat16 --policy threshold --tau 0.9

echo "How much is 8 + 6?" | dllm chat

[bold]While it runs[/bold] /set policy factor f=1.0 changes the strategy, clear forgets what was said, exit leaves, /help tells the rest."""  # noqa: E501

SHARED = (
    "model", "dtype", "device", "device_map", "adapter", "mask_id", "family", "quantize", "pack", "guidance", "recipe",
    "strategy", "policy", "tau", "f", "k", "score", "strict", "gamma", "h", "delta", "eps", "scheduler", "block_size",
    "sub_block_size", "steps", "cache", "refresh", "temperature", "top_p", "top_k", "processor", "stop",
    "stop_id", "ignore_eos",
)  # fmt: skip
"""Options of `dllm decode` that mean the same here."""
LOADING = ("dtype", "device", "device_map", "adapter", "mask_id", "family", "quantize", "pack")


@with_options_of(decode, SHARED)
def chat(
    max_new_tokens: Annotated[int, make_option(WHAT, "Most tokens of an answer. Default: 256.")] = 256,
    system: Annotated[str | None, make_option(WHAT, "A system message before everything.")] = None,
    seed: Annotated[int, make_option(WHAT, "Answer i draws from seed + i. Default: 0.")] = 0,
    no_reuse: Annotated[
        bool, make_option(OUT, "Compute the whole conversation again for every answer.", "--no-reuse")
    ] = False,
    no_live: Annotated[bool, make_option(OUT, "Text as it becomes final, without the canvas.", "--no-live")] = False,
    **given: Any,
) -> None:
    """Talk with a model and watch its answers denoise.

    Multi-turn, with the checkpoint's chat template. A block-causal model keeps the keys and values of what was said.
    Without a terminal each line of stdin is said, and only the answers go to stdout.
    """
    with report_errors():
        if given["recipe"] is not None and given["strategy"] is not None:
            raise ConfigError("--recipe and --strategy: give one of them; each sets every part")
        from dllm.cli.chat_settings import ChatSettings
        from dllm.compose.options import Options

        recipe, strategy = given.pop("recipe"), given.pop("strategy")
        name, guidance = given.pop("model"), given.pop("guidance")
        loading = {key: given.pop(key) for key in LOADING}
        given |= {key: tuple(given[key] or ()) for key in ("processor", "stop")}
        ids, none = given.pop("stop_id"), given.pop("ignore_eos")
        if none and ids:
            raise ConfigError("--ignore-eos and --stop-id: give one of them; the first ends no answer")
        given["stop_ids"] = () if none else tuple(ids) if ids else None
        settings = ChatSettings(Options(recipe=strategy or recipe, **given), max_new_tokens, seed, system)
        _start_chat(name, loading, settings, guidance, no_reuse, no_live)


def _start_chat(
    name: str, loading: dict[str, Any], settings: Any, guidance: float | None, no_reuse: bool, no_live: bool
) -> None:
    """Load the model and begin."""
    from dllm.cli.chat_session import ChatSession
    from dllm.jobs import Job
    from dllm.models import load

    job = Job(settings.options, guidance=guidance or 0.0)
    model = job.guided(load(name, **loading))
    if model.tokenizer is None or not getattr(model.tokenizer, "chat_template", None):
        raise ConfigError(f"--model {name}: it has no chat template, which a conversation needs; use dllm decode")
    ChatSession(model, settings, job.guidance, not no_reuse, not no_live).run()
