"""Problem 13: the span. python -m pytest assignments/tests/test_13_span.py"""

from __future__ import annotations

import json
import re

import pytest
from course_helpers import Scripted, plain, work


def statements(*things: str):
    from memr1 import Statement
    return tuple(Statement(f"Ann has a {thing}", "Ann", f"{day} May")
                 for day, thing in enumerate(things, 1))


def task_of(facts, start: int, stop: int, *golds: str):
    from data import Question
    from memory_bank import hashed_words
    from memr1 import SpanTask
    questions = tuple(Question("What does Ann have?", gold, 1, ()) for gold in golds)
    return SpanTask(facts, start, stop, questions, ("Ann",), hashed_words())


FACTS = "dog", "boat", "harp", "lamp"


def adds(prompt: str, number: int = 0) -> str:
    """A manager that adds what it is told."""
    [fact] = re.findall(r"New fact: (.+)", prompt)
    return json.dumps([{"event": "ADD", "text": fact}])


def reader(prompt: str, number: int) -> str:
    """A perfect answer agent: it lists what Ann has, and knows nothing but its prompt."""
    things = re.findall(r"Ann has a (\w+)", prompt)
    return "**Memories:**\n- none\n**Answer:** " + " and ".join(things)


def agent_of(frozen=None, **options):
    work("memr1.SpanAgent.rollout")
    from memr1 import SpanAgent
    return SpanAgent(frozen or Scripted(reader), **{"max_new_tokens": 64, **options})


def texts(bank) -> list[str]:
    return [plain(memory.text) for memory in bank]


# ---- where a span begins -------------------------------------------------------------------------


def banks(policy, *tasks, length: int = 64):
    return work("memr1.banks_so_far")(policy, list(tasks), max_new_tokens=length)


def test_a_bank_holds_what_the_manager_made_of_all_earlier_facts():
    facts = statements(*FACTS)
    found = banks(Scripted(adds), *(task_of(facts, n, 4, "x") for n in (2, 0, 4, 1)))
    assert [texts(bank) for bank in found] == [
        [f"Ann has a {thing}" for thing in FACTS[:n]] for n in (2, 0, 4, 1)], (
        "the bank before facts[start] holds the facts before it and no others, task by task")


def test_it_is_the_managers_bank_and_not_the_right_one():
    found = banks(Scripted(lambda prompt, number: "no operation at all"),
                  task_of(statements(*FACTS), 3, 4, "x"))
    assert texts(found[0]) == [], (
        "this manager never keeps anything: its own bank is empty, whatever would be right")


def test_a_later_fact_meets_what_the_earlier_ones_left():
    manager = Scripted(adds)
    banks(manager, task_of(statements(*FACTS), 3, 4, "x"))
    prompts = [prompt for call in manager.calls for prompt in call["prompts"]]
    assert [prompt.count("Ann has a ") for prompt in prompts] == [1, 2, 3], (
        "the third fact is read beside the two memories before it: put facts in one by one")


def test_a_dialogue_is_read_once_and_dialogues_go_in_step():
    manager, first, second = Scripted(adds), statements(*FACTS), statements("cat", "hat", "bat")
    found = banks(manager, task_of(first, 3, 4, "x"), task_of(first, 3, 4, "y"),
                  task_of(first, 1, 2, "x"), task_of(second, 2, 3, "x"))
    assert [len(call["prompts"]) for call in manager.calls] == [2, 2, 1], (
        "three tasks of one dialogue and one of another: two prompts a call, and the shorter one "
        "stops where its last task begins")
    assert all(call["temperature"] == 0 for call in manager.calls), "what leads to a span is greedy"
    found[0].add("a trace", "Ann", "")
    assert "a trace" not in texts(found[1]), "two tasks were given the same bank"


# ---- what pays -----------------------------------------------------------------------------------


def test_the_reward_is_the_mean_over_the_questions():
    from data import Question
    from metrics import squad_exact_match
    questions = [Question("?", gold, 1, ()) for gold in ("dog", "boat", "harp", "lamp")]
    pay = work("memr1.span_reward")
    found = [plain(pay(squad_exact_match, answers, questions)) for answers in (
        ["dog", "boat", "harp", "lamp"], ["dog", "x", "harp", "x"], ["x", "x", "x", "x"])]
    assert found == [1.0, 0.5, 0.0], "the share of the questions that are answered right"
    assert type(pay(lambda answer, gold: 1, ["a"], questions[:1])) is float, "rewards are floats"
    with pytest.raises(ValueError):
        pay(squad_exact_match, ["dog"], questions)


# ---- episodes ------------------------------------------------------------------------------------


def test_an_episode_has_a_step_for_every_fact_of_its_span():
    facts = statements(*FACTS)
    tasks = [task_of(facts, 1, 4, "dog and boat and harp and lamp"),
             task_of(facts, 1, 2, "dog and boat")]
    groups = agent_of().rollout(Scripted(adds), tasks, 2, 1.0)
    assert [[len(episode.steps) for episode in group] for group in groups] == [[3, 3], [1, 1]], (
        "spans of different lengths: who has no fact left waits")
    assert [[plain(episode.reward) for episode in group] for group in groups] == [[1, 1], [1, 1]], (
        "this manager keeps everything, and the questions come after the last decision")


def test_every_sample_has_a_bank_of_its_own():
    calls = []

    def writes(prompt: str, number: int) -> str:
        """The first sample of the span keeps nothing; the others add."""
        calls.append(prompt)
        return "[]" if len(calls) == 1 else adds(prompt)

    [group] = agent_of().rollout(
        Scripted(writes), [task_of(statements("dog"), 0, 1, "dog")], 3, 1.0)
    assert [plain(episode.reward) for episode in group] == [0.0, 1.0, 1.0], (
        "three samples, three banks: the question of each is asked in its own")


def test_decisions_are_sampled_as_the_options_say():
    manager, generator = Scripted(adds), object()
    agent_of(max_new_tokens=17).rollout(
        manager, [task_of(statements(*FACTS), 1, 3, "x")], 4, 0.8, generator)
    before, *span = manager.calls
    assert before["max_new_tokens"] == 17, "what leads to the span is as long as all responses"
    assert len(span) == 2 and before["temperature"] == 0
    for call in span:
        assert (len(call["prompts"]), call["group_size"]) == (4, 1), (
            "after the first decision the banks differ, so each sample has a prompt of its own")
        assert (call["temperature"], call["generator"], call["max_new_tokens"]) == (
            0.8, generator, 17), "the options were not passed on"


def test_all_questions_are_asked_at_the_end_in_one_call():
    frozen, manager = Scripted(reader), Scripted(adds)
    tasks = [task_of(statements(*FACTS), 0, 2, "dog and boat", "x"),
             task_of(statements("cat"), 0, 1, "cat")]
    groups = agent_of(frozen).rollout(manager, tasks, 2, 1.0)
    assert len(frozen.calls) == 1 and frozen.calls[0]["temperature"] == 0, (
        "one greedy call of the frozen agent, after all decisions")
    assert [[plain(episode.reward) for episode in group] for group in groups] == [
        [0.5, 0.5], [1, 1]], "each sample is paid for its own task's questions, in their order"


def test_the_answer_agent_reads_as_many_memories_as_the_options_say():
    frozen = Scripted(reader)
    agent_of(frozen, per_speaker=1, max_new_tokens=17, distill=False).rollout(
        Scripted(adds), [task_of(statements(*FACTS), 0, 3, "x")], 1, 1.0)
    [call] = frozen.calls
    assert call["prompts"][0].count("Ann has a ") == 1 and call["max_new_tokens"] == 17, (
        "per_speaker and max_new_tokens of the agent hold for its judge too")
    assert "Select" not in call["prompts"][0], "distill of the agent holds for its judge too"


def test_single_decisions_are_left_to_the_manager():
    from data import Question
    from memory_bank import hashed_words
    from memr1 import ManagerTask
    [fact] = statements("dog")
    task = ManagerTask(work("memory_bank.MemoryBank")(hashed_words()), fact,
                       Question("What does Ann have?", "dog", 1, ()), ("Ann",))
    [[episode]] = agent_of().rollout(Scripted(adds), [task], 1, 0.0)
    assert len(episode.steps) == 1 and plain(episode.reward) == 1.0, (
        "validation and test give the same agent single decisions: hand them to super()")
