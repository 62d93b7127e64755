"""Filters and scores that our task configurations name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from dllm.integrations.harness.sandbox import PASSED, run_programs

Documents = Sequence[dict[str, Any]]
Texts = Sequence[Sequence[str]]


def _make_test_filter(programs: Callable[[dict[str, Any], str], str]) -> Callable[[Texts, Documents], list[list[str]]]:
    """Make a filter that runs a program for each answer and replaces the answer by the outcome.

    Args:
        programs: Function that builds a program from a document and an answer.
    """

    def run(answers: Texts, documents: Documents) -> list[list[str]]:
        documents = list(documents)
        sources = [programs(doc, text) for doc, texts in zip(documents, answers, strict=True) for text in texts]
        verdicts = iter(run_programs(sources))
        return [[next(verdicts) for _ in texts] for texts in answers]

    return run


def _build_humaneval_program(doc: dict[str, Any], answer: str) -> str:
    """Join the prompt, the answer that continues it, and the tests."""
    return f"{doc['prompt']}{answer}\n{doc['test']}\ncheck({doc['entry_point']})"


def _build_humaneval_chat_program(doc: dict[str, Any], answer: str) -> str:
    """Take the answer up to the end of the code block that the prompt has opened."""
    return _build_humaneval_program(doc, answer.split("```")[0])


def _build_mbpp_program(doc: dict[str, Any], answer: str) -> str:
    """Join the answer and the tests."""
    return "\n".join([answer, doc.get("test_setup_code") or "", *doc["test_list"]])


def _build_mbpp_chat_program(doc: dict[str, Any], answer: str) -> str:
    """Take the answer up to the end of the code block that the prompt has opened."""
    return _build_mbpp_program(doc, answer.split("```")[0])


run_humaneval, run_humaneval_chat = (
    _make_test_filter(_build_humaneval_program),
    _make_test_filter(_build_humaneval_chat_program),
)
run_mbpp, run_mbpp_chat = _make_test_filter(_build_mbpp_program), _make_test_filter(_build_mbpp_chat_program)


def score_passed_samples(doc: dict[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the share of a document's samples that pass, an unbiased estimate of pass@1.

    References:
        Chen et al. 2021 (arXiv:2107.03374), section 2.1.
    """
    verdicts = [results[0]] if isinstance(results[0], str) else results[0]
    return {"pass@1": sum(v == PASSED for v in verdicts) / len(verdicts)}


def score_stated_answer(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score 1 if the number behind the first `####` is the answer, else 0."""
    found = re.search(r"####\s*(-?\d+)(?!\d)", results[0])
    return {"exact_match": float(found is not None and found.group(1) == doc["answer"])}


def score_ifeval(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Score as lm-eval does, with a fixed seed of its language detection."""
    from langdetect import DetectorFactory
    from lm_eval.tasks.ifeval.utils import process_results

    DetectorFactory.seed = 0
    scores: dict[str, Any] = process_results(doc, results)
    return scores


def compute_followed_share(items: Sequence[Sequence[bool]]) -> float:
    """Return the share of all instructions that were followed."""
    flat = [item for sublist in items for item in sublist]
    return sum(flat) / len(flat)
