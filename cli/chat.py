"""`dllm chat`: a conversation with a model, whose answers are seen denoising."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from dllm.errors import ConfigError

from . import options
from .error_messages import report_errors
from .options import OUTPUT, make_loading, make_option, make_options

if TYPE_CHECKING:
    from .chat_settings import ChatSettings

CHAT_EXAMPLES = """[bold]Examples[/bold]

dllm chat

dllm chat --model Efficient-Large-Model/Fast_dLLM_v2_7B --dtype bfloat16 --policy threshold --tau 0.9

echo "How much is 8 + 6?" | dllm chat

[bold]While it runs[/bold] /set policy factor f=1.0 changes the strategy, clear forgets what was said, exit leaves, /help tells the rest."""  # noqa: E501

CONVERSATION = "Conversation"

AnswerLengthOption = Annotated[int, make_option(CONVERSATION, "Most tokens of an answer. Default: 256.")]
SystemOption = Annotated[str | None, make_option(CONVERSATION, "A system message before everything.")]
SeedOption = Annotated[int, make_option(CONVERSATION, "Answer i draws from seed + i. Default: 0.")]
NoReuseOption = Annotated[
    bool, make_option(OUTPUT, "Compute the whole conversation again for every answer.", "--no-reuse")
]
NoLiveOption = Annotated[bool, make_option(OUTPUT, "Text as it becomes final, without the canvas.", "--no-live")]


def chat(
    max_new_tokens: AnswerLengthOption = 256, system: SystemOption = None, seed: SeedOption = 0,
    model: options.ModelOption = "embedded", dtype: options.DtypeOption = None, device: options.DeviceOption = None,
    device_map: options.DeviceMapOption = None, adapter: options.AdapterOption = None,
    mask_id: options.MaskIdOption = None, family: options.FamilyOption = None, quantize: options.QuantizeOption = None,
    pack: options.PackOption = None, guidance: options.GuidanceOption = None,
    recipe: options.RecipeOption = None, strategy: options.StrategyOption = None, policy: options.PolicyOption = None,
    tau: options.TauOption = None, f: options.FactorOption = None, k: options.TokensPerStepOption = None,
    score: options.ScoreOption = None,
    scheduler: options.SchedulerOption = None, block_size: options.BlockSizeOption = None,
    sub_block_size: options.SubBlockSizeOption = None, steps: options.StepsOption = None,
    eps: options.EpsOption = None,
    cache: options.CacheOption = None, refresh: options.RefreshOption = None,
    temperature: options.TemperatureOption = None, top_p: options.TopPOption = None, top_k: options.TopKOption = None,
    processor: options.ProcessorOption = None, stop: options.StopOption = None, stop_id: options.StopIdOption = None,
    ignore_eos: options.IgnoreEosOption = False,
    no_reuse: NoReuseOption = False, no_live: NoLiveOption = False,
) -> None:  # fmt: skip
    """Talk with a model and watch its answers denoise.

    Multi-turn, with the checkpoint's chat template. A block-causal model keeps the keys and values of what was said.
    Without a terminal each line of stdin is said, and only the answers go to stdout.
    """
    given = dict(locals())
    with report_errors():
        from .chat_settings import ChatSettings

        settings = ChatSettings(make_options(given), max_new_tokens, seed, system)
        _start_chat(model, make_loading(given), settings, guidance or 0.0, not no_reuse, not no_live)


def _start_chat(
    name: str, loading: dict[str, Any], settings: ChatSettings, guidance: float, reuse: bool, live: bool
) -> None:
    """Load the model and begin the conversation."""
    from dllm.jobs import Job
    from dllm.models import load

    from .chat_session import ChatSession

    job = Job(settings.options, guidance=guidance)
    model = job.guided(load(name, **loading))
    # A tokenizer of transformers has no such attribute at all where its checkpoint brings no template.
    if model.tokenizer is None or not getattr(model.tokenizer, "chat_template", None):
        raise ConfigError(f"--model {name}: it has no chat template, which a conversation needs; use dllm decode")
    ChatSession(model, settings, job.guidance, reuse, live).run()
