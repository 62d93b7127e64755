"""A plain causal model, tiny and random."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig

from dllm.models.autoregressive import AutoregressiveModel
from tests.streaming.tokenizers import byte_level
from tests.tiny import tiny_network


@pytest.fixture
def autoregressive() -> object:
    net = tiny_network(0)
    kept = net.generation_config
    yield AutoregressiveModel(net, byte_level())
    net.generation_config = kept if isinstance(kept, GenerationConfig) else GenerationConfig()
