"""Tiny bases to adapt, of each kind that can be, and a data file they can learn from."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from dllm.training.tokenizer import build_word_tokenizer
from experiments.embedded_text import generate_examples

SIZES: dict[str, int] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def tiny_tokenizer(mask: bool = True) -> Any:
    """Whole words of the embedded model's text; without `mask` it names no mask token."""
    some = islice(generate_examples(0, held=False), 300)
    tokenizer = build_word_tokenizer((text for e in some for text in (e.prompt, e.completion)), 400)
    if not mask:
        tokenizer.mask_token = None
    return tokenizer


@pytest.fixture(scope="session")
def make_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_base("Qwen3", tied=False, mask=True, spare=0): the folder of a random base."""
    made: dict[tuple[Any, ...], Path] = {}

    def make(kind: str = "Qwen2", tied: bool = True, mask: bool = True, spare: int = 0) -> Path:
        key = (kind, tied, mask, spare)
        if key not in made:
            folder = tmp_path_factory.mktemp("base") / kind
            tokenizer = tiny_tokenizer(mask)
            config = getattr(transformers, f"{kind}Config")(
                vocab_size=len(tokenizer) + spare,
                tie_word_embeddings=tied,
                eos_token_id=0,
                pad_token_id=1,
                bos_token_id=None,
                **SIZES,
            )
            torch.manual_seed(0)
            getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 questions with answers, as `prompt` and `completion`."""
    path = tmp_path_factory.mktemp("data") / "some.jsonl"
    rows = [{"prompt": e.prompt, "completion": e.completion} for e in islice(generate_examples(1, held=False), 120)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
