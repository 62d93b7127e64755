"""Code written for `generate` of `transformers` decodes by diffusion, with the settings that it has already."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

import dllm
from dllm import Factor, Request, Threshold, TopK
from dllm.integrations.generation_config import DiffusionGenerationConfig, interpret_config
from dllm.integrations.transformers import as_network, diffusion_generate, from_pretrained, generate
from tests.streaming.test_streamers import RecordingStreamer
from tests.tiny import tiny_model

PROMPTS = [(3, 7, 1, 22, 9), (5, 2, 8)]
LEFT = torch.tensor([[3, 7, 1, 22, 9], [0, 0, 5, 2, 8]])
THERE = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])


@pytest.fixture
def network() -> Any:
    """A tiny network with our `generate`; as it was afterwards, since tests share it."""
    tiny = tiny_model("block-causal")
    kept = tiny.network.generation_config
    yield as_network(tiny)
    del tiny.network.generate, tiny.network.dllm_model
    tiny.network.generation_config = kept


def ours(strategy: Any, length: int = 12, **more: Any) -> list[list[int]]:
    requests = [Request(prompt, length) for prompt in PROMPTS]
    return [list(result.output_ids) for result in dllm.decode(tiny_model("block-causal"), requests, strategy, **more)]


def test_one_line_switches(network: Any) -> None:
    ids = network.generate(LEFT, attention_mask=THERE, max_new_tokens=12, threshold=0.5, block_length=8)
    want = dllm.Strategy(
        Threshold(0.5), dllm.Blocks(8), dllm.compose.options.Options().strategy(tiny_model("block-causal"), 12).cache
    )
    assert ids[:, :5].tolist() == LEFT.tolist()
    assert ids[:, 5:].tolist() == ours(want)


def test_the_callable_does_the_same(network: Any) -> None:
    from transformers import GenerationMixin

    given = {"attention_mask": THERE, "max_new_tokens": 12, "factor": 1.5}
    raw = GenerationMixin.generate(network, LEFT, custom_generate=diffusion_generate, **given)
    assert raw.tolist() == network.generate(LEFT, **given).tolist() == generate(network, LEFT, **given).tolist()


@pytest.mark.parametrize("raw", [False, True])
def test_a_streamer_hears_the_tokens(network: Any, raw: bool) -> None:
    from transformers import GenerationMixin

    notes = RecordingStreamer()
    call = GenerationMixin.generate if raw else generate
    more = {"custom_generate": diffusion_generate} if raw else {}
    ids = call(network, LEFT[:1], max_new_tokens=12, streamer=notes, **more)
    prompt, *tokens, end = notes.received
    assert prompt.tolist() == [list(PROMPTS[0])] and end is None
    assert torch.cat(tokens).tolist() == ids[0, 5:].tolist()


def test_text_comes_while_it_is_written() -> None:
    network = from_pretrained("embedded")
    words = network.dllm_model.tokenizer
    messages = [{"role": "user", "content": "Compute 8 + 6."}]
    ids = words.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    streamer = TextIteratorStreamer(words, skip_prompt=True, skip_special_tokens=True, timeout=60)
    thread = Thread(target=lambda: network.generate(ids, max_new_tokens=64, streamer=streamer))
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == dllm.decode(network.dllm_model, "Compute 8 + 6.", max_new_tokens=64)[0].text
    stopped = network.generate(ids, max_new_tokens=64, stop_strings="\n", tokenizer=words)
    assert words.decode(stopped[0, ids.shape[1] :]).rstrip() == text.split("\n")[0]


def test_what_changes_logits_changes_them(network: Any) -> None:
    never = network.generate(LEFT[:1], max_new_tokens=20, suppress_tokens=list(range(3, 31)))
    assert set(never[0, 5:].tolist()) <= {0, 1, 2}


def test_sampling_follows_the_seed(network: Any) -> None:
    def draw(**more: Any) -> list[int]:
        return network.generate(LEFT[:1], max_new_tokens=20, temperature=0.9, do_sample=True, **more)[0].tolist()

    torch.manual_seed(3)
    first, second = draw(), draw()
    torch.manual_seed(3)
    assert draw() == first != second
    assert draw(seed=5) == draw(seed=5)
    many = network.generate(LEFT[:1], max_new_tokens=20, do_sample=True, num_return_sequences=3, seed=1)
    assert len({tuple(row) for row in many.tolist()}) == 3


def test_guidance_and_dicts(network: Any) -> None:
    found = network.generate(LEFT[:1], max_new_tokens=8, cfg_scale=1.5, return_dict_in_generate=True)
    (alone,) = dllm.decode(dllm.Guided(tiny_model("block-causal"), 1.5), [Request(PROMPTS[0], 8)])
    assert found.sequences[0, 5:].tolist() == list(alone.output_ids)


def test_a_config_is_saved_and_loaded(tmp_path: Path) -> None:
    config = DiffusionGenerationConfig(
        gen_length=64, block_length=8, threshold=0.8, eos_token_id=[3, 4], temperature=0.0
    )
    config.save_pretrained(tmp_path)
    text = (tmp_path / "generation_config.json").read_text()
    assert '"threshold": 0.8' in text and "null" not in text
    again = DiffusionGenerationConfig.from_pretrained(tmp_path)
    assert again.to_diff_dict() == config.to_diff_dict()
    plain = GenerationConfig.from_pretrained(tmp_path)
    assert plain.threshold == 0.8, "transformers itself keeps what it does not know"
    asked = interpret_config(again, tiny_model("block-causal"), 5)
    assert asked.max_new_tokens == 64 and asked.options.tau == 0.8 and asked.options.stop_ids == (3, 4)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"factor": 1.0}, Factor),
        ({"threshold": 0.7, "small_block_size": 4, "use_block_cache": True}, Threshold),
        ({"remasking": "low_confidence", "steps": 8}, TopK),
        ({"remasking": "random", "steps": 8}, TopK),
        ({"alg": "entropy", "steps": 8}, TopK),
        ({"remasking_strategy": "low_confidence_dynamic", "confidence_threshold": 0.8, "denoising_steps": 4}, TopK),
        ({"remasking_strategy": "sequential", "denoising_steps": 8}, TopK),
    ],
)
def test_published_names_become_parts(network: Any, given: dict[str, Any], kind: type) -> None:
    asked = interpret_config(DiffusionGenerationConfig(max_new_tokens=16, **given), tiny_model("block-causal"), 5)
    strategy = asked.options.strategy(tiny_model("block-causal"), 16)
    assert type(strategy.policy) is kind
    assert network.generate(LEFT[:1], max_new_tokens=16, **given).shape == (1, 21)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"threshold": 0.9, "factor": 1.0}, "give one"),
        ({"gen_length": 8, "max_new_tokens": 9}, "mean the same"),
        ({"block_length": 8, "block_size": 4}, "mean the same"),
        ({"mask_token_id": 5}, "load it with mask_id=5"),
        ({"alg": "best"}, "maskgit_plus"),
        ({"alg_temp": 0.5}, "leave it out"),
        ({"num_beams": 4}, "num_beams=4"),
        ({"top_p": 0.9}, "set a temperature"),
        ({"do_sample": True, "temperature": 0.0}, "give one"),
        ({"steps": 8, "denoising_steps": 2}, "give the steps"),
        ({"use_cache": False, "use_block_cache": True}, "give one"),
        ({"max_time": 3.0}, "max_time"),
    ],
)
def test_contradictions_and_what_nothing_follows_are_errors(given: dict[str, Any], told: str) -> None:
    with pytest.raises(dllm.ConfigError, match=told):
        interpret_config(DiffusionGenerationConfig(**{"max_new_tokens": 8, **given}), tiny_model("block-causal"), 5)


def test_unknown_names_are_errors(network: Any) -> None:
    with pytest.raises(dllm.ConfigError, match="thresold"):
        DiffusionGenerationConfig(thresold=0.9)
    with pytest.raises(ValueError, match="thresold"):
        network.generate(LEFT[:1], max_new_tokens=4, thresold=0.9)


def test_other_networks_and_criteria_are_refused(network: Any) -> None:
    class Never(StoppingCriteria):
        def __call__(self, *_: Any, **__: Any) -> Any:
            return False

    with pytest.raises(dllm.ConfigError, match="Never"):
        network.generate(LEFT[:1], max_new_tokens=4, stopping_criteria=StoppingCriteriaList([Never()]))
    with pytest.raises(dllm.ConfigError, match="which diffusion family"):
        diffusion_generate(torch.nn.Linear(1, 1), LEFT)
