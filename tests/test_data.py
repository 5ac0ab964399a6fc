"""Tests of data.py: small made-up files in LoCoMo's format, ways to break them, the real LoCoMo.

    python -m pytest tests/test_data.py        (a few seconds)

The real file is looked for at $MEMORY_R1_LOCOMO, beside the repository, and in the cache; without
it those tests are skipped.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from canned import Scripted

import data
from memory_bank import hashed_words
from memr1 import answer_all
from training.tasks import add_everything, answer_tasks

REMEDY = 'benchmarks.others.fetch("locomo")'  # every refusal says how to get the original


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
                                          "Bob": [["Bob owns a brown dog.", ["D9:2", "D9:1"]],
                                                  ["They talk of dogs.", ["D9:1", "D9:2"]]]},
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
        ("Ann has a dog.",), ("Bob owns a brown dog.", "They talk of dogs."),
        ("Bob's dog is Rex.",)], (
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


@pytest.mark.parametrize("caption", [None, "", " "])
def test_a_caption_that_is_missing_is_none(tmp_path, caption):
    conversations = small_file()
    turn = conversations[0]["conversation"]["session_9"][1]
    del turn["blip_caption"]
    expected = data.load_locomo(write(tmp_path, conversations))
    turn["blip_caption"] = caption  # as exports of tables write it
    assert data.load_locomo(write(tmp_path, conversations)) == expected, (
        f"a caption {caption!r} is no caption: nothing is to be added to the text")


def test_what_a_table_writes_as_null_is_absent(tmp_path):
    def loaded(change):
        conversations = small_file()
        change(conversations[0], conversations[0]["conversation"])
        return data.load_locomo(write(tmp_path, conversations))[0]

    def without(record, conversation):
        del record["qa"], record["observation"], conversation["session_9"]

    def with_nulls(record, conversation):
        record["qa"] = record["observation"] = conversation["session_9"] = None

    assert loaded(with_nulls) == loaded(without)


def test_a_picture_may_come_without_a_word(tmp_path):
    for text in ("", None):
        conversations = small_file()
        turn = conversations[0]["conversation"]["session_9"][1]
        turn["text"] = text
        texts = [turn.text for turn in data.load_locomo(write(tmp_path, conversations))[0].turns]
        assert "[shares an image: a brown dog]" in texts, "the caption is all that was shared"
    del turn["blip_caption"]
    with pytest.raises(data.DataError, match="field 'text'"):
        data.load_locomo(write(tmp_path, conversations))


def test_evidence_may_be_one_text(tmp_path):
    conversations = small_file()
    question = conversations[0]["qa"][0]
    question["evidence"] = "D9:2"
    written = data.load_locomo(write(tmp_path, conversations))[0].questions[0]
    question["evidence"] = ["D9:2"]
    assert written == data.load_locomo(write(tmp_path, conversations))[0].questions[0]
    assert written.evidence == ("D9:2",)


@pytest.mark.parametrize("written, expected", [
    (2023.0, "2023"), (2.5, "2.5"), (7, "7"), (["Rex", "the dog"], "Rex"), ([3.0], "3")])
def test_answers_become_text(tmp_path, written, expected):
    conversations = small_file()
    conversations[0]["qa"][0]["answer"] = written
    answer = data.load_locomo(write(tmp_path, conversations))[0].questions[0].answer
    assert answer == expected, f"{answer!r} can never match what an agent says for {expected!r}"


def test_evidence_may_be_unknown(tmp_path):
    conversations = small_file()
    conversations[0]["qa"][0]["evidence"] = None
    del conversations[0]["qa"][1]["evidence"]
    first = data.load_locomo(write(tmp_path, conversations))[0]
    assert [question.evidence for question in first.questions[:2]] == [(), ()]


def test_a_third_speaker_has_memories_of_their_own(tmp_path):
    conversations = small_file()
    conversations[0]["conversation"]["session_10"][0]["speaker"] = "Eve"
    dialogue = data.load_locomo(write(tmp_path, conversations))[0]
    assert dialogue.speakers == ("Ann", "Bob", "Eve"), "in the order of their turns, behind the two"
    banks = add_everything([dialogue], hashed_words(), "observations").banks
    [answer, *_] = answer_all(Scripted(str), answer_tasks([dialogue], banks), max_new_tokens=9)
    prompt = answer.prompt
    assert "Memories of Eve:\n- 9 May, 2023: Bob's dog is Rex." in prompt, (
        "what the third speaker said is never shown to the answer agent")


def test_the_least_file_has_a_name_a_date_and_turns(tmp_path):
    least = [{"sample_id": "us", "conversation": {
        "session_1_date_time": "8 May 2023",
        "session_1": [{"speaker": "Ann", "text": "I ski."}, {"speaker": "Bob", "text": "Oh."}],
        "session_2_date_time": "9 May 2023", "session_2": [{"speaker": "Cy", "text": "Hi."}]}}]
    [dialogue] = data.load_locomo(write(tmp_path, least))
    assert [(turn.turn_id, turn.speaker) for turn in dialogue.turns] == [
        ("D1:1", "Ann"), ("D1:2", "Bob"), ("D2:1", "Cy")], "a turn's place is its id"
    assert dialogue.speakers == ("Ann", "Bob", "Cy") and dialogue.questions == ()
    assert dialogue.turns[0].facts == (), "nobody wrote observations"


def test_json_lines_are_read_as_a_list(tmp_path):
    conversations = small_file()
    conversations[0]["conversation"]["session_9"][0]["text"] = "a\u2028b\u2029c\u0085d }"
    expected = data.load_locomo(write(tmp_path, conversations))
    for ending in ("\n", "\n\n", "\r\n", "\n \n"):
        for ascii_only in (True, False):
            lines = [json.dumps(c, ensure_ascii=ascii_only) for c in conversations]
            path = tmp_path / "small.jsonl"
            path.write_bytes(("\ufeff" + ending.join([*lines, ""])).encode())
            assert data.load_locomo(path) == expected, f"lines that end with {ending!r}"
    assert data.load_locomo(write(tmp_path, json.dumps(conversations[0]) + "\n")) == expected[:1]
    path = write(tmp_path, "\n".join([json.dumps(conversations[0]), "", '{"a": 1,}']))
    with pytest.raises(data.DataError, match="line 3 column 9"):
        data.load_locomo(path)


def test_only_a_line_break_ends_a_line_of_json_lines():
    text = '{"a": "x\u2028y\u2029z\u0085"}\n\n \n{"b": 1}\r\n'
    assert [json.loads(line) for line in data.json_lines(text)] == [
        {"a": "x\u2028y\u2029z\u0085"}, {"b": 1}], "a record was cut inside a text"


@pytest.mark.parametrize("written, expected", [
    ("D1:2", ("D1:2",)), ("D1:2; D3:4", ("D1:2", "D3:4")), ("D3:4 D1:2", ("D3:4", "D1:2")),
    ("D3:4,D1:2", ("D3:4", "D1:2")), ("D:1:2", ("D1:2",)), ("D01:002", ("D1:2",)),
    ("D1:20", ("D1:20",)), ("D1:0", ("D1:0",)), ("D", ()), ("", ()), ("D1", ()), ("D9:9", ()),
    ("D1:" + "9" * 6000, ()),
])
def test_find_turn_ids(written, expected):
    known = {"D1:2", "D3:4", "D1:20", "D1:0"}
    assert data.find_turn_ids(written, known) == expected, "only ids of real turns, in order"


def test_category_names():
    assert data.category_name(2) == "2 temporal", "LoCoMo is compared by number: show it"
    assert data.category_name("knowledge update") == "knowledge update"
    assert data.category_name(12) == "12", "a number that is no category of LoCoMo's has no name"


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
    (set_at([1, "sample_id"], "conv-a"), ["element 1, field 'sample_id'", "no earlier element"]),
    (remove_at([1, "conversation"]), ["(conv-b), field 'conversation': found nothing"]),
    (set_at([1, "conversation", "speaker_b"], "Ann"), ["field 'speaker_b'", "another name"]),
    (set_at([1, "conversation"], {"speaker_a": "Ann", "speaker_b": "Bob"}), ["no turn in any"]),
    (set_at([1, "conversation", "session_9"], {"a": 1}), ["'session_9': found {'a': 1}, expected"]),
    (remove_at([1, "conversation", "session_9_date_time"]), ["'session_9_date_time': found"]),
    (remove_at([*TURN[:3], 0, "text"]), ["session_9[0], field 'text': found nothing"]),
    (set_at([*TURN[:3], 0, "text"], " "), ["session_9[0], field 'text': found blank text"]),
    (set_at([*TURN, "text"], "\ud83d"), ["session_9[1], field 'text'", "surrogate"]),
    (set_at([*TURN, "speaker"], " "), ["session_9[1], field 'speaker': found blank text"]),
    (set_at([*TURN, "dia_id"], "D9:1"), ["field 'dia_id': found 'D9:1'", "no other turn"]),
    (set_at([*TURN, "dia_id"], "D8:2"), ["field 'dia_id': found 'D8:2'", "like 'D9:7'"]),
    (set_at([*TURN, "dia_id"], "D9:02"), ["field 'dia_id': found 'D9:02'"]),
    (set_at([*TURN, "blip_caption"], 3), ["field 'blip_caption': found 3, expected text"]),
    (set_at([1, "observation", "session_9_observation", "Ann"], 0), ["'Ann': found 0", "a list"]),
    (set_at([1, "observation", "session_9_observation", "Ann", 0], ["x"]), ["'Ann'[0]: found 1"]),
    (set_at([1, "observation", "session_9_observation", "Ann", 0], [" ", "D9:1"]),
     ["'Ann'[0]: found a blank sentence"]),
    (set_at([1, "qa"], 7), ["(conv-b), field 'qa': found 7, expected a list"]),
    (remove_at([*TURN, "speaker"]), ["session_9[1], field 'speaker': found nothing"]),
    (set_at([1, "qa", 3, "answer"], True), ["field 'answer': found True", "text or a whole"]),
    (set_at([1, "qa", 3, "answer"], ""), ["qa[3], field 'answer': found blank text"]),
    (set_at([1, "qa", 3, "answer"], []), ["field 'answer': found an empty list"]),
    (set_at([1, "qa", 3, "answer"], [None, "x"]), ["answer[0]: found None, expected text or a"]),
    (set_at([1, "qa", 3, "answer"], [" "]), ["qa[3], field 'answer': found blank text"]),
    (set_at([1, "qa", 3, "answer"], float("nan")), ["'answer': found nan, expected a finite"]),
    (set_at([1, "qa", 4, "adversarial_answer"], []), ["qa[4], field 'adversarial_answer': found"]),
    (set_at([1, "qa", 0, "category"], 6), ["field 'category': found 6, expected a whole number"]),
    (set_at([1, "qa", 0, "category"], 0), ["qa[0], field 'category': found 0"]),
    (set_at([1, "qa", 0, "category"], True), ["qa[0], field 'category': found True"]),
    (set_at([1, "qa", 0, "evidence"], 9), ["qa[0], field 'evidence': found 9", "a list"]),
])
def test_a_broken_place_is_named(tmp_path, change, pieces):
    conversations = small_file()
    change(conversations)
    path = write(tmp_path, conversations)
    with pytest.raises(data.DataError) as caught:
        data.load_locomo(path)
    message = str(caught.value)
    for piece in [f"{path}: element 1", *pieces, REMEDY]:
        assert piece in message, f"the message must hold {piece!r} (path, place, found, remedy)"
    assert "\n" not in message and len(message) < 500, f"not one short line: {message!r}"


def test_a_name_of_two_lines_does_not_break_the_message(tmp_path):
    conversations = small_file()
    conversations[1]["sample_id"] = "conv\nb"
    conversations[1]["qa"] = 7
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
        assert REMEDY in str(caught.value), "the message must say what to do"


def all_places(value: object, place: tuple = ()) -> list[tuple]:
    """The paths of all values inside `value`."""
    items = (value.items() if isinstance(value, dict)
             else enumerate(value) if isinstance(value, list) else ())
    return [found for key, inner in items
            for found in [(*place, key), *all_places(inner, (*place, key))]]


def check_dialogues(dialogues: list[data.Dialogue]) -> None:
    """What every later module relies on, whatever the benchmark."""
    for dialogue in dialogues:
        ids = [turn.turn_id for turn in dialogue.turns]
        assert ids and len(set(ids)) == len(ids)
        for turn in dialogue.turns:
            assert turn.speaker in dialogue.speakers and turn.text.strip() and turn.timestamp
            assert all(type(fact) is str for fact in turn.facts)
        for question in dialogue.questions + dialogue.adversarial:
            assert type(question.answer) is str and type(question.text) is str
            assert set(question.evidence) <= set(ids), "evidence must name turns that exist"
        hash(dialogue)  # tuples all the way down: nothing can be changed by accident


def check_loaded(dialogues: list[data.Dialogue]) -> None:
    """The same, and LoCoMo's categories."""
    check_dialogues(dialogues)
    for dialogue in dialogues:
        assert all(question.category in data.CATEGORIES for question in dialogue.questions)
        assert all(question.category == data.ADVERSARIAL for question in dialogue.adversarial)


JUNK = [None, True, 0, -1, 2, 1.5, float("nan"), "", " ", "x\ny", "D9:1", "\ud800", "y" * 9000, [],
        [[]], {}, {"x": None}, [None] * 50, [["a", "D9:1"]], {"session_1": 3}, 10**30]


def change_at_random(tmp_path: Path, count: int, content: list, load: Callable, check: Callable,
                     remedy: str) -> None:
    """Break a file in `count` ways: each must load as something whole or be refused in one line."""
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
            said = message.removeprefix(f"{path}: ")  # how long the path is depends on the machine
            assert "\n" not in said and len(said) < 750, f"not one short line: {message!r}"
            message.encode()  # a message with half a surrogate pair could not even be printed
            if len(place) > 1:
                assert f"element {place[0]}" in message, f"{place} was broken, not: {message}"
    assert min(outcomes.values()) > count / 10, f"the changes are too tame or too wild: {outcomes}"


def test_hundreds_of_random_changes_load_or_raise_data_error(tmp_path):
    change_at_random(tmp_path, 800, small_file(), data.load_locomo, check_loaded, REMEDY)


def test_hundreds_of_damaged_texts_load_or_raise_data_error(tmp_path):
    generator = random.Random(1)
    original = json.dumps(small_file()).encode()
    path = tmp_path / "small.json"
    for _ in range(600):
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
    pytest.skip("LoCoMo is not on this machine: benchmarks.others.fetch('locomo') downloads it")


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
