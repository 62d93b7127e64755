"""A run from data to a model that decodes: every base, full and LoRA; what is trained, exported and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import dllm
from dllm.errors import ConfigError
from dllm.training.attention import make_block_causal_mask
from dllm.training.events import (
    AnswerSampled,
    CheckpointSaved,
    Event,
    LossEvaluated,
    LossLogged,
    ModelExported,
    RunPrepared,
)
from dllm.training.export import export_model
from dllm.training.plan import TrainingPlan
from dllm.training.run import run_training

Base = Callable[..., Path]
SMALL: dict[str, Any] = {
    "steps": 4, "batch": 4, "micro_batch": 2, "context": 256, "block": 16, "lr": 3e-3, "log_every": 1, "save_every": 2,
    "eval_every": 2, "eval_rows": 3,
}  # fmt: skip


def plan(base: Path, data: Path, out: Path, **changes: Any) -> TrainingPlan:
    return TrainingPlan(**{**SMALL, "base": str(base), "data": (str(data),), "out": str(out), **changes})


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, LossLogged)]


@torch.no_grad()
def logits(network: Any, tokens: torch.Tensor, block: int = 16) -> torch.Tensor:
    mask = make_block_causal_mask(tokens.shape[1], block)[None, None]
    network.eval().set_attn_implementation("sdpa")
    return network(input_ids=tokens, attention_mask=mask, use_cache=False).logits


@pytest.mark.parametrize("lora", [0, 4], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Llama"])
def test_every_base_is_trained_and_exported(
    kind: str, lora: int, make_base: Base, data_file: Path, tmp_path: Path
) -> None:
    base = make_base(kind, tied=kind != "Llama", mask=kind == "Qwen2")
    events: list[Event] = []
    folder = run_training(plan(base, data_file, tmp_path / "run", lora=lora), events.append, command="dllm train …")
    model = dllm.load(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == f"Fast_dLLM_{kind.replace('Qwen2', 'Qwen')}" and config["bd_size"] == 16
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.mask_token_id == config["mask_token_id"] == model.mask_id
    assert tokenizer.mask_token == ("<|mask|>" if kind == "Qwen2" else "|<MASK>|")
    held = transformers.AutoConfig.from_pretrained(base).vocab_size
    assert model.vocabulary == config["vocab_size"] == max(held, model.mask_id + 1)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 0
    stock = getattr(transformers, f"{kind}ForCausalLM").from_pretrained(folder)
    tokens = torch.randint(5, 200, (1, 40), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(logits(stock, tokens), logits(model.network, tokens), atol=1e-5)
    assert not torch.allclose(logits(dllm.load(base).network, tokens), logits(stock, tokens)[..., :held], atol=1e-2)
    assert len(dllm.decode(model, "Tom has 3 nuts.", max_new_tokens=16)[0].output_ids) <= 16
    prepared = events[0]
    assert isinstance(prepared, RunPrepared) and (prepared.trained < prepared.parameters / 2) == bool(lora)
    assert isinstance(events[-1], ModelExported) and (events[-1].adapter is not None) == bool(lora)
    assert losses(events)[-1] < losses(events)[0]


def test_an_adapter_on_the_exported_base_is_the_merged_model(make_base: Base, data_file: Path, tmp_path: Path) -> None:
    """The base in Hub format is a run of no steps; a mask row that is new lies in the adapter too."""
    base = make_base("Qwen2", mask=False)
    merged = run_training(plan(base, data_file, tmp_path / "run", lora=4))
    plain = run_training(plan(base, data_file, tmp_path / "plain", steps=0))
    assert "Not trained" in (plain / "README.md").read_text()
    model = dllm.load(plain, adapter=tmp_path / "run" / "adapter")
    tokens = torch.randint(5, 200, (1, 40), generator=torch.Generator().manual_seed(0))
    tokens[0, 20:] = model.mask_id
    want, got = logits(dllm.load(merged).network, tokens), logits(model.network, tokens)
    assert torch.allclose(got, want, atol=1e-4)
    assert not torch.allclose(logits(dllm.load(plain).network, tokens), want, atol=1e-2)
    row = load_file(merged / "model.safetensors")["model.embed_tokens.weight"]
    was = load_file(plain / "model.safetensors")["model.embed_tokens.weight"]
    changed = (row != was).any(1).nonzero().flatten().tolist()
    assert changed == [model.mask_id], "LoRA trains the mask's row of the embedding and no other"


def test_a_new_mask_row_starts_as_the_mean_of_the_others(make_base: Base, data_file: Path, tmp_path: Path) -> None:
    for spare in (0, 3):
        base = make_base("Qwen2", mask=False, spare=spare)
        folder = run_training(plan(base, data_file, tmp_path / f"run{spare}", steps=0))
        rows = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
        was = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
        index = json.loads((folder / "config.json").read_text())["mask_token_id"]
        known = min(index, len(was))
        assert len(rows) == max(len(was), index + 1) and torch.equal(rows[:known], was[:known])
        assert torch.allclose(rows[known : index + 1], was[:known].mean(0), atol=1e-6)


def test_a_named_token_serves_as_the_mask(make_base: Base, data_file: Path, tmp_path: Path) -> None:
    folder = run_training(plan(make_base(mask=False), data_file, tmp_path / "run", steps=0, mask_token="<|pad|>"))
    assert dllm.load(folder).mask_id == 1
    with pytest.raises(ConfigError, match="--mask-token 'nope': not a token"):
        run_training(plan(make_base(), data_file, tmp_path / "two", mask_token="nope"))


@pytest.mark.parametrize("kind", ["Qwen2", "Llama"])
def test_other_objectives_export_formats_that_load(kind: str, make_base: Base, data_file: Path, tmp_path: Path) -> None:
    full = run_training(plan(make_base(kind), data_file, tmp_path / "full", steps=1, objective="full-attention"))
    model = dllm.load(full)
    assert model.geometry == dllm.types.Bidirectional() and model.needs_left == 0 and model.mask_id == 2
    causal = run_training(plan(make_base(kind), data_file, tmp_path / "causal", steps=1, objective="next-token"))
    assert dllm.load(causal).family == "autoregressive"
    stock = transformers.AutoModelForCausalLM.from_pretrained(causal)
    assert type(stock).__name__ == f"{kind}ForCausalLM"


@pytest.mark.parametrize("tied", [True, False])
def test_full_attention_exports_llada_with_the_trained_logits(
    tied: bool, make_base: Base, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Any] = []
    monkeypatch.setattr(
        "dllm.training.run.export_model",
        lambda folder, network, *rest: trained.append(network) or export_model(folder, network, *rest),
    )
    base = make_base("Llama", tied=tied)
    options = {"objective": "full-attention", "format": "llada", "pad": "end", "steps": 2}
    model = dllm.load(run_training(plan(base, data_file, tmp_path / "run", **options)))
    assert (model.family, model.needs_left, model.mask_id) == ("llada", 0, 2)
    assert model.geometry == dllm.types.Bidirectional()
    tokens = torch.arange(20)[None]
    network = trained[0].eval()
    network.config.is_causal = False
    everything = torch.ones(1, 1, 20, 20, dtype=torch.bool)
    with torch.no_grad():
        wanted = network(input_ids=tokens, attention_mask=everything, use_cache=False).logits
        found = model.network(input_ids=tokens, attention_mask=everything, use_cache=False).logits
    assert torch.equal(found, wanted)


def test_a_base_that_llada_cannot_hold_is_refused_first(make_base: Base, data_file: Path, tmp_path: Path) -> None:
    options = {"objective": "full-attention", "format": "llada", "steps": 1}
    with pytest.raises(ConfigError, match=r"--format llada: .* has the class Qwen2ForCausalLM"):
        run_training(plan(make_base("Qwen2"), data_file, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_an_adapted_model_can_be_trained_on(make_base: Base, data_file: Path, tmp_path: Path) -> None:
    once = run_training(plan(make_base(mask=False), data_file, tmp_path / "one", steps=1))
    twice = run_training(plan(once, data_file, tmp_path / "two", steps=1))
    assert dllm.load(twice).mask_id == dllm.load(once).mask_id


def test_events_tell_the_run_and_the_card_keeps_it(make_base: Base, data_file: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    asked: list[Any] = []

    def sampler(model: Any, prompt: Any) -> str:
        asked.append(prompt)
        return f"answer {len(asked)}"

    out = tmp_path / "run"
    folder = run_training(
        plan(make_base(), data_file, out, report_to=("tensorboard",), optimizer="muon", average=0.5),
        events.append,
        sampler,
        "dllm train x",
    )
    assert [e.step for e in events if isinstance(e, LossEvaluated)] == [0, 2, 4]
    assert [e.step for e in events if isinstance(e, CheckpointSaved)] == [2, 4]
    samples = [e for e in events if isinstance(e, AnswerSampled)]
    assert [e.answer for e in samples] == ["answer 1", "answer 2", "answer 3"]
    assert samples[0].prompt.startswith("<|user|>") and samples[0].prompt.endswith("<|assistant|>")
    assert len(losses(events)) == 4
    card = (folder / "README.md").read_text()
    first = next(e.loss for e in events if isinstance(e, LossEvaluated))
    for fact in (
        f"| 0 | {first:.4f} |",
        "dllm train x",
        "| seed | 0 |",
        "| optimizer | muon |",
        "| average | 0.5 |",
        "answer 3",
        "120 rows, 120 samples",
        "some.jsonl",
    ):
        assert fact in card, fact
    assert list((out / "logs").glob("events.out.tfevents*"))
    assert not (out / "writing").exists()
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["checkpoint-2", "checkpoint-4"]


def test_skipped_rows_reach_the_report_and_the_card(make_base: Base, data_file: Path, tmp_path: Path) -> None:
    data = tmp_path / "mixed.jsonl"
    data.write_text(data_file.read_text() + "\n{broken\n" + json.dumps({"prompt": "x"}) + "\n")
    events: list[Event] = []
    folder = run_training(plan(make_base(), data, tmp_path / "run", steps=1, context=64), events.append)
    prepared = events[0]
    assert isinstance(prepared, RunPrepared)
    skipped = prepared.report.skipped
    assert {kind: skipped[kind] for kind in ("empty row", "broken JSON", "no response")} == {
        "empty row": 1, "broken JSON": 1, "no response": 1,
    }  # fmt: skip
    assert skipped["over-long sample"] > 0 and sum(skipped.values()) + prepared.report.samples == 123
    assert f"skipped {skipped['over-long sample']:,}: over-long sample" in (folder / "README.md").read_text()
    with pytest.raises(ConfigError, match=r"mixed\.jsonl:121: empty row"):
        run_training(plan(make_base(), data, tmp_path / "strict", strict_data=True))
    assert not (tmp_path / "strict").exists()


def test_another_plan_or_foreign_files_in_the_folder_are_refused(
    make_base: Base, data_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="exists and is no training run"):
        run_training(plan(make_base(), data_file, tmp_path / "mine"))
    run_training(plan(make_base(), data_file, tmp_path / "run", steps=0))
    with pytest.raises(ConfigError, match=r"--seed 1: the run in .* was started with 0"):
        run_training(plan(make_base(), data_file, tmp_path / "run", steps=0, seed=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": 1024}, "--context 1024: .* has 512 positions"),
        ({"lora": 2, "lora_targets": "q_proj,qq_proj"}, "--lora-targets qq_proj: must be all-linear or some of q_proj"),
        ({"chat_template": "chatml"}, "the tokenizer has no token <|im_"),
        ({"chat_template": "nope.jinja"}, "neither chatml nor a file"),
        ({"lora": 2, "report_to": ("nowhere",)}, "--report-to nowhere: not usable here"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    changes: dict[str, Any], message: str, make_base: Base, data_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_training(plan(make_base(), data_file, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_base_of_another_kind_is_refused(data_file: Path, tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ConfigError, match="is a GPT2LMHeadModel; those that can be adapted are Qwen2"):
        run_training(plan(tmp_path / "gpt2", data_file, tmp_path / "run", context=32))


def test_a_tiny_model_learns(make_base: Base, data_file: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    changes = {"steps": 40, "lr": 2e-2, "batch": 8, "micro_batch": 8, "save_every": 40, "eval_every": 40}
    run_training(plan(make_base(), data_file, tmp_path / "run", **changes), events.append)
    held = [event.loss for event in events if isinstance(event, LossEvaluated)]
    assert held[-1] < held[0] - 2, held


def moved(base: Path, data: Path, out: Path, **changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix of the base, and how far one update moves it."""
    folder = run_training(plan(base, data, out, steps=1, warmup=0.0, lr=1e-2, eval_rows=0, held_out=0.0, **changes))
    name = "model.layers.0.self_attn.q_proj.weight"
    before, after = (load_file(place / "model.safetensors")[name] for place in (base, folder))
    return before, after - before


def test_a_run_is_optimised_as_its_plan_says(make_base: Base, data_file: Path, tmp_path: Path) -> None:
    """Muon moves a matrix about as far in each of its directions, AdamW does not; decay pulls towards zero besides."""
    base, spread = make_base(), {}
    for optimizer in ("adamw", "muon"):
        start, step = moved(base, data_file, tmp_path / optimizer, optimizer=optimizer)
        values = torch.linalg.svdvals(step)
        spread[optimizer] = float(values.max() / values.median())
        _, decayed = moved(base, data_file, tmp_path / f"{optimizer} decayed", optimizer=optimizer, weight_decay=0.5)
        torch.testing.assert_close(decayed - step, -0.005 * start, atol=2e-6, rtol=1e-3)
    assert spread["muon"] < 1.6 and spread["adamw"] > 2


def test_what_needs_whole_weights_is_refused_under_fsdp(
    make_base: Base, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch` sets it
    for change in ({"optimizer": "muon"}, {"average": 0.9}):
        with pytest.raises(ConfigError, match="fsdp: --optimizer muon and --average need whole weights"):
            run_training(plan(make_base(), data_file, tmp_path / "run", **change))
    assert not (tmp_path / "run").exists()
