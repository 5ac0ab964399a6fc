"""Problem 10: the manager's episode. python -m pytest assignments/tests/test_10_manager.py"""

from __future__ import annotations

import json
import re

import pytest
from course_helpers import WRITTEN, Scripted, plain, work

NEW = "Ann has a boat"


def bank_of(*texts: str):
    from memory_bank import hashed_words
    bank = work("memory_bank.MemoryBank")(hashed_words())
    bank.add_many([(text, "Ann", "1 May") for text in texts])
    return bank


def task_of(bank, fact=NEW, answer="dog and boat", **more):
    from data import Question
    from memr1 import ManagerTask, Statement
    question = Question("What does Ann have?", answer, 1, ())
    return ManagerTask(bank, Statement(fact, "Ann", "2 May"), question, ("Ann",), **more)


def operations(*entries):
    from prompts import Operation
    return [Operation(*entry) for entry in entries]


def reader(prompt: str, number: int) -> str:
    """A perfect answer agent: it lists what Ann has, and knows nothing but its prompt."""
    things = re.findall(r"Ann has a (\w+)", prompt)
    return "**Memories:**\n- none\n**Answer:** " + " and ".join(things)


def writer(*responses: str):
    """A manager whose samples of one prompt are these responses, one after the other."""
    return Scripted(lambda prompt, number: responses[number])


ADD = json.dumps([{"event": "ADD", "text": NEW}])
NOOP = json.dumps([{"event": "NOOP"}])
DELETE = json.dumps([{"event": "DELETE", "id": 0}])


def agent_of(frozen=None, **options):
    work("memr1.ManagerAgent.rollout")
    from memr1 import ManagerAgent
    return ManagerAgent(frozen or Scripted(reader), **{"max_new_tokens": 64, **options})


# ---- operations on a bank ------------------------------------------------------------------------


def apply(bank, shown, *entries):
    counts = work("memr1.apply_operations")(bank, shown, operations(*entries), "Ben", "2 May")
    texts = [(plain(m.text), plain(m.speaker), plain(m.timestamp)) for m in bank]
    return texts, {name: count for name, count in plain(counts).items() if count}


def test_operations_entry_by_entry():
    bank = bank_of("dog", "cat", "tea")
    shown = [bank[2], bank[0]]  # numbers in the prompt: 0 is the tea, 1 the dog
    texts, counts = apply(bank, shown, ("ADD", None, "boat"), ("UPDATE", 1, "dogs"), ("DELETE", 0),
                          ("NOOP",))
    assert texts == [("dogs", "Ann", "2 May"), ("cat", "Ann", "1 May"), ("boat", "Ben", "2 May")], (
        "a number is a place in `memories`, as the prompt counts, not the memory's id; an update "
        "keeps the speaker and takes the date; what is added belongs to who spoke")
    assert counts == {"ADD": 1, "UPDATE": 1, "DELETE": 1, "NOOP": 1}, "every event is counted"


def test_an_operation_on_what_is_gone_changes_nothing():
    bank = bank_of("dog", "cat")
    texts, counts = apply(bank, list(bank), ("DELETE", 0), ("UPDATE", 0, "dogs"), ("DELETE", 0),
                          ("ADD", None, "tea"))
    assert [text for text, *_ in texts] == ["cat", "tea"], (
        "the second and third speak of a deleted memory: passed over, and the fourth is done")
    assert counts == {"DELETE": 1, "invalid": 2, "ADD": 1}, "they count as invalid, not as done"


# ---- episodes ------------------------------------------------------------------------------------


def test_the_reward_is_the_frozen_agents_exact_match():
    task = task_of(bank_of("Ann has a dog"))
    [group] = agent_of().rollout(writer(ADD, NOOP, DELETE, "rubbish"), [task], 4, 1.0)
    rewards = [plain(episode.reward) for episode in group]
    assert rewards == [1.0, 0.0, 0.0, 0.0], (
        "a decision is right if the frozen agent, reading the bank that it leaves, gives exactly "
        "the gold answer 'dog and boat'")
    assert all(type(reward) is float for reward in rewards), "rewards are floats"


def test_every_sample_starts_from_the_same_bank():
    task = task_of(bank_of("Ann has a dog"))
    [group] = agent_of().rollout(writer(DELETE, ADD, ADD), [task], 3, 1.0)
    assert [episode.reward for episode in group] == [0.0, 1.0, 1.0], (
        "the first sample deletes the dog, and the others no longer find it: each decision needs "
        "a copy of the bank")
    assert [m.text for m in task.bank] == ["Ann has a dog"], (
        "the task's bank was changed: the next step trains on another task")


def test_what_the_manager_reads_and_how_it_is_sampled():
    manager, generator = writer(ADD, ADD), object()
    tasks = [task_of(bank_of("Ann has a dog")), task_of(bank_of("Ann has a cat", "tea"))]
    groups = agent_of(max_new_tokens=17).rollout(manager, tasks, 2, 0.8, generator)
    assert [len(group) for group in groups] == [2, 2], "one group a task, in order"
    assert len(manager.calls) == 1, "all tasks are sampled in one call: that is what makes it fast"
    call = manager.calls[0]
    assert (call["group_size"], call["max_new_tokens"], call["temperature"],
            call["generator"]) == (2, 17, 0.8, generator), "the options were not passed on"
    from prompts import manager_messages
    wanted = [manager_messages(t.fact.text, t.memories)[-1]["content"] for t in tasks]
    assert call["prompts"] == wanted, (
        "the manager reads its fact under the memories most like it (task.memories)")


def test_an_episode_is_one_step_as_it_was_sampled():
    manager = writer(ADD)
    [[episode]] = agent_of().rollout(manager, [task_of(bank_of("Ann has a dog"))], 1, 1.0)
    [step] = episode.steps
    sampled = [WRITTEN + ord(letter) for letter in ADD]
    assert plain(step.response_ids) == sampled and step.finished, (
        "keep the sampled ids: text that is encoded again may become other tokens")
    assert manager.decode(step.prompt_ids) == manager.calls[0]["prompts"][0]


def test_the_answer_agent_is_frozen_greedy_and_asked_once():
    manager, frozen = writer(ADD, NOOP, ADD, ADD), Scripted(reader)
    agent, task = agent_of(frozen), task_of(bank_of("Ann has a dog"))
    agent.rollout(manager, [task], 4, 1.0)
    assert len(manager.calls) == 1, "the manager that learns must not answer the question"
    assert all((call["temperature"], call["group_size"]) == (0, 1) for call in frozen.calls), (
        "the answer agent answers greedily, or rewards are noise")
    asked = sum(len(call["prompts"]) for call in frozen.calls)
    assert asked == 2, f"four samples, two different decisions, {asked} answers: equal ones share"
    agent.rollout(manager, [task], 4, 1.0)
    assert sum(len(call["prompts"]) for call in frozen.calls) == 2, (
        "the same decisions came again in a later step: `outcomes` remembers them")


def test_the_log():
    response = '[{"event": "ADD", "text": "Ann has a boat"}, {"event": "MERGE"}]'
    task = task_of(bank_of("Ann has a dog"))
    [[episode]] = agent_of().rollout(writer(response), [task], 1, 1.0)
    log = episode.log
    assert {"prompt", "response", "question", "gold", "category", "answer", "answer_response",
            "operations"} <= set(log), f"the log has only {sorted(log)}"
    assert log["response"] == response and log["answer"] == "dog and boat"
    assert log["gold"] == "dog and boat" and log["category"] == 1
    counts = {name: count for name, count in plain(log["operations"]).items() if count}
    assert counts == {"ADD": 1, "invalid": 1}, (
        "unusable entries are counted with the operations: what parse_operations refused, too")


def test_other_rewards():
    agent = agent_of(reward=lambda answer, gold: 0.25 if "boat" in answer else 0)
    [group] = agent.rollout(writer(ADD, NOOP), [task_of(bank_of("Ann has a dog"))], 2, 1.0)
    assert [plain(episode.reward) for episode in group] == [0.25, 0.0], "self.reward pays"


@pytest.mark.parametrize("text, merged", [("Ann has a dog and a boat", True), (NEW, False)])
def test_second_pets(text, merged):
    task = task_of(bank_of("Ann has a dog"), merged="Ann has a dog and a boat")
    response = json.dumps([{"event": "UPDATE", "id": 0, "text": text}])
    [[episode]] = agent_of().rollout(writer(response), [task], 1, 1.0)
    assert episode.log["merged"] is merged, (
        "where a task names the memory that ought to stand afterwards, the log says if it does")
