"""BERT, RoBERTa and ModernBERT: encoders trained to fill in masked tokens, decoded as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from dllm.errors import CheckpointError
from dllm.models.families.base import Config, Family, read_positive_int, require_values
from dllm.types import Bidirectional, Geometry


class _EncoderClass(NamedTuple):
    """A stock class.

    Attributes:
        stem: Its name without the ending.
        head: Modules that follow its encoder.
        unused: Modules that its checkpoints may hold besides.
        shifted: Whether positions begin after the padding's id, as RoBERTa's do.
    """

    stem: str
    head: tuple[str, ...]
    unused: tuple[str, ...] = ()
    shifted: bool = False


ROBERTA = ("roberta.pooler", "roberta.embeddings.position_ids")
KINDS = {
    "bert": _EncoderClass("Bert", ("cls",), ("bert.pooler", "cls.seq_relationship", "bert.embeddings.position_ids")),
    "roberta": _EncoderClass("Roberta", ("lm_head",), ROBERTA, shifted=True),
    "xlm-roberta": _EncoderClass("XLMRoberta", ("lm_head",), ROBERTA, shifted=True),
    "modernbert": _EncoderClass("ModernBert", ("head", "decoder")),
}

NOT_FIELDS = ("architectures", "model_type", "auto_map", "torch_dtype", "dtype", "quantization_config")
VARIANT = {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"}


@dataclass(frozen=True)
class MaskedLM(Family):
    """Masked language models: bidirectional, no token shift, no cache: only `NoCache` works.

    A prompt is the ids that come first, and the answer follows it. A tokenizer of this kind frames a text as
    `[CLS] text [SEP]` (`<s> text </s>`), so that an answer to it stands where a second text would; to continue the
    text itself give ids without the last `[SEP]`. `[SEP]` ends an answer where the strategy stops at end tokens.
    Positions are absolute in BERT and RoBERTa, and their longest canvas is short (512). ModernBERT's local layers see
    only a part of it.

    References:
        Devlin et al. 2018, BERT (arXiv:1810.04805); Wang and Cho 2019 (arXiv:1902.04094), who first generate with it;
        dLLM (github.com/ZHZisZZ/dllm), `pipelines/bert`, chat models from ModernBERT.
    """

    name: str = "masked_lm"
    title: str = "masked language models (BERT, RoBERTa, ModernBERT)"
    model_types: tuple[str, ...] = tuple(KINDS)
    architectures: tuple[str, ...] = (*(f"{kind.stem}ForMaskedLM" for kind in KINDS.values()), "BertForPreTraining")
    native: bool = True
    stock: str = "Bert-, Roberta- or ModernBertForMaskedLM"
    settings: str = "BertConfig, RobertaConfig, …"
    needs_left: int = 0
    stop_tokens: tuple[str, ...] = ("[SEP]", "</s>")
    head: tuple[str, ...] = ("cls",)
    examples: tuple[str, ...] = (
        "dllm-hub/ModernBERT-large-chat-v0.1",
        "google-bert/bert-base-uncased",
        "FacebookAI/roberta-base",
    )
    reference: str = "Devlin et al. 2018 (arXiv:1810.04805)"

    def settle(self, config: Config) -> Family:
        if (named := config.get("model_type")) not in KINDS:
            raise CheckpointError(
                f"config.json: model_type is {named!r}; {self.title} is known for {', '.join(map(repr, KINDS))}"
            )
        kind = KINDS[named]
        return replace(
            self,
            stock=f"{kind.stem}ForMaskedLM",
            settings=f"{kind.stem}Config",
            head=kind.head,
            unused=kind.unused,
            first_position=config.get("pad_token_id", 1) + 1 if kind.shifted else 0,
        )

    def translate(self, config: Config) -> dict[str, Any]:
        require_values(self.title, config, VARIANT)
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"):
            read_positive_int(config, key)
        return {key: value for key, value in config.items() if key not in NOT_FIELDS}

    def geometry(self, config: Config) -> Geometry:
        return Bidirectional()
