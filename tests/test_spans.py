"""Tests of spans (memr1.py, training/tasks.py): several decisions, from a memory of one's own.

    python -m pytest tests/test_spans.py        (some seconds)
"""

from __future__ import annotations

from collections import Counter

import pytest
from canned import metrics_of
from test_memr1 import EMBED, Scripted, WorldReader, always, managers

import grpo
import ppo
from data import Dialogue, Question, Turn
from memory_bank import MemoryBank
from memr1 import (
    ManagerAgent,
    ManagerTask,
    SpanAgent,
    SpanTask,
    Statement,
    banks_so_far,
    build_banks,
    facts_of,
)
from training.options import resolve
from training.tasks import PAID, deciding_place, span_tasks
from trees import Step
from world import world

DOGS = tuple(Statement(f"Anna: {text}", "Anna", f"{day} May 2023") for day, text in enumerate(
    ("I adopted a dog named Rex.", "I live in Oslo now.", "I adopted a dog named Milo."), 1))
ASKED = (Question("What dogs does Anna have?", "Rex and Milo", 1, ("D1:1", "D1:3")),
         Question("Where does Anna live?", "Oslo", 4, ("D1:2",)))


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    return world(3, 11)


def agent_of(frozen) -> SpanAgent:
    return SpanAgent(frozen, max_new_tokens=64)


@pytest.mark.parametrize("length", [2, 5, 1000])
def test_a_span_holds_the_fact_that_decides_its_first_question(dialogues, length) -> None:
    tasks = span_tasks(dialogues, EMBED, "turns", length)
    assert len(tasks) == sum(len(dialogue.questions) for dialogue in dialogues)
    starts = Counter()
    for dialogue in dialogues:
        facts = facts_of(dialogue.turns, "turns")
        place_of = {id(q): deciding_place(dialogue, q, facts) for q in dialogue.questions}
        for task in (task for task in tasks if task.facts[0] == facts[0][0]):
            assert task.stop - task.start == min(length, len(dialogue.turns))
            assert 0 <= task.start <= place_of[id(task.questions[0])] < task.stop, (
                "the fact that decides the question lies outside the span")
            starts[place_of[id(task.questions[0])] - task.start] += 1
            late = [q.text for q in task.questions if place_of[id(q)] >= task.stop]
            assert not late, f"{late}: asked before anybody can know the answer"
            inside = [place_of[id(q)] >= task.start for q in task.questions]
            assert inside == sorted(inside, reverse=True), "questions from inside come first"
            assert 1 <= len(task.questions) <= PAID
            assert len(set(map(id, task.questions))) == len(task.questions)
    if length == 5:
        assert set(starts) == set(range(5)) and max(starts.values()) < 0.4 * len(tasks), (
            f"{starts}: the deciding fact is to stand at any place of its span, each as often")


def test_the_bank_before_a_span_is_the_managers_own(dialogues) -> None:
    """As build_banks makes it, which reads to the end: another implementation of the same."""
    oracle, vanilla = managers(dialogues)
    for responses in (oracle, vanilla):
        manager = Scripted(lambda prompt, number: responses.get(prompt, "[]"))
        whole = build_banks(manager, dialogues, EMBED, "turns", max_new_tokens=64)
        tasks = span_tasks(dialogues, EMBED, "turns", 4)
        banks = banks_so_far(manager, tasks, max_new_tokens=64)
        for task, bank in zip(tasks, banks):
            [number] = [i for i, d in enumerate(dialogues) if d.turns[0].text in task.facts[0].text]
            before = dialogues[number].turns[task.start - 1].turn_id if task.start else None
            wanted = whole.histories[number][before] if before else []
            assert [memory.text for memory in bank] == wanted, (
                f"before fact {task.start}: not what this manager makes of the facts before it")
        for first, second in zip(banks, banks[1:]):
            assert first is not second
            first.add("a trace", "x", "")
            assert "a trace" not in [memory.text for memory in second], "two tasks share a bank"


def test_a_whole_dialogue_is_a_span_and_the_oracle_is_paid_for_it(dialogues) -> None:
    oracle, vanilla = managers(dialogues)
    paid = {}
    for name, responses in (("oracle", oracle), ("vanilla", vanilla)):
        manager = Scripted(lambda prompt, number: responses.get(prompt, "[]"))
        for length in (4, 1000):
            tasks = span_tasks(dialogues, EMBED, "turns", length)[::5]  # whole ones repeat much
            groups = agent_of(WorldReader()).rollout(manager, tasks, 1, 1.0)
            paid[name, length] = sum(group[0].reward for group in groups) / len(groups)
            assert [len(group[0].steps) for group in groups] == [
                task.stop - task.start for task in tasks], "an episode has one step a fact"
    assert paid["oracle", 4] == paid["oracle", 1000] == 1.0, f"{paid}: right is not paid"
    assert paid["vanilla", 4] < 0.95 and paid["vanilla", 1000] < 0.95, (
        f"{paid}: a manager that overwrites is paid as if it did not")


def test_a_later_decision_can_undo_an_earlier_one_and_the_whole_span_pays() -> None:
    add = '[{{"event": "ADD", "text": "{}"}}]'.format
    update = '[{{"event": "UPDATE", "id": {}, "text": "{}"}}]'.format
    rex, oslo = add("Anna has a dog named Rex"), add("Anna lives in Oslo")
    merged, milo = "Anna has dogs named Rex and Milo", "Anna has a dog named Milo"
    # One merges the second dog, one overwrites the first, one forgets where Anna lives.
    texts = [[rex, oslo, update(0, merged)], [rex, oslo, update(0, milo)],
             [rex, '[{"event": "NOOP"}]', update(0, merged)]]

    class InTurn(Scripted):
        """Each prompt of a call is the next member's."""

        def sample(self, prompts, group_size=1, max_new_tokens=64, temperature=1.0, generator=None):
            assert group_size == 1 and len(prompts) == 3, "each member decides by itself"
            self.calls.append(temperature)
            return [[Step(prompt, [ord(letter) for letter in texts[member].pop(0)], True)]
                    for member, prompt in enumerate(prompts)]

    task = SpanTask(DOGS, 0, 3, ASKED, ("Anna", "Bob"), EMBED)
    manager = InTurn(None)
    [group] = agent_of(WorldReader()).rollout(manager, [task], 3, 0.7)
    assert [episode.reward for episode in group] == [1.0, 0.5, 0.5], (
        f"{[episode.log['answer'] for episode in group]}: a span is paid the share of its "
        "questions that are right after its last decision")
    assert manager.calls == [0.7] * 3, "one call a fact, at the temperature of training"
    for episode in group:
        assert len(episode.steps) == 3
        assert episode.log["gold"] == "Rex and Milo; Oslo"
        assert [row["gold"] for row in episode.log["objectives"]] == ["Rex and Milo", "Oslo"]
    assert group[2].log["operations"]["NOOP"] == 1 and group[2].log["operations"]["ADD"] == 1


def test_a_span_of_one_fact_is_the_single_decision() -> None:
    response = '[{"event": "ADD", "text": "Anna has a dog named Rex"}]'
    question = Question("What dogs does Anna have?", "Rex", 4, ("D1:1",))
    task = SpanTask(DOGS[:1], 0, 1, (question,), ("Anna", "Bob"), EMBED)
    single = ManagerTask(MemoryBank(EMBED), DOGS[0], question, ("Anna", "Bob"))
    agent = agent_of(WorldReader())
    [[of_span]] = agent.rollout(always(response), [task], 1, 1.0)
    [[of_single]] = agent.rollout(always(response), [single], 1, 1.0)
    [[alone]] = ManagerAgent(WorldReader(), max_new_tokens=64).rollout(
        always(response), [single], 1, 1.0)
    assert of_span.reward == of_single.reward == alone.reward == 1.0
    assert of_span.steps == of_single.steps == alone.steps
    for key in ("prompt", "response", "question", "answer", "gold"):
        assert of_span.log[key] == of_single.log[key], key


def test_a_span_that_has_ended_waits_for_the_others() -> None:
    tasks = [SpanTask(DOGS, 1, 2, ASKED[1:], ("Anna", "Bob"), EMBED),
             SpanTask(DOGS, 0, 3, ASKED[1:], ("Anna", "Bob"), EMBED)]
    groups = agent_of(WorldReader()).rollout(always("[]"), tasks, 2, 1.0)
    read = [[episode.log["prompt"].count("New fact") for episode in group] for group in groups]
    assert read == [[1, 1], [3, 3]], f"{read}: a span goes on to the facts behind its end"


def test_samples_of_a_group_start_from_one_bank_and_never_share_it() -> None:
    task = SpanTask(DOGS, 0, 3, ASKED, ("Anna", "Bob"), EMBED)
    add = always('[{"event": "ADD", "text": "Anna is kind"}]')
    for group in agent_of(WorldReader()).rollout(add, [task, task], 3, 1.0):
        seen = [episode.log["prompt"].count("Anna is kind") for episode in group]
        assert seen == [0 + 1 + 2] * 3, (
            f"{seen}: each decision is to find what its own sample added before, and no more")


def test_a_turn_with_two_facts_lies_inside_as_a_whole() -> None:
    turns = [Turn(f"D1:{n}", "Anna", f"x{n}", f"{n} May 2023", (f"a{n}", f"b{n}"))
             for n in range(1, 7)]
    asked = Question("?", "x", 4, ("D1:3",))
    dialogue = Dialogue("d", ("Anna", "Bob"), turns, [asked])
    for length, wanted in ((2, {4}), (3, {3, 4}), (1, {5}), (12, {0}), (99, {0})):
        starts = {task.start for seed in range(20) for task in span_tasks(
            [dialogue] * (seed + 1), EMBED, "observations", length)}
        assert starts == wanted, (
            f"spans of {length} facts begin at {starts}: facts 4 and 5 decide the question")


@pytest.mark.slow
@pytest.mark.parametrize("module", [grpo, ppo])
def test_both_algorithms_learn_from_spans(module, tmp_path) -> None:
    out = tmp_path / "run"
    found = module.main([*"--span 2 --steps 2 --questions 4 --group-size 2 --limit 2".split(),
                         "--out", str(out)])
    rows = metrics_of(out)
    assert len(rows) == 2 and found["train_questions"] == 152
    for row in rows:
        made = sum(float(row[name]) for name in ("add", "update", "delete", "noop", "invalid"))
        assert made == pytest.approx(2, abs=0.5), f"{made} operations a span of two decisions"
        assert float(row["ratio_error"]) < 1e-4, "a span's steps are scored as they were sampled"


def test_as_many_decisions_a_step_whatever_the_span() -> None:
    for span, questions in ((1, 76), (4, 19), (1000, 1)):
        options = resolve(grpo.GRPOOptions(span=span), "grpo")
        assert options.questions == questions
    assert resolve(grpo.GRPOOptions(span=4, questions=30), "grpo").questions == 30
