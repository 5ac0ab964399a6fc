"""Tests of data.py: small made-up files, ways to break them, the real LoCoMo, a download.

    python -m pytest tests/test_data.py        (a few seconds)

The real file is looked for at $MEMORY_R1_LOCOMO, beside the repository, and in the cache; without
it those tests are skipped. The download is tested against a server on this machine.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import http.server
import json
import os
import random
import socket
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data  # noqa: E402


def small_file() -> list:
    """Three short conversations in LoCoMo's format, holding every oddity of the real file once."""
    def turn(turn_id: str, speaker: str, text: str, **more: object) -> dict:
        return {"dia_id": turn_id, "speaker": speaker, "text": text, **more}

    conversations = []
    for letter in "abc":
        conversations.append({
            "sample_id": f"conv-{letter}",
            "conversation": {
                "speaker_a": "Ann", "speaker_b": "Bob",
                # written out of order, and with a date for a session that does not exist
                "session_10": [turn("D10:1", "Bob", "Rex is here too.")],
                "session_10_date_time": "9 May, 2023",
                "session_11_date_time": "10 May, 2023",
                "session_9": [turn("D9:1", "Ann", "I got a dog."),
                              turn("D9:2", "Bob", "Nice!", blip_caption="a brown dog",
                                   img_url=["x"])],
                "session_9_date_time": "8 May, 2023",
            },
            "observation": {
                "session_9_observation": {"Ann": [["Ann has a dog.", "D9:1"]],
                                          "Bob": [["Bob owns a brown dog.", ["D9:2", "D9:1"]]]},
                "session_10_observation": {"Bob": [["Bob's dog is Rex.", "D9:2, D10:01"],
                                                   ["Bob is lost.", "D"]]},
            },
            "qa": [
                {"question": "Whose dog?", "answer": "Ann's", "category": 4, "evidence": ["D9:1"]},
                {"question": "Which year?", "answer": 2023, "category": 2,
                 "evidence": ["D9:1; D10:1", "D:9:2", "D10:01", "D", "D4:7"]},
                {"question": "Why?", "answer": "love", "category": 3, "evidence": []},
                {"question": "Both?", "answer": "yes", "category": 1, "evidence": ["D9:1 D9:2"]},
                {"question": "Whose cat?", "adversarial_answer": "Ann's", "category": 5,
                 "evidence": ["D9:1"]},
                {"question": "Whose cow?", "category": 5, "evidence": ["D9:2"]},
            ],
        })
    return conversations


def small_hotpot() -> list:
    """Three questions in HotpotQA's format, as published: sentences begin with their space."""
    cats = ["Cats", ["Cats purr.", " They nap."]]
    dogs = ["Dogs", ["Dogs bark.", " Some\u2028nap."]]
    return [
        {"_id": "5a8b", "question": "Do cats nap?", "answer": "yes", "type": "bridge",
         "level": "easy", "supporting_facts": [["Cats", 1], ["Dogs", 0], ["Cats", 0]],
         "context": [dogs, ["Cows", ["Cows }\n{ moo."]], cats]},
        # a paragraph twice, two of one title, two that are blank, a fact whose paragraph is missing
        {"_id": "5a8c", "question": "How many?", "answer": 2, "type": "comparison", "level": "hard",
         "supporting_facts": [["Hens", 0], ["Dogs", 7]],
         "context": [cats, dogs, cats, ["Dogs", ["Old dogs", "nap more."]], ["Pigs", [" ", ""]],
                     [" ", ["Nobody knows."]]]},
        {"_id": "5a8d", "question": "Who moos?", "answer": "Cows", "type": "bridge",
         "level": "medium", "supporting_facts": [["Cows", 0]],
         "context": [["Cows", ["Cows }\n{ moo."]], ["Ants", []]]},
    ]


def as_hub(questions: list) -> list:
    """The same questions as the Hugging Face hub's copy holds them."""
    def columns(pairs: list, second: str) -> dict:
        return {"title": [pair[0] for pair in pairs], second: [pair[1] for pair in pairs]}

    return [{"id": question["_id"], "question": question["question"], "answer": question["answer"],
             "supporting_facts": columns(question["supporting_facts"], "sent_id"),
             "context": columns(question["context"], "sentences")} for question in questions]


def write(folder: Path, content: object) -> Path:
    path = folder / "small.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# ---- loading what is right -----------------------------------------------------------------------


def test_a_small_file_is_read_whole(tmp_path):
    dialogues = data.load_locomo(write(tmp_path, small_file()))
    assert [dialogue.name for dialogue in dialogues] == ["conv-a", "conv-b", "conv-c"]
    first = dialogues[0]
    assert first.speakers == ("Ann", "Bob")
    assert [turn.turn_id for turn in first.turns] == ["D9:1", "D9:2", "D10:1"], (
        "sessions go by number (as text 10 sorts before 9), and a date alone makes no session")
    assert [turn.timestamp for turn in first.turns] == ["8 May, 2023", "8 May, 2023", "9 May, 2023"]
    assert first.turns[1].text == "Nice! [shares an image: a brown dog]", "captions are kept"
    assert [turn.facts for turn in first.turns] == [
        ("Ann has a dog.",), ("Bob owns a brown dog.",), ("Bob's dog is Rex.",)], (
        "an observation goes to the last turn it names (the last said, not the last written), and "
        "one that names no turn goes nowhere")
    assert all(turn.fact is None for turn in first.turns), "only the synthetic world has Facts"
    assert [question.category for question in first.questions] == [4, 2, 3, 1]
    assert first.questions[1].answer == "2023", "whole-number answers become text"
    assert [question.evidence for question in first.questions] == [
        ("D9:1",), ("D9:1", "D10:1", "D9:2"), (), ("D9:1", "D9:2")], (
        "mend lists in one string, stray colons and zeros; drop repetitions and what never was")
    assert [(question.text, question.answer) for question in first.adversarial] == [
        ("Whose cat?", "Ann's"), ("Whose cow?", "")], "category 5 is kept apart"


def test_extra_fields_a_byte_order_mark_and_no_observations_are_fine(tmp_path):
    conversations = small_file()
    del conversations[1]["observation"]
    conversations[2]["event_summary"] = {"anything": [None]}
    path = write(tmp_path, "\ufeff" + json.dumps(conversations))
    dialogues = data.load_locomo(str(path))
    assert all(turn.facts == () for turn in dialogues[1].turns)
    assert dialogues[0].turns == dialogues[2].turns


@pytest.mark.parametrize("written, expected", [
    ("D1:2", ("D1:2",)), ("D1:2; D3:4", ("D1:2", "D3:4")), ("D3:4 D1:2", ("D3:4", "D1:2")),
    ("D3:4,D1:2", ("D3:4", "D1:2")), ("D:1:2", ("D1:2",)), ("D01:002", ("D1:2",)),
    ("D1:20", ("D1:20",)), ("D1:0", ("D1:0",)), ("D", ()), ("", ()), ("D1", ()), ("D9:9", ()),
    ("D1:" + "9" * 6000, ()),
])
def test_find_turn_ids(written, expected):
    known = {"D1:2", "D3:4", "D1:20", "D1:0"}
    assert data.find_turn_ids(written, known) == expected, "only ids of real turns, in order"


def test_hotpotqa_is_read_whole(tmp_path):
    questions = data.load_hotpotqa(write(tmp_path, small_hotpot()))
    cats, dogs, cows = ("Cats", "Cats purr. They nap."), ("Dogs", "Dogs bark. Some nap."), (
        "Cows", "Cows } { moo.")
    assert questions == [
        data.OpenQuestion("5a8b", "Do cats nap?", "yes", (dogs, cows, cats), ("Cats", "Dogs")),
        data.OpenQuestion("5a8c", "How many?", "2", (cats, dogs, ("Dogs", "Old dogs nap more.")),
                          ("Dogs",)),
        data.OpenQuestion("5a8d", "Who moos?", "Cows", (cows,), ("Cows",))], (
        "file order; sentences on one line with one space between; nothing blank, nothing twice")
    united = dict.fromkeys(pair for question in questions for pair in question.passages)
    assert list(united) == [dogs, cows, cats, ("Dogs", "Old dogs nap more.")], (
        "equal paragraphs of several questions must be equal, so that they unite")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_hotpotqa_from_the_hub_is_the_same(tmp_path, count):
    published = small_hotpot()[:count]
    expected = data.load_hotpotqa(write(tmp_path, "\ufeff" + json.dumps(published, indent=1)))
    for ascii_only in (True, False):  # False: U+2028 is written as it is, and ends no line
        lines = [json.dumps(record, ensure_ascii=ascii_only) for record in as_hub(published)]
        for content in ["\n".join(lines), "\n".join(lines) + "\n", "\r\n".join(lines),
                        json.dumps(as_hub(published))]:
            assert data.load_hotpotqa(write(tmp_path, content)) == expected, content


def test_split(tmp_path):
    dialogues = data.load_locomo(write(tmp_path, small_file()))
    train, validation, test = data.split_locomo(dialogues)
    assert (train, validation, test) == ([dialogues[0]], [dialogues[1]], [dialogues[2]])
    for count in range(3):
        with pytest.raises(data.DataError, match=f"found {count} conversations.*at least 3"):
            data.split_locomo(dialogues[:count])


# ---- refusing what is wrong ----------------------------------------------------------------------


def set_at(place: list, value: object):
    """A change of the small file: put `value` at the end of the path `place`."""
    def change(conversations: list) -> None:
        target = conversations
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = value
    return change


def remove_at(place: list):
    def change(conversations: list) -> None:
        target = conversations
        for key in place[:-1]:
            target = target[key]
        del target[place[-1]]
    return change


TURN = [1, "conversation", "session_9", 1]


@pytest.mark.parametrize("change, pieces", [
    (set_at([1], 7), ["element 1: found 7, expected an object"]),
    (remove_at([1, "sample_id"]), ["element 1, field 'sample_id': found nothing, expected text"]),
    (set_at([1, "sample_id"], "conv-a"), ["element 1, field 'sample_id'", "no earlier element"]),
    (remove_at([1, "conversation"]), ["(conv-b), field 'conversation': found nothing"]),
    (set_at([1, "conversation"], []), ["(conv-b), field 'conversation': found []", "an object"]),
    (remove_at([1, "conversation", "speaker_a"]), ["(conv-b), field 'speaker_a': found nothing"]),
    (set_at([1, "conversation", "speaker_b"], "Ann"), ["field 'speaker_b'", "another name"]),
    (set_at([1, "conversation"], {"speaker_a": "Ann", "speaker_b": "Bob"}), ["no turn in any"]),
    (set_at([1, "conversation", "session_9"], {"a": 1}), ["'session_9': found {'a': 1}, expected"]),
    (set_at([1, "conversation", "session_9"], None), ["'session_9': found None, expected a list"]),
    (remove_at([1, "conversation", "session_9_date_time"]), ["'session_9_date_time': found"]),
    (set_at(TURN, "hello"), ["session_9[1]: found 'hello', expected an object"]),
    (remove_at([*TURN, "speaker"]), ["session_9[1], field 'speaker': found nothing"]),
    (remove_at([*TURN, "text"]), ["session_9[1], field 'text': found nothing"]),
    (remove_at([*TURN, "dia_id"]), ["session_9[1], field 'dia_id': found nothing"]),
    (set_at([*TURN, "text"], " "), ["session_9[1], field 'text': found blank text"]),
    (set_at([*TURN, "text"], "\ud83d"), ["session_9[1], field 'text'", "surrogate"]),
    (set_at([*TURN, "speaker"], "Eve"), ["field 'speaker': found 'Eve', expected 'Ann' or 'Bob'"]),
    (set_at([*TURN, "dia_id"], "D9:1"), ["field 'dia_id': found 'D9:1'", "no other turn"]),
    (set_at([*TURN, "dia_id"], "D8:2"), ["field 'dia_id': found 'D8:2'", "like 'D9:7'"]),
    (set_at([*TURN, "dia_id"], "D9:02"), ["field 'dia_id': found 'D9:02'"]),
    (set_at([*TURN, "blip_caption"], 3), ["field 'blip_caption': found 3, expected text"]),
    (set_at([1, "observation"], []), ["(conv-b), field 'observation': found []"]),
    (set_at([1, "observation", "session_9_observation"], 0), ["observation 'session_9_observ"]),
    (set_at([1, "observation", "session_9_observation", "Ann"], 0), ["'Ann': found 0", "a list"]),
    (set_at([1, "observation", "session_9_observation", "Ann", 0], ["x"]), ["'Ann'[0]: found 1"]),
    (set_at([1, "observation", "session_9_observation", "Ann", 0, 1], {}), ["'Ann'[0]: found {}"]),
    (set_at([1, "observation", "session_9_observation", "Ann", 0, 0], 1), ["'Ann'[0]: found 1"]),
    (remove_at([1, "qa"]), ["(conv-b), field 'qa': found nothing, expected a list"]),
    (set_at([1, "qa", 0], None), ["qa[0]: found None, expected an object"]),
    (remove_at([1, "qa", 0, "question"]), ["qa[0], field 'question': found nothing"]),
    (remove_at([1, "qa", 3, "answer"]), ["qa[3], field 'answer': found nothing, expected text"]),
    (set_at([1, "qa", 3, "answer"], True), ["field 'answer': found True", "text or a whole"]),
    (set_at([1, "qa", 3, "answer"], ""), ["qa[3], field 'answer': found blank text"]),
    (set_at([1, "qa", 4, "adversarial_answer"], []), ["qa[4], field 'adversarial_answer': found"]),
    (remove_at([1, "qa", 0, "category"]), ["qa[0], field 'category': found nothing"]),
    (set_at([1, "qa", 0, "category"], 6), ["field 'category': found 6, expected a whole number"]),
    (set_at([1, "qa", 0, "category"], 0), ["qa[0], field 'category': found 0"]),
    (set_at([1, "qa", 0, "category"], True), ["qa[0], field 'category': found True"]),
    (set_at([1, "qa", 0, "category"], "4"), ["qa[0], field 'category': found '4'"]),
    (set_at([1, "qa", 0, "evidence"], "D9:1"), ["qa[0], field 'evidence': found 'D9:1'", "a list"]),
    (set_at([1, "qa", 0, "evidence"], [1]), ["qa[0], field 'evidence': found 1, expected text"]),
])
def test_a_broken_place_is_named(tmp_path, change, pieces):
    conversations = small_file()
    change(conversations)
    path = write(tmp_path, conversations)
    with pytest.raises(data.DataError) as caught:
        data.load_locomo(path)
    message = str(caught.value)
    for piece in [f"{path}: element 1", *pieces, "data.fetch_locomo()"]:
        assert piece in message, f"the message must hold {piece!r} (path, place, found, remedy)"
    assert "\n" not in message and len(message) < 500, f"not one short line: {message!r}"


CONTEXT, FACTS = [1, "context"], [1, "supporting_facts"]


def read_hotpot_error(path: Path) -> str:
    """What load_hotpotqa says of this path, after checking what all its refusals must have."""
    with pytest.raises(data.DataError) as caught:
        data.load_hotpotqa(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.endswith(
        f"use the original file, {data.HOTPOTQA_URL}"), f"path first, remedy last: {message}"
    assert "locomo" not in message.removeprefix(str(path)), "the remedy of another file"
    assert "\n" not in message and len(message) < 500, f"not one short line: {message!r}"
    return message


@pytest.mark.parametrize("change, piece", [
    (set_at([1], 7), "element 1: found 7, expected an object; correct this place, or use"),
    (remove_at([1, "_id"]), "element 1, field '_id': found nothing, expected text"),
    (set_at([1, "_id"], 5), "element 1, field '_id': found 5, expected text"),
    (set_at([1, "_id"], "5a8b"), "element 1, field '_id': found '5a8b', expected a name that no"),
    (remove_at([1, "question"]), "element 1 (5a8c), field 'question': found nothing, expected"),
    (set_at([1, "question"], " "), "(5a8c), field 'question': found blank text"),
    (remove_at([1, "answer"]), "element 1 (5a8c), field 'answer': found nothing, expected text"),
    (set_at([1, "answer"], None), "field 'answer': found None, expected text or a whole number"),
    (set_at([1, "answer"], ""), "(5a8c), field 'answer': found blank text"),
    (set_at([1, "answer"], True), "(5a8c), field 'answer': found True"),
    (remove_at(CONTEXT), "element 1 (5a8c), field 'context': found nothing, expected a list"),
    (set_at(CONTEXT, "x"), "(5a8c), field 'context': found 'x', expected a list or an object"),
    (set_at(CONTEXT, []), "field 'context': found no passage, expected a title and sentences"),
    (set_at(CONTEXT, [["Cats", [" "]], ["", ["x"]]]), "(5a8c), field 'context': found no passage"),
    (set_at([*CONTEXT, 3], "Cats"), "(5a8c), context[3]: found 'Cats', expected a list"),
    (set_at([*CONTEXT, 3], ["Cats"]), "context[3]: found 1 items, expected a title and sentences"),
    (set_at([*CONTEXT, 3, 0], 4), "(5a8c), context[3]: found 4, expected text"),
    (set_at([*CONTEXT, 3, 1], "Cats nap."), "context[3]: found 'Cats nap.', expected a list"),
    (set_at([*CONTEXT, 3, 1, 1], None), "(5a8c), context[3]: found None, expected text"),
    (set_at([*CONTEXT, 3, 1, 1], "\ud83d"), "(5a8c), context[3]: found half of a surrogate pair"),
    (set_at([*CONTEXT, 3, 0], "\ud83d"), "(5a8c), context[3]: found half of a surrogate pair"),
    (remove_at(FACTS), "element 1 (5a8c), field 'supporting_facts': found nothing, expected a"),
    (set_at([*FACTS, 1], ["Cats", 1, 2]), "supporting_facts[1]: found 3 items, expected a title"),
    (set_at([*FACTS, 1, 0], []), "(5a8c), supporting_facts[1]: found [], expected text"),
    (set_at([*FACTS, 1, 1], "0"), "supporting_facts[1]: found '0', expected a whole number"),
])
def test_a_broken_place_in_hotpotqa_is_named(tmp_path, change, piece):
    questions = small_hotpot()
    change(questions)
    message = read_hotpot_error(write(tmp_path, questions))
    assert "element 1" in message and piece in message


@pytest.mark.parametrize("change, piece", [
    (set_at([1, "id"], "5a8b"), "element 1, field 'id': found '5a8b', expected a name that no"),
    (set_at([1, "id"], None), "element 1, field 'id': found None, expected text"),
    (remove_at([*CONTEXT, "title"]), "(5a8c), context, field 'title': found nothing"),
    (set_at([*CONTEXT, "sentences"], 1), "(5a8c), context, field 'sentences': found 1, expected a"),
    (remove_at([*CONTEXT, "title", 5]), "(5a8c), context[5]: found None, expected text"),
    (remove_at([*CONTEXT, "sentences", 5]), "(5a8c), context[5]: found None, expected a list"),
    (set_at(CONTEXT, {"title": [], "sentences": []}), "field 'context': found no passage"),
    (remove_at([*FACTS, "sent_id", 1]), "supporting_facts[1]: found None, expected a whole number"),
    (remove_at([*FACTS, "sent_id"]), "(5a8c), supporting_facts, field 'sent_id': found nothing"),
])
def test_a_broken_place_in_the_hubs_hotpotqa_is_named(tmp_path, change, piece):
    questions = as_hub(small_hotpot())
    change(questions)
    message = read_hotpot_error(write(tmp_path, "\n".join(map(json.dumps, questions))))
    assert "element 1" in message and piece in message


@pytest.mark.parametrize("content, piece", [
    ("", "is not a JSON file"), ("[{]", "is not a JSON file"), ("{", "is not a JSON file"),
    ("null", "top level: found None, expected a list"),
    ("[]", "top level: found an empty list, expected a list of objects"),
    ('{\n "data": []\n}', "element 0, field '_id': found nothing"),
    ('{"id": "a"}\n{"id": }\n', "is not a JSON file (Expecting value: line 2 column 8"),
])
def test_a_file_that_is_no_list_of_questions_is_refused(tmp_path, content, piece):
    assert piece in read_hotpot_error(write(tmp_path, content))


def test_an_unreadable_hotpotqa_is_refused(tmp_path):
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    for name, piece in [("absent.json", "cannot be read (No such file or directory); check the pa"),
                        (".", "cannot be read (Is a directory); check the path, or use the"),
                        ("latin.json", "is not a JSON file ('utf-8' codec can't decode")]:
        assert piece in read_hotpot_error(tmp_path / name)


def test_a_name_of_two_lines_does_not_break_the_message(tmp_path):
    conversations = small_file()
    conversations[1]["sample_id"] = "conv\nb"
    del conversations[1]["qa"]
    with pytest.raises(data.DataError) as caught:
        data.load_locomo(write(tmp_path, conversations))
    assert r"element 1 (conv\nb), field 'qa'" in str(caught.value), "escape names from the file"


@pytest.mark.parametrize("content, piece", [
    ("", "is not a JSON file"), ("[{]", "is not a JSON file"),
    ("[" * 100_000, "is not a JSON file"),
    ("[1" + "0" * 5000 + "]", "is not a JSON file"), ("{}", "top level: found {}, expected a list"),
    ("null", "top level: found None"), ("[]", "top level: found an empty list"),
])
def test_a_file_that_is_no_list_of_conversations_is_refused(tmp_path, content, piece):
    path = write(tmp_path, content)
    with pytest.raises(data.DataError) as caught:
        data.load_locomo(path)
    assert str(caught.value).startswith(f"{path}: ") and piece in str(caught.value)


def test_an_unreadable_path_is_refused(tmp_path):
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    for name, piece in [("absent.json", "No such file"), (".", "cannot be read"),
                        ("latin.json", "is not a JSON file")]:
        with pytest.raises(data.DataError, match=piece) as caught:
            data.load_locomo(tmp_path / name)
        assert "data.fetch_locomo()" in str(caught.value), "the message must say what to do"


def all_places(value: object, place: tuple = ()) -> list[tuple]:
    """The paths of all values inside `value`."""
    items = (value.items() if isinstance(value, dict)
             else enumerate(value) if isinstance(value, list) else ())
    return [found for key, inner in items
            for found in [(*place, key), *all_places(inner, (*place, key))]]


def check_loaded(dialogues: list[data.Dialogue]) -> None:
    """What every later module relies on."""
    for dialogue in dialogues:
        ids = [turn.turn_id for turn in dialogue.turns]
        assert ids and len(set(ids)) == len(ids)
        for turn in dialogue.turns:
            assert turn.speaker in dialogue.speakers and turn.text.strip() and turn.timestamp
            assert all(type(fact) is str for fact in turn.facts)
        for question in dialogue.questions + dialogue.adversarial:
            assert type(question.answer) is str and type(question.text) is str
            assert set(question.evidence) <= set(ids), "evidence must name turns that exist"
        assert all(question.category in data.CATEGORIES for question in dialogue.questions)
        assert all(question.category == data.ADVERSARIAL for question in dialogue.adversarial)
        hash(dialogue)  # tuples all the way down: nothing can be changed by accident


def check_questions(questions: list[data.OpenQuestion]) -> None:
    """What MEM1 relies on."""
    ids = [question.question_id for question in questions]
    assert ids and len(set(ids)) == len(ids)
    for question in questions:
        assert question.text.strip() and type(question.answer) is str and question.answer.strip()
        assert question.passages and len(set(question.passages)) == len(question.passages)
        for title, text in question.passages:
            assert title.strip() and text and text == " ".join(text.split()), "text of one line"
        assert set(question.evidence) <= {title for title, _ in question.passages}
        assert len(set(question.evidence)) == len(question.evidence)
        hash(question)


JUNK = [None, True, 0, -1, 2, 1.5, float("nan"), "", " ", "x\ny", "D9:1", "\ud800", "y" * 9000, [],
        [[]], {}, {"x": None}, [None] * 50, [["a", "D9:1"]], {"session_1": 3}, 10**30]


@pytest.mark.parametrize("count, content, load, check, remedy", [
    (4000, small_file(), data.load_locomo, check_loaded, "data.fetch_locomo()"),
    (2000, small_hotpot(), data.load_hotpotqa, check_questions, data.HOTPOTQA_URL),
    (2000, as_hub(small_hotpot()), data.load_hotpotqa, check_questions, data.HOTPOTQA_URL),
], ids=["locomo", "hotpotqa", "hub"])
def test_thousands_of_random_changes_load_or_raise_data_error(tmp_path, count, content, load, check,
                                                              remedy):
    generator = random.Random(0)
    original = json.dumps(content)
    places = all_places(json.loads(original))
    outcomes: Counter[bool] = Counter()
    for _ in range(count):
        records = json.loads(original)
        place = generator.choice(places)
        target = records
        for key in place[:-1]:
            target = target[key]
        kind = generator.choice(["replace", "replace", "remove", "repeat", "rename", "exchange"])
        if kind == "replace":
            target[place[-1]] = copy.deepcopy(generator.choice(JUNK))
        elif kind == "remove":
            del target[place[-1]]
        elif kind == "repeat" and isinstance(target, list):
            target.insert(generator.randrange(len(target) + 1), copy.deepcopy(target[place[-1]]))
        elif kind == "rename" and isinstance(target, dict):
            target[generator.choice(["session_1", "session_x", "a\nb", ""])] = target.pop(place[-1])
        else:
            target[place[-1]] = copy.deepcopy(generator.choice(list(
                target.values() if isinstance(target, dict) else target)))
        path = write(tmp_path, records)
        try:
            check(load(path))
            outcomes[True] += 1
        except data.DataError as error:  # anything else, a bare KeyError say, fails the test
            message = str(error)
            outcomes[False] += 1
            assert message.startswith(f"{path}: ") and remedy in message
            assert "\n" not in message and len(message) < 800, f"not one short line: {message!r}"
            message.encode()  # a message with half a surrogate pair could not even be printed
            if len(place) > 1:
                assert f"element {place[0]}" in message, f"{place} was broken, not: {message}"
    assert min(outcomes.values()) > count / 10, f"the changes are too tame or too wild: {outcomes}"


def test_thousands_of_damaged_texts_load_or_raise_data_error(tmp_path):
    generator = random.Random(1)
    original = json.dumps(small_file()).encode()
    path = tmp_path / "small.json"
    for _ in range(3000):
        content = bytearray(original)
        for _ in range(generator.randrange(1, 4)):
            damage = generator.choice(b'"{}[],:019 \\\xff\n\x00eD')
            content[generator.randrange(len(content))] = damage
        if generator.random() < 0.2:
            content = content[: generator.randrange(len(content))]
        path.write_bytes(content)
        try:
            check_loaded(data.load_locomo(path))
        except data.DataError as error:
            assert "\n" not in str(error) and str(error).startswith(f"{path}: ")


# ---- the real file -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_path() -> Path:
    """LoCoMo, wherever it is on this machine."""
    cache = Path(os.environ.get("MEMORY_R1_CACHE") or "~/.cache/memory-r1").expanduser()
    for path in [Path(os.environ.get("MEMORY_R1_LOCOMO") or "absent"),
                 Path(__file__).resolve().parents[2] / "shared" / "data" / "locomo10.json",
                 cache / "locomo10.json"]:
        if path.is_file():
            return path
    pytest.skip("LoCoMo is not on this machine: python -c 'import data; data.fetch_locomo()'")


def test_real_counts(real_path):
    dialogues = data.load_locomo(real_path)
    check_loaded(dialogues)
    expected = [{1: 32, 2: 37, 3: 13, 4: 70}, {1: 11, 2: 26, 4: 44},
                {1: 239, 2: 258, 3: 83, 4: 727}]
    for part, counts in zip(data.split_locomo(dialogues), expected):
        questions = [question for dialogue in part for question in dialogue.questions]
        assert Counter(question.category for question in questions) == counts, (
            "the split is by conversation in file order: first, second, the other eight")
    assert [len(dialogue.turns) for dialogue in dialogues] == [
        419, 369, 663, 629, 680, 675, 689, 681, 509, 568]
    assert [len(dialogue.adversarial) for dialogue in dialogues] == [
        47, 24, 41, 61, 64, 35, 40, 48, 40, 46]
    sessions = [len({turn.turn_id.split(":")[0] for turn in dialogue.turns})
                for dialogue in dialogues]
    assert sessions == [19, 19, 32, 29, 29, 28, 31, 30, 25, 30]
    facts = [fact for dialogue in dialogues for turn in dialogue.turns for fact in turn.facts]
    assert len(facts) == 2541, "every observation must reach a turn"


def test_real_turns_are_in_the_order_they_were_said(real_path):
    for dialogue in data.load_locomo(real_path):
        order = [tuple(int(number) for number in turn.turn_id[1:].split(":"))
                 for turn in dialogue.turns]
        assert order == sorted(order), f"{dialogue.name}: session_10 must come after session_9"


def test_real_evidence(real_path):
    """Recounts from the raw file what load_locomo's docstring claims."""
    raw = json.loads(real_path.read_text(encoding="utf-8"))
    repaired, dropped, without, joined = [], [], 0, 0
    for record, dialogue in zip(raw, data.load_locomo(real_path)):
        known = {turn.turn_id for turn in dialogue.turns}
        asked = [question for question in record["qa"] if question["category"] != data.ADVERSARIAL]
        for before, after in zip(asked, dialogue.questions, strict=True):
            for written in before["evidence"]:
                if written not in known:
                    ids = data.find_turn_ids(written, known)
                    assert set(ids) <= set(after.evidence)
                    (repaired if ids else dropped).append((dialogue.name, written, len(ids)))
            without += not after.evidence
            assert bool(after.evidence) == bool(before["evidence"]), "a question lost all evidence"
        joined += sum(pair[1] not in known if isinstance(pair[1], str) else True
                      for session in record["observation"].values()
                      for pairs in session.values() for pair in pairs)
    assert [(name, count) for name, _, count in repaired] == [
        ("conv-26", 2), ("conv-43", 1), ("conv-49", 3), ("conv-49", 4), ("conv-49", 4),
        ("conv-50", 1)]
    assert [(name, written) for name, written, _ in dropped] == [
        ("conv-42", "D10:19"), ("conv-42", "D"), ("conv-47", "D4:36")]
    assert (without, joined) == (4, 15)


# ---- fetching ------------------------------------------------------------------------------------

CONTENT = b"[" + b" " * 300_000 + b"]"  # stands for LoCoMo; several blocks long


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT and its damaged kin; the path says which."""

    def do_GET(self) -> None:  # noqa: N802  (the library's name)
        self.server.requests.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        body = {"/good": CONTENT, "/short": CONTENT[:-9], "/cut": CONTENT[:150_000],
                "/wrong": b"{" + CONTENT[1:], "/endless": CONTENT * 200}[self.path]
        if self.path == "/cut":  # promises the whole, then hangs up
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client hangs up on /endless
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "LOCOMO_BYTES", len(CONTENT))
    monkeypatch.setattr(data, "LOCOMO_SHA256", hashlib.sha256(CONTENT).hexdigest())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.requests = []
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_good_download_is_cached_and_used_again(server, tmp_path):
    folder = tmp_path / "new" / "cache"
    path = data.fetch_locomo(folder, f"{server.url}/good")
    assert path == folder / "locomo10.json" and path.read_bytes() == CONTENT
    assert [file.name for file in folder.iterdir()] == ["locomo10.json"], "a partial file is left"
    assert data.fetch_locomo(folder, f"{server.url}/good") == path
    assert server.requests == ["/good"], "a file already there must not be downloaded again"


@pytest.mark.parametrize("kind", ["short", "cut", "wrong", "missing", "endless", "down", "no url"])
def test_a_bad_download_is_refused_and_leaves_nothing(server, tmp_path, kind):
    url = f"{server.url}/{kind}"
    if kind == "down":
        with socket.create_server(("127.0.0.1", 0)) as unused:  # a port that nobody listens on
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/good"
    elif kind == "no url":
        url = "locomo10.json"
    with pytest.raises(data.DataError) as caught:
        data.fetch_locomo(tmp_path, url)
    message = str(caught.value)
    for piece in [f"download {url}", f"save it as {tmp_path / 'locomo10.json'}", "--data PATH"]:
        assert piece in message, f"the message must say what to do: {piece!r} is not in it"
    assert "\n" not in message, f"not one line: {message!r}"
    assert f"{len(CONTENT) * 200:,}" not in message, "read on past the right size, without an end"
    assert list(tmp_path.iterdir()) == [], "a half-written or wrong file is left in the cache"


def test_a_damaged_cached_file_is_replaced(server, tmp_path):
    for damaged in (CONTENT[:-9], b"{" + CONTENT[1:]):
        (tmp_path / "locomo10.json").write_bytes(damaged)
        assert data.fetch_locomo(tmp_path, f"{server.url}/good").read_bytes() == CONTENT


def test_an_interrupted_download_leaves_nothing(server, tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt
    monkeypatch.setattr(data.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        data.fetch_locomo(tmp_path, f"{server.url}/good")
    assert list(tmp_path.iterdir()) == [], "after Ctrl-C a partial file is left"


def test_a_cache_folder_that_cannot_be_is_refused(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(data.DataError, match="by hand"):
        data.fetch_locomo(tmp_path / "file", f"{server.url}/good")


def test_where_the_cache_is(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))  # the same on Windows
    monkeypatch.setenv("MEMORY_R1_CACHE", "~/mine")
    url = f"{server.url}/good"
    assert data.fetch_locomo(url=url) == tmp_path / "home" / "mine" / "locomo10.json"
    monkeypatch.setenv("MEMORY_R1_CACHE", "")  # set but empty counts as not set
    assert data.fetch_locomo(url=url) == (
        tmp_path / "home" / ".cache" / "memory-r1" / "locomo10.json")
