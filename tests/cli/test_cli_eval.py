"""`dllm eval` end to end: local data, tiny checkpoints, the texts of `dllm decode`, and going on after a kill."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra `eval`")

from dllm.errors import ConfigError
from dllm.integrations.harness.data import DATA, read_data_file
from dllm.integrations.harness.task_plan import EvaluationPlan, load_tasks
from tests.cli.conftest import read, rows_in, teach
from tests.models.conftest import write
from tests.waiting import until

STRATEGY = ("--policy", "factor", "--f", 1.0, "--cache", "dual")
CHOICES = """
task: colours
custom_dataset: !function tests.cli.test_cli_eval.colours
output_type: multiple_choice
test_split: test
num_fewshot: 0
doc_to_text: "{{question}}"
doc_to_choice: ["w9", "w10 w11", "w12"]
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
TIMED = ("seconds", "prefill", "prefill_seconds", "tokens_per_second", "tokens_per_second_without_prefill")


def colours(**_: Any) -> dict[str, Any]:
    from dllm.integrations.harness.data import build_splits

    return build_splits(test=[{"question": f"w{i} w{i + 1}", "label": i % 3} for i in range(4)])


@pytest.fixture(scope="module", autouse=True)
def local_tasks_only() -> Any:
    """lm-eval's own thousands of task files are not read: that takes twelve seconds."""
    from lm_eval.tasks import TaskManager

    known = TaskManager.__init__

    def init(self: Any, *, include_defaults: bool = True, **options: Any) -> None:
        known(self, include_defaults=False, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskManager, "__init__", init)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the kind that the tasks are read from, with a few problems of our own."""
    folder = tmp_path_factory.mktemp("data")

    def put(name: str, rows: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)

    sums = [{"question": f"What is {i} + {i}?", "answer": f"{i} + {i} = {2 * i}.\n#### {2 * i}"} for i in range(9)]
    put("gsm8k_train.jsonl", sums)
    put("gsm8k_test.jsonl", sums[:3])
    put("ifeval_input_data.jsonl", [
        {"key": 1, "prompt": "Use no commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
        {"key": 2, "prompt": "Write two sentences.", "instruction_id_list": ["length_constraints:number_sentences"],
         "kwargs": [{"relation": "at least", "num_sentences": 2}]},
    ])  # fmt: skip
    put("HumanEval.jsonl.gz", [
        {"task_id": f"HumanEval/{i}", "prompt": f"def f{i}(x):\n", "entry_point": f"f{i}",
         "canonical_solution": f"    return x + {i}\n", "test": f"def check(f):\n    assert f(1) == {1 + i}\n"}
        for i in range(2)
    ])  # fmt: skip
    put("mbpp.jsonl", [
        {"task_id": i, "text": f"Add {i}.", "code": f"def f(x):\r\n  return x + {i}", "test_setup_code": "",
         "test_list": [f"assert f({n}) == {n + i}" for n in range(3)], "challenge_test_list": []}
        for i in range(1, 511)
    ])  # fmt: skip
    return folder


def results(out: str) -> dict[str, dict[str, Any]]:
    return {row["task"]: row for row in map(json.loads, out.splitlines())}


def timeless(value: Any) -> Any:
    """What is not timed."""
    if isinstance(value, dict):
        return {name: timeless(v) for name, v in value.items() if name not in TIMED}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def test_the_embedded_model_writes_the_texts_of_decode(dllm, jsonl, tmp_path):
    asked = [
        {"prompt": row["prompt"], "max_new_tokens": 96} for row in read_data_file(str(DATA), "word-problems.jsonl")[:5]
    ]
    result = dllm("decode", "--input", jsonl(*asked), "--output", tmp_path / "decoded.jsonl", *STRATEGY)
    assert result.exit_code == 0, result.stderr
    options = ("--tasks", "word_problems", "--apply-chat-template", "--limit", 5, "--batch-size", 3, *STRATEGY)
    result = dllm("eval", *options, "--output", tmp_path / "scores")
    assert result.exit_code == 0, result.stderr
    decoded = read(tmp_path / "decoded.jsonl")
    scored = read(tmp_path / "scores" / "samples_word_problems.jsonl")
    same = ("prompt_ids", "output_ids", "text", "nfe", "queries", "certified", "strategy", "seed", "model", "versions")
    assert [{n: row[n] for n in same} for row in scored] == [{n: row[n] for n in same} for row in decoded]
    found = results(result.stdout)["word_problems"]
    assert found["metrics"]["exact_match,none"] == sum(row["metrics"]["exact_match,none"] for row in scored) / 5 >= 0.6
    assert found["nfe"] == sum(row["nfe"] for row in decoded)
    assert found["tokens_per_forward"] == found["tokens"] / found["nfe"] > 2
    assert found["tokens_per_second_without_prefill"] > found["tokens_per_second"] > 0
    assert "exact_match" in result.stderr
    kept = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert kept["tasks"]["word_problems"]["metrics"] == found["metrics"]
    assert (kept["seed"], kept["model"]) == (0, "embedded")
    assert {"dllm", "torch", "lm_eval"} <= set(kept["versions"])


def test_agreement_with_sequential_greedy_decoding(dllm, tmp_path):
    asked = ("--tasks", "word_problems", "--apply-chat-template", "--limit", 3, "--max-new-tokens", 64)
    said = {}
    whole = ("--policy", "threshold", "--tau", 0, "--block-size", 64, "--sub-block-size", 64)
    for name, policy in (("one", ("--policy", "top-k", "--k", 1)), ("all", whole)):
        result = dllm("eval", *asked, *policy, "--agreement", "--output", tmp_path / name)
        assert result.exit_code == 0, result.stderr
        assert "agreement (sequential greedy)" in result.stderr
        said[name] = results(result.stdout)["word_problems"]["agreement"]
    assert said["one"] == 1
    assert said["all"] < 1
    reference, same = (read(tmp_path / "one" / f"{kind}.0.jsonl") for kind in ("reference", "answers"))
    assert [row["output_ids"] for row in reference] == [row["output_ids"] for row in same]
    assert "NoCache()" in reference[0]["strategy"]


def test_tasks_from_files_with_the_embedded_model(dllm, data, tmp_path):
    options = ("--data", data, "--limit", 2, "--max-new-tokens", 24, "--policy", "factor")
    names = ("gsm8k", "ifeval", "humaneval", "mbpp")
    result = dllm("eval", "--tasks", ",".join(names), *options, "--allow-code", "--output", tmp_path / "s")
    assert result.exit_code == 0, result.stderr
    found = results(result.stdout)
    assert {task: row["documents"] for task, row in found.items()} == dict.fromkeys(names, 2)
    assert {"exact_match,strict-match", "exact_match,flexible-extract"} <= set(found["gsm8k"]["metrics"])
    assert found["gsm8k"]["num_fewshot"] == 5
    assert "inst_level_loose_acc,none" in found["ifeval"]["metrics"]
    assert found["mbpp"]["metrics"]["pass@1,create_test"] == 0
    verdicts = [row["filtered"]["create_test"] for row in read(tmp_path / "s" / "samples_humaneval.jsonl")]
    assert all(verdict[0][0].startswith("failed") for verdict in verdicts)


def test_right_programs_pass(data: Path):
    names = ("humaneval", "humaneval_instruct", "mbpp", "mbpp_instruct")
    loaded = load_tasks(EvaluationPlan(names, data=str(data), allow_code=True)).load(list(names))["tasks"]
    for name, task in loaded.items():
        doc = dict(task.dataset["test"][1])
        answer = doc.get("canonical_solution") or doc["code"]
        answer += "```\nand so on" if name.endswith("instruct") else ""
        for text, expected in ((answer, 1.0), (answer.replace("return x", "return 5"), 0.0)):
            verdicts = task._filters[0].filters[0]().apply([[text]], [doc])
            assert task.process_results(doc, list(verdicts)) == {"pass@1": expected}, (name, verdicts)
    assert loaded["mbpp"].dataset["test"][0]["task_id"] == 11
    assert "is_fewshot" not in loaded["mbpp"].dataset["test"][0]


def test_code_is_not_run_unless_that_was_said(dllm, data, monkeypatch):
    monkeypatch.setattr("dllm.integrations.harness.model.load", lambda *_, **__: pytest.fail("work before the error"))
    result = dllm("eval", "--tasks", "gsm8k,humaneval", "--data", data)
    assert result.exit_code == 2
    assert "humaneval runs programs that the model writes: give --allow-code" in result.stderr


def test_a_tiny_checkpoint_writes_and_judges(dllm, tmp_path):
    for family, estimator in (("fast_dllm_v2", "Sequential()"), ("llada", "Bound(samples=6, seed=3)")):
        folder = write(tmp_path / family, family)
        teach(folder)
        (tmp_path / "colours.yaml").write_text(CHOICES)
        (tmp_path / "echo.yaml").write_text(
            CHOICES.replace("colours\n", "echo\n", 1).replace("multiple_choice", "generate_until")
            .replace('doc_to_choice: ["w9", "w10 w11", "w12"]', "generation_kwargs: {until: [w5], max_gen_toks: 8}")
            .replace("metric: acc", "metric: exact_match")
        )  # fmt: skip
        options = ("--include-path", tmp_path, "--samples", 6, "--seed", 3, "--batch-size", 3)
        result = dllm("eval", "--tasks", "colours", "--tasks", "echo", "--model", folder, *options)
        assert result.exit_code == 0, result.stderr
        found = results(result.stdout)
        assert found["colours"]["estimator"] == estimator
        assert 0 <= found["colours"]["metrics"]["acc,none"] <= 1
        assert found["echo"]["rows"] == 4
        assert 0 < found["echo"]["tokens"] <= 32
        assert "'w5'" in found["echo"]["strategy"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "no tasks: give --tasks"),
        (("--tasks", "word_problem"), "--tasks word_problem: no such task (did you mean 'word_problems'?)"),
        (("--tasks", "word_problems", "--limit", 0), "limit=0: must be positive"),
        (("--tasks", "word_problems", "--policy", "factr"), "factr"),
        (("--tasks", "word_problems", "--f", 2, "--policy", "threshold"), "--f does not belong to threshold"),
        (("--tasks", "word_problems", "--model", "no-such-folder/x/y"), "--model no-such-folder/x/y"),
        (("--tasks", "word_problems", "--gen-kwargs", "x"), "--gen-kwargs x: give name=value"),
        (("--tasks", "word_problems", "--gen-kwargs", "top_q=1"), "generation_kwargs top_q=1 has no meaning"),
        (("--tasks", "word_problems", "--recipe", "llada", "--strategy", "Strategy()"), "give one of them"),
        (("--tasks", "word_problems", "--include-path", "nowhere"), "nowhere: no such folder"),
        (("--tasks", "gsm8k", "--data", "."), "has no gsm8k_train.jsonl"),
    ],
)
def test_mistakes_are_told_in_a_line(dllm, more, said):
    result = dllm("eval", *more)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


# --- going on --------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path):
    """The command line of an evaluation, but for its output."""
    return ("eval", "--tasks", "word_problems", "--apply-chat-template", "--limit", 12, "--max-new-tokens", 48,
            "--batch-size", 2, "--temperature", 0.8, "--seed", 7)  # fmt: skip


def test_killed_and_run_again(dllm, fork, command, tmp_path):
    assert dllm(*command, "--output", tmp_path / "undisturbed").exit_code == 0
    folder = tmp_path / "killed"
    answers = folder / "answers.0.jsonl"
    child = fork(*command, "--output", folder, held=lambda: rows_in(answers) > 5)
    until(lambda: rows_in(answers) >= 3)
    child.send(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    kept = answers.read_bytes()
    assert 3 <= kept.count(b"\n") < 12, "it was killed on the way"
    assert not (folder / "results.json").exists()
    result = dllm(*command, "--output", folder)
    assert result.exit_code == 0, result.stderr
    assert answers.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1]), "what was there is as it was"
    for name in ("results.json", "samples_word_problems.jsonl"):
        ours, theirs = ((at / name).read_text() for at in (folder, tmp_path / "undisturbed"))
        parse = json.loads if name == "results.json" else lambda text: [json.loads(row) for row in text.splitlines()]
        assert timeless(parse(ours)) == timeless(parse(theirs))
    assert results(result.stdout)["word_problems"]["tokens_per_second"] is None, "the first part's time is lost"


def test_a_folder_of_something_else_is_left_alone(dllm, command, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    result = dllm(*command, "--output", tmp_path / "mine")
    assert (result.exit_code, "holds files that are not of an evaluation" in result.stderr) == (2, True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert dllm(*command[:5], 2, "--output", tmp_path / "a").exit_code == 0
    assert dllm(*command[:5], 3, "--output", tmp_path / "a").exit_code == 0, "more documents may be asked for"
    result = dllm(*command[:5], 2, "--policy", "factor", "--output", tmp_path / "a")
    assert result.exit_code == 2
    assert "was begun with options" in result.stderr


@pytest.mark.skipif("DLLM_SLOW" not in os.environ, reason="half a minute: set DLLM_SLOW=1")
def test_two_processes_find_what_one_finds(dllm, command, tmp_path):
    assert dllm(*command, "--output", tmp_path / "one").exit_code == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    options = [*map(str, command), "--output", str(tmp_path / "two")]
    subprocess.run([*launch, str(Path(sys.executable).parent / "dllm"), *options], check=True, timeout=300)
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert timeless(one["tasks"]) == timeless(two["tasks"])
    for name in ("one", "two"):
        assert [row["id"] for row in read(tmp_path / name / "samples_word_problems.jsonl")] == [
            f"word_problems/{i}" for i in range(12)
        ]


def test_hub_data_that_cannot_be_had_is_told(monkeypatch):
    import datasets

    def refuse(*_: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ConfigError, match=r"no route to host.*--data FOLDER"):
        load_tasks(EvaluationPlan(("humaneval",), allow_code=True))
