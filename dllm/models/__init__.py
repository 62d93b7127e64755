"""Models: stock `transformers` classes, reached through a config and a tensor-name map."""

from dllm.models.autoregressive import AutoregressiveModel
from dllm.models.description import CheckpointDescription, describe_checkpoint
from dllm.models.encoder import EncoderModel
from dllm.models.families import FAMILIES, Family
from dllm.models.guided import Guided
from dllm.models.loading import load
from dllm.models.tabular import TabularModel
from dllm.models.transformer import TransformerModel

__all__ = [
    "FAMILIES",
    "AutoregressiveModel",
    "CheckpointDescription",
    "EncoderModel",
    "Family",
    "Guided",
    "TabularModel",
    "TransformerModel",
    "describe_checkpoint",
    "load",
]
