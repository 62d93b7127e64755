"""What families based on Qwen share: the config fields, the chat format, one variant that is refused."""

from __future__ import annotations

from typing import Any

from dllm.errors import CheckpointError
from dllm.models.families.base import Config, read_positive_int, read_rope_parameters

TURNS = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CHATML = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" + TURNS
)

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")

OPTIONAL = (
    "head_dim",
    "attention_bias",
    "max_position_embeddings",
    "rms_norm_eps",
    "hidden_act",
    "tie_word_embeddings",
    "initializer_range",
)


def translate_config(title: str, config: Config, *, drop: tuple[str, ...] = ()) -> dict[str, Any]:
    """Take over the fields that Qwen configs share, each under its own name; fields we do not know are left out.

    Args:
        title: Title of the family, for messages.
        config: config.json.
        drop: Fields to leave out.

    Raises:
        CheckpointError: The config asks for sliding windows, or a size is missing.
    """
    if config.get("use_sliding_window"):
        raise CheckpointError(f"config.json: use_sliding_window is true; {title} is only supported with full attention")
    fields: dict[str, Any] = {key: read_positive_int(config, key) for key in SIZES}
    fields["num_key_value_heads"] = read_positive_int(config, "num_key_value_heads", fields["num_attention_heads"])
    fields["rope_parameters"] = read_rope_parameters(config)
    fields |= {key: config[key] for key in OPTIONAL if key not in drop and config.get(key) is not None}
    return fields
