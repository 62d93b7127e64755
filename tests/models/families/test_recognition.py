"""Which family a checkpoint is of, also where its config.json alone does not tell, and what is refused by name."""

from __future__ import annotations

import json

import pytest

from dllm.errors import CheckpointError, ConfigError
from dllm.models import FAMILIES, describe_checkpoint, load
from dllm.models.families import recognise_family
from dllm.types import Bidirectional, BlockCausal


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "llada", "architectures": ["LLaDAModelLM"]}, "llada"),
        ({"model_type": "llada", "architectures": ["MyOwnFineTune"]}, "llada"),
        ({"model_type": "llada"}, "llada"),
        ({"model_type": "llada", "architectures": ["LLaDAMoEModelLM"]}, "llada_moe"),
        ({"model_type": "llada_moe", "architectures": ["LLaDAMoEModel"]}, "llada_moe"),
        ({"model_type": "lladamoe"}, "llada_moe"),
        ({"model_type": "llada2_moe", "architectures": ["LLaDA2MoeModelLM"]}, "llada2"),
        ({"model_type": "Dream", "architectures": ["DreamModel"]}, "dream"),
        ({"model_type": "dream"}, "dream"),
        ({"model_type": "a2d-qwen3", "architectures": ["A2DQwen3LMHeadModel"]}, "a2d"),
        ({"model_type": "a2d-llama"}, "a2d"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "masked_lm"),
        ({"model_type": "bert", "architectures": ["BertForPreTraining"]}, "masked_lm"),
        ({"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"]}, "masked_lm"),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, "autoregressive"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "autoregressive"),
        ({"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}, "autoregressive"),
        ({"model_type": "glm4_moe", "architectures": ["Glm4MoeForCausalLM"]}, "autoregressive"),
    ],
)
def test_recognised(config, name):
    assert recognise_family(config).name == name


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "architectures": ["BertForSequenceClassification"]},
        {"model_type": "roberta", "architectures": ["RobertaModel"]},
        {"model_type": "llada2_moe_veomni"},
        {"model_type": "a2d-gpt2", "architectures": ["A2DGPT2LMHeadModel"]},
        {"architectures": ["A2DQwen3LMHeadModel"]},
        {"architectures": ["BertForMaskedLM"]},
    ],
)
def test_not_recognised(config):
    with pytest.raises(CheckpointError, match=r"^config\.json: model_type "):
        recognise_family(config)


def test_what_config_does_not_tell_is_asked_for(tiny):
    folder = tiny("a2d_qwen3")
    assert load(folder).geometry == Bidirectional()
    blocks = load(folder, family="a2d_bd3lm")
    assert (blocks.geometry, blocks.family) == (BlockCausal(32), "a2d_bd3lm")
    assert load(folder, family="a2d_bd3lm", block_size=4).geometry == BlockCausal(4)
    assert describe_checkpoint(folder, family="a2d_bd3lm").block_size == 32
    with pytest.raises(ConfigError, match="no attention block"):
        load(folder, block_size=4)


def test_open_dcoder_is_told_by_its_mask_alone(tiny):
    marked = tiny("open_dcoder")
    assert (load(marked).family, load(marked).mask_id) == ("open_dcoder", 63)
    assert load(marked, family="autoregressive").family == "autoregressive"
    plain = tiny("qwen2", name="plain")
    assert load(plain).family == "autoregressive"
    assert load(plain, family="open_dcoder", mask_id=5).needs_left == 1


def test_family_that_cannot_run_a_checkpoint(tiny):
    with pytest.raises(ConfigError, match=r"family 'dream': this model_type, 'a2d-qwen3', is run by a2d, a2d_bd3lm$"):
        load(tiny("a2d_qwen3"), family="dream")
    with pytest.raises(ConfigError, match=r"family 'nonsense': this model_type, 'qwen2', is run by open_dcoder, auto"):
        describe_checkpoint(tiny("qwen2", name="plain"), family="nonsense")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("llada_moe", {"moe_router_score_function": "sigmoid"}),
        ("llada_moe", {"moe_router_enable_expert_bias": True}),
        ("llada_moe", {"shared_expert_intermediate_size": 16}),
        ("llada_moe", {"router_num_group": 8}),
        ("llada_moe", {"router_topk_group": 4}),
        ("llada_moe", {"norm_topk_prob": True}),
        ("llada_moe", {"routed_scaling_factor": 2.5}),
        ("llada_moe", {"partial_rotary_factor": 0.5}),
        ("llada_moe", {"qk_layernorm": False}),
        ("llada_moe", {"clip_qkv": 8.0}),
        ("llada_moe", {"head_dim": 16}),
        ("llada2", {"score_function": "softmax"}),
        ("llada2", {"moe_router_enable_expert_bias": False}),
        ("llada2", {"norm_topk_prob": False}),
        ("llada2", {"use_qk_norm": False}),
        ("llada2", {"use_qkv_bias": True}),
        ("llada2", {"use_bias": True}),
        ("llada2", {"use_sliding_window": True}),
        ("llada2", {"rotary_dim": 16}),
        ("bert", {"position_embedding_type": "relative_key"}),
        ("roberta", {"is_decoder": True}),
    ],
)
def test_variants_are_refused(kind, change, tiny):
    ((key, value),) = change.items()
    with pytest.raises(CheckpointError, match=rf"config\.json: {key} is {value!r}; this variant of .* only {key} = "):
        load(tiny(kind, **change))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("llada_moe", {"moe_layer_freq": [1, 0]}),
        ("llada_moe", {"moe_layer_freq": [1, 2, 0]}),
        ("llada_moe", {"num_experts": 0}),
        ("llada_moe", {"dense_intermediate_size": None}),
        ("llada2", {"num_shared_experts": 0}),
        ("llada2", {"num_shared_experts": None}),
        ("llada2", {"n_group": None}),
        ("a2d_qwen2", {"use_sliding_window": True}),
        ("a2d_llama", {"hidden_size": None}),
        ("modernbert", {"num_attention_heads": "many"}),
        ("bert", {"max_position_embeddings": None}),
    ],
)
def test_config_that_makes_no_sense(kind, change, tiny):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(tiny(kind, **change))


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [
        ("llada_moe", "model.layers.0.mlp.gate.weight"),
        ("llada2", "model.layers.1.attention.query_key_value.weight"),
        ("llada2", "model.layers.1.mlp.gate.expert_bias"),
        ("llada2", "model.word_embeddings.weight"),
        ("bert", "cls.predictions.transform.dense.weight"),
        ("modernbert", "head.dense.weight"),
    ],
)
def test_missing_tensor_is_named_as_on_disk(kind, tensor, tiny, edit):
    folder = tiny(kind)
    edit(folder, lambda w: w.pop(tensor))
    with pytest.raises(CheckpointError, match=tensor.replace(".", r"\.")):
        load(folder)


@pytest.mark.parametrize("kind", ["llada_moe", "llada2"])
def test_experts_that_do_not_fit(kind, tiny, edit):
    name = "model.layers.2.mlp.experts.5.up_proj.weight"
    folder = tiny(kind)
    edit(folder, lambda w: w.pop(name))
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.") + " is missing"):
        load(folder)
    other = tiny(kind, name="other")
    edit(other, lambda w: w.update({name: w[name][:3].clone()}))
    with pytest.raises(CheckpointError, match=r"experts\.5\.up_proj\.weight has shape \(3, 32\), others .* \(12, 32\)"):
        load(other)
    more = tiny(kind, name="more", num_experts=16)
    with pytest.raises(CheckpointError, match=r"experts|gate"):
        load(more)


@pytest.mark.parametrize("rows", [63, 129, 256])
def test_fused_layer_of_another_size(rows, tiny, edit):
    import torch

    folder = tiny("llada2")
    edit(folder, lambda w: w.update({"model.layers.0.attention.query_key_value.weight": torch.zeros(rows, 32)}))
    with pytest.raises(CheckpointError, match=rf"layers\.0\..*query_key_value\.weight has shape \({rows}, .*128 rows"):
        load(folder)


def test_tensors_that_decoding_does_not_need(tiny, edit):
    import torch

    folder = tiny("bert")
    load(folder)
    edit(folder, lambda w: w.update({"cls.predictions.extra.weight": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"cls\.predictions\.extra\.weight is unexpected"):
        load(folder)
    edit(folder, lambda w: w.update({"bert.embeddings.position_ids": torch.arange(48)[None]}))
    edit(folder, lambda w: w.pop("cls.predictions.extra.weight"))
    load(folder)


@pytest.mark.parametrize(
    ("title", "config", "special"),
    [
        (
            "Dream-Coder",
            {"bos_token_id": 55, "eos_token_id": 53, "pad_token_id": 53},
            (56, (53,), 53),
        ),
        ("DiffuCoder", {"eos_token_id": 53, "pad_token_id": 57}, (56, (53,), 57)),
    ],
)
def test_coders_of_the_dream_format(title, config, special, tiny):
    model = load(tiny("dream", mask_token_id=56, **config))
    assert (model.mask_id, model.stop_ids, model.pad_id) == special
    assert (model.family, model.needs_left) == ("dream", 1)


def test_dream_coders_mask_and_turn_end_by_spelling(tiny):
    """Their tokenizers hold two tokens more than Dream's, whose ids differ: the spelling decides."""
    folder = tiny("dream", mask_token_id=None, bos_token_id=None, eos_token_id=1)
    tokens = {"<|endoftext|>": 1, "<|im_end|>": 2, "<|beginoftext|>": 3, "<|mask|>": 4, "<|dlm_pad|>": 5}
    (folder / "added_tokens.json").write_text(json.dumps(tokens))
    model = load(folder)
    assert (model.mask_id, model.stop_ids) == (4, (1, 2))


def test_families_are_told_apart():
    keys = [(kind, a) for f in FAMILIES for kind in f.model_types for a in f.architectures]
    assert len(keys) == len(set(keys))
    assert len({f.name for f in FAMILIES}) == len({f.title for f in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.examples and family.reference and (family.model_types or family.on_request)
