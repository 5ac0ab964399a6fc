"""Tests of training/oracle.py: each kind of mistake by hand, what it costs, and the right memory.

    python -m pytest tests/test_oracle.py        (a few seconds)
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from data import Fact, Turn
from training.oracle import KINDS, charge, key_of, known_after, mistakes_of, over_turns, says
from world import oracle_memories, probes, world


def turn(place: int, *fact: str) -> Turn:
    """Anna's turn about one fact (subject, relation, value, change), or small talk."""
    return Turn(f"D1:{place}", "Anna", "...", f"{place} May 2023", (),
                Fact(*fact) if fact else None)


OSLO = "Anna", "lives", "Oslo", "add"
ROME = "Anna", "lives", "Rome", "replace"
REX = "Anna", "dogs", "Rex", "add"
MILO = "Anna", "dogs", "Milo", "add"
HONDA = "Anna", "drives", "Honda", "add"
PIZZA = "Anna", "likes", "pizza", "add"
NO_PIZZA = "Anna", "likes", "pizza", "end"
SKIED = "Anna", "event", "skied", "event"
LIVES, DOG, CAR = "Anna lives in Oslo", "Anna has a dog named Rex", "Anna drives a Honda"


def found(facts: Sequence[tuple[str, ...]], *banks: Sequence[str | None]) -> list[list[str]]:
    """The kinds of mistake of each turn; a memory's id is its place in its bank, None a gap."""
    turns = [turn(place, *fact) for place, fact in enumerate(facts, start=1)]
    texts = [{n: text for n, text in enumerate(bank) if text} for bank in banks]
    return [[mistake.kind for mistake in of_turn] for of_turn in mistakes_of(turns, texts)]


CASES = {
    "small talk needs no memory": ([()], [["Anna slept badly"]], ["added"]),
    "a second memory of one city": (
        [OSLO, ROME], [[LIVES], [LIVES, "Anna lives in Rome"]], ["added"]),
    "a second memory of one list": (
        [REX, MILO], [[DOG], [DOG, "Anna has a dog named Milo"]], ["added"]),
    "an end needs no memory of its own": (
        [PIZZA, NO_PIZZA],
        [["Anna likes pizza"], ["Anna likes pizza", "Anna no longer likes pizza"]], ["added"]),
    "a fact added twice at once": ([OSLO], [[LIVES, LIVES]], ["added"]),
    "the car took the memory of the city": (
        [OSLO, HONDA], [[LIVES], [CAR]], ["overwritten"]),
    "small talk took the memory of the city": (
        [OSLO, ()], [[LIVES], ["Anna slept badly"]], ["overwritten"]),
    "an event took the memory of a dog": (
        [REX, SKIED], [[DOG], ["Anna skied"]], ["overwritten"]),
    "a city and a car in one memory": (
        [OSLO, HONDA], [[LIVES], ["Anna lives in Oslo and drives a Honda"]], ["merged"]),
    "the first dog went when the second came": (
        [REX, MILO], [[DOG], ["Anna has a dog named Milo"]], ["lost"]),
    "a deletion of what still holds": ([OSLO, HONDA], [[LIVES], [None, CAR]], ["lost"]),
    "a deletion at small talk": ([OSLO, ()], [[LIVES], [None]], ["lost"]),
    "nothing was written down": ([OSLO], [[]], ["missed"]),
    "another value was written down": ([OSLO], [["Anna lives in Rome"]], ["missed"]),
    "what ended still stands": (
        [PIZZA, NO_PIZZA], [["Anna likes pizza"], ["Anna likes pizza"]], ["outdated"]),
    "the old city came back": (
        [OSLO, ROME, ()], [[LIVES], ["Anna lives in Rome"], ["Anna lives in Rome, once in Oslo"]],
        ["outdated"]),
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind_of_mistake(name):
    facts, banks, wanted = CASES[name]
    *earlier, last = found(facts, *banks)
    assert last == wanted, f"{name}: {wanted} is named {last}"
    assert not any(earlier), f"{name}: the turns before it made no mistake, but {earlier}"


def test_every_kind_is_met_above():
    assert {kind for _, _, kinds in CASES.values() for kind in kinds} == set(KINDS)


@pytest.mark.parametrize("facts, banks", [
    ([OSLO, ROME], [[LIVES], ["Anna lives in Rome"]]),
    ([REX, MILO], [[DOG], ["Anna has dogs named Rex and Milo"]]),
    ([PIZZA, NO_PIZZA], [["Anna likes pizza"], [None]]),
    ([OSLO, ()], [[LIVES], [LIVES]]),
    ([OSLO, SKIED], [["In Oslo Anna lives."], ["In Oslo Anna lives.", "Anna skied"]]),
    ([HONDA, OSLO], [[CAR], [CAR, LIVES]])])
def test_right_changes_are_no_mistakes(facts, banks):
    assert not any(found(facts, *banks)), "a right change, in whatever words, is called a mistake"


def test_the_oracle_makes_no_mistake():
    for dialogue in world(6, 3, held_out=True):
        ids, banks = {}, []
        for place in range(1, len(dialogue.turns) + 1):
            entries = oracle_memories(dialogue.turns[:place])
            banks.append({ids.setdefault(key, len(ids)): text
                          for key, (text, _, _) in entries.items()})
        mistakes = mistakes_of(dialogue.turns, banks)
        assert not any(mistakes), f"{dialogue.name}: the right memory is called wrong: {mistakes}"


def test_a_right_memory_says_its_facts_and_no_other():
    for dialogue in world(6, 4):
        known = known_after(dialogue.turns)[-1]
        for key, (text, _, _) in oracle_memories(dialogue.turns).items():
            assert {one for one in known if says(text, one)} == {
                one for one in known if key_of(one) == key}, f"{text!r} is read wrongly"


# ---- what mistakes cost --------------------------------------------------------------------------

def costs(facts, banks, wrong: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(kind, questions) of each mistake, where the questions with these words are wrong."""
    turns = [turn(place, *fact) for place, fact in enumerate(facts, start=1)]
    texts = [{n: text for n, text in enumerate(bank) if text} for bank in banks]
    mistakes = mistakes_of(turns, texts)
    questions = [probe.question for probe in probes(turns)
                 if any(word in probe.question.text for word in wrong)]
    charged = charge(mistakes, turns, texts[-1], questions)
    return [(mistake.kind, [question.text for question in cost])
            for of_turn, of_costs in zip(mistakes, charged)
            for mistake, cost in zip(of_turn, of_costs)]


def test_a_mistake_is_charged_with_the_questions_that_need_its_memory():
    facts, banks = [OSLO, HONDA], [[LIVES], [CAR]]
    assert costs(facts, banks, ["Where", "country", "car"]) == [
        ("overwritten", ["Where does Anna live?", "In which country does Anna live?"])], (
        "the question about the car needs another memory")
    assert costs(facts, banks, ["car"]) == [("overwritten", [])]
    assert costs(facts, banks, []) == [("overwritten", [])], "right answers cost nothing"


def test_a_mended_mistake_costs_nothing():
    facts = [OSLO, HONDA, ROME]
    assert costs(facts, [[LIVES], [CAR], [CAR, "Anna lives in Rome"]], ["Where"]) == [
        ("overwritten", [])], "the city is right in the end: the answer agent erred"
    added = [[LIVES], [LIVES, "Anna lives in Rome"]]
    assert costs([OSLO, ROME], added, ["Where"]) == [("added", ["Where does Anna live?"])]
    mended = [*added, [LIVES, None]]
    assert dict(costs([OSLO, ROME, ()], mended, ["Where"]))["added"] == [], (
        "the memory too many is gone")


def test_an_answer_is_charged_once_and_to_the_last_mistake():
    banks = [[LIVES], ["Anna lives in Oslo and drives a Honda"], ["Anna drives a Honda, slowly"]]
    assert costs([OSLO, HONDA, ()], banks, ["Where"]) == [
        ("merged", []), ("overwritten", ["Where does Anna live?"])]


def test_two_equal_mistakes_are_two():
    banks = [[LIVES], [None], [LIVES], [None]]
    assert costs([OSLO, (), (), ()], banks, ["Where"])[-1] == ("lost", ["Where does Anna live?"])
    assert [kind for kind, _ in costs([OSLO, (), (), ()], banks, [])] == ["lost", "added", "lost"]


# ---- over the turns ------------------------------------------------------------------------------

def test_size_and_right_memories_after_each_turn():
    turns = [turn(1, *OSLO), turn(2), turn(3, *HONDA)]
    columns = over_turns([turns], [{"D1:1": [LIVES], "D1:3": [LIVES, CAR, "x", "x"]}])
    assert columns == {"size": [1, 1, 4], "right size": [1, 1, 2], "held": [1, 1, 1],
                       "right": [1, 1, 0.5]}, "a turn that states nothing leaves the bank as it was"
    columns = over_turns([turns], [{"D1:1": ["x"], "D1:2": ["x"], "D1:3": ["x", CAR]}])
    assert columns["held"] == [0, 0, 0.5] and columns["right"] == [0, 0, 0.5]
    columns = over_turns([turns], [{"D1:3": [LIVES, CAR, CAR, "x"]}])
    assert columns["held"][-1] == 1 and columns["right"][-1] == 0.75, (
        "a right memory that stands there twice: both are right, and one of them was needed")


def test_the_mean_is_over_the_dialogues_that_are_so_long():
    long, short = [turn(1, *OSLO), turn(2, *HONDA)], [turn(1, *OSLO)]
    columns = over_turns([short, long], [{"D1:1": []}, {"D1:1": [LIVES], "D1:2": [LIVES, CAR]}])
    assert columns["size"] == [0.5, 2] and columns["held"] == [0.5, 1]
    assert columns["right"] == [1, 1], "an empty bank has no wrong memory"
