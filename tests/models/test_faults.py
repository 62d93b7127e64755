"""Bad checkpoints: each gets one clear error that names the culprit, before anything is decoded."""

import json
import pickle

import pytest
import torch

from dllm.errors import CheckpointError, ConfigError
from dllm.models import describe_checkpoint, load
from dllm.models.checkpoint import EMBEDDED

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FIRST = {"llada": "model.transformer.blocks.1.ff_proj.weight", "dream": "model.layers.1.mlp.gate_proj.weight"}
KINDS = pytest.mark.parametrize("kind", FIRST)


@KINDS
def test_missing_tensor(kind, tiny, edit):
    folder = tiny(kind)
    edit(folder, lambda w: w.pop(FIRST[kind]))
    with pytest.raises(CheckpointError, match=rf"{FIRST[kind]} of shape \(48, 32\) is missing"):
        load(folder)


@KINDS
def test_extra_tensor(kind, tiny, edit):
    folder = tiny(kind)
    extra = FIRST[kind].replace(".1.", ".2.")
    edit(folder, lambda w: w.update({extra: torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=f"{extra} is unexpected"):
        load(folder)


@KINDS
def test_wrong_shape(kind, tiny, edit):
    folder = tiny(kind)
    edit(folder, lambda w: w.update({FIRST[kind]: torch.zeros(40, 32)}))
    with pytest.raises(CheckpointError, match=rf"{FIRST[kind]} has shape \(40, 32\), .* asks for \(48, 32\)"):
        load(folder)


def test_missing_head(tiny, edit):
    folder = tiny("llada")
    edit(folder, lambda w: w.pop("model.transformer.ff_out.weight"))
    with pytest.raises(CheckpointError, match=r"model\.transformer\.ff_out\.weight"):
        load(folder)


def test_tied_head_may_be_repeated_but_not_differ(tiny, edit):
    folder = tiny("fast_dllm_v2", tied=True)
    edit(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    load(folder)
    edit(folder, lambda w: w.update({"lm_head.weight": w["lm_head.weight"] + 1}))
    with pytest.raises(CheckpointError, match="ties the head"):
        load(folder)


def test_corrupt_and_cut_short(tiny):
    folder = tiny("llada")
    whole = (folder / SINGLE).read_bytes()
    for bad in (b"", b"junk", whole[: len(whole) // 2], whole[:-1], b"\xff" * 64, whole[:8] + b"?" + whole[9:]):
        (folder / SINGLE).write_bytes(bad)
        for ask in (load, describe_checkpoint):
            with pytest.raises(CheckpointError, match=r"model\.safetensors: not a readable safetensors file"):
                ask(folder)


def test_shards(tiny):
    folder = tiny("dream", shards=2)
    last = folder / "model-00002-of-00002.safetensors"
    content = last.read_bytes()
    last.write_bytes(content[:-7])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: not a readable"):
        load(folder)
    last.unlink()
    with pytest.raises(CheckpointError, match=rf"model-00002-of-00002\.safetensors: missing, though {INDEX}"):
        load(folder)
    for index in ("{", "[]", "{}", '{"weight_map": {}}'):
        (folder / INDEX).write_text(index)
        with pytest.raises(CheckpointError, match=INDEX):
            load(folder)


class Bomb:
    """A pickle of it goes off when it is read."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_refused(file, tiny):
    folder = tiny("llada")
    (folder / SINGLE).unlink()
    (folder / file).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=rf"{file}: pickled weights.*convert them"):
        load(folder)


def test_pickles_in_an_index_are_refused(tiny):
    folder = tiny("llada")
    (folder / SINGLE).unlink()
    for file in ("pytorch_model.bin", "../other/model.safetensors"):
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
        (folder / INDEX).write_text(json.dumps({"weight_map": {"x": file}}))
        with pytest.raises(CheckpointError, match="only safetensors files of this folder"):
            load(folder)


def test_pickle_named_by_config_is_not_read(tiny):
    folder = tiny("qwen2", transformers_weights="adapter_model.bin")
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    load(folder)


def test_no_weights(tiny):
    folder = tiny("llada")
    (folder / SINGLE).unlink()
    with pytest.raises(CheckpointError, match=f"no weights.*{SINGLE}"):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"alibi": True},
        {"rope": False},
        {"layer_norm_type": "low_precision"},
        {"block_type": "sequential"},
        {"block_group_size": 2},
        {"include_qkv_bias": True},
        {"scale_logits": True},
        {"activation_type": "swiglu"},
    ],
)
def test_llada_variants_are_refused(change, tiny):
    (key,) = change
    with pytest.raises(CheckpointError, match=rf"config\.json: {key} is .* only {key} = .* is"):
        load(tiny("llada", **change))


@pytest.mark.parametrize("kind", ["sdar_moe", "LLaDA2_moe_veomni", "a2d-gpt2"])
def test_relatives_we_cannot_run(kind, tiny):
    with pytest.raises(
        CheckpointError, match=f"model_type '{kind}': .*known families: LLaDA, Dream, Fast-dLLM v2, SDAR"
    ):
        load(tiny("sdar", model_type=kind))


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "brand_new", "architectures": ["BrandNew"]},
        {"model_type": "qwen2", "architectures": ["SomeOtherModel"]},
        {"model_type": "bert", "architectures": ["BertForSequenceClassification"]},
        {"model_type": None, "architectures": None},
    ],
)
def test_unknown_family_lists_the_known(change, tiny):
    with pytest.raises(CheckpointError, match=r"known families: LLaDA, Dream, Fast-dLLM v2, SDAR, .*, plain causal"):
        load(tiny("sdar", **change))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("llada", {"d_model": "wide"}),
        ("llada", {"n_layers": 0}),
        ("llada", {"n_heads": None}),
        ("dream", {"hidden_size": None}),
        ("dream", {"num_attention_heads": -4}),
        ("dream", {"hidden_size": 31}),
        ("dream", {"hidden_act": "nothing"}),
        ("sdar", {"vocab_size": True}),
        ("sdar", {"use_sliding_window": True}),
        ("fast_dllm_v2", {"rope_scaling": {"rope_type": "magic"}}),
        ("qwen2", {"hidden_size": "wide"}),
    ],
)
def test_config_that_makes_no_sense(kind, change, tiny):
    with pytest.raises(CheckpointError):
        load(tiny(kind, **change))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"model_type": "Dream", }', b"\xff\xfe\x00"])
def test_config_that_is_no_json_object(text, tiny):
    folder = tiny("dream")
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    for ask in (load, describe_checkpoint):
        with pytest.raises(CheckpointError, match=r"config\.json"):
            ask(folder)


def test_generation_config_that_is_no_json(tiny):
    folder = tiny("dream")
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        load(folder)


def test_names_that_lead_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", _offline)
    for name, words in (
        (tmp_path / "nowhere", "no such folder"),
        ("./nowhere", "no such folder"),
        ("/no/where/at/all", "no such folder"),
        ("nobody/nothing", r"the Hub did not deliver it \(no network\)"),
        ("", "no such folder|no config.json"),
    ):
        with pytest.raises(CheckpointError, match=words):
            load(name)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        load(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load(tmp_path / "empty")


def _offline(*_, **__):
    raise ConnectionError("no network")


def test_hub_id_downloads_small_files_first_and_then_only_the_weights(tiny, monkeypatch):
    folder, asked = tiny("dream", shards=2), []

    def download(name, revision, allow_patterns, ignore_patterns):
        asked.append((name, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load("owner/model", revision="v1").name == "owner/model"
    assert [entry[:2] for entry in asked] == [("owner/model", "v1")] * 2
    assert "*.json" in asked[0][2]
    assert not any("safetensors" in pattern for pattern in asked[0][2])
    assert asked[1][2] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_hub_checkpoint_of_pickles_is_refused_by_name(tiny, monkeypatch):
    folder = tiny("dream")
    (folder / SINGLE).unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda *_, **__: ["config.json", "pytorch_model.bin"])
    with pytest.raises(CheckpointError, match=r"owner/model/pytorch_model\.bin: pickled weights"):
        load("owner/model")


def test_embedded_model_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr("dllm.models.checkpoint.EMBEDDED", tmp_path)
    with pytest.raises(CheckpointError, match="embedded model is missing"):
        load()
    assert EMBEDDED.name == "embedded"


def test_mask_id_on_a_plain_model(tiny):
    with pytest.raises(ConfigError, match=r"--mask-id 3: .* without a mask"):
        load(tiny("qwen2"), mask_id=3)


def test_errors_carry_no_foreign_traceback(tiny):
    folder = tiny("dream", hidden_act="nothing")
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert caught.value.__suppress_context__
    assert "\n" not in str(caught.value)


def test_loading_says_nothing(tiny, edit, capsys, caplog, recwarn):
    folder = tiny("llada")
    load(folder)
    load()
    edit(folder, lambda w: w.pop(FIRST["llada"]))
    with pytest.raises(CheckpointError):
        load(folder)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records
    assert not recwarn.list
