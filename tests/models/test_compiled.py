"""Compiled forwards: the same tokens, few shapes, and nothing compiled again once a prompt of a size has been seen."""

from __future__ import annotations

import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch._inductor.utils import run_and_get_code
from torch.torch_version import TorchVersion

from benchmarks.compilations import CountingCompiler
from dllm import (
    WINO,
    Blocks,
    ConfigError,
    DualCache,
    NoCache,
    PrefixCache,
    Request,
    Result,
    Speculative,
    Strategy,
    Threshold,
    decode,
)
from dllm.bench.shapes import ModelShape, make_random_model
from dllm.models.compiled import CompiledModel, _graphs_work_here
from dllm.models.packing import pack_linear_layers
from dllm.models.static_memory import bucket
from dllm.testing import laws
from dllm.types import Query
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
    numbers = range(1, 4097)
    assert all(n <= bucket(n) < 1.5 * n + 1 for n in numbers)
    assert all(bucket(bucket(n)) == bucket(n) for n in numbers)
    assert sorted({bucket(n, 16) for n in range(200)}) == [16, 24, 32, 48, 64, 96, 128, 192, 256]


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


def as_on_cuda(geometry: str) -> tuple[CompiledModel, CountingCompiler]:
    """A model that is compiled as on CUDA, without the code that is made of it."""
    torch._dynamo.reset()
    compiler = CountingCompiler()
    with mock.patch.object(torch, "compile", compiler):
        return replace(CompiledModel.of(tiny_model(geometry)), graphs=True, forward_overhead_columns=8), compiler


STRATEGIES = {
    "dual": KEPT,
    "sub-blocks": Strategy(Threshold(0.9), Blocks(8, sub_block=2), PrefixCache()),
    "none": Strategy(Threshold(0.6), Blocks(8), NoCache()),
    "speculative": Strategy(Threshold(0.6), Blocks(8), Speculative(DualCache(), 3)),
    "wino": Strategy(WINO(), Blocks(8), PrefixCache()),
}
QUEUE = [Request(tuple(range(1, 2 + 3 * i)), 4 + 5 * i, seed=i) for i in (4, 0, 5, 2)]


def outputs(found: list[Result]) -> list[tuple[int, ...]]:
    return [tuple(result.output_ids) for result in found]


@pytest.mark.parametrize("geometry", ["bidirectional", "block-causal-shift"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_same_tokens_as_on_cuda(geometry: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that come and go, and such as run many columns beside others that run few."""
    monkeypatch.setattr("dllm.models.compiled.LONGEST", 16)
    compiled, compiler = as_on_cuda(geometry)
    compiled.undivided_columns = 8
    got = decode(compiled, QUEUE, STRATEGIES[name], batch_size=3)
    want = decode(replace(tiny_model(geometry), forward_overhead_columns=8), QUEUE, STRATEGIES[name], batch_size=3)
    assert [(r.output_ids, r.nfe) for r in got] == [(r.output_ids, r.nfe) for r in want]
    assert name in ("none", "wino") or 1 <= compiler.counter.frame_count <= 3 * len(compiler.shapes)


def test_prompts_of_any_length_are_few_compilations() -> None:
    """A queue and single calls: by rows and by columns of a query, and by no more."""
    compiled, compiler = as_on_cuda("bidirectional")
    lengths = (1, 60, 110, 7, 33)
    requests = [Request(tuple(i % 30 for i in range(n)), 9, stop_ids=()) for n in lengths]
    decode(compiled, requests, KEPT, batch_size=4)
    for request in requests:
        decode(compiled, [request], KEPT)
    assert compiler.counter.frame_count <= 8 and len(compiler.shapes) > 3
    assert {shape[0][1] for shape in compiler.shapes} <= {16, 24, 32, 48, 64, 96, 128}
    before = compiler.counter.frame_count
    decode(compiled, [replace(requests[0], prompt=(1,) * 110, max_new_tokens=90)], KEPT)
    assert compiler.counter.frame_count == before, "a longer store and more keys are no new compilation"


def test_beyond_the_limit_forwards_run_uncompiled() -> None:
    compiled, compiler = as_on_cuda("bidirectional")
    with warnings.catch_warnings(record=True) as told, torch._dynamo.config.patch(recompile_limit=1):
        warnings.simplefilter("always")
        got = [decode(compiled, QUEUE, KEPT, batch_size=rows) for rows in (3, 2, 1)]
    assert ["further ones run uncompiled" in str(one.message) for one in told] == [True]
    assert compiler.counter.frame_count == 1
    want = outputs(decode(tiny_model("bidirectional"), QUEUE, KEPT))
    assert [outputs(some) for some in got] == [want] * 3


def test_graphs_in_other_threads_need_a_new_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(version: str) -> list[bool]:
        monkeypatch.setattr(torch, "__version__", TorchVersion(version))
        with ThreadPoolExecutor(1) as other:
            return [_graphs_work_here(), other.submit(_graphs_work_here).result()]

    assert asked("2.13.0+cu130") == [True, True]
    assert asked("2.12.1") == [True, False]


@needs_compiler
def test_the_store_is_written_in_place() -> None:
    """The code that Inductor makes has no buffer with the store's columns: nothing is cloned, nothing copied back."""
    torch._dynamo.reset()
    plain = make_random_model(ModelShape("Llama", 32, 64, 1, 4, 4, 8, 32))
    compiled = replace(CompiledModel.of(plain), graphs=True)
    store = compiled.store(200)
    columns = torch.arange(4, 12).expand(3, -1)
    query = Query(torch.ones_like(columns), columns, torch.ones_like(columns, dtype=torch.bool), 200, None, 4)
    with torch.inference_mode():
        shown, (code,) = run_and_get_code(compiled.forward, query, store)
        torch.testing.assert_close(shown, plain.forward(query, plain.store(200)), rtol=1e-4, atol=1e-4)
    made = [size.split(", ") for size in re.findall(r"= empty_strided_cpu\(\(([^)]*)\)", code)]
    keys = [size for size in made if size[:2] == ["3", "4"] and size[2] != "24"]
    assert "index_put" in code and len(made) > 5 and not keys, keys


def test_only_plain_transformers_are_compiled() -> None:
    class Other(type(tiny_model("bidirectional"))):  # type: ignore[misc]
        pass

    other = Other(tiny_model("bidirectional").network, tiny_model("bidirectional").geometry, mask_id=31)
    with pytest.raises(ConfigError, match="Other cannot be compiled"):
        CompiledModel.of(other)
