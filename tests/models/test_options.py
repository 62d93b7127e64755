"""What `load` resolves and passes on: ids, geometry, dtype, device map, quantisation, adapters, tokenizers."""

import json

import pytest
import torch

from dllm.errors import CheckpointError, ConfigError
from dllm.models import FAMILIES, describe_checkpoint, load
from dllm.types import Bidirectional, BlockCausal

CODES = {"llada": (0, Bidirectional()), "dream": (1, Bidirectional())}
CODES |= {"fast_dllm_v2": (1, BlockCausal(8)), "sdar": (0, BlockCausal(4))}


def put(folder, file, **content):
    (folder / file).write_text(json.dumps(content))


def tokenizer(folder, tokens, **kwargs):
    """Write a word-level tokenizer with these tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[0]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([token for token in tokens if "<" in token])
    PreTrainedTokenizerFast(tokenizer_object=core, **kwargs).save_pretrained(folder)


@pytest.mark.parametrize("kind", CODES)
def test_facts_of_a_family(kind, tiny):
    model = load(tiny(kind))
    assert (model.needs_left, model.geometry) == CODES[kind]
    assert (model.mask_id, model.stop_ids, model.pad_id) == (63, (61,), 62)
    assert (model.family, model.max_columns, model.vocabulary, model.tokenizer) == (kind, 128, 64, None)
    assert not model.network.training


@pytest.mark.parametrize(("kind", "key", "default"), [("fast_dllm_v2", "bd_size", 32), ("sdar", "block_size", 4)])
def test_block_size(kind, key, default, tiny):
    assert load(tiny(kind, **{key: None})).geometry.size == default
    assert load(tiny(kind, **{key: 16})).geometry.size == 16
    assert load(tiny(kind), block_size=2).geometry.size == 2
    with pytest.raises(CheckpointError, match=f"{key} is 0"):
        load(tiny(kind, **{key: 0}))
    with pytest.raises(ConfigError, match="size=0"):
        load(tiny(kind), block_size=0)


def test_block_size_needs_blocks(tiny):
    for kind in ("llada", "qwen2"):
        with pytest.raises(ConfigError, match="no attention block"):
            load(tiny(kind, name=kind), block_size=4)


def test_mask_id_explicit_then_checkpoint_then_family(tiny):
    bare = tiny("fast_dllm_v2", name="bare", mask_token_id=None)
    with pytest.raises(CheckpointError, match="--mask-id"):
        load(bare)
    assert load(bare, mask_id=7).mask_id == 7
    assert load(tiny("dream"), mask_id=7).mask_id == 7
    assert describe_checkpoint(bare).mask_id is None
    put(bare, "generation_config.json", mask_token_id=9)
    assert load(bare).mask_id == 9
    with pytest.raises(ConfigError, match=r"--mask-id 64: .*0\.\.63"):
        load(bare, mask_id=64)


def test_family_mask_where_it_fits_the_vocabulary(tiny, edit):
    folder = tiny("fast_dllm_v2", mask_token_id=None, eos_token_id=None, pad_token_id=None, vocab_size=151_670)

    def grow(weights):
        for key in ("model.embed_tokens.weight", "lm_head.weight"):
            weights[key] = torch.zeros(151_670, 32)

    edit(folder, grow)
    model = load(folder)
    assert (model.mask_id, model.stop_ids, model.pad_id) == (151_665, (151_645,), 151_645)


def test_stop_ids(tiny):
    folder = tiny("sdar")
    put(folder, "generation_config.json", eos_token_id=[5, 6, 999])
    assert load(folder).stop_ids == (5, 6)  # SDAR asks generation_config first
    assert load(folder, stop_ids=[3]).stop_ids == (3,)
    assert load(folder, stop_ids=()).stop_ids == ()
    with pytest.raises(ConfigError, match="--stop-id 99"):
        load(folder, stop_ids=[99])
    other = tiny("fast_dllm_v2", name="v2")
    put(other, "generation_config.json", eos_token_id=[5, 6])
    assert load(other).stop_ids == (61,)  # Fast-dLLM v2 stops at config.json's end alone
    assert load(tiny("dream", name="none", eos_token_id=None)).stop_ids == ()


def test_tokenizer_names_mask_turn_end_and_template(tiny):
    folder = tiny("llada", mask_token_id=None)
    special = ["<unk>", "<|mdm_mask|>", "<|eot_id|>", "<|start_header_id|>", "<|startoftext|>", "<|end_header_id|>"]
    tokenizer(folder, [*special, "hi"])
    model = load(folder)
    assert (model.mask_id, model.stop_ids) == (1, (61, 2))
    text = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi "}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert load(folder, tokenizer=False, mask_id=1).tokenizer is None
    assert describe_checkpoint(folder).chat_template


def test_a_checkpoints_own_template_and_mask_win(tiny):
    folder = tiny("fast_dllm_v2", mask_token_id=None)
    tokenizer(folder, ["<unk>", "<|mask|>", "<|im_start|>", "hi"], mask_token="<|mask|>", chat_template="mine")
    model = load(folder)
    assert (model.mask_id, model.tokenizer.chat_template) == (1, "mine")


def test_no_template_where_its_tokens_are_missing(tiny):
    folder = tiny("dream")
    tokenizer(folder, ["<unk>", "hi"])
    assert load(folder).tokenizer.chat_template is None


def test_tokenizer_with_code_of_its_own_is_read_by_the_stock_class(tiny):
    folder = tiny("dream", mask_token_id=None)
    alphabet = ["h", "i", "hi", "Ġ", "<|endoftext|>"]
    put(folder, "vocab.json", **{token: i for i, token in enumerate(alphabet)})
    (folder / "merges.txt").write_text("#version: 0.2\nh i\n")
    added = {"content": "<|mask|>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    put(
        folder,
        "tokenizer_config.json",
        tokenizer_class="DreamTokenizer",
        auto_map={"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        added_tokens_decoder={"5": {**added, "special": True}},
        mask_token="<|mask|>",
    )
    (folder / "tokenization_dream.py").write_text("raise SystemExit('code of a checkpoint was run')")
    model = load(folder)
    assert model.tokenizer("hi<|mask|>")["input_ids"] == [2, 5]
    assert model.mask_id == 5


def test_tokenizer_that_only_its_code_can_read_is_left_out(tiny):
    folder = tiny("llada")
    (folder / "tokenizer.model").write_bytes(b"odd")
    put(folder, "tokenizer_config.json", tokenizer_class="Odd", auto_map={"AutoTokenizer": ["odd.Odd", None]})
    assert load(folder).tokenizer is None
    assert not describe_checkpoint(folder).tokenizer


def test_broken_tokenizer(tiny):
    folder = tiny("dream")
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(CheckpointError, match="tokenizer=False"):
        load(folder)
    assert load(folder, tokenizer=False).tokenizer is None


def test_dtype(tiny, edit, logits):
    folder = tiny("llada")
    tokens = torch.arange(9)[None]
    exact = logits(load(folder), tokens)
    for given in ("bfloat16", torch.bfloat16):
        model = load(folder, dtype=given)
        assert {p.dtype for p in model.network.parameters()} == {torch.bfloat16} == {model.dtype}
        assert torch.allclose(logits(model, tokens).float(), exact, atol=0.5)
    edit(folder, lambda w: w.update({key: value.bfloat16() for key, value in w.items()}))
    assert load(folder, device="cpu").dtype == torch.float32
    assert load(folder, dtype="auto").dtype == torch.bfloat16
    assert describe_checkpoint(folder).dtype == "BF16"
    for wrong in ("int8", "float23", torch.int64):
        with pytest.raises(ConfigError, match="dtype="):
            load(folder, dtype=wrong)


def test_device(tiny):
    folder = tiny("fast_dllm_v2")
    assert load(folder, device="cpu").device.type == "cpu"
    with pytest.raises(ConfigError, match="one of the two"):
        load(folder, device="cpu", device_map="auto")
    for wrong in ("cuda:99", "toaster"):
        with pytest.raises(ConfigError, match="try 'cpu'"):
            load(folder, device=wrong)


@pytest.mark.parametrize("kind", ["llada", "fast_dllm_v2"])
def test_device_map_is_handed_to_transformers(kind, tiny, logits):
    pytest.importorskip("accelerate")
    folder = tiny(kind, shards=2)
    model = load(folder, device_map={"model": "cpu", "lm_head": "disk"})
    assert model.network.lm_head.weight.is_meta
    tokens = torch.arange(12)[None]
    assert torch.equal(logits(model, tokens), logits(load(folder), tokens))


def test_quantisation_is_handed_to_transformers(tiny, monkeypatch):
    import transformers

    folder, seen = tiny("dream"), {}
    original = transformers.Qwen2ForCausalLM.from_pretrained.__func__

    def spy(cls, *args, quantization_config=None, **kwargs):
        seen["given"] = quantization_config
        return original(cls, *args, **kwargs)

    monkeypatch.setattr(transformers.Qwen2ForCausalLM, "from_pretrained", classmethod(spy))
    load(folder, quantization_config="mine")
    assert seen["given"] == "mine"


def test_attention_that_takes_no_mask_is_refused(tiny):
    with pytest.raises(ConfigError, match="'sdpa' and 'eager'"):
        load(tiny("llada"), attention="flash_attention_2")


def test_describe(tiny):
    folder = tiny("sdar", tied=True, shards=2)
    network = load(folder).network
    told = describe_checkpoint(folder)
    assert told.parameters == sum(p.numel() for p in network.parameters())
    assert (told.family, told.stock, told.geometry, told.block_size) == ("sdar", "Qwen3ForCausalLM", "block-causal", 4)
    assert (told.mask_id, told.stop_ids, told.pad_id) == (63, (61,), 62)
    assert (told.vocabulary, told.context, told.dtype, told.tokenizer) == (64, 128, "F32", False)
    plain = describe_checkpoint(tiny("llama", name="plain"))
    assert (plain.family, plain.stock, plain.geometry) == ("autoregressive", "LlamaForCausalLM", "causal")
    assert (plain.mask_id, plain.block_size, plain.family) == (None, None, "autoregressive")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rope_theta": 500.0}, {"rope_type": "default", "rope_theta": 500.0}),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
        ),
        (
            {"rope_theta": None, "rope_parameters": {"rope_type": "linear", "rope_theta": 3.0, "factor": 2.0}},
            {"rope_type": "linear", "rope_theta": 3.0, "factor": 2.0},
        ),
    ],
)
def test_rotary_fields_old_and_new(change, expected, tiny):
    assert load(tiny("dream", **change)).network.config.rope_parameters == expected


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_go_both_ways(family):
    for disk, stock in family.names:
        there = f"{stock}.weight".replace("{i}", "11")
        assert family.stock_name(f"{disk}.weight".replace("{i}", "11")) == there
        assert family.disk_name(there) == f"{disk}.weight".replace("{i}", "11")
    for disk, parts in family.splits:
        there = [f"{part}.weight".replace("{i}", "11") for part in parts]
        assert {family.disk_name(name) for name in there} == {f"{disk}.weight".replace("{i}", "11")}
        assert family.stock_name(family.disk_name(there[0])) == family.disk_name(there[0])
