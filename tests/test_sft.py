"""Tests of sft.py: what the oracle writes is right, trajectories are read, and the loss falls.

    python -m pytest tests/test_sft.py        (some ten seconds)
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from canned import CannedAgent, Scripted, make_run, refused, small_data

import sft
from memory_bank import MemoryBank, hashed_words
from memr1 import AnswerAgent, ManagerAgent, apply_operations
from policy import load_policy
from prompts import parse_answer, parse_operations
from sft import (
    SFTOptions,
    answer_lessons,
    evidence_lessons,
    expert_operation,
    lessons_of,
    manager_lessons,
    read_trajectories,
)
from training.options import EMBEDDED_MODEL
from training.tasks import add_everything, answer_tasks, manager_tasks
from trees import Episode
from world import oracle_memories, world, world_splits

EMBED = hashed_words()


def test_the_oracles_operations_keep_the_memory_right():
    """Applied from an empty bank over whole dialogues, they must give the oracle's memories."""
    for dialogue in world(3, seed=8):
        bank = MemoryBank(EMBED)
        for place, turn in enumerate(dialogue.turns):
            messages, response = expert_operation(
                Scripted(str), dialogue, place, EMBED, "turns", 9)
            fact = messages[1]["content"].split("New fact: ")[1]
            shown = bank.search(fact, 5, turn.speaker)
            operations, invalid = parse_operations(response, len(shown))
            assert invalid == 0 and len(operations) == 1, response
            counts = apply_operations(bank, shown, operations, turn.speaker, turn.timestamp)
            assert counts["invalid"] == 0, f"{response}: names a memory that is not shown"
            wanted = sorted(text for text, _, _ in
                            oracle_memories(dialogue.turns[:place + 1]).values())
            assert sorted(memory.text for memory in bank) == wanted, (
                f"turn {place}, {turn.text!r}: {response}")


@pytest.mark.parametrize("positions", [math.inf, 230])
@pytest.mark.parametrize("facts", ["turns", "observations"])
def test_a_manager_is_taught_the_prompts_that_reinforcement_trains(facts, positions):
    train, policy = world_splits()[0][:1], Scripted(str)
    policy.positions = positions
    tasks = manager_tasks(train, EMBED, facts, guards=True)
    lessons = manager_lessons(policy, train, EMBED, facts, 40)
    episodes = ManagerAgent(Scripted(str), max_new_tokens=40).rollout(policy, tasks, 1, 0)
    for (messages, response), [episode] in zip(lessons, episodes, strict=True):
        assert messages[-1]["content"] == episode.log["prompt"], (
            "another turn, another form of it, or other memories than in training by reward")
        shown = messages[-1]["content"].count("\n- ") - messages[-1]["content"].count("\n- none")
        assert parse_operations(response, shown)[1] == 0, f"{response}: names what is not shown"
    dropped = sum(episode.log["operations"].get("dropped", 0) + episode.log["dropped"]
                  for [episode] in episodes)
    assert (dropped > 0) == (positions < math.inf), "the test wants prompts that do not fit"


def test_an_expert_that_errs_is_wrong_as_often_as_it_says():
    """Each slip is another operation than the right one, and the rest of the lessons stay right."""
    train = world_splits()[0][:4]
    right = manager_lessons(Scripted(str), train, EMBED, "turns", 40)
    for share in (0.0, 0.3, 1.0):
        shown = manager_lessons(Scripted(str), train, EMBED, "turns", 40, share)
        assert [prompt for prompt, _ in shown] == [prompt for prompt, _ in right], (
            "an expert that errs decides on other turns")
        slips = sum(one != other for (_, one), (_, other) in zip(shown, right)) / len(right)
        assert abs(slips - share) < 0.1, f"{slips:.2f} of the operations are wrong, not {share}"
    assert slips == 1, "a slip that is the right operation all the same"
    for prompt, response in shown:
        operations, invalid = parse_operations(response, prompt[1]["content"].count("\n- "))
        assert invalid == 0 and len(operations) == 1, f"{response}: wrong, but not unreadable"
    events = {parse_operations(response, 5)[0][0].event for _, response in shown}
    assert events == {"ADD", "NOOP", "UPDATE"}


@pytest.mark.parametrize("facts, positions", [
    ("observations", math.inf), ("observations", 250), ("turns", 250)])
def test_an_answer_agent_is_taught_the_prompts_that_reinforcement_trains(facts, positions):
    train, policy = world_splits()[0][:1], Scripted(str)
    policy.positions = positions
    reading = add_everything(train, EMBED, facts)
    tasks = answer_tasks(train, reading.banks, 20)
    if facts == "observations":
        lessons = answer_lessons(policy, tasks, train, True, 40)
    else:
        lessons = evidence_lessons(policy, tasks, reading, True, 40)
    episodes = AnswerAgent(max_new_tokens=40).rollout(policy, tasks, 1, 0)
    prompts = [episode.log["prompt"] for [episode] in episodes]
    assert any(episode.log["dropped"] for [episode] in episodes) == (positions < math.inf)
    taught = [messages[-1]["content"] for messages, _ in lessons]
    assert set(taught) <= set(prompts) and len(taught) > 5, (
        "other memories than in training by reward, or than the model has room for")
    for prompt, (_, response) in zip(taught, lessons):
        for line in parse_answer(response)[0].splitlines():
            assert line == "- none" or f": {line[2:]}\n" in prompt, (
                f"{line!r} is not among the memories: it teaches to invent them")
    assert (len(taught) < len(prompts)) == (positions < math.inf), (
        "a question whose memories are not shown teaches to guess")


@pytest.mark.parametrize("distill", [True, False])
def test_an_answer_agent_is_taught_the_gold_answers_from_memories_it_sees(distill):
    train = world_splits()[0][:2]
    banks = add_everything(train, EMBED, "observations").banks
    tasks = answer_tasks(train, banks)
    for task, (messages, response) in zip(tasks, answer_lessons(
            Scripted(str), tasks, train, distill, 9)):
        selected, answer = parse_answer(response)
        assert answer == task.question.answer
        lines = [line[2:] for line in selected.splitlines() if line != "- none"]
        assert bool(lines) <= distill, "nothing is selected without distillation"
        for line in lines:
            assert f": {line}\n" in messages[1]["content"], f"{line!r} is not among the memories"
        assert len(set(lines)) == len(lines)
        if distill and task.question.category in (1, 4) and answer != "nothing":
            for value in answer.split(" and "):
                assert any(line.endswith(f" {value}") for line in lines), (
                    f"{task.question.text}: {answer} from {lines}")


def test_trajectories_of_real_models_are_read(tmp_path):
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a"}]
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": chat}) + "\n\n" + json.dumps({"messages": chat[1:]}))
    assert read_trajectories(str(path)) == [(chat[:2], "a"), ([chat[1]], "a")]
    options = SFTOptions(data="locomo", trajectories=str(path))
    assert lessons_of(SimpleNamespace(options=options))


@pytest.mark.parametrize("text, said", [
    ("", "no trajectory"), ("{", "line 1"), ("[]", "line 1"), ('{"messages": 3}', "line 1"),
    ('{"messages": [{"role": "user"}]}', "line 1"),
    ('{"messages": [{"role": "user", "content": "u"}]}', "the assistant's"),
    ('{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": " "}]}',
     "the assistant's"), (None, "cannot read")])
def test_a_broken_file_of_trajectories_is_named(tmp_path, text, said):
    path = tmp_path / "chats.jsonl"
    if text is not None:
        path.write_text(text)
    line = refused(lambda _: read_trajectories(str(path)))
    assert str(path) in line and said in line, line


def test_without_an_oracle_one_line_says_what_to_give(tmp_path, model_folder):
    refused(sft.main, "--agent", "mem1")
    path = small_data(tmp_path / "mine.json", "Who skis?")
    line = refused(sft.main, "--data", path, "--model", model_folder, "--out", tmp_path / "run",
                   "--limit", "1", "--max-new-tokens", "4")
    assert "--trajectories" in line, "only the world knows what a manager should have done"
    line = refused(sft.main, "--data", "world", "--facts", "llm", "--out", tmp_path / "run")
    assert "--facts llm" in line, "the oracle's lessons would be of turns, whatever is read later"
    refused(sft.main, "--trajectories", tmp_path / "none.jsonl", "--out", tmp_path / "run")
    for words in (["--agent", "answer"], ["--trajectories", "x.jsonl"]):
        assert "--expert-errors" in refused(sft.main, *words, "--expert-errors", "0.2",
                                            "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists(), "refused after the start model was scored, an hour long"


def test_a_manager_that_keeps_no_evidence_leaves_nothing_to_imitate(tmp_path, model_folder):
    """A random manager writes no operation, so every bank is empty: no lesson, and no endless loop.
    """
    path = small_data(tmp_path / "mine.json", "Who skis?")
    line = refused(sft.main, "--agent", "answer", "--data", path, "--model", model_folder,
                   "--manager", model_folder, "--out", tmp_path / "run", "--max-new-tokens", "4")
    assert "no question to imitate" in line and str(path) in line, line


def test_evidence_and_gold_answer_teach_where_there_is_no_oracle():
    """Only memories of the evidence are selected; nothing is taught where none of them is shown."""
    [dialogue] = world(1, 3)
    reading = add_everything([dialogue], EMBED, "turns")
    tasks = answer_tasks([dialogue], reading.banks)
    lessons = evidence_lessons(Scripted(str), tasks, reading, True, 9)
    assert len(lessons) == len(dialogue.questions)
    turns = {turn.turn_id: f"{turn.speaker}: {turn.text}" for turn in dialogue.turns}
    for question, (_, response) in zip(dialogue.questions, lessons):
        selected, answer = parse_answer(response)
        assert answer == question.answer
        assert set(selected.splitlines()) == {f"- {turns[i]}" for i in question.evidence}
    blind = [{memory_id: {"another turn"} for memory_id in sources} for sources in reading.sources]
    assert not evidence_lessons(
        Scripted(str), tasks, replace(reading, sources=blind), True, 9), (
        "a lesson without its evidence teaches to guess")


def test_the_loss_is_that_of_separate_rows_and_falls(tmp_path, monkeypatch):
    policy = load_policy(EMBEDDED_MODEL)
    lessons = manager_lessons(policy, world_splits()[0][:1], EMBED, "turns", 48)[:4]
    monkeypatch.setattr(sft, "lessons_of", lambda run: lessons)
    steps = [policy.lesson(*lesson) for lesson in lessons]
    with torch.no_grad():
        separate = torch.cat([policy.token_log_probs([[step]]) for step in steps])  # (N,)
    log = {"answer": "a", "gold": "a", "category": 1}
    agent = CannedAgent([[Episode([steps[0]], 0.0, log)]])
    run = make_run(policy, load_policy(EMBEDDED_MODEL), agent, 4, tmp_path / "run",
                   kind=SFTOptions, steps=8, questions=4, lr=6e-4)
    rows, scores = sft.train(run)
    assert rows[0]["loss"] == pytest.approx(-separate.mean().item(), rel=1e-4), (
        "the loss is the mean over all response tokens of the batch")
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"], "it learns nothing from four lessons"
    assert run.n_tokens == 8 * len(separate) and set(scores) == {0, 8}
