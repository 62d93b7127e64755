"""Batches of the playground's mixture and the objective for each stage of training."""

from __future__ import annotations

from random import Random
from typing import Any, Literal

import torch

from dllm.training.attention import FILLER
from dllm.training.noise import IGNORE
from dllm.training.packing import fit_into_rows
from dllm.training.tokenizer import ASSISTANT, END, USER
from dllm.training.views import BlockDiffusion, FullDiffusion, NextToken, PackedRows
from experiments.playground_text import Mixture

Stage = Literal["ar", "v2", "llada"]
"""Next-token prediction, Fast-dLLM v2's block diffusion, LLaDA's masked diffusion."""

CONTEXT, BLOCK = 128, 32
SUB_BLOCKS = (32, 32, 16, 8)
"""Columns that share a noise rate, drawn for each batch, so that the model is trained for sub-block decoding."""

TAILS = (0, 0, 0, 16, 32, 128)
"""Columns of end tokens after an answer in the stage `llada`, beyond those that fill its last 16 columns."""


def make_objective(stage: Stage, rng: Random) -> NextToken | BlockDiffusion | FullDiffusion:
    """Make the objective of one batch of a stage."""
    if stage == "ar":
        return NextToken()
    return BlockDiffusion(BLOCK, rng.choice(SUB_BLOCKS)) if stage == "v2" else FullDiffusion(eps=0.02)


class Batches:
    """Packed batches of the mixture, by number; each depends on the seed and its number alone."""

    def __init__(self, tokenizer: Any, stage: Stage, rows: int, seed: int) -> None:
        self.mixture, self.stage, self.rows, self.seed = Mixture(seed), stage, rows, seed
        self.encode = tokenizer.backend_tokenizer.encode
        self.user, self.assistant, self.end = tokenizer.convert_tokens_to_ids([USER, ASSISTANT, END])

    def __getitem__(self, number: int) -> PackedRows:
        """Draw examples for about `rows` rows, each of at most `CONTEXT` columns."""
        rng, room = Random(f"tails-{self.seed}-{number}"), self.rows * CONTEXT
        texts: list[tuple[list[int], int]] = []
        for sample in self.mixture.samples(number):
            text = self._pad(*self._encode(sample.prompt, sample.answer), rng)
            if len(text[0]) > CONTEXT:
                continue
            room -= len(text[0])
            if room < 0:
                break
            texts.append(text)
        groups = fit_into_rows([len(ids) for ids, _ in texts], CONTEXT)
        return _pack_rows([[texts[i] for i in group] for group in groups])

    def _encode(self, prompt: str | None, answer: str) -> tuple[list[int], int]:
        """Encode a text: its token ids, and the number of them at the start that are not learnt."""
        before = [] if prompt is None else [self.user, *self.encode(prompt).ids, self.assistant]
        return [*before, *self.encode(answer).ids, self.end], len(before)

    def _pad(self, ids: list[int], given: int, rng: Random) -> tuple[list[int], int]:
        """Append as many learnt end tokens as the format of the stage needs."""
        if self.stage == "ar":
            return ids, given
        grain = BLOCK if self.stage == "v2" else 16
        size = len(ids) + -len(ids) % grain + (rng.choice(TAILS) if self.stage == "llada" else 0)
        return ids + [self.end] * (max(len(ids), min(size, CONTEXT)) - len(ids)), given


def _pack_rows(rows: list[list[tuple[list[int], int]]]) -> PackedRows:
    """Lay the texts of each row side by side in one tensor."""
    width = max(sum(len(ids) for ids, _ in row) for row in rows)
    fields = [torch.full((len(rows), width), fill) for fill in (0, IGNORE, FILLER, 0)]
    for line, row in enumerate(rows):
        at = 0
        for number, (ids, given) in enumerate(row):
            place = slice(at, at + len(ids))
            tokens = torch.tensor(ids)
            fields[0][line, place], fields[2][line, place] = tokens, number
            fields[1][line, at + given : at + len(ids)] = tokens[given:]
            fields[3][line, place] = torch.arange(len(ids))
            at += len(ids)
    return PackedRows(*fields)
