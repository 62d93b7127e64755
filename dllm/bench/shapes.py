"""Models of real shapes with random weights, so that measuring speed needs no download."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from dllm.errors import ConfigError
from dllm.models import quantizing
from dllm.models.transformer import TransformerModel
from dllm.types import Bidirectional, BlockCausal, Geometry


@dataclass(frozen=True)
class ModelShape:
    """Sizes that decide a model's speed.

    Attributes:
        stock: Class of `transformers`, without "ForCausalLM".
        hidden: Width of the residual stream.
        inner: Width of the feed-forward layers.
        layers: Number of layers.
        heads: Query heads of a layer.
        kv_heads: Key and value heads of a layer.
        head_width: Width of one attention head.
        vocabulary: Number of tokens.
        block: Columns of an attention block; None: attention in both directions.
        needs_left: 1 for token-shifted families, else 0.
        tied: True if the head shares the embedding's weights.
    """

    stock: str
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    block: int | None = None
    needs_left: int = 0
    tied: bool = False

    @property
    def geometry(self) -> Geometry:
        """The way in which columns attend to each other."""
        return Bidirectional() if self.block is None else BlockCausal(self.block)


SHAPES: dict[str, ModelShape] = {
    "llada-8b": ModelShape("Llama", 4096, 12288, 32, 32, 32, 128, 126_464),
    "dream-7b": ModelShape("Qwen2", 3584, 18944, 28, 28, 4, 128, 152_064, needs_left=1),
    "fast-dllm-v2-1.5b": ModelShape("Qwen2", 1536, 8960, 28, 12, 2, 128, 151_936, block=32, needs_left=1, tied=True),
    "fast-dllm-v2-7b": ModelShape("Qwen2", 3584, 18944, 28, 28, 4, 128, 152_064, block=32, needs_left=1),
    "sdar-4b": ModelShape("Qwen3", 2560, 9728, 36, 32, 8, 128, 151_936, block=4),
    "small": ModelShape("Llama", 512, 1365, 8, 8, 8, 64, 32_000),
    "small-126k": ModelShape("Llama", 512, 1365, 8, 8, 8, 64, 126_464),
    "small-blocks": ModelShape("Qwen2", 512, 1365, 8, 8, 8, 64, 32_000, block=32, needs_left=1),
}
"""Published checkpoints by name, with sizes from their config.json, and small models for a CPU."""


def make_random_model(
    shape: ModelShape,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    sharpness: float = 25.0,
    quantize: str | None = None,
) -> TransformerModel:
    """Make a model of a shape with random weights; the last id is the mask.

    Args:
        shape: Sizes of the model.
        device: Device to make it on.
        dtype: Dtype of the weights.
        sharpness: Factor on the head's weights, which spreads the confidences so that thresholds have an effect.
        quantize: Way to quantise the weights (`dllm.models.quantizing`), or None.

    Raises:
        ConfigError: If the model does not fit on the device.
    """
    import transformers

    config: Any = getattr(transformers, f"{shape.stock}Config")(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        max_position_embeddings=32_768,
        tie_word_embeddings=shape.tied,
    )
    torch.manual_seed(0)
    try:
        with torch.device(device):
            network = getattr(transformers, f"{shape.stock}ForCausalLM")(config).to(dtype).eval()
    except (torch.OutOfMemoryError, RuntimeError) as error:
        raise ConfigError(
            f"a model of {asdict(shape)} does not fit on {device}: {str(error).splitlines()[0]}"
        ) from None
    with torch.no_grad():
        network.get_output_embeddings().weight.mul_(sharpness)
    if quantize is not None:
        quantizing.quantize_network(network, quantize)
    return TransformerModel(
        network, shape.geometry, needs_left=shape.needs_left, mask_id=shape.vocabulary - 1, family=shape.stock
    )
