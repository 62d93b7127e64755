"""Probes show what the network's own eager attention shows on a plain forward, whatever cache and batch there is."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

import dllm
from dllm import Blocks, ConfigError, DualCache, Guided, NoCache, PrefixCache, Request, Speculative, Strategy
from dllm.models.compiled import CompiledModel
from dllm.models.encoder import EncoderModel
from dllm.models.tabular import TabularModel
from dllm.models.transformer import TransformerModel
from dllm.signals import Attention, Hidden
from dllm.testing import laws
from dllm.types import Bidirectional, Canvas, Guess, Policy, Probe, State, Verdict, Window
from tests.tiny import GEOMETRIES, MASK, VOCABULARY, tiny_model, tiny_network

EVERY, FIRST, STATES = Attention(), Attention((0,)), Hidden(1)
REQUESTS = [Request((3, 7, 1, 22, 9), 13, seed=1), Request((5, 2, 8, 8, 8, 1, 0, 4, 17, 20, 11), 20, seed=2)]


@dataclass(frozen=True)
class Watching(Policy):
    """Commit what is likely; read probes."""

    probes: tuple[Probe, ...] = (EVERY, FIRST, STATES)

    @property
    def needs(self) -> tuple[Probe, ...]:
        return self.probes

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]:
        return Verdict(guess.confidence >= 0.6, guess.confidence), state


@torch.inference_mode()
def plain_forward(model: Any, canvas: Canvas, row: int, end: int) -> Any:
    """Output of a copy of the network with eager attention, over one row alone with a dense mask."""
    net = copy.deepcopy(model.network)
    net.set_attn_implementation("eager")
    columns = torch.arange(end).unsqueeze(0)
    limits = model.geometry.visible_end(columns, canvas.rows.length[row : row + 1])
    seen = torch.arange(end) < limits.unsqueeze(2)
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min).unsqueeze(1)
    return net.get_decoder()(
        input_ids=canvas.tokens[row : row + 1, :end],
        attention_mask=mask,
        position_ids=columns,
        use_cache=False,
        output_attentions=True,
        output_hidden_states=True,
    )


def average(layers: Any, t: int) -> Tensor:
    """Weights (q, t) averaged over heads and layers."""
    mean = torch.stack([layer[0].mean(0) for layer in layers]).mean(0)
    return torch.nn.functional.pad(mean, (0, t - mean.shape[1]))


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cache", [NoCache(), DualCache(), PrefixCache()], ids=repr)
@pytest.mark.parametrize("overhead", [0, 2**31], ids=["split rows", "rows together"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_probes_are_what_a_plain_forward_shows(
    geometry: str, overhead: int, cache: Any, monkeypatch: pytest.MonkeyPatch
):
    kind, shift = GEOMETRIES[geometry]
    network = tiny_network(shift)
    model = TransformerModel(network, kind, needs_left=shift, mask_id=MASK, forward_overhead_columns=overhead)
    sizes = []
    asked = TransformerModel.forward_with_probes

    def count(self: Any, query: Any, *rest: Any) -> Any:
        sizes.append(len(query.tokens))
        return asked(self, query, *rest)

    monkeypatch.setattr(TransformerModel, "forward_with_probes", count)
    strategy = Strategy(Watching(), Blocks(8), cache)
    canvas = laws.make_first_canvas(model, REQUESTS, strategy)
    compared = stale = 0
    for step in dllm.steps(model, REQUESTS, strategy):
        for row in (step.window.end > step.window.start).nonzero().flatten().tolist():
            end = int(canvas.rows.length[row] if kind.block is None else step.window.block_end[row])
            plain = plain_forward(model, canvas, row, end)
            slots = step.window.pending[row]
            outputs = step.window.columns[row, slots] - shift
            t = canvas.tokens.shape[1]
            close(step.guess[FIRST][row, slots], average(plain.attentions[:1], t)[outputs])
            compared += 1
            if step.fresh[row]:
                close(step.guess[EVERY][row, slots], average(plain.attentions, t)[outputs])
                close(step.guess[STATES][row, slots], plain.hidden_states[1][0, outputs])
            else:
                stale += 1
        canvas = step.canvas
    assert compared > 6 and (1 if overhead == 0 else 2) in sizes
    assert (stale > 0) == (kind.block is None and not isinstance(cache, NoCache))
    assert network.config._attn_implementation != "eager", "only forwards that fill a probe are eager"


def test_decoding_is_the_same_with_and_without_probes():
    model = tiny_model("block-causal")
    with_probes = dllm.decode(model, REQUESTS, Strategy(Watching(), Blocks(8), DualCache()))
    without = dllm.decode(model, REQUESTS, Strategy(dllm.Threshold(0.6), Blocks(8), DualCache()))
    assert [r.output_ids for r in with_probes] == [r.output_ids for r in without]
    assert [r.nfe for r in with_probes] == [r.nfe for r in without]


def make_encoder() -> EncoderModel:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    return EncoderModel(BertForMaskedLM(config), Bidirectional(), mask_id=MASK, family="bert", head_modules=("cls",))


def make_tabular() -> TabularModel:
    return TabularModel(torch.full((VOCABULARY - 1,) * 2, 1 / (VOCABULARY - 1) ** 2, dtype=torch.float64), offset=5)


REFUSING = {
    "compiled": (lambda: CompiledModel.of(tiny_model("bidirectional")), "leave --compile out"),
    "guided": (lambda: Guided(tiny_model("bidirectional"), 0.5), "Guided shows nothing of its inside"),
    "encoder": (make_encoder, "bert is an encoder"),
    "tabular": (make_tabular, "TabularModel shows nothing of its inside"),
}


@pytest.mark.parametrize("kind", REFUSING)
def test_models_that_show_nothing_refuse_before_the_first_forward(kind: str, monkeypatch: pytest.MonkeyPatch):
    make, reason = REFUSING[kind]
    model = make()
    forwards: list[int] = []
    monkeypatch.setattr(type(model), "forward", lambda *given: forwards.append(1))
    with pytest.raises(ConfigError, match=reason):
        next(dllm.steps(model, REQUESTS[:1], Strategy(Watching(), Blocks(8), NoCache())))
    assert not forwards


def test_a_cache_that_serves_steps_without_a_forward_is_refused():
    with pytest.raises(ConfigError, match="serves steps without a forward"):
        Strategy(Watching(), Blocks(8), Speculative(DualCache()))


@pytest.mark.parametrize("probe", [Attention((2,)), Attention((0, -3)), Hidden(3)], ids=repr)
def test_a_layer_that_does_not_exist_is_refused(probe: Probe):
    with pytest.raises(ConfigError, match="does not exist; there are"):
        next(dllm.steps(tiny_model("bidirectional"), REQUESTS, Strategy(Watching((probe,)), Blocks(8), DualCache())))
    assert tiny_network(0).config._attn_implementation != "eager", "put back after an error too"
