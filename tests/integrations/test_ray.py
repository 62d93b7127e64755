"""Two workers of a local Ray cluster write what one process writes, also when one of them, or the driver, is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from dllm.compose.options import Options
from dllm.errors import CheckpointError, ConfigError
from dllm.integrations.ray import RayEngine
from dllm.jobs import Job, LocalEngine, PromptRow, RowDone
from tests.cli.conftest import checkpoints, dllm, jsonl, read

__all__ = ["checkpoints", "dllm", "jsonl"]

ROWS = [PromptRow(i + 1, i, i, (3 + i, 5, 6), 8 * (1 + i % 4)) for i in range(17)]
JOB = Job(Options(policy="top-k", k=1, stop_ids=(), temperature=1.0), batch_size=2)
TIMES = ("seconds", "prefill_seconds", "tokens_per_second", "tokens_per_second_without_prefill")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster of two workers' size, started once."""
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=2**27, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def told(events):
    """What events say of each row, without times."""
    return [(e.task.row.id, e.result.output_ids, e.result.nfe) for e in events if isinstance(e, RowDone)]


def test_one_of_two_workers_is_killed(cluster, checkpoints):
    with LocalEngine(checkpoints["llada"]) as engine:
        tasks, _ = engine.tasks(JOB, ROWS)
        expected = told(engine.decode(JOB, tasks))
    with RayEngine(checkpoints["llada"], workers=2) as pool:
        victim = pool.pids()[0]
        found, problems = pool.tasks(JOB, [*ROWS, PromptRow(99, 98, "bad", (9000,))])
        assert [task.request for task in found] == [task.request for task in tasks] and problems[0].line == 99
        events = []
        for event in pool.decode(JOB, found):
            if not events:
                os.kill(victim, signal.SIGKILL)
            events.append(event)
        assert victim not in pool.pids() and len(pool.pids()) == 2
    assert told(events) == expected, "no row is lost, none comes twice, and all come in their order"


@pytest.mark.skipif(not os.environ.get("DLLM_RAY"), reason="a minute: set DLLM_RAY=1")
def test_the_driver_is_killed_and_run_again(cluster, checkpoints, dllm, jsonl, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    source = jsonl(*({"prompt_ids": [3 + i, 5, 6], "id": f"row {i}"} for i in range(24)))
    job = ("--model", checkpoints["llada"], "--input", source, "--policy", "top-k", "--k", 1, "--max-new-tokens", 64)
    args = [str(a) for a in ("decode", *job, "--ignore-eos", "--batch-size", 1, "--quiet", "--output")]
    undisturbed, target = tmp_path / "undisturbed.jsonl", tmp_path / "killed.jsonl"
    assert dllm(*args, undisturbed).exit_code == 0
    words = [*args, str(target), "--engine", "ray", "--workers", "2"]
    run = "import sys; from dllm.cli.main import run; sys.argv[0] = 'dllm'; run()"
    child = subprocess.Popen([sys.executable, "-c", run, *words])
    deadline = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline:
        if target.exists() and target.read_bytes().count(b"\n") >= 5:
            break
        time.sleep(0.005)
    child.kill()
    assert child.wait() == -signal.SIGKILL and 5 <= target.read_bytes().count(b"\n") < 24
    assert dllm(*words).exit_code == 0
    assert read(target, *TIMES) == read(undisturbed, *TIMES)


def test_errors_are_those_of_one_process(cluster, tmp_path):
    with RayEngine(tmp_path / "nowhere") as pool, pytest.raises(CheckpointError, match="nowhere"):
        pool.tasks(JOB, ROWS)
    with pytest.raises(ConfigError, match="64 CPUs each: the cluster has 2"), RayEngine("embedded", workers=2, cpus=64):
        pass
    for given in ({"workers": 0}, {"cpus": -1.0}, {"gpus": -1.0}):
        with pytest.raises(ConfigError, match="must"):
            RayEngine("embedded", **given)


def test_options_of_the_engine(dllm):
    for options, said in (
        (("--engine", "spark"), "choose from local, ray"),
        (("--workers", 3), "--workers 3: belongs to --engine ray"),
        (("--engine", "ray", "--workers", 0), "--workers 0: must be at least 1"),
    ):
        result = dllm("decode", "hello", *options)
        assert result.exit_code == 2 and said in result.stderr, result.stderr
