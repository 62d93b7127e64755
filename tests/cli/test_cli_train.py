"""`dllm train`: a model that decodes comes out, what it tells goes to stderr, and what is wrong is said in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.main import get_command

from dllm.cli.main import app
from dllm.training.plan import TrainingPlan
from tests.cli.conftest import Run

ROWS = [
    {"messages": [{"role": "user", "content": f"w{i} w5"}, {"role": "assistant", "content": f"w{i} w6 w7"}]}
    for i in range(8, 40)
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def usual(checkpoints: dict[str, str], data: Path, tmp_path: Path) -> list[object]:
    return [
        "train", "--base", checkpoints["baseline"], "--data", data, "--out", tmp_path / "run", "--steps", 3,
        "--batch", 2, "--context", 64, "--block", 8, "--log-every", 1, "--eval-every", 3, "--save-every", 2,
    ]  # fmt: skip


def test_a_model_comes_out_that_decodes(dllm: Run, usual: list[object], data: Path, tmp_path: Path) -> None:
    data.write_text(data.read_text() + "{}\n")
    done = dllm(*usual, "--lora", 2, "--sample-prompt", "w9 w5")
    assert done.exit_code == 0 and done.stdout == "", done.stderr
    for told in (
        "33 rows, 32 samples", "skipped 1: empty row (first: ", "step 0/3  held-out loss", "step 3/3  loss", "w9 w5",
        "checkpoint saved", f"model in {tmp_path}/run/model, adapter in {tmp_path}/run/adapter",
    ):  # fmt: skip
        assert told in done.stderr, told
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "| lora | 2 |" in card and "skipped 1: empty row" in card
    decoded = dllm("decode", "w9 w5", "--model", tmp_path / "run" / "model", "--max-new-tokens", 8, "--quiet")
    assert decoded.exit_code == 0 and decoded.stdout.strip()


def test_a_config_is_filled_in_by_options(dllm: Run, usual: list[object], tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("steps: 900\nlr: 1e-3\nblock: 16\n")
    done = dllm(*usual, "--config", config, "--quiet")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    plan = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
    assert (plan["steps"], plan["lr"], plan["block"]) == (3, 1e-3, 8)


def test_run_again_it_goes_on(dllm: Run, usual: list[object]) -> None:
    first, again = dllm(*usual), dllm(*usual)
    assert again.exit_code == 0 and "going on from the checkpoint at step 3 of 3" in again.stderr
    assert "going on" not in first.stderr


MISUSE = {
    "no data": (["--data", "nope.jsonl"], ["--data nope.jsonl: no such file"]),
    "recipe": (["--config", "nope"], ["--config nope", "fast_dllm_v2_7b"]),
    "objective": (["--objective", "nope"], ["--objective nope", "block-diffusion"]),
    "context": (["--context", "63"], ["--context 63", "multiple of --block 8"]),
    "base": (["--base", "/nowhere/at/all"], ["/nowhere/at/all", "no such folder"]),
    "both": (["--epochs", "2"], ["give one of --steps and --epochs"]),
    "template": (["--chat-template", "chatml"], ["--chat-template chatml", "<|im_"]),
    "reporter": (["--report-to", "tensorbored"], ["--report-to tensorbored", "tensorboard"]),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_one_line_and_exit_code_2(dllm: Run, usual: list[object], case: str, tmp_path: Path) -> None:
    options, said = MISUSE[case]
    done = dllm(*usual, *options)
    assert done.exit_code in (1, 2) and done.stdout == ""
    assert done.exit_code == (1 if case == "base" else 2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(part in done.stderr for part in said), done.stderr
    assert not (tmp_path / "run").exists()


def test_a_base_without_chat_template_is_refused_for_chats(
    dllm: Run, usual: list[object], checkpoints: dict[str, str], tmp_path: Path
) -> None:
    from shutil import copytree

    base = copytree(checkpoints["baseline"], tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    done = dllm(*usual, "--base", base)
    assert done.exit_code == 2 and "no chat template: give chat_template / --chat-template" in done.stderr


def test_every_field_of_a_plan_is_an_option() -> None:
    command = get_command(app).commands["train"]  # type: ignore[attr-defined]
    assert {option.name for option in command.params} - {"help"} == {
        *TrainingPlan.__dataclass_fields__,
        "config",
        "quiet",
    }
