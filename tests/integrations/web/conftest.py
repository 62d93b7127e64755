"""One library with the embedded model and a tiny causal one, for all tests of the page."""

from __future__ import annotations

import pytest
import torch

from dllm.integrations.web.model_library import ModelLibrary, NamedCheckpoint
from dllm.integrations.web.runs import AnswerRun
from dllm.jobs import ModelOutline
from dllm.models import AutoregressiveModel
from dllm.types import BlockCausal
from tests.waiting import until

CAUSAL = "tiny causal"


@pytest.fixture(scope="session")
def library() -> ModelLibrary:
    """Return a library with both models loaded."""
    library = ModelLibrary([NamedCheckpoint("embedded")], longest=256)
    embedded = library.model("embedded")
    library.models[CAUSAL] = make_causal_model(embedded.tokenizer)
    library.named[CAUSAL] = NamedCheckpoint(CAUSAL)
    library.outlines[CAUSAL] = ModelOutline("autoregressive", BlockCausal(1), 512)
    return library


def make_causal_model(tokenizer) -> AutoregressiveModel:
    """Return a random model over the embedded one's vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=478, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=512,
    )  # fmt: skip
    return AutoregressiveModel(LlamaForCausalLM(config), tokenizer, (0,), name=CAUSAL)


def finished(run: AnswerRun) -> AnswerRun:
    """Wait until a run is over and return it."""
    until(lambda: run.over)
    return run
