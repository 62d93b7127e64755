"""How many sums, word problems and pieces of small talk in wordings of no template does a model answer as it should?

Question: does what the playground's generators teach carry over to wordings that a person would write?
Method:   prompts written by hand, none of them of a template; greedy, one token at a time. A sum is right if its number
          is; talk is right if the polite sentence comes.
Read:     one JSON line a prompt on stdout, and the shares at the end.
Run:      python -m experiments.playground_free --model runs/v2/model
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import torch
import typer

import dllm
from dllm.playground.problems import find_stated_number
from experiments.playground_accuracy import iterate_rules
from experiments.playground_talk import POLITE

SUMS = (
    ("What is 12 + 30?", 42),
    ("Tom has 55 apples. He buys 30 more apples. How many apples does Tom have?", 85),
    ("Tom has 3 apples and buys 4 more", 7),
    ("whats 7 times 8", 56),
    ("17 and 5 makes?", 22),
    ("Could you please work out 240 minus 85 for me?", 155),
    ("Add 125 to 64", 189),
    ("I'd like to know the sum of 41 and 59", 100),
    ("How much is 81 divided by 9, please?", 9),
    ("3 times 12 is how many?", 36),
    ("Sarah picked 24 shells at the beach. Her brother picked 18. How many shells did they pick altogether?", 42),
    ("A bus carries 38 people. At the next stop 15 get off. How many people are still on the bus?", 23),
    ("There were 120 birds on the roof, then 45 flew away. How many birds stayed?", 75),
    ("Mrs. Green baked 48 cookies and put them equally in 6 boxes. How many cookies are in one box?", 8),
    ("A ticket costs 9 dollars. How much do I have to pay for 7 tickets?", 63),
    ("My grandmother gave me 20 euros and I spent 8. How much money do I still have?", 12),
    ("If there are 5 shelves and each shelf holds 11 books, how many books are there?", 55),
    ("Lena is 14 years old. Her cousin is 5 years older. How old is her cousin?", 19),
    ("A farmer owns 63 cows and sells 27 of them. How many cows does he have left?", 36),
    ("In our class there are 13 boys and 16 girls. How many pupils are we?", 29),
    ("Ahmed read 35 pages yesterday and 47 pages today. How many pages has he read?", 82),
    ("The baker made 150 rolls. By noon he had sold 92. How many rolls were left?", 58),
    ("Kim has twice as many marbles as Lee. Lee has 16 marbles. How many marbles does Kim have?", 32),
    ("Four friends share 36 sweets fairly. What does each of them get?", 9),
    ("You had 10 balloons, but 3 popped. How many balloons are left?", 7),
    ("Ana collects 6 stamps every week. How many stamps does she collect in 8 weeks?", 48),
    ("A jar holds 200 beans. We take out 60 beans and put back 25. How many beans are in the jar now?", 165),
    ("Jonas ran 4 miles on Monday, 6 miles on Wednesday and 5 miles on Friday. How many miles did he run?", 15),
    ("There are 7 days in a week. How many days are in 4 weeks?", 28),
    ("Paul needs 80 dollars for a bike. He has saved 52 dollars. How much is missing?", 28),
)
TALK = (
    "Hello", "Hi, how are you?", "Who are you?", "What can you do?", "Tell me a joke", "Guten Tag, wer bist du?",
    "Bonjour !", "¿Qué tal?", "Ciao, come va?", "Привет!", "你好", "こんにちは", "What is the capital of France?",
    "Write a poem about autumn.", "Thank you!", "Who won the world cup in 2014?", "Explain relativity to me.",
    "def main(): pass", "asdf", "I feel lonely today.",
)  # fmt: skip


def main(
    model: Annotated[str, typer.Option(help="model folder")],
    rule: Annotated[str, typer.Option(help="a rule of experiments.playground_accuracy")] = "left to right",
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
) -> None:
    """Decode every prompt and print the shares of right answers."""
    torch.set_num_threads(threads)
    loaded: Any = dllm.load(model, dtype="float32")
    strategy = next(found for _, found in iterate_rules(loaded, [rule]))
    prompts = [prompt for prompt, _ in SUMS] + list(TALK)
    texts = [r.text or "" for r in dllm.decode(loaded, prompts, strategy, max_new_tokens=64, batch_size=50)]
    right = [find_stated_number(t) == str(n) and POLITE not in t for t, (_, n) in zip(texts, SUMS, strict=False)]
    right += [text.strip() == POLITE for text in texts[len(SUMS) :]]
    for prompt, text, good in zip(prompts, texts, right, strict=True):
        sys.stdout.write(json.dumps({"right": good, "prompt": prompt, "answer": text}, ensure_ascii=False) + "\n")
    shares = {"sums": sum(right[: len(SUMS)]) / len(SUMS), "talk": sum(right[len(SUMS) :]) / len(TALK)}
    sys.stdout.write(json.dumps(shares) + "\n")


if __name__ == "__main__":
    typer.run(main)
