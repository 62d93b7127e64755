"""A plain causal language model, the baseline: one token per forward, through `generate` of `transformers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dllm.errors import ConfigError, RequestError


@dataclass(eq=False)
class AutoregressiveModel:
    """A stock causal-LM class.

    Attributes:
        network: Any `…ForCausalLM`, attending causally.
        tokenizer: The checkpoint's tokenizer, or None.
        stop_ids: Ids that end a text.
        pad_id: Id for the padding left of short prompts; never attended to.
        name: Where the checkpoint came from.
        family: Name of the family, for messages.
        max_columns: Most tokens of a prompt and its answer together.
    """

    network: Any
    tokenizer: Any = None
    stop_ids: tuple[int, ...] = ()
    pad_id: int = 0
    name: str = ""
    family: str = "autoregressive"
    max_columns: int = field(init=False)

    def __post_init__(self) -> None:
        from transformers import GenerationConfig

        self.network.eval()
        # What a checkpoint suggests (top-k, penalties, …) must not leak into a measured baseline.
        self.network.generation_config = GenerationConfig()
        self.vocabulary = int(self.network.config.vocab_size)
        self.max_columns = int(getattr(self.network.config, "max_position_embeddings", 0) or 2**31)

    @property
    def device(self) -> torch.device:
        """Device of the embedding, on which tokens have to be."""
        device: torch.device = self.network.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the embedding."""
        dtype: torch.dtype = self.network.get_input_embeddings().weight.dtype
        return dtype

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int] | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | Sequence[int] = 0,
        streamer: Any = None,
    ) -> list[list[int]]:
        """Generate the new tokens of each prompt, up to and including its first stop token.

        Args:
            prompts: Token ids of each prompt.
            max_new_tokens: Most tokens to generate for each.
            stop_ids: Ids that end a text. None: the model's own; () stops nothing.
            temperature: 0 is greedy and ignores `top_p`, `top_k` and `seed`.
            top_p: Probability of the most likely tokens that a sample is drawn from. None: 1.
            top_k: Number of the most likely tokens that a sample is drawn from. None: all.
            seed: Seed of every row, or one for each; a row's sample depends on its seed and nothing else in the batch.
            streamer: A streamer of `transformers`, which gets each token as it is drawn; of a batch, (b,) at a time.

        Raises:
            RequestError: A prompt is empty, too long or not of this vocabulary.
            ConfigError: An option is out of its range.
        """
        from transformers import GenerationConfig

        if max_new_tokens < 0:
            raise ConfigError(f"generate(max_new_tokens={max_new_tokens}): must not be negative")
        for row, prompt in enumerate(prompts):
            self._check(row, prompt, max_new_tokens)
        if not prompts or max_new_tokens == 0:
            return [[] for _ in prompts]
        stops = list(self.stop_ids if stop_ids is None else stop_ids)
        width = max(map(len, prompts))
        tokens = torch.tensor([[self.pad_id] * (width - len(p)) + list(p) for p in prompts], device=self.device)
        there = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        out = self.network.generate(
            tokens,
            attention_mask=there,
            generation_config=GenerationConfig(
                max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=stops or None, pad_token_id=self.pad_id
            ),
            logits_processor=_build_logits_processors(len(prompts), temperature, top_p, top_k, seed, self.device),
            streamer=streamer,
        )
        return [_cut_after_stop(row, stops) for row in out[:, width:].tolist()]

    def _check(self, row: int, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Raise RequestError for a prompt that is empty, too long or not of this vocabulary."""
        if not prompt:
            raise RequestError(f"prompt {row} is empty: a causal model needs at least one token to continue")
        if bad := [token for token in prompt if not 0 <= token < self.vocabulary]:
            raise RequestError(f"prompt {row} holds token {bad[0]}: ids of {self.name} lie in 0..{self.vocabulary - 1}")
        if len(prompt) + max_new_tokens > self.max_columns:
            raise RequestError(
                f"prompt {row} of {len(prompt)} tokens with {max_new_tokens} new ones exceeds the {self.max_columns} "
                f"columns of {self.name}: shorten the prompt or lower max_new_tokens"
            )


class _GumbelNoise:
    """Noise under which the arg-max is a sample; each row draws from its own seed, whatever its neighbours do.

    `generate` of `transformers` draws all rows of a batch from one global generator. Instead it is run greedily over
    scores to which this noise was added.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]

    def __call__(self, _: Int[Tensor, "b t"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        rows = [torch.rand(scores.shape[-1], generator=g, device=scores.device) for g in self.generators]
        uniform = torch.stack(rows).clamp(min=1e-20)
        return scores - torch.log(-torch.log(uniform))


def _build_logits_processors(
    rows: int,
    temperature: float,
    top_p: float | None,
    top_k: int | None,
    seed: int | Sequence[int],
    device: torch.device,
) -> Any:
    """Build the chain that `generate` applies to logits, in the order of `transformers`, and then the noise.

    Raises:
        ConfigError: An option is out of its range.
    """
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    chain: Any = LogitsProcessorList()
    if temperature == 0:
        return chain
    if not temperature > 0:
        raise ConfigError(f"generate(temperature={temperature}): must be 0 (greedy) or positive")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"generate(top_p={top_p}): must lie in (0, 1]")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"generate(top_k={top_k}): must be at least 1")
    seeds = [seed] * rows if isinstance(seed, int) else list(seed)
    if len(seeds) != rows:
        raise ConfigError(f"generate(seed={seeds}): {rows} prompts need one seed or {rows}")
    chain.append(TemperatureLogitsWarper(float(temperature)))
    if top_k is not None:
        chain.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        chain.append(TopPLogitsWarper(top_p))
    chain.append(_GumbelNoise(seeds, device))
    return chain


def _cut_after_stop(tokens: list[int], stops: list[int]) -> list[int]:
    """Cut tokens behind the first stop."""
    for index, token in enumerate(tokens):
        if token in stops:
            return tokens[: index + 1]
    return tokens
