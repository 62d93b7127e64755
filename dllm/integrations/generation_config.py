"""Settings of diffusion decoding in `generation_config.json`, under the names that the published code uses.

    name                                     published by              meaning here
    max_new_tokens, gen_length               all; LLaDA, SDAR          length of the answer
    steps                                    LLaDA, Dream              steps over the whole answer
    denoising_steps                          SDAR                      steps of a block
    block_length, block_size                 LLaDA, SDAR; Fast-dLLM    columns of a block
    small_block_size                         Fast-dLLM v2              columns of a sub-block
    threshold                                Fast-dLLM v1 and v2       policy threshold, tau
    factor                                   Fast-dLLM v1              policy factor, f
    confidence_threshold                     SDAR                      tau of its own policy
    remasking, remasking_strategy            LLaDA, SDAR               score by which tokens are preferred
    alg, eps                                 Dream                     score; the time at which denoising ends
    use_block_cache, dual_cache, use_cache   Fast-dLLM v2, v1; all     the cache
    cfg_scale                                LLaDA                     classifier-free guidance
    mask_token_id, mask_id                   all                       must be the model's

A value that nothing here honours, or that contradicts another one, is an error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from transformers import GenerationConfig

from dllm.compose.options import Options
from dllm.errors import ConfigError
from dllm.schedulers.blocks import DEFAULT_SIZE
from dllm.types import BlockCausal

FIELDS = (
    "gen_length", "steps", "denoising_steps", "block_length", "block_size", "small_block_size", "threshold", "factor",
    "confidence_threshold", "remasking", "remasking_strategy", "alg", "alg_temp", "eps", "use_block_cache",
    "dual_cache", "cfg_scale", "mask_token_id", "mask_id", "recipe", "seed",
)  # fmt: skip
"""Our fields beside those of `GenerationConfig`: the published ones, a recipe of `dllm recipes`, and a seed."""

HONOURED = {
    "max_length", "max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "use_cache", "pad_token_id",
    "bos_token_id", "eos_token_id", "stop_strings", "num_return_sequences", "return_dict_in_generate", "min_length",
    "min_new_tokens", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens",
    "begin_suppress_tokens", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id", "renormalize_logits",
    "exponential_decay_length_penalty", "remove_invalid_values", "token_healing", "transformers_version",
}  # fmt: skip
"""Fields of `GenerationConfig` that have their meaning here; those that change logits do it as in `transformers`."""

REMASKING = {"low_confidence": "confidence", "random": "random"}
"""Scores by LLaDA's names."""
ALGORITHMS = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}
"""Scores by Dream's names."""
STRATEGIES: dict[str, dict[str, str]] = {
    "low_confidence_static": {"recipe": "sdar(tau=None)"},
    "low_confidence_dynamic": {"recipe": "sdar"},
    "sequential": {"recipe": "sdar(tau=None)", "score": "left-to-right"},
}
"""Options by SDAR's names."""


class DiffusionGenerationConfig(GenerationConfig):
    """A `GenerationConfig` with the fields of diffusion decoding, saved and loaded as `generation_config.json`.

    The fields are listed in the module's docstring.

    Raises:
        ConfigError: For a name that neither `GenerationConfig` nor this class has.
    """

    def __init__(self, **kwargs: Any) -> None:
        own = {name: kwargs.pop(name, None) for name in FIELDS}
        GenerationConfig.__init__(self, **kwargs)
        for name, value in own.items():
            setattr(self, name, value)
        _refuse_unknown_fields(self)

    def validate(self, strict: bool = False, user_set_attributes: set[str] | None = None) -> None:
        """Check as `transformers` does, except that a temperature needs no `do_sample` here."""
        given = self.do_sample
        self.do_sample = given or any(x is not None for x in (self.temperature, self.top_k, self.top_p)) or None
        try:
            super().validate(strict, user_set_attributes)
        finally:
            self.do_sample = given

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the fields that are set."""
        found: dict[str, Any] = super().to_diff_dict()
        return {name: value for name, value in found.items() if name not in FIELDS or value is not None}


class _DecodingSettings(NamedTuple):
    """Settings of decoding that a config describes.

    Attributes:
        options: Options of the strategy.
        max_new_tokens: Length of every row's answer.
        guidance: Scale of classifier-free guidance; 0: none.
        seed: Seed of the first row; None: the caller's random state decides.
    """

    options: Options
    max_new_tokens: int
    guidance: float
    seed: int | None


def _refuse_unknown_fields(config: GenerationConfig) -> None:
    """Raise ConfigError for a field that neither `transformers` nor this module has."""
    # A base class takes any keyword argument as an attribute, so that a misspelt setting would go unnoticed.
    known = {*vars(GenerationConfig()), *FIELDS, "transformers_version"}
    if strange := [name for name in vars(config) if name not in known and not name.startswith("_")]:
        raise ConfigError(f"{strange[0]}={getattr(config, strange[0])!r}: no such generation setting here; there are "
                          f"{', '.join(FIELDS)} and those of transformers")  # fmt: skip


def _refuse_ignored_fields(config: GenerationConfig) -> None:
    """Raise ConfigError for a field of `transformers` that is set and would change nothing."""
    defaults = config._get_default_generation_params()
    for name, value in vars(config).items():
        if name.startswith("_") or name in HONOURED or name in FIELDS or value is None or value == defaults.get(name):
            continue
        if value is not False and value != {}:
            raise ConfigError(f"{name}={value!r}: diffusion decoding has nothing that would follow it; leave it out")


def interpret_config(config: GenerationConfig, model: Any, prompt: int) -> _DecodingSettings:
    """Translate a config into settings for a model.

    Args:
        config: Config with published names.
        model: Model that will decode.
        prompt: Number of tokens of the prompts.

    Raises:
        ConfigError: For fields that are unknown, ignored or contradictory, or that do not fit the model.
    """
    _refuse_unknown_fields(config)
    _refuse_ignored_fields(config)
    reader = _ConfigReader(config)
    length = reader.get_single("gen_length", "max_new_tokens")
    if length is None:
        length = config.max_length - prompt if config.max_length else 128
    if (mask := reader.get_single("mask_token_id", "mask_id")) not in (None, model.mask_id):
        raise ConfigError(f"mask_token_id={mask}: the model's is {model.mask_id}; load it with mask_id={mask} instead")
    if reader.get("alg_temp"):
        raise ConfigError(f"alg_temp={reader.get('alg_temp')}: positions are not drawn at random here; leave it out")
    size = reader.get_single("block_length", "block_size")
    given = _read_policy_options(reader, model) | _read_sampling_options(reader) | _read_cache_options(reader, model)
    steps, each = reader.get("steps"), reader.get("denoising_steps")
    if steps is not None and each is not None:
        raise ConfigError(f"steps={steps} and denoising_steps={each}: give the steps of all blocks, or those of each")
    if each is not None:
        block = size or (model.geometry.size if isinstance(model.geometry, BlockCausal) else DEFAULT_SIZE)
        steps = each * -(-length // block)
    stops = config.eos_token_id
    ends = None if stops is None else tuple(stops) if isinstance(stops, list | tuple) else (int(stops),)
    strings = config.stop_strings
    recipe = given.pop("recipe", None)
    if recipe is not None and reader.get("recipe") is not None:
        raise ConfigError(f"recipe={reader.get('recipe')!r} and remasking_strategy: each says how to decode; give one")
    options = Options(
        recipe=recipe or reader.get("recipe"), block_size=size, sub_block_size=reader.get("small_block_size"),
        steps=steps, eps=reader.get("eps"), stop_ids=ends,
        stop=(strings,) if isinstance(strings, str) else tuple(strings or ()), **given,
    )  # fmt: skip
    return _DecodingSettings(options, length, reader.get("cfg_scale") or 0.0, reader.get("seed"))


class _ConfigReader:
    """Reader of a config's fields, which returns None for absent ones."""

    def __init__(self, config: GenerationConfig) -> None:
        self.config = config

    def get(self, name: str) -> Any:
        """Return the value of a field."""
        return getattr(self.config, name, None)

    def get_single(self, *names: str) -> Any:
        """Return the value of fields that mean the same; raise ConfigError if their values differ."""
        given = {name: self.get(name) for name in names if self.get(name) is not None}
        if len(set(given.values())) > 1:
            raise ConfigError(f"{' and '.join(f'{n}={v}' for n, v in given.items())}: they mean the same; give one")
        return next(iter(given.values()), None)


def _read_policy_options(reader: _ConfigReader, model: Any) -> dict[str, Any]:
    """Translate the fields of the policy; raise ConfigError if several rules are given of which only one can hold."""
    names = ("threshold", "factor", "remasking", "remasking_strategy", "alg")
    given = {name: reader.get(name) for name in names if reader.get(name) is not None}
    found: dict[str, Any] = {}
    # Fast-dLLM v1 passes `remasking` along with its own rules (LLaDA), and `alg` along with a threshold (Dream).
    pairs = {frozenset({"threshold", "remasking"}), frozenset({"factor", "remasking"}), frozenset({"threshold", "alg"})}
    if len(given) > 1 and frozenset(given) not in pairs:
        raise ConfigError(f"{' and '.join(f'{n}={v!r}' for n, v in given.items())}: a step follows one rule; give one")
    if "remasking" in given:
        score = _translate_published_name("remasking", given["remasking"], REMASKING)
        found |= {"score": score} if score != "confidence" or len(given) == 1 else {}
        if len(given) == 1:
            found |= {"policy": "top-k"}
    if "alg" in given and given["alg"] != "confidence_threshold":
        if "threshold" in given:
            raise ConfigError(
                f"threshold={given['threshold']} goes with alg='confidence_threshold', not {given['alg']!r}"
            )
        found |= {"policy": "top-k", "score": _translate_published_name("alg", given["alg"], ALGORITHMS)}
    elif "alg" in given:
        found |= {"policy": "threshold"}
    if "remasking_strategy" in given:
        found |= _translate_published_name("remasking_strategy", given["remasking_strategy"], STRATEGIES)
    if "threshold" in given:
        found |= {"policy": "threshold", "tau": given["threshold"]}
    if "factor" in given:
        found |= {"policy": "factor", "f": given["factor"]}
    if reader.get("confidence_threshold") is not None:
        if (
            given.get("remasking_strategy", "low_confidence_dynamic") != "low_confidence_dynamic"
            or "threshold" in given
        ):
            raise ConfigError("confidence_threshold goes with remasking_strategy='low_confidence_dynamic' alone")
        found |= {"tau": reader.get("confidence_threshold")}
    return found


def _translate_published_name(name: str, value: str, table: dict[str, Any]) -> Any:
    """Look up the meaning of a published name; raise ConfigError for an unknown one."""
    if value not in table:
        raise ConfigError(f"{name}={value!r}: there are {', '.join(table)}")
    return table[value]


def _read_sampling_options(reader: _ConfigReader) -> dict[str, Any]:
    """Translate the fields of sampling: a temperature other than 1 samples, and with `do_sample` every one does."""
    temperature, sample = reader.get("temperature"), reader.get("do_sample")
    defaults = reader.config._get_default_generation_params()
    if sample and temperature == 0:
        raise ConfigError("do_sample=True and temperature=0: the first samples and the second does not; give one")
    if not sample and (temperature is None or temperature == defaults["temperature"]):
        temperature = None
    elif temperature is None:
        temperature = 1.0
    found: dict[str, Any] = {"temperature": temperature}
    for name in ("top_k", "top_p"):
        value = reader.get(name)
        if value is not None and (sample or value != defaults[name]):
            if not temperature:
                raise ConfigError(f"{name}={value} filters what is sampled: set a temperature, or do_sample=True")
            found[name] = value
    return found


def _read_cache_options(reader: _ConfigReader, model: Any) -> dict[str, Any]:
    """Translate the fields of the cache, if any is set."""
    dual = reader.get_single("use_block_cache", "dual_cache")
    if dual is not None and reader.get("use_cache") is False:
        raise ConfigError(f"use_cache=False and a sub-block cache ({dual}): give one of them")
    if reader.get("use_cache") is False:
        return {"cache": "none"}
    return {} if dual is None else {"cache": "dual" if dual else "prefix"}
