"""The whole-word tokenizer: every string round-trips, known words are one token, the template is what rows train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from dllm.training.data import DataRecord
from dllm.training.encoding import encode_records
from dllm.training.export import write_model_folder
from dllm.training.tokenizer import END, MASK, PAD, SPECIALS, build_word_tokenizer

TEXTS = ["Mia has 12 apples.", "Tom has 3 apples.\n#### 3"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_word_tokenizer(TEXTS, 300)


@given(st.text())
def test_every_string_round_trips(tokenizer: Any, text: str) -> None:
    if not any(special in text for special in SPECIALS):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_words_and_digits_are_single_tokens(tokenizer: Any) -> None:
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("Mia has 12 apples.\n").input_ids)
    assert pieces == ["Mia", "Ġhas", "Ġ1", "2", "Ġapples", ".", "Ċ"]


def test_size_is_a_limit_and_specials_come_first() -> None:
    small = build_word_tokenizer(TEXTS, 5 + 256 + 2)
    assert len(small) == 263
    assert small.convert_tokens_to_ids(list(SPECIALS)) == [0, 1, 2, 3, 4]
    assert (small.eos_token, small.pad_token, small.mask_token) == (END, PAD, MASK)


def test_the_template_gives_the_ids_that_training_uses(tokenizer: Any) -> None:
    asked = {"role": "user", "content": TEXTS[0]}
    told = {"role": "assistant", "content": TEXTS[1]}
    (sample,), _ = encode_records(
        [DataRecord("x:1", (asked, told))], tokenizer, longest=None, end=tokenizer.eos_token_id
    )
    prompt = tokenizer.apply_chat_template([asked], add_generation_prompt=True)["input_ids"]
    assert sample.tokens == tokenizer.apply_chat_template([asked, told])["input_ids"]
    assert sample.tokens[: len(prompt)] == prompt
    assert sample.learnt == [False] * len(prompt) + [True] * (len(sample.tokens) - len(prompt))


def test_an_exported_tokenizer_loads_and_says_the_same(tokenizer: Any, tmp_path: Path) -> None:
    write_model_folder(
        tmp_path, {"w": torch.zeros(1)}, {"eos_token_id": 0, "pad_token_id": 1, "mask_token_id": 2}, tokenizer
    )
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("Mia has 7 nuts").input_ids == tokenizer("Mia has 7 nuts").input_ids
    assert again.mask_token_id == 2 and again.chat_template == tokenizer.chat_template
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
