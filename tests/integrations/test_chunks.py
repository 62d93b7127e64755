"""A job in chunks: results come once each and in order, whoever dies; what a worker is given is bounded."""

from __future__ import annotations

import random
from typing import Any

from dllm.integrations.ray import AHEAD, QUEUED, RayEngine
from dllm.jobs import DecodeTask, Job, PromptRow, RowDone, RowFailed
from dllm.jobs.chunks import WorkerDiedError, split_tasks_into_chunks
from dllm.requests import Request


class Cluster:
    """Stands for Ray: workers that answer out of order, and die over some rows always, over others by chance."""

    def __init__(self, seed: int, deadly: set[int], chance: float) -> None:
        self.draw, self.deadly, self.chance = random.Random(seed), deadly, chance
        self.calls = 0
        self.given: dict[int, tuple[Any, list[DecodeTask]]] = {}

    def wait(self, refs: list[int], num_returns: int) -> tuple[list[int], list[int]]:
        assert len(refs) <= 2 * QUEUED
        first = {id(self.given[ref][0]): ref for ref in reversed(refs)}  # the oldest of each worker
        ref = self.draw.choice(list(first.values()))
        return [ref], []

    def start(self) -> Any:
        return Actor(self)

    def get(self, ref: int) -> list[Any]:
        actor, tasks = self.given[ref]
        if actor.dead or self.draw.random() < self.chance or any(t.row.id in self.deadly for t in tasks):
            actor.dead = True
            raise WorkerDiedError("died")
        return [RowDone(task, task.row.id) for task in tasks]  # type: ignore[arg-type]


class Actor:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.decode, self.dead = cluster, self, False

    def remote(self, job: Job, tasks: list[DecodeTask]) -> int:
        self.cluster.calls += 1
        self.cluster.given[self.cluster.calls] = self, list(tasks)
        return self.cluster.calls


def tasks(count: int, plan: str = "a") -> list[DecodeTask]:
    return [DecodeTask(PromptRow(i, i, i, (1,)), Request((1,)), plan) for i in range(count)]  # type: ignore[arg-type]


def pool(cluster: Cluster, monkeypatch: Any) -> RayEngine:
    from dllm.integrations.ray import WorkerHandle

    made = RayEngine("embedded", workers=2, retries=2)
    monkeypatch.setattr(made, "_start_worker", cluster.start)
    monkeypatch.setattr(made, "_fetch", cluster.get)
    made.ray, made.handles = cluster, [WorkerHandle(cluster.start()) for _ in range(2)]
    return made


def test_every_row_once_and_in_order_whoever_dies(monkeypatch) -> None:
    for seed in range(40):
        deadly = {5, 6, 30} if seed % 2 else set()
        cluster = Cluster(seed, deadly, chance=0.0 if seed % 4 < 2 else 0.05)
        events = list(pool(cluster, monkeypatch).decode(Job(batch_size=2), tasks(37)))
        assert [event.task.row.id for event in events] == list(range(37))
        failed = {event.task.row.id for event in events if isinstance(event, RowFailed)}
        assert failed >= deadly and (failed == deadly or cluster.chance), "a row that kills its worker fails alone"


def test_workers_are_never_too_far_ahead_of_what_is_told(monkeypatch) -> None:
    cluster = Cluster(0, set(), 0.0)
    events = pool(cluster, monkeypatch).decode(Job(batch_size=1), tasks(200))
    for told, _ in enumerate(events):
        given = sum(len(part) for _, part in cluster.given.values())
        assert given <= told + 2 * (2 * AHEAD + 1)


def test_chunks_keep_plans_apart_and_workers_busy() -> None:
    found = list(split_tasks_into_chunks([*tasks(17), *tasks(3, "b")], 2, 2))
    assert [len(c.tasks) for c in found] == [4, 4, 4, 4, 1, 3] and [c.place for c in found] == [(i,) for i in range(6)]
    assert [len(c.tasks) for c in split_tasks_into_chunks(tasks(3), 8, 2)] == [2, 1]
