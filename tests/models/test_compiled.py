"""Compiled forwards: the same tokens, few shapes, and nothing compiled again once a prompt of a size has been seen."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from dllm import Blocks, ConfigError, DualCache, NoCache, PrefixCache, Request, Strategy, Threshold
from dllm.models.compiled import CompiledModel, bucket_length
from dllm.models.packing import pack_linear_layers
from dllm.testing import laws
from tests.tiny import tiny_model

TWO = [Request((3, 7, 1, 22, 9), 13, seed=1), Request((5, 2, 8, 8, 8, 1, 0, 4, 17, 20, 11), 8, seed=2)]
KEPT = Strategy(Threshold(0.6), Blocks(8), DualCache())

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (g++)")


@pytest.fixture(
    params=[
        False,
        pytest.param(True, marks=pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")),
    ],
    ids=["plain", "packed"],
)
def compiled(request: pytest.FixtureRequest) -> CompiledModel:
    made = tiny_model("block-causal-shift")
    if request.param:
        made = replace(made, network=pack_linear_layers(deepcopy(made.network), least=1))
    return CompiledModel.of(made)


def test_buckets_are_few_and_waste_little() -> None:
    lengths = range(1, 4097)
    assert all(n <= bucket_length(n) <= max(n + 7, 1.25 * n) for n in lengths)
    assert all(bucket_length(bucket_length(n)) == bucket_length(n) for n in lengths)
    assert len({bucket_length(n) for n in lengths}) <= 32


@needs_compiler
def test_same_tokens_and_nothing_compiled_again(compiled: CompiledModel) -> None:
    _, (*want,) = laws.run_batch(tiny_model("block-causal-shift"), TWO, KEPT)
    _, (*got,) = laws.run_batch(compiled, TWO, KEPT)
    assert [(r.output_ids, r.nfe, r.queries) for r in got] == [(r.output_ids, r.nfe, r.queries) for r in want]
    others = [Request((7, 1), 21, seed=3), Request((4, 4, 4, 4, 9, 6, 2), 5, seed=4)]
    with torch.compiler.set_stance("fail_on_recompile"):
        for strategy in (KEPT, Strategy(Threshold(0.9), Blocks(8, sub_block=2, commit=True), PrefixCache())):
            _, (*got,) = laws.run_batch(compiled, others, strategy)
            _, (*want,) = laws.run_batch(tiny_model("block-causal-shift"), others, strategy)
            assert [(r.output_ids, r.nfe) for r in got] == [(r.output_ids, r.nfe) for r in want]


@needs_compiler
def test_without_a_store() -> None:
    strategy = Strategy(Threshold(0.6), Blocks(8), NoCache())
    compiled = CompiledModel.of(tiny_model("bidirectional"))
    _, (got,) = laws.run_batch(compiled, TWO[:1], strategy)
    _, (want,) = laws.run_batch(tiny_model("bidirectional"), TWO[:1], strategy)
    assert (got.output_ids, got.nfe) == (want.output_ids, want.nfe)


def test_memory_is_used_again() -> None:
    compiled = CompiledModel.of(tiny_model("block-causal-shift"))

    def address() -> int:
        store = compiled.store(16)
        compiled.furnish(store, 2)
        return store.layers[0][0].data_ptr()

    first, other = compiled.store(16), compiled.store(16)
    compiled.furnish(first, 2)
    compiled.furnish(other, 2)
    assert first.layers[0][0].data_ptr() != other.layers[0][0].data_ptr(), "two batches at once share nothing"
    del first, other
    assert address() == address(), "the next batch of this size writes where the last one did"


def test_only_plain_transformers_are_compiled() -> None:
    class Other(type(tiny_model("bidirectional"))):  # type: ignore[misc]
        pass

    other = Other(tiny_model("bidirectional").network, tiny_model("bidirectional").geometry, mask_id=31)
    with pytest.raises(ConfigError, match="Other cannot be compiled"):
        CompiledModel.of(other)
