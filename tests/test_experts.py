"""Tests of training/experts.py: what the experts write is right, and rests on what is shown.

    python -m pytest tests/test_experts.py        (some ten seconds)

The test on LoCoMo is skipped without ../shared/data/locomo10.json.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from canned import Scripted, refused

import sft
from benchmarks.splits import splits
from data import Dialogue, OpenQuestion, Question, Turn
from environments import search_tasks
from mem1 import Mem1Agent
from memory_bank import MemoryBank, hashed_words
from memr1 import AnswerAgent, ManagerAgent, apply_operations
from prompts import parse_answer, parse_operations
from sft import SFTOptions
from systems.own_past import HARNESSES, mem1_agent
from training.experts import (
    added_lessons,
    answer_lessons,
    chats_that_fit,
    evidence_lessons,
    expert_operation,
    expert_tasks,
    manager_lessons,
    read_trajectories,
    trajectories_of,
)
from training.tasks import add_everything, answer_tasks, manager_tasks
from world import oracle_memories, world, world_splits

EMBED = hashed_words()
LOCOMO = Path(__file__).resolve().parent.parent / "../shared/data/locomo10.json"


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


def test_an_expert_that_overwrites_forgets_what_it_should_have_joined():
    """Where two values hold, the memory keeps the new one alone; nothing else is decided wrong."""
    train = world_splits()[0][:4]
    right, shown = (manager_lessons(Scripted(str), train, EMBED, "turns", 40, overwrites=habit)
                    for habit in (False, True))
    assert [prompt for prompt, _ in shown] == [prompt for prompt, _ in right]
    wrong = [(parse_operations(one, 5)[0][0], parse_operations(other, 5)[0][0])
             for (_, one), (_, other) in zip(shown, right) if one != other]
    for operation, best in wrong:
        assert best.event == "UPDATE" and " and " in best.text, f"{best}: nothing was to be joined"
        assert (operation.event, operation.number) == ("UPDATE", best.number)
        subject, new = best.text.split()[0], best.text.split(" and ")[-1]
        assert operation.text.startswith(subject) and operation.text.endswith(f" {new}")
        assert " and " not in operation.text, "the expert joins after all"
    n_joins = sum(operations[0].event == "UPDATE" and " and " in operations[0].text
                  for operations, _ in (parse_operations(text, 5) for _, text in right))
    assert len(wrong) > 0.9 * n_joins > 10, "a habit that shows only now and then"


@pytest.mark.parametrize("positions", [math.inf, 80, 50])
def test_without_an_oracle_a_manager_is_shown_to_keep_each_fact_in_its_own_words(positions):
    turns = [Turn(f"D1:{n}", "Ann", text, "8 May 2023") for n, text in enumerate(
        ["I ski.", "I have a dog.", "I ski.", "I sing a very long song about my dog."])]
    asked = tuple(Question(f"Who {n}?", "Ann", 4, (turn.turn_id,)) for n, turn in enumerate(turns))
    policy = Scripted(str)
    policy.positions = positions
    tasks = manager_tasks([Dialogue("mine", ("Ann", "Bo"), tuple(turns), asked)], EMBED, "turns")
    lessons = added_lessons(policy, tasks, 10)
    # With 50 positions no memory has room beside the third fact.
    third = ('{"event": "ADD", "text": " Ann: I ski."}' if positions == 50
             else '{"event": "NOOP", "id": 0}')
    assert [response for _, response in lessons] == [
        '[{"event": "ADD", "text": " Ann: I ski."}]',
        '[{"event": "ADD", "text": " Ann: I have a dog."}]',
        f"[{third}]"], "the fourth fills more than ten tokens; only what is shown is known"
    episodes = ManagerAgent(policy, max_new_tokens=10).rollout(policy, tasks, 1, 0)
    for (messages, _), [episode] in zip(lessons, episodes):
        assert messages[-1]["content"] == episode.log["prompt"], "not the prompt that pays"
    assert ("I have a dog." in lessons[2][0][-1]["content"]) == (positions == math.inf), (
        "the test wants prompts that do not fit")


def test_a_fact_is_shown_in_the_words_of_the_prompt_and_can_be_read_back():
    """A mark of thinking would hide the operation; a line break or a second space is another text.
    """
    said = ["It wrote </think> and then Oslo.", "line one\nline two", "I  ski.", "I ski.",
            "a <think> b", "**Answer:** Rome"]
    turns = [Turn(f"D1:{n}", "Ann", text, "8 May 2023") for n, text in enumerate(said)]
    asked = tuple(Question(f"Who {n}?", "Ann", 4, (turn.turn_id,)) for n, turn in enumerate(turns))
    tasks = manager_tasks([Dialogue("mine", ("Ann", "Bo"), tuple(turns), asked)], EMBED, "turns")
    lessons = added_lessons(Scripted(str), tasks, 40)
    for (messages, response), text in zip(lessons, said, strict=True):
        operations, n_unusable = parse_operations(response, 5)
        assert (len(operations), n_unusable) == (1, 0), (
            f"{response}: the pupil learns to write what nobody can read")
        [operation] = operations
        if operation.event == "ADD":
            assert messages[-1]["content"].endswith(f"New fact: {operation.text}"), text
    assert json.loads(lessons[3][1])[0]["event"] == "NOOP", "the same words stand there already"


def test_each_option_of_the_expert_reaches_the_lessons():
    """What a run imitates is what its options say, and is of the training dialogues."""
    policy, train, shown = Scripted(str), world_splits()[0], {}
    for name, given in (("right", {}), ("errs", {"expert_errors": 0.5}),
                        ("overwrites", {"expert_overwrites": True}),
                        ("both", {"expert_errors": 0.5, "expert_overwrites": True})):
        options = SFTOptions(data="world", facts="turns", max_new_tokens=40, **given)
        run = SimpleNamespace(options=options, policy=policy, embed=EMBED, train=[], test=[])
        shown[name] = [lesson for [lesson] in trajectories_of(run)]
    assert shown["right"] == manager_lessons(policy, train, EMBED, "turns", 40)
    differing = {name: sum(one != other for one, other in zip(lessons, shown["right"]))
                 for name, lessons in shown.items()}
    assert differing["right"] == 0 and 40 < differing["overwrites"] < 80 < differing["errs"]
    assert differing["both"] > differing["errs"], "one of the two options is not read"
    mine = SimpleNamespace(options=SFTOptions(data="mine.json", max_new_tokens=40), policy=policy,
                           train=manager_tasks(train[:1], EMBED, "turns")[:2], test=[])
    assert len(trajectories_of(mine)) == 2, "lessons of other tasks than those of training"


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
    chat = [{"role": "system", "content": ""}, {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a"}]
    several = [{"type": "text", "text": "u"}, {"type": "image"}]
    parts = [{"role": "user", "content": several}, chat[2]]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n\n".join(json.dumps({"messages": m}) for m in (chat, chat[1:], parts)))
    read = [(chat[:2], "a"), ([chat[1]], "a"), ([chat[1]], "a")]
    assert read_trajectories(str(path)) == read, "a list of parts is not its text as Python has it"
    options = SFTOptions(data="locomo", trajectories=str(path))
    assert trajectories_of(SimpleNamespace(options=options)) == [[lesson] for lesson in read], (
        "each line is an episode of one step")


def chat_of(content, role="assistant") -> str:
    """A line: a question, and a message with this content."""
    return json.dumps({"messages": [{"role": "user", "content": "u"},
                                    {"role": role, "content": content}]})


@pytest.mark.parametrize("text, said", [
    ("", "not a JSON"), ("{", "not a JSON"), ("[]", "empty list"), ("[" * 100_000, "not a JSON"),
    ('{"messages": 3}', "'messages'"), ('{"messages": [{"role": "user"}]}', "'content'"),
    ('{"messages": [{"role": "user", "content": "u"}]}', "the assistant's"),
    (chat_of(" "), "the assistant's"), (chat_of("a", "user"), "the assistant's"),
    (chat_of("a") + "\n\n" + chat_of(None), "element 1, messages[1], field 'content': found None"),
    (chat_of({"text": "a"}), "'content'"), (chat_of([3]), "content[0]"),
    (chat_of("a", "wizard"), "one of system"), (chat_of("\ud800"), "surrogate"),
    (None, "cannot be read")])
def test_a_broken_file_of_trajectories_is_named(tmp_path, text, said):
    path = tmp_path / "chats.jsonl"
    if text is not None:
        path.write_text(text)
    line = refused(lambda _: read_trajectories(str(path)))
    assert str(path) in line and said in line and "--trajectories wants" in line, line


def test_a_trajectory_that_is_too_long_is_named_before_anything_is_scored(
        tmp_path, tiny_policy, monkeypatch):
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join([chat_of("a"), chat_of("a " * 5000)]))
    run = SimpleNamespace(options=SFTOptions(trajectories=str(path)), policy=tiny_policy())
    monkeypatch.setattr(sft, "prepare", lambda *_: run)
    monkeypatch.setattr(sft, "evaluate_before", lambda _: pytest.fail("scoring came first"))
    line = refused(sft.main, "--agent", "answer", "--trajectories", path)
    assert f"{path}: element 1: a prompt of" in line and "positions" in line, line
    assert chats_that_fit(SimpleNamespace(options=SFTOptions(), policy=run.policy)) == 0


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


# ---- MEM1 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("harness, n_questions", list(product(HARNESSES, (1, 2, 8))))
def test_mem1_is_taught_turns_that_it_will_read_and_that_are_paid_in_full(harness, n_questions):
    agent = mem1_agent(harness, EMBED, True, max_new_tokens=400)
    tasks, n_taught = search_tasks(world(1, seed=3), n_questions, EMBED), 0
    for task in tasks:
        [turns] = expert_tasks(Scripted(str), agent, [task])
        if not turns:
            continue
        n_taught += 1
        written = iter([response for _, response in turns])
        pupil = Scripted(lambda prompt: next(written))
        [[episode]] = agent.rollout(pupil, [task], 1, 0)
        assert pupil.read == [messages[-1]["content"] for messages, _ in turns], (
            "other prompts than in training by reward")
        assert episode.reward == n_questions, f"the expert is not paid in full: {episode.log}"
        if 3 not in task.categories:  # the country of a town stands in no memory
            for prompt, response in zip(pupil.read, (response for _, response in turns)):
                unseen = set(re.findall(r"\w+", response)) - set(re.findall(r"\w+", prompt))
                assert not unseen, f"{unseen} cannot be known from what is read: {prompt}"
    if harness in ("truncation", "a_mem") and n_questions == 8:
        assert not n_taught, "who has dropped the turn with an answer is taught to guess it"
    else:
        assert n_taught > 0.7 * len(tasks), f"only {n_taught} of {len(tasks)} tasks are taught"


def test_tasks_that_are_shown_together_are_those_shown_alone():
    """With notes by a model, whose calls then form batches."""

    def notes(prompt: str) -> str:
        return '{"keywords": ["k"], "context": "c", "tags": [], "links": [0]}'

    tasks = [task for n in (1, 3, 2) for task in search_tasks(world(1, seed=3), n, EMBED)[:2]]
    for harness in HARNESSES:
        agent = mem1_agent(harness, EMBED, False, max_new_tokens=400)
        together, alone = Scripted(notes), Scripted(notes)
        assert expert_tasks(together, agent, tasks) == [
            turns for task in tasks for turns in expert_tasks(alone, agent, [task])], harness
        assert bool(together.batches) == (harness == "a_mem"), "who writes no notes asks no model"
        assert not together.batches or len(together.batches) < len(alone.batches), (
            f"{together.batches}: a note of one task waits for the notes of the others")


def test_a_state_lists_every_answer_and_the_numbers_of_their_questions():
    [task, *_] = search_tasks(world(1, seed=3), 4, EMBED)
    [turns] = expert_tasks(Scripted(str), Mem1Agent(max_new_tokens=400), [task])
    states = [re.search("<IS> ?(.*)</IS>", response)[1] for _, response in turns]
    assert states[0] == "", "nothing is known before the first search"
    for number, answer in enumerate(task.answers[:-1], 1):
        held = [f"{number}. {answer}" in state for state in states[:-1]]
        assert held[-1] and held == sorted(held), f"answer {number} is not kept: {states}"
    *_, (_, last) = turns
    assert re.search("<answer> (.*)</answer>", last)[1] == "; ".join(
        f"{number}. {answer}" for number, answer in enumerate(task.answers, 1))


def asked_of(evidence: tuple[str, ...], answer: str = "Rome") -> Dialogue:
    """A dialogue of no world, of whose turns one says where Anna lives."""
    texts = ["I live in Rome now", *(f"My {animal} sleeps a lot" for animal in
                                     ("cat", "dog", "hen", "cow", "pig", "rat"))]
    turns = tuple(Turn(f"D1:{n}", "Anna", text, "8 May 2023") for n, text in enumerate(texts))
    return Dialogue("d", ("Anna", "Bob"), turns,
                    (Question("Where does Anna live now?", answer, 4, evidence),))


@pytest.mark.parametrize("evidence, answer, limit, is_taught", [
    (("D1:0",), "Rome", 40, True),
    (("D9:9", "D1:0"), "Rome", 40, True),  # what is found of the evidence is quoted
    (("D1:6",), "Rome", 40, False),  # no search finds it
    ((), "Rome", 40, False), (("D9:9",), "Rome", 40, False),  # nothing proves the answer
    (("D1:0",), "Rome", 9, False),  # too long to be written
    (("D1:0",), "", 40, False)])  # never paid
def test_mem1_is_taught_only_what_it_can_find_and_write(evidence, answer, limit, is_taught):
    dialogue = asked_of(evidence, answer)
    [task] = search_tasks([dialogue], 1, EMBED)
    [turns] = expert_tasks(Scripted(str), Mem1Agent(max_new_tokens=limit), [task])
    assert bool(turns) == is_taught, "a lesson that the pupil cannot follow teaches to guess"
    if turns:
        assert [response for _, response in turns] == [
            "<IS> </IS><query> 1. Where does Anna live now?</query>",
            "<IS> Anna: I live in Rome now, 8 May 2023</IS><answer> Rome</answer>"]


def test_paragraphs_that_prove_an_answer_are_quoted():
    paragraphs = (("Rome", "Rome is a town."), ("Cats", "Cats <b> nap."), ("Dogs", "Dogs bark."))
    questions = [OpenQuestion("1", "What is Rome?", "a town", paragraphs, ("Rome",)),
                 OpenQuestion("2", "What do cats do?", "nap", paragraphs, ("Cats",))]
    [task] = search_tasks(questions, 2, EMBED)
    [turns] = expert_tasks(Scripted(str), Mem1Agent(max_new_tokens=40), [task])
    assert [response for _, response in turns][1:] == [
        "<IS> Rome: Rome is a town. | 1. a town</IS><query> 2. What do cats do?</query>",
        "<IS> Cats: Cats (b) nap.</IS><answer> 1. a town; 2. nap</answer>"], "no tag may be quoted"


@pytest.mark.skipif(not LOCOMO.exists(), reason="needs ../shared/data/locomo10.json")
def test_a_third_of_locomos_questions_can_be_shown_to_mem1():
    tasks = search_tasks(splits(str(LOCOMO))[0], 1, EMBED)
    agent = Mem1Agent(max_new_tokens=512)
    n_taught = sum(map(bool, expert_tasks(Scripted(str), agent, tasks)))
    assert len(tasks) == 152 and 0.3 < n_taught / 152 < 0.6, n_taught
