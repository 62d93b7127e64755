"""Quantised weights go through the same loop; what cannot be done is said before anything is read."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

import dllm
from dllm import ConfigError
from dllm.models.compiled import CompiledModel
from dllm.models.quantizing import make_quantization_config

PROMPT = "Tom has 3 apples and buys 4 more. How many apples does he have?"


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao (extra quant)")
@pytest.mark.parametrize("way", ["int8", "int8-dynamic"])
def test_the_embedded_model_still_answers(way: str) -> None:
    plain, model = dllm.load(), dllm.load(quantize=way)
    weights = model.network.model.layers[0].mlp.up_proj.weight
    assert type(weights).__name__ == "Int8Tensor"
    (want,), (got,) = (dllm.decode(m, [PROMPT], max_new_tokens=48) for m in (plain, model))
    assert got.text == want.text and got.nfe == want.nfe


def test_what_cannot_be_done(monkeypatch) -> None:
    with pytest.raises(ConfigError, match="quantize='int3': choose from int8, int8-dynamic, int4"):
        dllm.load(quantize="int3")
    with pytest.raises(ConfigError, match=r"int4.*CUDA only"):
        make_quantization_config("int4", torch.device("cpu"))
    with pytest.raises(ConfigError, match="give one of the two"):
        dllm.load(quantize="int8", quantization_config="mine")
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ConfigError, match=r"needs torchao: pip install 'dllm\[quant\]'"):
        dllm.load(quantize="int8")


def test_compiled_by_name() -> None:
    assert type(dllm.load(compile=True)) is CompiledModel
