"""Diffusion decoding behind `model.generate`, for code that is written for `transformers`.

    from dllm.integrations.transformers import from_pretrained

    model = from_pretrained("GSAI-ML/LLaDA-8B-Instruct")            # in place of AutoModelForCausalLM.from_pretrained
    ids = model.generate(**inputs, max_new_tokens=128, threshold=0.9, block_length=32)

`from_pretrained` returns the stock network with a `generate` that is diffusion decoding. Code that calls `generate` of
`transformers` itself passes `custom_generate=diffusion_generate`. Settings have the names that the published code uses:
see `dllm.integrations.generation_config`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, StopStringCriteria
from transformers.generation.utils import GenerateDecoderOnlyOutput

from dllm.api import decode, stream_to
from dllm.engine.results import Result
from dllm.errors import ConfigError
from dllm.integrations.generation_config import DiffusionGenerationConfig, interpret_config
from dllm.models import AutoregressiveModel, Guided, load
from dllm.requests import Request

__all__ = ["DiffusionGenerationConfig", "as_network", "diffusion_generate", "from_pretrained", "generate"]

SAMPLING_PROCESSORS = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)
"""Processors that only repeat what the sampling of the strategy does already."""
KNOWN_CRITERIA = (MaxLengthCriteria, EosTokenCriteria, StopStringCriteria)
"""Stopping criteria that `generate` of `transformers` makes from settings that decoding follows by itself."""


def from_pretrained(name: str | Path, **loading: Any) -> Any:
    """Load the network of a diffusion checkpoint in any of our formats, with a `generate` that denoises.

    Args:
        name: Folder or Hub id.
        loading: Arguments of `dllm.load`: dtype, device, device_map, quantization_config, …
    """
    return as_network(load(name, **loading))


def as_network(model: Any) -> Any:
    """Return the network of one of our models, with a `generate` that denoises.

    Raises:
        ConfigError: For a plain causal model.
    """
    if isinstance(model, AutoregressiveModel):
        raise ConfigError(f"{model.name}: a plain causal model has no diffusion decoding; its own generate does")
    network = model.network
    network.dllm_model = model
    network.generation_config = DiffusionGenerationConfig(
        eos_token_id=list(model.stop_ids) or None, pad_token_id=model.pad_id
    )
    network.generate = functools.partial(generate, network)
    return network


def generate(model: Any, inputs: Tensor | None = None, *, streamer: Any = None, **given: Any) -> Any:
    """Decode by diffusion with the arguments and the result of `model.generate`.

    Args:
        model: Network from `from_pretrained` or `as_network`.
        inputs: (b, t) token ids of the prompts.
        streamer: Streamer of `transformers`; for a batch a list, one for each row.
        given: Other arguments of `generate`: input_ids, attention_mask, generation_config, or its fields by name.

    Raises:
        ConfigError: For settings that contradict each other or that nothing follows.
    """
    strings = given.pop("stop_strings", None)
    if strings is None and given.get("generation_config") is not None:
        strings = given["generation_config"].stop_strings
        if strings is not None:
            given["generation_config"] = GenerationConfig.from_dict(given["generation_config"].to_dict())
            given["generation_config"].stop_strings = None
    # `generate` of transformers would turn stop strings into a criterion, for which it needs the tokenizer. Here they
    # go to the decoder, which has a tokenizer already.
    given.pop("tokenizer", None)
    own = functools.partial(diffusion_generate, streamer=_PromptedStreamer(streamer, False), stop_strings=strings)
    return GenerationMixin.generate(model, inputs, custom_generate=own, **given)


class _PromptedStreamer:
    """A streamer with the knowledge of whether it has received the prompt.

    Attributes:
        streamer: The caller's streamer, or None.
        has_prompt: True if `transformers` has put the prompt into it already.
    """

    def __init__(self, streamer: Any, has_prompt: bool) -> None:
        self.streamer, self.has_prompt = streamer, has_prompt


def diffusion_generate(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: GenerationConfig | None = None,
    synced_gpus: bool = False,
    streamer: Any = None,
    stop_strings: str | Sequence[str] | None = None,
    **given: Any,
) -> Any:
    """Decode by diffusion when called by `transformers`: `model.generate(…, custom_generate=diffusion_generate)`.

    Args:
        model: Network from `from_pretrained` or `as_network`.
        input_ids: (b, t) int64, prompts.
        logits_processor: Processors that `transformers` made from the config, and the caller's own.
        stopping_criteria: Criteria that `transformers` made from the config.
        generation_config: Settings; None: the defaults.
        synced_gpus: Not used.
        streamer: Streamer of the caller; None where `transformers` does not pass it on.
        stop_strings: Texts that end a row, where the config has none.
        given: Other arguments of the model, of which only `attention_mask` is used.

    Returns:
        Prompts and answers (b, columns), or `GenerateDecoderOnlyOutput` if the config asks for a dictionary.

    Raises:
        ConfigError: For a network that is not one of ours, and for settings that contradict each other or that nothing
            follows.
    """
    dllm_model = getattr(model, "dllm_model", None)  # set by `as_network` on a network of transformers
    if dllm_model is None:
        raise ConfigError(
            f"{type(model).__name__}: not known which diffusion family this is; load it with "
            "dllm.integrations.transformers.from_pretrained, or pass as_network(dllm.load(…))"
        )
    prompted = (
        streamer
        if isinstance(streamer, _PromptedStreamer)
        else _PromptedStreamer(streamer or _find_caller_streamer(), True)
    )
    config = DiffusionGenerationConfig() if generation_config is None else generation_config
    config.stop_strings = config.stop_strings or stop_strings
    _check_stopping_criteria(stopping_criteria)
    prompts = _remove_padding(input_ids, given.get("attention_mask"))
    settings = interpret_config(config, dllm_model, input_ids.shape[1])
    strategy = settings.options.strategy(dllm_model, settings.max_new_tokens)
    if extra := tuple(p for p in logits_processor or () if not isinstance(p, SAMPLING_PROCESSORS)):
        sampling = strategy.sampling
        strategy = replace(strategy, sampling=replace(sampling, processors=(*sampling.processors, *extra)))
    seed = settings.seed
    if seed is None:  # follow torch.manual_seed, as generate of transformers does
        seed = int(torch.randint(2**31, ())) if strategy.sampling.temperature > 0 else 0
    requests = [Request(prompt, settings.max_new_tokens, seed=seed + row) for row, prompt in enumerate(prompts)]
    guided = Guided(dllm_model, settings.guidance) if settings.guidance else dllm_model
    if prompted.streamer is None:
        results = decode(guided, requests, strategy)
    else:
        results = stream_to(prompted.streamer, guided, requests, strategy, prompts_told=prompted.has_prompt)
    pad = config.pad_token_id if isinstance(config.pad_token_id, int) else dllm_model.pad_id
    sequences = _append_answers(input_ids, results, pad)
    if getattr(config, "return_dict_in_generate", False):
        return GenerateDecoderOnlyOutput(sequences=sequences)  # type: ignore[arg-type]
    return sequences


def _find_caller_streamer() -> Any:
    """Find the streamer of the running call of `generate`.

    `transformers` 5 puts the prompt into the streamer but does not pass it on to a callable, so that it is read from
    the caller's frame.
    """
    code = getattr(GenerationMixin.generate, "__wrapped__", GenerationMixin.generate).__code__
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return None if frame is None else frame.f_locals.get("streamer")


def _check_stopping_criteria(criteria: StoppingCriteriaList | None) -> None:
    """Raise ConfigError for a stopping criterion that decoding could not follow."""
    if strange := [c for c in criteria or () if not isinstance(c, KNOWN_CRITERIA)]:
        raise ConfigError(
            f"{type(strange[0]).__name__}: text is not written from left to right, so that it cannot be asked after "
            "every token; use eos_token_id or stop_strings"
        )


def _remove_padding(input_ids: Tensor, mask: Tensor | None) -> list[tuple[int, ...]]:
    """Return each row's tokens without its padding."""
    if mask is None:
        return [tuple(row) for row in input_ids.tolist()]
    rows = zip(input_ids, mask.bool(), strict=True)
    return [tuple(row[there.to(row.device)].tolist()) for row, there in rows]


def _append_answers(input_ids: Tensor, results: Sequence[Result], pad: int) -> Tensor:
    """Append the answers to the prompts as given, (b, columns), padded on the right."""
    width = max(len(result.output_ids) for result in results)
    rows = [[*result.output_ids, *[pad] * (width - len(result.output_ids))] for result in results]
    return torch.cat([input_ids, torch.tensor(rows, dtype=input_ids.dtype, device=input_ids.device)], 1)
