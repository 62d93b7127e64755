"""The laws of models hold for ours, and each finds what is wrong with a model that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

import dllm
from dllm import ConfigError, Guided, Strategy
from dllm.models.encoder import EncoderModel
from dllm.models.tabular import TabularModel
from dllm.models.transformer import TransformerModel
from dllm.testing import ModelLaws, model_laws
from dllm.testing.model_suite import list_model_strategies, model_decodes
from dllm.testing.model_trial import ModelTrial, RowSize
from dllm.types import Bidirectional, BlockCausal, Geometry, Model, Query
from tests.tiny import GEOMETRIES, MASK, tiny_model, tiny_network


class TestBidirectional(ModelLaws):
    model = tiny_model("bidirectional")


class TestBidirectionalShift(ModelLaws):
    model = tiny_model("bidirectional-shift")


class TestBlockCausal(ModelLaws):
    model = tiny_model("block-causal")


class TestBlockCausalShift(ModelLaws):
    model = tiny_model("block-causal-shift")


class TestGuided(ModelLaws):
    model = Guided(tiny_model("block-causal"), 0.5)


def make_joint(n: int, v: int) -> Tensor:
    joint = torch.rand([v] * n, generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** 3
    return joint / joint.sum()


class TabularLaws(ModelLaws):
    sizes = (RowSize(2, 6), RowSize(2, 6), RowSize(2, 6))
    sees_prompt = False


class TestTabular(TabularLaws):
    model = TabularModel(make_joint(6, 3), offset=2)


class TestTabularBlockCausalShift(TabularLaws):
    model = TabularModel(make_joint(6, 3), offset=2, geometry=BlockCausal(4), needs_left=1)


class Minimal(Model):
    """One layer of attention without positions but for an embedding: only what a model cannot do without."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry, self.vocabulary = geometry, 16
        some = torch.Generator().manual_seed(1)
        self.tokens, self.positions, self.query, self.key, self.value, self.out = (
            torch.randn(n, m, generator=some)
            for n, m in ((16, 8), (64, 8), (8, 8), (8, 8), (8, 8), (8, 16))
        )  # fmt: skip

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    def store(self, columns: int) -> MinimalStore:
        return MinimalStore(columns)

    def forward(self, query: Query, store: Any | None) -> Tensor:
        x = self.tokens[query.tokens] + self.positions[query.columns]
        seen = x if store is None else store.write(query, x)
        scores = (x @ self.query) @ (seen @ self.key).transpose(1, 2) / 8
        if query.mask is not None:
            scores = scores.masked_fill(~query.mask[:, 0], -torch.inf)
        return x + scores.softmax(-1) @ (seen @ self.value)

    def head(self, hidden: Tensor) -> Tensor:
        return hidden @ self.out


class MinimalStore:
    """The embedded columns of each row, and one that takes padding."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.states: Any = None

    def keep(self, rows: Tensor) -> None:
        if self.states is not None:
            self.states = self.states[rows]

    def write(self, query: Query, states: Tensor) -> Tensor:
        if self.states is None:
            self.states = states.new_zeros(len(states), self.columns + 1, states.shape[2])
        kept = states.shape[1] - query.extra
        columns = torch.where(query.valid, query.columns, self.columns)[:, :kept, None]
        self.states = self.states.scatter(1, columns.expand(-1, -1, states.shape[2]), states[:, :kept])
        return torch.cat([self.states[:, : query.width], states[:, kept:]], 1)


class TestMinimal(ModelLaws):
    model = Minimal(Bidirectional())


class Storeless(Minimal):
    def store(self, columns: int) -> Any:
        raise ConfigError("keeps nothing: use NoCache()")


class TestStoreless(ModelLaws):
    model = Storeless(Bidirectional())


def make_encoder() -> EncoderModel:
    config = BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        initializer_range=0.35,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = BertForMaskedLM(config)
    return EncoderModel(network, Bidirectional(), mask_id=MASK, family="bert", head_modules=("cls",))


class TestEncoder(ModelLaws):
    model = make_encoder()


@pytest.mark.parametrize("geometry", [Bidirectional(), BlockCausal(4)], ids=repr)
def test_a_model_with_nothing_but_what_it_needs_decodes(geometry: Geometry):
    model = Minimal(geometry)
    alone = dllm.decode(model, [1, 2, 3], max_new_tokens=9)
    pair = dllm.decode(model, [[1, 2, 3], [4, 5, 6, 7, 8]], max_new_tokens=9)
    assert alone[0].output_ids == pair[0].output_ids and len(pair[1].output_ids) == 9
    assert alone[0].text is None and not alone[0].stopped
    strategy = Strategy(dllm.Threshold(0.5), dllm.Blocks(4), dllm.NoCache())
    assert len(dllm.decode(model, [1, 2, 3], strategy, max_new_tokens=5)[0].output_ids) == 5
    texts = "".join(delta.text or "" for delta in dllm.stream(model, [1, 2, 3], strategy, max_new_tokens=5))
    assert texts == ""


class Restless(TransformerModel):
    """Dropout was left on."""

    def forward(self, query: Query, store: Any | None) -> Tensor:
        return torch.nn.functional.dropout(super().forward(query, store), 0.1)


class Sociable(TransformerModel):
    """Rows see each other."""

    def forward(self, query: Query, store: Any | None) -> Tensor:
        hidden = super().forward(query, store)
        return hidden + hidden.mean((0, 1), keepdim=True)


class AllSeeing(TransformerModel):
    """The mask is not applied."""

    def forward(self, query: Query, store: Any | None) -> Tensor:
        return super().forward(query._replace(mask=None), store)


class Causal(TransformerModel):
    """A column does not see what lies right of it."""

    def forward(self, query: Query, store: Any | None) -> Tensor:
        keys = torch.arange(query.width + query.extra)
        mask = keys <= query.columns.unsqueeze(2)
        return super().forward(query._replace(mask=mask.unsqueeze(1)), store)


class ShortSighted(TransformerModel):
    """A column does not see the first one."""

    def forward(self, query: Query, store: Any | None) -> Tensor:
        mask = query.valid.new_ones(len(query.tokens), 1, query.tokens.shape[1], query.width)
        mask = mask if query.mask is None else mask & query.mask
        mask[..., 0] = False
        return super().forward(query._replace(mask=mask), store)


class Wide(TransformerModel):
    """The head has more logits than the vocabulary."""

    def head(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.pad(super().head(hidden), (0, 1))


class Mixing(TransformerModel):
    """The head normalises over all states that it is given."""

    def head(self, hidden: Tensor) -> Tensor:
        logits = super().head(hidden)
        return logits - logits.mean()


class Misplacing(TransformerModel):
    """Keys and values are stored one column too far right."""

    def store(self, columns: int) -> Any:
        return super().store(columns + 1)

    def forward(self, query: Query, store: Any | None) -> Tensor:
        hidden = super().forward(query, store)
        for keys, values in store.layers if store else ():
            keys.copy_(keys.roll(1, 2)), values.copy_(values.roll(1, 2))
        return hidden


class Remembering(TransformerModel):
    """What is stored once is never replaced."""

    def forward(self, query: Query, store: Any | None) -> Tensor:
        before = [] if store is None else [tuple(plane.clone() for plane in layer) for layer in store.layers]
        hidden = super().forward(query, store)
        for old, new in zip(before, store.layers if store else (), strict=False):
            for kept, plane in zip(old, new, strict=True):
                plane.copy_(torch.where(kept != 0, kept, plane))
        return hidden if not before else super().forward(query._replace(valid=query.valid & False, start=None), store)


class Shuffling(TransformerModel):
    """`keep` sorts the rows."""

    def store(self, columns: int) -> Any:
        store = super().store(columns)
        keep = store.keep
        store.keep = lambda rows: keep(rows.sort().values)  # type: ignore[method-assign]
        return store


class Subsetless(TransformerModel):
    """Some rows of a store are taken for its first ones."""

    def forward(self, query: Query, store: Any | None) -> Tensor:
        if query.subset is not None:
            first = torch.arange(len(query.subset.rows))
            query = query._replace(subset=query.subset._replace(rows=first))
        return super().forward(query, store)


class Unyielding(TransformerModel):
    """`with_block` gives the model back."""

    def with_block(self, size: int) -> Any:
        return self


class Willing(TransformerModel):
    """`with_block` takes any size though there are no blocks."""

    def with_block(self, size: int) -> Any:
        return self


class Storing(TransformerModel):
    """Shadow slots are stored at the columns of which they are shadows."""

    def forward(self, query: Query, store: Any | None) -> Tensor:
        if not query.extra or store is None:
            return super().forward(query, store)
        hidden = super().forward(query, store)
        kept = query.tokens.shape[1] - query.extra
        shadow = query._replace(
            tokens=query.tokens[:, kept:],
            columns=query.columns[:, kept:],
            valid=query.valid[:, kept:],
            mask=None,
            start=None,
            extra=0,
        )
        super().forward(shadow, store)
        return hidden


class Counting(TransformerModel):
    """States depend on how often the model was asked; the first two forwards are the same."""

    asked = 0

    def forward(self, query: Query, store: Any | None) -> Tensor:
        self.asked += 1
        return super().forward(query, store) * (1 + self.asked // 3)


def decoding(trial: ModelTrial) -> None:
    """Every strategy, until one fails."""
    for strategy in list_model_strategies(trial):
        model_decodes(trial, strategy)


BROKEN: list[tuple[type[TransformerModel], str, Callable[[ModelTrial], None]]] = [
    (Restless, "bidirectional", model_laws.forward_is_repeatable),
    (Sociable, "bidirectional", model_laws.rows_do_not_mix),
    (AllSeeing, "bidirectional", model_laws.rows_do_not_mix),
    (AllSeeing, "block-causal", model_laws.unseen_columns_change_nothing),
    (Causal, "bidirectional", model_laws.visible_columns_matter),
    (Causal, "block-causal", model_laws.visible_columns_matter),
    (ShortSighted, "block-causal-shift", model_laws.visible_columns_matter),
    (Wide, "bidirectional", model_laws.head_gives_logits),
    (Mixing, "bidirectional", model_laws.head_gives_logits),
    (Misplacing, "bidirectional", model_laws.store_changes_nothing),
    (Misplacing, "block-causal", model_laws.finished_blocks_are_stored_in_pieces),
    (Remembering, "bidirectional", model_laws.store_changes_nothing),
    (Remembering, "block-causal", model_laws.finished_blocks_are_stored_in_pieces),
    (Shuffling, "bidirectional", model_laws.store_keeps_rows),
    (Subsetless, "bidirectional", model_laws.subset_runs_alone),
    (Unyielding, "block-causal", model_laws.block_can_be_set),
    (Willing, "bidirectional", model_laws.block_can_be_set),
    (Storing, "bidirectional", model_laws.shadow_slots_leave_no_trace),
    (Counting, "bidirectional", decoding),
]


@pytest.mark.parametrize(("made", "geometry", "law"), BROKEN, ids=lambda x: getattr(x, "__name__", str(x)))
def test_each_law_finds_what_is_wrong(made: type[TransformerModel], geometry: str, law: Callable[[ModelTrial], None]):
    kind, shift = GEOMETRIES[geometry]
    model = made(tiny_network(shift), kind, needs_left=shift, mask_id=MASK)
    with pytest.raises(AssertionError):
        law(ModelTrial(model))
    law(ModelTrial(tiny_model(geometry)))


def test_a_class_without_a_model_is_refused():
    with pytest.raises(ConfigError, match=r"give it a dllm\.types\.Model"):
        ModelLaws.trial()
