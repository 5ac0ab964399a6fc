"""Tests of world.py: its shape, its two sides, and an independent oracle for every answer.

    python -m pytest tests/test_world.py        (some ten seconds)

`brute_force` answers a question by reading the facts of given turns from first to last. It shares
the wording of questions with world.py, and none of its bookkeeping (`advance`, `probes`).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date

import pytest
from canned import printed_by_processes

import world as world_module
from data import Dialogue, Turn
from memory_bank import Memory, MemoryBank, hashed_words
from prompts import one_line
from world import (
    EVENTS,
    INFERENCES,
    KINDS,
    LINKS,
    MONTHS,
    NAME_PAIRS,
    NEVER_TOLD,
    RELATIONS,
    advance,
    held_out_values,
    never_told,
    oracle_memories,
    probes,
    second_pet,
    world,
    world_splits,
)


@pytest.fixture(scope="module")
def splits() -> tuple[list[Dialogue], list[Dialogue], list[Dialogue]]:
    return world_splits()


@pytest.fixture(scope="module")
def many(splits) -> list[Dialogue]:
    """A hundred dialogues of both sides."""
    train, validation, test = splits
    return train + validation + test + world(40, 1) + world(20, 1, held_out=True)


# ---- the independent oracle ----------------------------------------------------------------------

def values_now(turns: Iterable[Turn], subject: str, relation: str) -> list[str] | None:
    """What holds after these turns; None if they never speak of it."""
    held = None
    for turn in turns:
        fact = turn.fact
        if fact is None or (fact.subject, fact.relation) != (subject, relation):
            continue
        held = held or []
        if fact.change == "end":
            held = [value for value in held if value != fact.value]
        elif RELATIONS[relation].kind == "list":
            held = [*held, fact.value]
        else:  # there is one home, one job, one boss
            held = [fact.value]
    return held


def meaning(question: str) -> tuple[str, str, str | None, dict]:
    """(subject, relation, link to follow first, answers inferred from values) of a question."""
    for past, verb in EVENTS.items():
        if found := re.fullmatch(f"When did (.+) {re.escape(verb)}\\?", question):
            return found[1], past, None, {}
    forms = [(relation, form.question, {}) for relation, form in RELATIONS.items()]
    forms += [(relation, form, answers) for relation, (form, answers) in INFERENCES.items()]
    for relation, form, answers in forms:
        if found := re.fullmatch(re.escape(form).replace(r"\{s\}", "([A-Za-z]+)"), question):
            return found[1], relation, None, answers
        owned = re.escape(form).replace(r"\{s\}", "([A-Za-z]+)'s ([a-z]+)")
        if found := re.fullmatch(owned, question):
            return found[1], relation, found[2], answers
    raise AssertionError(f"{question!r} is no question of the world")


def brute_force(turns: Sequence[Turn], question: str) -> str | None:
    """The answer as far as these turns prove it, else None."""
    subject, relation, link, inferred = meaning(question)
    if relation in EVENTS:
        days = [turn.timestamp for turn in turns if turn.fact and turn.fact.relation == "event"
                and (turn.fact.subject, turn.fact.value) == (subject, relation)]
        return days[0] if len(days) == 1 else None  # it happens once, or the question is unfair
    if link is not None:
        people = values_now(turns, subject, link)
        if not people or len(people) != 1:
            return None
        subject = people[0]
    held = values_now(turns, subject, relation)
    if held is None:
        return None
    return " and ".join(inferred.get(value, value) for value in held) or "nothing"


def brute_force_memories(turns: Sequence[Turn]) -> dict[tuple[str, str], tuple[str, str]]:
    """key -> (text, date of the last turn about it) of everything that holds in the end."""
    memories = {}
    for place, turn in enumerate(turns):
        fact = turn.fact
        if fact is None:
            continue
        if fact.relation == "event":
            memories[fact.subject, fact.value] = f"{fact.subject} {fact.value}", turn.timestamp
            continue
        key = fact.subject, fact.relation
        held = values_now(turns[: place + 1], *key)
        text = RELATIONS[fact.relation].memory.format(s=fact.subject, v=" and ".join(held))
        if len(held) > 1 and fact.relation in ("dogs", "cats"):
            text = re.sub("has a (dog|cat) named", r"has \1s named", text)
        if len(held) > 1 and fact.relation in ("likes", "plays"):
            text = re.sub("(likes|plays) ", r"\1 both ", text)
        memories[key] = text, turn.timestamp
        if not held:
            del memories[key]
    return memories


# ---- shape ---------------------------------------------------------------------------------------

def test_the_splits_are_as_large_as_locomos(splits) -> None:
    counts = [sum(len(d.questions) for d in dialogues) for dialogues in splits]
    assert counts == [152, 81, 513], f"{counts}: training, validation and test questions"
    train, validation, test = splits
    names = [d.name for d in train + validation + test]
    assert len(set(names)) == len(names), "two dialogues of the splits share a name"
    turns = [{(turn.speaker, turn.text) for turn in d.turns} for d in validation + test]
    for i, one in enumerate(turns):
        for other in turns[i + 1:]:
            assert len(one & other) < 30, (
                "two held-out dialogues are nearly the same: validation would leak into the test")


def test_every_dialogue_has_the_same_shape(many: list[Dialogue]) -> None:
    cut = [d for d in many if len(d.questions) != 19]
    assert [len(d.questions) for d in cut] == [5], "only validation's last dialogue is cut, to 81"
    for dialogue in many:
        ids = [f"D{session}:{turn}" for session in range(1, 11) for turn in range(1, 7)]
        assert [turn.turn_id for turn in dialogue.turns] == ids, "ten sessions of six turns"
        assert [turn.speaker for turn in dialogue.turns] == list(dialogue.speakers) * 30, (
            "the two speakers take turns, so each has 30 memories: what an answer agent is shown")
        assert all(len(turn.facts) == 1 for turn in dialogue.turns)
        if dialogue not in cut:
            categories = Counter(q.category for q in dialogue.questions)
            assert categories == {1: 7, 2: 3, 3: 2, 4: 7}, f"{dialogue.name}: {categories}"
        texts = [q.text for q in dialogue.questions]
        assert len(set(texts)) == len(texts), f"{dialogue.name} asks something twice: {texts}"
        offered = {probe.question for probe in probes(dialogue.turns)}
        assert set(dialogue.questions) <= offered, "a question that `probes` does not know"
        people = set(dialogue.speakers) | {t.fact.subject for t in dialogue.turns if t.fact}
        pairs = [pair for pair in NAME_PAIRS if set(pair) & people]
        assert len(people) == 6 and len(pairs) == 3, (
            f"{sorted(people)}: six people, or names are too easy to tell apart")


def test_dates_ascend(many: list[Dialogue]) -> None:
    for dialogue in many:
        by_session: dict[str, set[date]] = {}
        for turn in dialogue.turns:
            found = re.fullmatch(r"([1-9][0-9]?) ([A-Z][a-z]+) (20[0-9]{2})", turn.timestamp)
            assert found, f"{turn.timestamp!r} is no date like 8 May 2023"
            day = date(int(found[3]), MONTHS.index(found[2]) + 1, int(found[1]))
            by_session.setdefault(turn.turn_id.split(":")[0], set()).add(day)
        days = [min(session) for session in by_session.values()]
        assert all(len(session) == 1 for session in by_session.values()), "one day a session"
        assert all(7 <= (b - a).days <= 35 for a, b in zip(days, days[1:])), (
            f"{dialogue.name}: sessions must be one to five weeks apart, in ascending order")


def test_no_text_can_break_a_prompt(many: list[Dialogue]) -> None:
    for dialogue in many:
        texts = [t for turn in dialogue.turns for t in (turn.text, *turn.facts, turn.timestamp)]
        texts += [t for q in dialogue.questions for t in (q.text, q.answer)]
        texts += [entry[0] for entry in oracle_memories(dialogue.turns).values()]
        for text in texts:
            assert text and text == one_line(text) and text.isascii(), f"{text!r} is no clean line"
            assert not re.search(r'[*<|>{}\[\]"]|^- |(Question|Answer|Memories|fact):', text), (
                f"{text!r} looks like a part of a prompt or response")
        assert all(len(q.answer.split()) <= 6 for q in dialogue.questions), (
            "the answer agent is told to use six words at most")


def test_the_same_world_in_every_process() -> None:
    printed = printed_by_processes("from world import probes, world; print(world(2, 5), "
                                   "world(1, 5, True), probes(world(1, 6)[0].turns))")
    assert len(printed) == 1, "the world depends on hash() or the order of a set: runs differ"
    assert printed == {f"{world(2, 5)} {world(1, 5, True)} {probes(world(1, 6)[0].turns)}\n"}, (
        "the world depends on what was drawn before: it must use a generator of its own")


def test_seeds_and_sizes() -> None:
    assert world(3, 7)[:2] == world(2, 7), "a larger world must begin with the smaller one"
    assert world(1, 7) != world(1, 8) and world(0, 7) == []
    assert world(1, 7)[0].turns != world(1, 7, held_out=True)[0].turns


# ---- the two sides -------------------------------------------------------------------------------

def pairs_said(dialogues: Iterable[Dialogue]) -> set[tuple[str, str]]:
    return {(t.fact.subject, t.fact.value) for d in dialogues for t in d.turns if t.fact}


def test_no_person_and_value_on_both_sides(many: list[Dialogue]) -> None:
    """Links and events too: whoever learns "Anna's Oslo" by heart scores nothing when held out."""
    train = pairs_said(d for d in many if d.name.startswith("train"))
    held_out = pairs_said(d for d in many if d.name.startswith("held-out"))
    assert len(train) > 1_000 and len(held_out) > 1_000, "not enough dialogues to see a leak"
    assert not train & held_out, f"on both sides: {sorted(train & held_out)[:5]}"
    unknown = {value for _, value in held_out} - {value for _, value in train}
    assert len(unknown) <= 2, (  # a rare name may be missing from these few dialogues
        f"every word must be known from training, only the pairs are new: {unknown}")


def test_held_out_values_are_a_third() -> None:
    for relation in RELATIONS.values():
        for person in ("Anna", "Hanna", "Bob"):
            chosen = held_out_values(person, relation.values)
            assert len(chosen) == len(relation.values) // 3 and chosen <= set(relation.values)
            assert chosen == held_out_values(person, relation.values[::-1]), (
                "who is held out must not depend on the order of the values")
    assert held_out_values("Anna", RELATIONS["dogs"].values) != held_out_values(
        "Hanna", RELATIONS["dogs"].values), "each person needs a third of their own"


# ---- every answer follows from the turns ---------------------------------------------------------

def test_every_answer_is_what_the_turns_say(many: list[Dialogue]) -> None:
    for dialogue in many:
        for question in {q for q in dialogue.questions} | {
                probe.question for probe in probes(dialogue.turns)}:
            got = brute_force(dialogue.turns, question.text)
            assert got == question.answer, (
                f"{dialogue.name}: {question} but reading the turns from first to last gives {got}")


def test_evidence_is_enough(many: list[Dialogue]) -> None:
    for dialogue in many:
        order = {turn.turn_id: place for place, turn in enumerate(dialogue.turns)}
        for question in dialogue.questions:
            ids = question.evidence
            assert ids and list(ids) == sorted(set(ids), key=order.__getitem__), (
                f"{dialogue.name}: evidence {ids} must be turns of the dialogue, in order")
            turns = [turn for turn in dialogue.turns if turn.turn_id in ids]
            assert brute_force(turns, question.text) == question.answer, (
                f"{dialogue.name}: the turns {ids} do not prove {question}")
            until = dialogue.turns[: order[ids[-1]] + 1]
            assert brute_force(until, question.text) == question.answer, (
                f"{dialogue.name}: {question} is not decided by the last turn of its evidence, on "
                "which the manager's training example rests")


def test_evidence_is_needed(many: list[Dialogue]) -> None:
    """Without any turn of the evidence the answer is another one or cannot be derived."""
    same_place = inferred = 0
    for dialogue in many:
        for question in dialogue.questions:
            for missing in question.evidence:
                turns = [turn for turn in dialogue.turns if turn.turn_id != missing]
                changed = brute_force(turns, question.text) != question.answer
                if question.category == 3:  # who moves from Oslo to Bergen stays in Norway
                    inferred, same_place = inferred + 1, same_place + (not changed)
                    subject, relation, _, _ = meaning(question.text)
                    before = values_now(dialogue.turns, subject, relation)
                    changed = values_now(turns, subject, relation) != before
                assert changed, f"{dialogue.name}: {question} needs no {missing}"
    assert same_place < 0.2 * inferred, (
        f"{same_place} of {inferred} moves stay in one country: those questions test no memory")


def test_probes_name_the_memories_they_need(many: list[Dialogue]) -> None:
    kinds = Counter()
    for dialogue in many:
        entries = oracle_memories(dialogue.turns)
        for probe in probes(dialogue.turns):
            kinds[probe.kind] += 1
            lines = [entries[key][0] for key in probe.needs]  # KeyError: a memory that is gone
            answer, question = probe.question.answer, probe.question
            if probe.kind == "event":
                assert entries[probe.needs[0]][2] == answer, "an event is answered by its date"
            elif probe.kind == "inference":
                subject, relation, _, inferred = meaning(question.text)
                assert inferred[lines[0].split()[-1]] == answer, f"{probe}: {lines}"
            elif answer == "nothing":
                assert len(lines) == (probe.kind == "two steps"), f"{probe}: {lines}"
            else:
                assert lines[-1].endswith(answer), f"{probe}: {lines[-1]!r} does not say so"
            assert (probe.kind == "two steps") == ("'s " in question.text
                                                   and not question.text.startswith("Who is"))
    wanted = {"list", "shortened", "two steps", "event", "inference", "changed", "told once"}
    assert set(kinds) == wanted and min(kinds.values()) > 50, f"rare kinds of questions: {kinds}"


# ---- the right memory ----------------------------------------------------------------------------

def test_the_oracles_memory_is_what_holds(many: list[Dialogue]) -> None:
    for dialogue in many:
        for n_turns in (0, 1, 17, 40, 60):
            turns = dialogue.turns[:n_turns]
            got = oracle_memories(turns)
            wanted = brute_force_memories(turns)
            assert {key: (text, day) for key, (text, _, day) in got.items()} == wanted, (
                f"{dialogue.name} after {n_turns} turns")
            for (subject, _), (text, speaker, _) in got.items():
                assert text.startswith(subject) and speaker in dialogue.speakers
    people = {(turn.fact.subject, turn.speaker) for turn in many[0].turns if turn.fact}
    assert len(people) == 6, "each person is spoken of by one speaker, who owns the memories"


def test_advance_by_hand() -> None:
    def turn(relation: str, value: str, change: str) -> Turn:
        return Turn("D1:1", "Anna", "x", "8 May 2023", ("x",),
                    world_module.Fact("Anna", relation, value, change))

    state: dict = {}
    for relation, value, change, wanted in [
            ("lives", "Oslo", "add", (None, "Anna lives in Oslo")),
            ("lives", "Rome", "replace", ("Anna lives in Oslo", "Anna lives in Rome")),
            ("dogs", "Rex", "add", (None, "Anna has a dog named Rex")),
            ("dogs", "Milo", "add",
             ("Anna has a dog named Rex", "Anna has dogs named Rex and Milo")),
            ("cats", "Rex", "add", (None, "Anna has a cat named Rex")),
            ("likes", "soup", "add", (None, "Anna likes soup")),
            ("likes", "pizza", "add", ("Anna likes soup", "Anna likes both soup and pizza")),
            ("likes", "soup", "end", ("Anna likes both soup and pizza", "Anna likes pizza")),
            ("likes", "pizza", "end", ("Anna likes pizza", None)),
            ("likes", "tacos", "add", (None, "Anna likes tacos")),
            ("event", "graduated", "event", (None, "Anna graduated")),
            ("boss", "Paul", "add", (None, "Anna has a boss named Paul"))]:
        got = advance(state, turn(relation, value, change))
        assert got == wanted, f"{relation} {value} {change}: {got}"
    assert advance(state, Turn("D1:1", "Anna", "Hi!", "8 May 2023")) == (None, None), "small talk"
    first, second = turn("dogs", "Rex", "add"), turn("dogs", "Milo", "add")
    assert second_pet([first], second) == "Anna has dogs named Rex and Milo"
    assert second_pet([], first) == "" and second_pet([first], turn("cats", "Bo", "add")) == "", (
        "a first dog, or a first cat beside a dog, joins nothing")
    assert second_pet([turn("likes", "soup", "add")], turn("likes", "pie", "add")) == "", (
        "second pets only")


def test_the_manager_can_see_what_it_must_change(many: list[Dialogue]) -> None:
    """The old memory is among the five that the search for the new turn finds."""
    found = total = 0
    worst = []
    for dialogue in many:
        bank, ids, state = MemoryBank(hashed_words()), {}, {}
        for turn in dialogue.turns:
            old, new = advance(state, turn)
            key = turn.fact and world_module.memory_key(turn.fact)
            if old is not None:
                shown = bank.search(f"{turn.speaker}: {turn.text}", 5, turn.speaker)
                total += 1
                found += ids[key] in [memory.id for memory in shown]
                if ids[key] not in [memory.id for memory in shown]:
                    worst.append((turn.text, old))
            if old is not None and new is not None:
                bank.update(ids[key], new, turn.timestamp)
            elif new is not None:
                ids[key] = bank.add(new, turn.speaker, turn.timestamp).id
            elif old is not None:
                bank.delete(ids.pop(key))
    assert total > 1_000 and found >= 0.99 * total, (
        f"{found} of {total}; missed {worst[:5]}; what is said and kept must share a word's stem")


def test_the_turn_alone_tells_its_meaning(many: list[Dialogue]) -> None:
    """Subject and value are said, or nobody could note them; values are what the form allows."""
    for dialogue in many:
        for turn in dialogue.turns:
            fact = turn.fact
            if fact is None:
                assert turn.facts[0].startswith(turn.speaker), "small talk is about the speaker"
                continue
            own = fact.subject == turn.speaker
            assert fact.value in turn.text and fact.value in turn.facts[0], f"{turn}"
            assert turn.facts[0].startswith(f"{fact.subject} "), f"{turn}: whose fact is it?"
            assert (fact.subject in turn.text.split()) != own, (
                f"{turn}: about oneself one says I, about others their name")
            known = EVENTS if fact.relation == "event" else RELATIONS[fact.relation].values
            assert fact.value in known and (fact.relation in LINKS) <= own
            assert isinstance(Memory(0, turn.facts[0], turn.speaker, turn.timestamp), Memory)


# ---- kinds of worlds -----------------------------------------------------------------------------

def test_a_part_of_the_world_never_speaks_of_the_rest_in_training():
    train, _, test = world_splits("world-part")
    left_out = {name for pair in NAME_PAIRS[KINDS["world-part"].n_pairs:] for name in pair}
    people = {fact for d in train for t in d.turns if t.fact for fact in (t.fact.subject,)}
    linked = {t.fact.value for d in train for t in d.turns if t.fact}
    assert not left_out & (people | linked | {s for d in train for s in d.speakers}), (
        "a name that carrying over is tested with was trained on")
    relations = {t.fact.relation for d in train for t in d.turns if t.fact}
    assert not relations & set(NEVER_TOLD) and len(relations) > 5
    assert not any(never_told(q.text) for d in train for q in d.questions)
    assert sum(len(d.questions) for d in train) == 152
    assert test == world_splits()[2], "it is tested on the whole world"


def test_what_was_never_told_is_recognised_by_its_question(splits):
    asked = [(probe, kinds) for dialogue in splits[2] for probe in probes(dialogue.turns)
             for kinds in [never_told(probe.question.text)]]
    for probe, kinds in asked:
        assert ("relation" in kinds) == (probe.about[1] in NEVER_TOLD), probe.question.text
    assert {"name"} in [kinds for _, kinds in asked]
    assert never_told("What does Julian play?") == {"relation"}, "Julian's pair is trained on"


def test_long_dialogues_are_twice_as_long_and_as_recent(splits):
    test = world_splits("world-long")[2]
    assert {len(d.turns) for d in test} == {120} and {len(d.questions) for d in test} == {19}
    assert world_splits("world-long")[0] == splits[0], "they are for testing, not for training"

    years = {day[-4:] for seed in range(300)
             for day in world_module.dates(random.Random(seed), KINDS["world-long"].sessions)}
    assert years <= {"2022", "2023", "2024"}, "a year that no dialogue of usual length ever reaches"
    memories = [len(oracle_memories(d.turns)) for d in test]
    assert min(memories) > max(len(oracle_memories(d.turns)) for d in splits[2]), (
        "more turns, but no more to remember")
