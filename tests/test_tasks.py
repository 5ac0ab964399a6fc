"""Tests of training/tasks.py: what the two agents learn on is what evaluation reads.

    python -m pytest tests/test_tasks.py        (some seconds)
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path

import pytest
from test_memr1 import EMBED, WorldReader, always

from data import Dialogue, load_locomo
from memory_bank import MemoryBank
from memr1 import AnswerTask, ManagerTask, answer_all, build_banks, facts_of
from training.tasks import (
    add_everything,
    answer_tasks,
    deciding_place,
    guard_place,
    manager_tasks,
    paid_decisions,
)
from world import oracle_memories, world


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    return world(4, 11)


def small_locomo(tmp_path: Path) -> list[Dialogue]:
    """One conversation in LoCoMo's format, with every kind of evidence."""
    def turn(turn_id: str, speaker: str, text: str) -> dict:
        return {"dia_id": turn_id, "speaker": speaker, "text": text}

    qa = [("Where does Ann live?", "Oslo", ["D1:1"], 4),
          ("Which dogs?", "Rex, Bo", ["D2:2", "D1:3"], 1), ("Is Bob kind?", "yes", [], 3),
          ("When did Bob ski?", "8 May", ["D2:1"], 2)]
    record = {
        "sample_id": "conv-x",
        "conversation": {
            "speaker_a": "Ann", "speaker_b": "Bob",
            "session_1_date_time": "1 pm on 1 May, 2023", "session_2_date_time": "8 May, 2023",
            "session_1": [turn("D1:1", "Ann", "I live in Oslo."), turn("D1:2", "Bob", "Nice!"),
                          turn("D1:3", "Ann", "This is Rex.")],
            "session_2": [turn("D2:1", "Bob", "I skied."), turn("D2:2", "Ann", "And here is Bo!")]},
        "observation": {"session_1_observation": {
            "Ann": [["Ann lives in Oslo.", "D1:1"], ["Ann has a dog, Rex.", "D1:3"],
                    ["Ann posts photos.", "D1:3"]], "Bob": []}},
        "qa": [{"question": q, "answer": a, "evidence": e, "category": c} for q, a, e, c in qa]
        + [{"question": "Trap?", "evidence": ["D1:1"], "category": 5, "adversarial_answer": "x"}]}
    path = tmp_path / "small.json"
    path.write_text(json.dumps([record]), encoding="utf-8")
    return load_locomo(path)


def read_in_evaluation(dialogue: Dialogue, facts: str) -> set[str]:
    """Every text that a manager meets when it reads the dialogue, by recording its prompts."""
    manager = always('[{"event": "NOOP"}]')
    build_banks(manager, [dialogue], EMBED, facts, max_new_tokens=9)
    return {prompt.rsplit("New fact: ", 1)[1] for prompt in manager.read}


@pytest.mark.parametrize("facts", ["turns", "observations"])
def test_training_reads_nothing_that_evaluation_does_not(tmp_path: Path, facts: str) -> None:
    [dialogue] = small_locomo(tmp_path)
    known = read_in_evaluation(dialogue, facts)
    tasks = manager_tasks([dialogue], EMBED, facts, guards=True)
    assert {task.fact.text for task in tasks} <= known, "a decision about what is never read"
    for task in tasks:
        texts = [memory.text for memory in task.bank]
        assert set(texts) <= known, (
            f"--facts {facts}: the training bank holds {set(texts) - known}, which evaluation "
            "never reads")
        assert task.fact.text not in texts, "the fact to decide on is in the bank already"
    [bank] = add_everything([dialogue], EMBED, facts).banks
    assert {memory.text for memory in bank} == known, "a bank of every fact"


def test_decisions_of_a_locomo_file(tmp_path: Path) -> None:
    [dialogue] = small_locomo(tmp_path)
    said = [f"{turn.speaker}: {turn.text}" for turn in dialogue.turns]
    ann = dialogue.turns[2].facts  # two observations of one turn
    decided = {facts: [(task.question.text, task.fact.text, [m.text for m in task.bank])
                       for task in manager_tasks([dialogue], EMBED, facts)]
               for facts in ("turns", "observations")}
    assert decided["turns"] == [
        ("Where does Ann live?", said[0], []), ("Which dogs?", said[4], said[:4]),
        ("When did Bob ski?", said[3], said[:3])], "the latest turn of the evidence decides"
    assert decided["observations"] == [
        ("Where does Ann live?", "Ann lives in Oslo.", []),
        ("Which dogs?", ann[0], ["Ann lives in Oslo.", ann[1]]),
        ("Which dogs?", ann[1], ["Ann lives in Oslo.", ann[0]])], (
        "a decision a fact; the latest turn that states one decides; Bob's skiing states none, so "
        "its question is left out")
    model = always('{"facts": ["one", "two"]}')
    tasks = manager_tasks([dialogue], EMBED, "llm", model, 50)
    assert [task.fact.text for task in tasks[:2]] == ["one", "two"]
    assert len(model.read) == len(dialogue.turns), "each turn is extracted once"
    assert not manager_tasks([dialogue], EMBED, "llm", always(""), 50), "no fact, no decision"


def test_decisions_of_the_world(dialogues: list[Dialogue]) -> None:
    """One decision a question; its bank is the right one of the past."""
    for facts in ("turns", "observations"):
        for dialogue in dialogues:
            tasks = manager_tasks([dialogue], EMBED, facts)
            assert [task.question for task in tasks] == list(dialogue.questions)
            order = {turn.turn_id: place for place, turn in enumerate(dialogue.turns)}
            stated = facts_of(dialogue.turns, facts)
            for task in tasks:
                place = max(order[turn_id] for turn_id in task.question.evidence)
                assert [task.fact] == stated[place], "the fact is of the last turn of the evidence"
                got = [(m.text, m.speaker, m.timestamp) for m in task.bank]
                assert got == list(oracle_memories(dialogue.turns[:place]).values()), (
                    f"{task.question}: not the right bank just before {order}[{place}]")
    # The last turn may only enter by the fact: an answer agent without it must fail.
    tasks: list[ManagerTask] = manager_tasks(dialogues, EMBED, "turns")
    asked = [AnswerTask(task.bank, task.question, task.speakers) for task in tasks]
    blind = answer_all(WorldReader(), asked, max_new_tokens=64)
    known = [t.question for t, a in zip(tasks, blind) if a.text == t.question.answer]
    leaked = [q for q in known if q.category != 3 and q.answer != "nothing"]  # Oslo, Bergen: Norway
    assert not leaked, f"answered before the deciding turn, so the future leaked: {leaked[:3]}"


def test_every_fact_of_a_turn_of_the_world_is_a_decision(dialogues: list[Dialogue]) -> None:
    """With --facts llm a turn may have two, though the world means one by it."""
    tasks = manager_tasks(dialogues[:1], EMBED, "llm", always('["one", "two"]'), 50)
    facts = [task.fact.text for task in tasks]
    assert facts == ["one", "two"] * len(dialogues[0].questions), "a fact was lost on the way"


def test_a_bank_of_everything_keeps_what_is_stale(dialogues: list[Dialogue]) -> None:
    reading = add_everything(dialogues, EMBED, "observations")
    found = answer_tasks(dialogues, reading.banks)
    assert [t.question for t in found] == [q for d in dialogues for q in d.questions]
    wanted = [(turn.facts[0], turn.speaker, turn.timestamp) for turn in dialogues[0].turns]
    assert [(m.text, m.speaker, m.timestamp) for m in found[0].bank] == wanted
    for dialogue, bank, sources in zip(dialogues, reading.banks, reading.sources):
        assert found[0].speakers == dialogues[0].speakers
        assert [sources[memory.id] for memory in bank] == [{t.turn_id} for t in dialogue.turns], (
            "a memory stands for the turn that stated it")
    assert reading.counts["facts"] == sum(map(len, reading.banks))


def test_nearly_every_question_pays_for_a_guard_behind_its_own_turn() -> None:
    [dialogue], draw, n_guards = world(1, seed=5), random.Random(0), 0
    facts = facts_of(dialogue.turns, "turns")
    paid = defaultdict(list)
    for place, question in paid_decisions(dialogue, facts, EMBED, draw):
        paid[question.text].append(place)
    for question in dialogue.questions:
        own, *guards = paid[question.text]
        assert own == deciding_place(dialogue, question, facts), "its own turn comes first"
        assert len(guards) < 2 and all(guard > own for guard in guards), f"guards {guards} of {own}"
        n_guards += len(guards)
    assert n_guards > 0.8 * len(dialogue.questions), (
        "without guards a manager learns to overwrite whatever is similar")
    alone = paid_decisions(dialogue, facts, EMBED, None)
    assert [place for place, _ in alone] == [paid[q.text][0] for q in dialogue.questions], (
        "held-out decisions have no guards")


def test_guards_are_turns_that_nothing_is_more_similar_to() -> None:
    dialogue, draw, found = world(1, seed=5)[0], random.Random(0), 0
    turns, facts = dialogue.turns, facts_of(dialogue.turns, "turns")
    for place in range(0, len(turns), 7):
        guard = guard_place(dialogue, place, facts, EMBED, draw)
        said = [at for at, turn in enumerate(turns) if turn.speaker == turns[place].speaker]
        nearest = {}  # turn -> the earlier one of its speaker most similar to it, by brute force
        for at in said[1:]:
            earlier = MemoryBank(EMBED)
            earlier.add_many((turns[other].text, "", "") for other in said if other < at)
            nearest[at] = said[earlier.search(turns[at].text, 1)[0].id]
        mistaken = [at for at in nearest if nearest[at] == place and at > place]
        assert guard is None or guard in said and guard > place, "not a later turn of this speaker"
        if mistaken:
            assert guard in mistaken, f"turn {guard} would not overwrite turn {place} first"
            found += 1
            silent = [[] if at in mistaken else of_turn for at, of_turn in enumerate(facts)]
            assert guard_place(dialogue, place, silent, EMBED, draw) not in mistaken, (
                "a turn that states no fact is no danger: a manager never reads it")
    assert found, "no turn of this dialogue is nearest to a later one"
    assert guard_place(dialogue, len(turns) - 1, facts, EMBED, draw) is None, "nothing comes after"
