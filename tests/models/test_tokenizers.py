"""A tokenizer that says all in its `tokenizer.json` is read as it says, whatever its model type has elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dllm.errors import CheckpointError
from dllm.models.checkpoint import read_checkpoint
from dllm.models.tokenizers import read_tokenizer
from dllm.training.tokenizer import build_word_tokenizer

TEXT = "Mia has 12 apples."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_word_tokenizer([TEXT], 300).save_pretrained(tmp_path)
    config = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 300, "eos_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_words_of_a_file_for_qwen2_stay_whole(folder: Path) -> None:
    """Qwen2's own class would cut them into bytes."""
    found = read_tokenizer(folder, read_checkpoint(str(folder)).family)
    assert (
        found(TEXT).input_ids == build_word_tokenizer([TEXT], 300)(TEXT).input_ids and len(found(TEXT).input_ids) == 6
    )


def test_a_broken_config_is_named(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("[1")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: not readable as JSON"):
        read_tokenizer(folder, read_checkpoint(str(folder)).family)
