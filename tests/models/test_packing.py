"""Packed weights: the same products, the same decoding, what is packed and what is left, and clear refusals."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

import dllm
from dllm import Blocks, DualCache, PrefixCache, Request, Strategy, Threshold
from dllm.engine.autoregressive import Autoregressive, generate_autoregressively
from dllm.errors import ConfigError
from dllm.models import TransformerModel, packing
from dllm.models.compiled import CompiledModel
from dllm.models.packing import LEAST, PackedLinear, is_packable_layer, pack_linear_layers
from dllm.types import Bidirectional, BlockCausal

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")

KINDS = [torch.float32]
if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    KINDS.append(torch.bfloat16)
"""What oneDNN multiplies here, be it slowly."""


@pytest.fixture
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this CPU is said to multiply bfloat16 itself."""
    if request.param and torch.bfloat16 not in KINDS:
        pytest.skip("oneDNN has no bfloat16 on this CPU")
    monkeypatch.setattr(packing, "multiplies_bfloat16", lambda: request.param)
    return bool(request.param)


with_and_without = pytest.mark.parametrize("bfloat16", [False, True], indirect=True)


def network(tied: bool = False) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, tie_word_embeddings=tied,
    )  # fmt: skip
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        made.get_output_embeddings().weight.mul_(40)
    return made


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 5), st.integers(0, 40), st.integers(1, 40), st.integers(1, 70), st.booleans(), st.sampled_from(KINDS)
)
def test_a_packed_layer_gives_the_same_products(
    rows: int, columns: int, inner: int, outer: int, bias: bool, kind: torch.dtype
) -> None:
    torch.manual_seed(rows)
    plain = nn.Linear(inner, outer, bias=bias, dtype=kind)
    x = torch.randn(rows, columns, inner, dtype=kind)
    with torch.inference_mode():
        assert PackedLinear(plain)(x).dtype == kind
        torch.testing.assert_close(PackedLinear(plain)(x), plain(x))
        torch.testing.assert_close(PackedLinear(plain)(x.mT.contiguous().mT), plain(x))


@pytest.mark.parametrize("geometry", [Bidirectional(), BlockCausal(8)], ids=["bidirectional", "block-causal"])
@pytest.mark.parametrize("tied", [False, True])
def test_decoding_is_the_same(geometry: Any, tied: bool) -> None:
    strategy = Strategy(
        Threshold(0.6), Blocks(8), DualCache() if isinstance(geometry, Bidirectional) else PrefixCache()
    )
    requests = [Request((1, 2, 3, 4, 5), 20, stop_ids=()), Request((6, 7), 9, stop_ids=())]
    results = []
    for model in (network(tied), pack_linear_layers(network(tied), least=1)):
        found = dllm.decode(TransformerModel(model, geometry, mask_id=47), requests, strategy)
        results.append([(result.output_ids, result.nfe) for result in found])
    assert results[0] == results[1]


def packed(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, PackedLinear)]


def test_large_layers_are_packed_and_a_tied_head_gets_a_weight_of_its_own() -> None:
    assert len(packed(pack_linear_layers(network(), least=1))) == 15
    assert packed(pack_linear_layers(network(), least=16 * 48)) == ["lm_head"]
    assert packed(pack_linear_layers(network())) == []
    tied = pack_linear_layers(network(tied=True), least=1)
    assert not tied.get_input_embeddings().weight.is_mkldnn and tied.lm_head.weight.is_mkldnn


def test_only_plain_large_float32_layers_are_packed() -> None:
    class Other(nn.Linear):
        """A layer that computes something else."""

    quantised = nn.Linear(512, 512)
    quantised.weight.__tensor_flatten__ = None  # as tensors of torchao have
    assert is_packable_layer(nn.Linear(512, 512), LEAST) and not is_packable_layer(nn.Linear(512, 511), LEAST)
    for layer in (Other(512, 512), quantised, nn.Linear(512, 512).double(), nn.Embedding(512, 512)):
        assert not is_packable_layer(layer, LEAST)


def test_packed_layers_are_compiled() -> None:
    strategy = Strategy(Threshold(0.6), Blocks(8), DualCache())
    requests = [Request((1, 2, 3, 4, 5), 20, stop_ids=()), Request((6, 7), 9, stop_ids=())]
    made = pack_linear_layers(network(), least=1)
    model = TransformerModel(made, Bidirectional(), mask_id=47)
    found = [
        [(result.output_ids, result.nfe) for result in dllm.decode(way, requests, strategy)]
        for way in (model, CompiledModel.of(model))
    ]
    assert len(packed(made)) == 15 and found[0] == found[1]


def test_a_layer_that_nobody_holds_is_forgotten() -> None:
    before = set(packing._layers)
    made = pack_linear_layers(network(), least=1)
    assert len(set(packing._layers) - before) == 15
    del made
    gc.collect()
    assert not set(packing._layers) - before


def test_packed_layers_give_no_gradients_and_say_so() -> None:
    with pytest.raises(RuntimeError, match="give no gradients; load the model with pack=False"):
        PackedLinear(nn.Linear(3, 4))(torch.randn(2, 3, requires_grad=True))


def test_what_is_packed_is_let_go() -> None:
    made = network()
    layers = [weakref.ref(layer) for layer in made.modules() if type(layer) is nn.Linear and layer is not made.lm_head]
    alive = []
    original = packing.PackedLinear

    def spy(layer: nn.Linear) -> PackedLinear:
        alive.append(sum(place() is not None for place in layers))
        return original(layer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "PackedLinear", spy)
        packing.pack_linear_layers(made, least=1)
    assert alive[:14] == list(range(14, 0, -1))


def test_packed_weights_are_never_written() -> None:
    with pytest.raises(ValueError, match="sparse"):
        save({name: tensor for name, tensor in pack_linear_layers(network(), least=1).state_dict().items()})


@with_and_without
def test_what_cannot_be_packed_is_refused(bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"pack: only weights in float32, or .* not torch\.float64 on cpu"):
        pack_linear_layers(network().double())
    with pytest.raises(ConfigError, match=r"not torch\.float16 on cpu"):
        dllm.load(pack=True, dtype="float16")
    if bfloat16:
        assert len(packed(pack_linear_layers(network().bfloat16(), least=1))) == 15
    else:
        with pytest.raises(ConfigError, match=r"not torch\.bfloat16 on cpu"):
            pack_linear_layers(network().bfloat16())
        with pytest.raises(ConfigError, match=r"not torch\.bfloat16 on cpu"):
            dllm.load(pack=True, dtype="bfloat16")
    with pytest.raises(ConfigError, match="pack: not for encoders, on several devices"):
        dllm.load(pack=True, device_map="auto")
    monkeypatch.setattr("dllm.models.loading._load_network", None)  # it is refused before a weight is read
    with pytest.raises(ConfigError, match=r"not torch\.float32 on meta"):
        dllm.load(pack=True, device="meta", dtype="auto")


def test_loading_packs_when_asked_and_by_none_where_it_helps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packing, "is_packable_layer", lambda layer, least: type(layer) is nn.Linear)
    loaded: dict[Any, Any] = {how: dllm.load(pack=how) for how in (True, False, None)}
    assert [bool(packed(loaded[how].network)) for how in (True, False, None)] == [True, False, True]
    assert not packed(dllm.load().network)
    assert not packed(dllm.load(pack=None, dtype="float16").network)
    network().save_pretrained(tmp_path / "plain")
    plain: dict[Any, Any] = {how: dllm.load(tmp_path / "plain", tokenizer=False, pack=how) for how in (None, False)}
    assert [bool(packed(plain[how].network)) for how in (None, False)] == [True, False], "what is compared, alike"
    written = [
        generate_autoregressively(plain[how], [Request((1, 2, 3), 20, stop_ids=())], Autoregressive())
        for how in (None, False)
    ]
    assert written[0][0].output_ids == written[1][0].output_ids and len(written[0][0].output_ids) == 20
    assert packed(dllm.load(pack=True, compile=True).network) == packed(loaded[True].network)
    prompt = "Tom has 7 cards. Zoe has 4 more cards than Tom. How many cards do they have together?"
    answers = {dllm.decode(loaded[how], [prompt], max_new_tokens=64)[0].text for how in (True, False)}
    assert len(answers) == 1


def test_classes_that_read_weights_past_their_layers_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packing.pack_linear_layers, "__defaults__", (1,))
    config = MambaConfig(vocab_size=48, hidden_size=16, state_size=4, num_hidden_layers=1)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    model: Any = dllm.load(tmp_path, tokenizer=False, pack=None)
    (result,) = generate_autoregressively(model, [Request((1, 2, 3), 4, stop_ids=())], Autoregressive())
    assert not packed(model.network) and len(result.output_ids) == 4


@with_and_without
@pytest.mark.parametrize("asked", ["bfloat16", "auto"])
def test_bfloat16_is_packed_where_the_cpu_multiplies_it(
    bfloat16: bool, asked: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packing.pack_linear_layers, "__defaults__", (1,))
    network().bfloat16().save_pretrained(tmp_path / "half")
    model = dllm.load(tmp_path / "half", tokenizer=False, dtype=asked, pack=None)
    assert model.network.dtype == torch.bfloat16
    assert bool(packed(model.network)) == bfloat16


@pytest.mark.skipif(torch.bfloat16 not in KINDS, reason="oneDNN has no bfloat16 on this CPU")
def test_decoding_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same logits but for rounding; it decodes, compiled too."""
    monkeypatch.setattr(packing, "multiplies_bfloat16", lambda: True)
    plain = network().bfloat16()
    made = pack_linear_layers(network().bfloat16(), least=1)
    ids = torch.arange(20).view(1, -1)
    with torch.inference_mode():
        torch.testing.assert_close(made(ids).logits, plain(ids).logits, rtol=0.05, atol=0.5)
    model = TransformerModel(made, Bidirectional(), mask_id=47)
    requests = [Request((1, 2, 3, 4, 5), 20, stop_ids=()), Request((6, 7), 9, stop_ids=())]
    strategy = Strategy(Threshold(0.6), Blocks(8), DualCache())
    for way in (model, CompiledModel.of(model)):
        assert [len(result.output_ids) for result in dllm.decode(way, requests, strategy)] == [20, 9]
