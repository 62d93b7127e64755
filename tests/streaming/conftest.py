"""A plain causal model, tiny and random."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig

from dllm.models.autoregressive import AutoregressiveModel
from tests.streaming.tokenizers import byte_level
from tests.tiny import network


@pytest.fixture
def autoregressive() -> object:
    net = network(0)
    kept = net.generation_config
    yield AutoregressiveModel(net, byte_level())
    net.generation_config = kept if isinstance(kept, GenerationConfig) else GenerationConfig()
