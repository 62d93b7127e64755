"""Models on the pretended CUDA device, and spread over two devices."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

import dllm
from dllm import Blocks, DualCache, NoCache, PrefixCache, Request, Strategy, Threshold, TopK
from dllm.engine import propose as sampling
from dllm.models import TransformerModel
from dllm.models.compiled import CompiledModel
from dllm.models.tabular import TabularModel
from dllm.testing.device import PretendedDevice
from dllm.training.attention import make_block_causal_mask, make_paper_layout, make_visibility_mask
from dllm.training.objective import compute_diffusion_loss
from dllm.training.views import NextToken, PackedRows
from tests.tiny import tiny_model

QUEUE = [Request(tuple(range(1, 2 + 3 * i)), 4 + 5 * i, seed=i) for i in (4, 0, 5, 2)]
KEPT = Strategy(Threshold(0.6), Blocks(8), DualCache())


def outcome(found: list[dllm.Result]) -> list[Any]:
    return [(result.output_ids, result.nfe) for result in found]


def spread(m: TransformerModel) -> TransformerModel:
    """The first layer and the embedding on the device, all behind them on the CPU, as `device_map` leaves them."""
    network = deepcopy(m.network)
    decoder = network.get_decoder()
    places = [(decoder.embed_tokens, "cuda"), (decoder.rotary_emb, "cuda"), (decoder.layers[0], "cuda")]
    places += [(module, "cpu") for module in (*decoder.layers[1:], decoder.norm, network.get_output_embeddings())]
    for module, place in places:
        module.to(place)
        add_hook_to_module(module, AlignDevicesHook(execution_device=place, skip_keys=["past_key_values"]))
    return replace(m, network=network)


@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), DualCache()], ids=repr)
@pytest.mark.parametrize("geometry", ["bidirectional", "block-causal-shift"])
def test_spread_over_two_devices(cache: Any, geometry: str) -> None:
    strategy = replace(KEPT, cache=cache)
    want = dllm.decode(tiny_model(geometry), QUEUE, strategy, batch_size=2)
    with PretendedDevice():
        got = dllm.decode(spread(tiny_model(geometry)), QUEUE, strategy, batch_size=2)
    assert outcome(got) == outcome(want)


def test_the_device_of_weights_that_are_offloaded() -> None:
    m = replace(tiny_model("bidirectional"), network=cpu_offload(deepcopy(tiny_model("bidirectional").network), "cpu"))
    assert m.network.get_input_embeddings().weight.device.type == "meta"
    assert m.device == torch.device("cpu")
    assert outcome(dllm.decode(m, QUEUE, KEPT)) == outcome(dllm.decode(tiny_model("bidirectional"), QUEUE, KEPT))


@pytest.mark.parametrize("cache", [NoCache(), DualCache()], ids=repr)
def test_a_joint_on_the_device(cache: Any) -> None:
    joint = torch.rand(3, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    oracle = TabularModel(joint / joint.sum())
    strategy, requests = Strategy(TopK(1), Blocks(2), cache), [Request((1,), 4, seed=i) for i in range(3)]
    with PretendedDevice() as device:
        got = dllm.decode(device.put(oracle), requests, strategy)
    assert outcome(got) == outcome(dllm.decode(oracle, requests, strategy))


def test_training_helpers_on_the_device() -> None:
    tokens = torch.arange(1, 25).reshape(2, 12) % 20
    hidden = torch.rand(2, 12, generator=torch.Generator().manual_seed(0)) < 0.5
    position = torch.arange(12).expand(2, -1)
    packed = PackedRows(tokens, tokens, torch.zeros_like(tokens), position)

    def views(put: Any) -> list[list[Any]]:
        here = PackedRows(*map(put, packed))
        noise = NextToken().noise(here)
        place = here.tokens.device
        view = NextToken().view(here, noise, 31)
        shown = [
            view["labels"],
            view["weights"],
            make_visibility_mask(make_paper_layout(5, place), 2),
            make_block_causal_mask(6, 4, place),
        ]
        return [x.cpu().tolist() for x in shown]

    with torch.no_grad():
        want = compute_diffusion_loss(
            tiny_model("block-causal-shift").network, tokens, tokens, hidden, block=4, mask_id=31
        )
        with PretendedDevice() as device:
            got = views(device.put)
            network = device.put(tiny_model("block-causal-shift").network)
            loss, columns = compute_diffusion_loss(
                network, *map(device.put, (tokens, tokens, hidden)), block=4, mask_id=31
            )
            assert (float(loss), columns) == (pytest.approx(float(want[0])), want[1])
    assert got == views(lambda x: x)


def compiled_costs(geometry: str, strategy: Strategy, batch_size: int) -> tuple[list[Any], list[Counter[str]]]:
    """Results on the device, and for every step what waits there in the compiled model's files."""
    with PretendedDevice() as device:
        compiled = CompiledModel.of(device.put(tiny_model(geometry)))
        device.clear()
        collected = dllm.engine.results.Collector(compiled, QUEUE, strategy)
        for step in dllm.steps(compiled, QUEUE, strategy, batch_size=batch_size):
            collected.add(step)
            device.record.next_step()
        found = outcome(collected.results())
        steps = range(len(device.record.steps))
        waits = [Counter(site for site, _ in device.record.sites("wait", [i]) if "/models/" in site) for i in steps]
    return found, waits


@pytest.mark.parametrize("geometry", ["bidirectional", "block-causal-shift"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_compiled_forwards_do_not_wait(geometry: str, batch_size: int) -> None:
    """Not even where rows have left or run apart from others."""
    got, waits = compiled_costs(geometry, KEPT, batch_size)
    assert got == outcome(dllm.decode(tiny_model(geometry), QUEUE, KEPT, batch_size=batch_size))
    assert not any(waits), waits


def test_cudnn_attention_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", told.append)
    dllm.load(device="cpu", cudnn_attention=True)
    assert told == [], "a CPU has none of it"
    with PretendedDevice():
        assert dllm.load(device="cuda").cudnn_attention is False
        assert told and not any(told)
        told.clear()
        dllm.load(device="cuda", cudnn_attention=True)
        assert told and all(told)


def test_chunks_of_the_vocabulary_by_device() -> None:
    assert sampling._max_logits(torch.device("cpu")) == 2**24
    assert sampling._max_logits(torch.device("cuda")) == 2**27
