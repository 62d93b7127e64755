"""Diffusion decoding behind `model.generate`, for code that is written for `transformers`.

    from dllm.integrations.transformers import from_pretrained

    model = from_pretrained("GSAI-ML/LLaDA-8B-Instruct")            # in place of AutoModelForCausalLM.from_pretrained
    ids = model.generate(**inputs, max_new_tokens=128, threshold=0.9, block_length=32)

What `from_pretrained` gives is the stock network, whose `generate` is diffusion decoding. Where code calls `generate`
of `transformers` itself, it takes `custom_generate=diffusion_generate`. Settings have the names that the published code
uses: see `dllm.integrations.generation_config`.
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
from transformers.generation import (
    EosTokenCriteria,
    GenerateDecoderOnlyOutput,
    MaxLengthCriteria,
    StopStringCriteria,
)

from dllm.api import decode, stream_to
from dllm.engine.results import Result
from dllm.errors import ConfigError
from dllm.integrations.generation_config import DiffusionGenerationConfig, interpret_config
from dllm.models import Guided, load
from dllm.requests import Request

__all__ = ["DiffusionGenerationConfig", "as_network", "diffusion_generate", "from_pretrained", "generate"]

OURS = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)
"""Processors that say what the sampling does anyway."""
EXPECTED = (MaxLengthCriteria, EosTokenCriteria, StopStringCriteria)


def from_pretrained(name: str | Path, **loading: Any) -> Any:
    """The network of a diffusion checkpoint in any of our formats, with `generate` that denoises.

    loading  as `dllm.load` takes it: dtype, device, device_map, quantization_config, …
    """
    return as_network(load(name, **loading))


def as_network(model: Any) -> Any:
    """The network of a model of ours, with `generate` that denoises. Raises ConfigError for a plain causal model."""
    if not hasattr(model, "mask_id"):
        raise ConfigError(f"{model.name}: a plain causal model has no diffusion decoding; its own generate does")
    network = model.network
    network.dllm_model = model
    network.generation_config = DiffusionGenerationConfig(
        eos_token_id=list(model.stop_ids) or None, pad_token_id=model.pad_id
    )
    network.generate = functools.partial(generate, network)
    return network


def generate(model: Any, inputs: Tensor | None = None, *, streamer: Any = None, **given: Any) -> Any:
    """`model.generate` with diffusion decoding: the same arguments, and the same kind of result.

    model     a network from `from_pretrained` or `as_network`
    streamer  one of `transformers`; for a batch a list, one a row
    given     what `generate` takes: input_ids, attention_mask, generation_config, or its fields by name

    Raises ConfigError for settings that contradict each other or that nothing follows.
    """
    strings = given.pop("stop_strings", None)
    if strings is None and given.get("generation_config") is not None:
        strings = given["generation_config"].stop_strings
        if strings is not None:
            given["generation_config"] = GenerationConfig.from_dict(given["generation_config"].to_dict())
            given["generation_config"].stop_strings = None
    given.pop("tokenizer", None)
    own = functools.partial(diffusion_generate, streamer=_PromptedStreamer(streamer, False), stop_strings=strings)
    return GenerationMixin.generate(model, inputs, custom_generate=own, **given)


class _PromptedStreamer:
    """A streamer, and whether it was told the prompt already."""

    def __init__(self, streamer: Any, prompt: bool) -> None:
        self.streamer, self.prompt = streamer, prompt


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
    """What `generate` of `transformers` calls: `model.generate(…, custom_generate=diffusion_generate)`."""
    ours = getattr(model, "dllm_model", None)
    if ours is None:
        raise ConfigError(
            f"{type(model).__name__}: not known which diffusion family this is; load it with "
            "dllm.integrations.transformers.from_pretrained, or pass as_network(dllm.load(…))"
        )
    told = (
        streamer
        if isinstance(streamer, _PromptedStreamer)
        else _PromptedStreamer(streamer or _find_caller_streamer(), True)
    )
    config = DiffusionGenerationConfig() if generation_config is None else generation_config
    config.stop_strings = config.stop_strings or stop_strings
    _check_stopping_criteria(stopping_criteria)
    prompts = _remove_padding(input_ids, given.get("attention_mask"))
    asked = interpret_config(config, ours, input_ids.shape[1])
    strategy = asked.options.strategy(ours, asked.max_new_tokens)
    if extra := tuple(p for p in logits_processor or () if not isinstance(p, OURS)):
        sampling = strategy.sampling
        strategy = replace(strategy, sampling=replace(sampling, processors=(*sampling.processors, *extra)))
    seed = asked.seed
    if seed is None:  # follow torch.manual_seed, as generate of transformers does
        seed = int(torch.randint(2**31, ())) if strategy.sampling.temperature > 0 else 0
    requests = [Request(prompt, asked.max_new_tokens, seed=seed + row) for row, prompt in enumerate(prompts)]
    guided = Guided(ours, asked.guidance) if asked.guidance else ours
    if told.streamer is None:
        results = decode(guided, requests, strategy)
    else:
        results = stream_to(told.streamer, guided, requests, strategy, prompts_told=told.prompt)
    pad = config.pad_token_id if isinstance(config.pad_token_id, int) else ours.pad_id
    sequences = _append_answers(input_ids, results, pad)
    if getattr(config, "return_dict_in_generate", False):
        return GenerateDecoderOnlyOutput(sequences=sequences)  # type: ignore[arg-type]
    return sequences


def _find_caller_streamer() -> Any:
    """The streamer of the call that we are in: `transformers` 5 tells it the prompt, and does not pass it on to a
    callable."""
    code = getattr(GenerationMixin.generate, "__wrapped__", GenerationMixin.generate).__code__
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return None if frame is None else frame.f_locals.get("streamer")


def _check_stopping_criteria(criteria: StoppingCriteriaList | None) -> None:
    """Raise ConfigError for a stopping criterion that we could not follow."""
    if strange := [c for c in criteria or () if not isinstance(c, EXPECTED)]:
        raise ConfigError(
            f"{type(strange[0]).__name__}: text is not written from left to right, so that it cannot be asked after "
            "every token; use eos_token_id or stop_strings"
        )


def _remove_padding(input_ids: Tensor, mask: Tensor | None) -> list[tuple[int, ...]]:
    """Each row's tokens without its padding."""
    if mask is None:
        return [tuple(row) for row in input_ids.tolist()]
    rows = zip(input_ids, mask.bool(), strict=True)
    return [tuple(row[there.to(row.device)].tolist()) for row, there in rows]


def _append_answers(input_ids: Tensor, results: Sequence[Result], pad: int) -> Tensor:
    """What was given with what was written behind it, (b, columns), padded on the right."""
    width = max(len(result.output_ids) for result in results)
    rows = [[*result.output_ids, *[pad] * (width - len(result.output_ids))] for result in results]
    return torch.cat([input_ids, torch.tensor(rows, dtype=input_ids.dtype, device=input_ids.device)], 1)
