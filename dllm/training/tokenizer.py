"""A whole-word tokenizer with byte fallback: frequent words are one token, everything else is spelt in UTF-8 bytes.

Every string round-trips exactly, because a piece outside the vocabulary falls back to its bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END, PAD, MASK, USER, ASSISTANT = SPECIALS = ("<|end|>", "<|pad|>", "<|mask|>", "<|user|>", "<|assistant|>")
PIECE = r" ?[A-Za-z]+| ?\d| ?[^\sA-Za-z\d]+|\s"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{ '<|assistant|>' + message['content'] + '<|end|>' }}"
    "{%- else -%}{{ '<|user|>' + message['content'] }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def build_word_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Build a tokenizer of at most `size` tokens from the most frequent pieces of texts.

    Specials have ids 0..4, then come 256 bytes, then pieces. A piece is a word, one digit, a run of punctuation (each
    with the space before it) or one white-space character.

    Args:
        texts: Texts to count pieces in.
        size: Most tokens of the vocabulary.
    """
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts = Counter(piece for text in texts for piece, _ in split.pre_tokenize_str(text))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ranked = sorted((piece for piece in counts if len(piece) > 1), key=lambda piece: (-counts[piece], piece))
    words = ranked[: size - len(SPECIALS) - len(alphabet)]
    vocab = {token: index for index, token in enumerate([*SPECIALS, *alphabet, *words])}
    # Without merges a piece is its own token if the vocabulary has it, and a sequence of byte tokens otherwise.
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        mask_token=MASK,
        extra_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
