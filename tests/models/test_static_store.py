"""Stores at fixed addresses: rows stay where they are, and memory is used again and given back."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dllm.models.kv_store import KeyValueStore
from dllm.models.static_memory import Layers, MemoryPool
from dllm.models.static_store import StaticStore

COLUMNS = 4


def allocate(rows: int, columns: int) -> Layers:
    return [(torch.zeros(rows, 2, columns + 1, 3), torch.zeros(rows, 2, columns + 1, 3)) for _ in range(2)]


def store_of(rows: int, pool: MemoryPool | None = None) -> StaticStore:
    store = StaticStore(COLUMNS, pool or MemoryPool(allocate, 0))
    store.allocate(rows)
    return store


def planes(store: KeyValueStore) -> list[Tensor]:
    return [plane for layer in store.layers for plane in layer]


def addresses(store: KeyValueStore) -> list[int]:
    return [plane.data_ptr() for plane in planes(store)]


@given(st.data())
def test_kept_rows_hold_what_they_held(data: Any) -> None:
    """Whatever rows leave, come back or are copied: as in a store that lays all of them out anew."""
    n = data.draw(st.integers(1, 5))
    store, plain = store_of(n), KeyValueStore(COLUMNS)
    for plane in planes(store):
        plane.copy_(torch.rand(plane.shape))
    plain.layers = [(keys.clone(), values.clone()) for keys, values in store.layers]
    for _ in range(data.draw(st.integers(1, 4))):
        size, before = store.memory.rows, addresses(store)
        rows = torch.tensor(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8)))
        store.keep(rows)
        plain.keep(rows)
        n = len(rows)
        assert store.rows is not None and len(set(store.rows.tolist())) == n <= store.memory.rows
        for ours, theirs in zip(planes(store), planes(plain), strict=True):
            assert torch.equal(ours[store.rows], theirs)
        assert addresses(store) == before or n > size, "memory is left only for more rows than it has room for"
        in_order = store.rows.tolist() == list(range(store.memory.rows))
        assert (store.places is None) == in_order


def test_memory_is_used_again_and_empty() -> None:
    pool = MemoryPool(allocate, 0)
    first, other = store_of(2, pool), store_of(2, pool)
    assert addresses(first) != addresses(other), "two batches at once share nothing"
    there = addresses(other)
    other.layers[0][0].fill_(torch.nan)
    del first, other
    again = store_of(2, pool)
    assert addresses(again) == there
    assert not any(plane.any() for plane in planes(again)), "what an earlier batch left would spread"


def test_unused_memory_is_given_back() -> None:
    """A store of each length does not stay for ever: down to `spare` bytes, the longest unused first."""
    one = StaticStore(COLUMNS, MemoryPool(allocate, 0))
    one.allocate(1)
    pool = MemoryPool(allocate, 2 * one.memory.bytes)
    for _ in range(3):
        for columns in range(1, 30):
            store = StaticStore(columns, pool)
            store.allocate(1)
            del store
            assert sum(memory.bytes for memory in pool.unused[:-1]) <= pool.spare
    assert [memory.columns for memory in pool.unused] == [29]


def test_a_move_to_more_room_gives_back_the_old() -> None:
    pool = MemoryPool(allocate, 2**20)
    store = store_of(2, pool)
    store.keep(torch.tensor([0, 1, 1, 0, 1]))
    assert [(memory.rows, memory.columns) for memory in pool.unused] == [(2, COLUMNS)]
    assert store.memory.rows == 6 and all(hasattr(p, "_dynamo_static_input_type") for p in planes(store))


def test_a_row_that_leaves_has_one_layer_twice(monkeypatch: Any) -> None:
    """Not the whole store: the planes of a layer are let go before those of the next are made."""
    store = KeyValueStore(COLUMNS)
    store.layers = [(torch.rand(3, 2, 5, 3), torch.rand(3, 2, 5, 3)) for _ in range(8)]
    old = [weakref.ref(plane) for plane in planes(store)]
    most, select = 0, Tensor.index_select

    def watched(plane: Tensor, *args: Any) -> Tensor:
        nonlocal most
        made = select(plane, *args)
        del plane
        most = max(most, sum(there() is not None for there in old) + 1 + sum(len(p) == 2 for p in planes(store)))
        return made

    monkeypatch.setattr(Tensor, "index_select", watched)
    store.keep(torch.tensor([0, 2]))
    assert [len(plane) for plane in planes(store)] == [2] * 16
    assert 16 < most <= 18
