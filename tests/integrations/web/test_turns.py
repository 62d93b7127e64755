"""Visitors take turns, in order, and can give up."""

from __future__ import annotations

import threading
import time

from dllm.integrations.web.chat_html import VisitorSession
from dllm.integrations.web.controls import AnswerSettings
from dllm.integrations.web.runs import RunStatus
from dllm.integrations.web.turn_queue import TurnQueue
from tests.integrations.web.conftest import finished


def test_first_come_first_served():
    turns, served, inside = TurnQueue(), [], []

    def visit(name):
        with turns.turn(lambda ahead: True) as has_turn:
            assert has_turn
            inside.append(name)
            assert len(inside) == 1, "two at a time"
            time.sleep(0.01)
            served.append(inside.pop())

    threads = []
    with turns.turn(lambda ahead: True):
        for name in range(5):
            threads.append(threading.Thread(target=visit, args=(name,)))
            threads[-1].start()
            while len(turns.queue) < name + 2:
                time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    assert served == list(range(5)) and not turns.queue


def test_a_visitor_who_gives_up_leaves_the_queue():
    turns = TurnQueue()
    with turns.turn(lambda ahead: True) as has_turn:
        assert has_turn
        with turns.turn(lambda ahead: False) as other_has_turn:
            assert not other_has_turn
        assert len(turns.queue) == 1


def test_answers_of_several_visitors_do_not_mix(library):
    questions = [f"Compute {n} + {n}." for n in (1, 2, 3, 4)]
    alone = [
        finished(library.start_answer(AnswerSettings("embedded"), [{"role": "user", "content": q}])).result.output_ids
        for q in questions
    ]
    runs = [library.start_answer(AnswerSettings("embedded"), [{"role": "user", "content": q}]) for q in questions]
    assert [finished(run).result.output_ids for run in runs] == alone
    assert all(run.state is RunStatus.DONE for run in runs)


def test_a_session_keeps_what_was_answered_and_forgets_what_was_not(library):
    session = VisitorSession()
    session.messages = session.add_question("Compute 1 + 1.")
    session.run = finished(library.start_answer(AnswerSettings("embedded"), session.messages))
    again = session.add_question("And 2 + 2?")
    assert [message["role"] for message in again] == ["user", "assistant", "user"]
    assert again[1]["content"] == session.run.result.text
    session.messages, session.run = again, None
    assert [message["role"] for message in session.add_question("Once more")] == ["user", "assistant", "user"]
