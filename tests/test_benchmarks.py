"""Tests of benchmarks/others.py: small made-up files in the published forms, and downloads.

    python -m pytest tests/test_benchmarks.py        (a few seconds)

The downloads come from a server on this machine.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import http.server
import json
import random
import socket
import threading
from pathlib import Path

import pytest
from test_data import change_at_random, check_dialogues, remove_at, set_at, small_file, write

import data
from benchmarks import others as benchmarks


def small_msc() -> list:
    """Three pairs of people in the form of MSC-Self-Instruct: two sessions, and the last one."""
    def pair(pet: str) -> dict:
        return {
            "personas": [["I have a pet."], ["I like pets."]],
            "dialog": [{"text": "Hi again.", "id": "Speaker 2", "convai2_id": "v1", "rating": None},
                       {"text": f"My {pet} is fine.", "id": "Speaker 1", "convai2_id": "v1"}],
            "metadata": {"initial_data_id": "valid_1", "session_id": 4},
            "previous_dialogs": [
                {"dialog": [{"text": f"I got a {pet}."}, {"text": "Nice!"}, {"text": "It is old."}],
                 "personas": [], "time_num": 5, "time_unit": "days",
                 "time_back": "7 days 8 hours ago"},
                {"dialog": [{"text": "Hello."}, {"text": " "}, {"text": "Busy?"}], "personas": [],
                 "time_num": 8, "time_unit": "hours", "time_back": "8 hours ago"}],
            "self_instruct": {"B": "Which pet did you get?", "A": f"The {pet}!"},
            "summary_speaker_1": [["I have a pet."]],
        }

    return [pair("cat"), pair("cow"), pair("cow")]  # nothing in the data tells the last two apart


def said(role: str, content: str, **more: object) -> dict:
    return {"role": role, "content": content, **more}


def small_longmemeval() -> list:
    """Three questions in LongMemEval's form, with every oddity that is known of it."""
    cat = [said("user", "I got a cat.", has_answer=True),
           said("assistant", "Nice!", has_answer=False)]
    filler = [said("assistant", "Hello."), said("user", ""), said("user", "Bye.")]

    def asked(question_id: str, kind: str, answer: object) -> dict:
        return {
            "question_id": question_id, "question_type": kind, "question": "Which pet?",
            "answer": answer, "question_date": "2023/05/30 (Tue) 23:40",
            # not in the order of time, one session twice, one of them empty
            "haystack_dates": ["2023/05/21 (Sun) 09:05", "2023/05/20 (Sat) 10:30",
                               "2023/05/20 (Sat) 02:21", "2023/05/29 (Mon) 00:00"],
            "haystack_session_ids": ["answer_1", "filler_1", "filler_1", "filler_2"],
            "haystack_sessions": json.loads(json.dumps([cat, filler, filler, []])),
            "answer_session_ids": ["answer_1"]}

    return [asked("q1", "single-session-user", "a cat"), asked("q2", "temporal-reasoning", 10),
            asked("q3_abs", "knowledge-update", "You never mentioned a dog.")]


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


def small_2wiki() -> list:
    """Two questions in 2WikiMultihopQA's form: HotpotQA's, with triples beside it."""
    return [{"_id": name, "type": "compositional", "question": f"Who is the mother of {name}?",
             "context": [[f"{name} (film)", ["It is old.", "Ana made it."]],
                         ["Ana", ["Ana is a child of Eva."]], ["Rex", ["Rex barks."]]],
             "supporting_facts": [[f"{name} (film)", 1], ["Ana", 0]],
             "evidences": [[name, "director", "Ana"], ["Ana", "mother", "Eva"]],
             "entity_ids": "Q1_Q2", "answer": "Eva"} for name in ("Dawn", "Dusk")]


def small_musique(full: bool = False) -> list:
    """Two questions in MuSiQue's form; `full`: each a second time, without a paragraph it needs."""
    def asked(name: str, paragraphs: list[str], answerable: bool) -> dict:
        return {
            "id": f"2hop__{name}", "question": f"Who is the spouse of the singer of {name}?",
            "paragraphs": [{"idx": index, "title": title, "paragraph_text": f"{title} is\nknown.",
                            "is_supporting": title != "Rex"}
                           for index, title in enumerate(paragraphs)],
            "question_decomposition": [{"id": 1, "question": f"{name} >> singer", "answer": "Ana",
                                        "paragraph_support_idx": 0 if answerable else None}],
            "answer": "Bo", "answer_aliases": ["Bo B."], "answerable": answerable}

    return [asked(name, paragraphs, answerable) for name in ("11_12", "11_13")
            for answerable, paragraphs in ((False, [name, "Rex"]), (True, ["Rex", name, "Ana"]))
            if answerable or full]


def as_hub(questions: list) -> list:
    """The same questions as the Hugging Face hub's copy holds them."""
    def columns(pairs: list, second: str) -> dict:
        return {"title": [pair[0] for pair in pairs], second: [pair[1] for pair in pairs]}

    return [{"id": question["_id"], "question": question["question"], "answer": question["answer"],
             "supporting_facts": columns(question["supporting_facts"], "sent_id"),
             "context": columns(question["context"], "sentences")} for question in questions]


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


# ---- loading what is right -----------------------------------------------------------------------

def test_msc_is_read_whole(tmp_path):
    lines = "\n".join(map(json.dumps, small_msc()))
    dialogues = benchmarks.load_msc(write(tmp_path, lines))
    check_dialogues(dialogues)
    assert [dialogue.name for dialogue in dialogues] == ["msc-0", "msc-1", "msc-2"], (
        "the data has no names of its own that are unique")
    first = dialogues[0]
    assert first.speakers == ("Speaker 1", "Speaker 2")
    assert [(turn.turn_id, turn.speaker, turn.text, turn.timestamp) for turn in first.turns] == [
        ("D1:1", "Speaker 1", "I got a cat.", "7 days 8 hours ago"),
        ("D1:2", "Speaker 2", "Nice!", "7 days 8 hours ago"),
        ("D1:3", "Speaker 1", "It is old.", "7 days 8 hours ago"),
        ("D2:1", "Speaker 1", "Hello.", "8 hours ago"),  # each session starts with speaker 1
        ("D2:3", "Speaker 1", "Busy?", "8 hours ago"),  # the blank turn took its turn
        ("D3:1", "Speaker 2", "Hi again.", "today"),  # here the data says who spoke
        ("D3:2", "Speaker 1", "My cat is fine.", "today")], (
        "all five sessions, the last one too; who says nothing is named takes turns")
    assert first.questions == (
        data.Question("Which pet did you get?", "The cat!", "memory retrieval", ()),), (
        "B asks and A answers, not the other way round")
    told = " ".join(turn.text for turn in first.turns)
    assert "I have a pet." not in told, "personas and summaries give answers away"
    assert benchmarks.load_msc(write(tmp_path, small_msc())) == dialogues, "a JSON list is fine too"


def test_longmemeval_is_read_whole(tmp_path):
    dialogues = benchmarks.load_longmemeval(write(tmp_path, small_longmemeval()))
    check_dialogues(dialogues)
    assert [dialogue.name for dialogue in dialogues] == ["q1", "q2", "q3_abs"]
    first = dialogues[0]
    assert first.speakers == ("user", "assistant")
    assert [(turn.turn_id, turn.speaker, turn.text, turn.timestamp) for turn in first.turns] == [
        ("D1:1", "assistant", "Hello.", "2023/05/20 (Sat) 02:21"),
        ("D1:3", "user", "Bye.", "2023/05/20 (Sat) 02:21"),
        ("D2:1", "assistant", "Hello.", "2023/05/20 (Sat) 10:30"),
        ("D2:3", "user", "Bye.", "2023/05/20 (Sat) 10:30"),
        ("D3:1", "user", "I got a cat.", "2023/05/21 (Sun) 09:05"),
        ("D3:2", "assistant", "Nice!", "2023/05/21 (Sun) 09:05")], (
        "sessions by date and hour, not as in the file; a session twice is two; nothing blank")
    date = "2023/05/30 (Tue) 23:40"
    assert [dialogue.questions for dialogue in dialogues] == [
        (data.Question("Which pet?", "a cat", "user said", ("D3:1",), date),),
        (data.Question("Which pet?", "10", "temporal", ("D3:1",), date),),
        (data.Question("Which pet?", "You never mentioned a dog.", "abstention", (), date),)], (
        "evidence is where has_answer is true, not where it is false, and nowhere for abstention")
    assert all(dialogue.adversarial == () for dialogue in dialogues), "abstention is asked too"


@pytest.mark.parametrize("kind", benchmarks.LONGMEMEVAL_CATEGORIES)
def test_every_question_type_has_a_name_that_tables_have_room_for(tmp_path, kind):
    questions = small_longmemeval()
    questions[0]["question_type"] = kind
    category = benchmarks.load_longmemeval(write(tmp_path, questions))[0].questions[0].category
    name = data.category_name(category)
    assert name == benchmarks.LONGMEMEVAL_CATEGORIES[kind] and len(name) <= 16
    assert len(set(benchmarks.LONGMEMEVAL_CATEGORIES.values())) == 6, "two types share a row"


def test_evidence_may_be_unmarked_and_fields_in_any_order(tmp_path):
    questions = small_longmemeval()
    for turn in questions[0]["haystack_sessions"][0]:
        del turn["has_answer"]
    questions[0] = dict(reversed(list(questions[0].items())))
    first = benchmarks.load_longmemeval(write(tmp_path, questions))[0]
    assert first.questions[0].evidence == () and len(first.turns) == 6


def test_hotpotqa_is_read_whole(tmp_path):
    questions = benchmarks.load_hotpotqa(write(tmp_path, small_hotpot()))
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
    expected = benchmarks.load_hotpotqa(write(tmp_path, "\ufeff" + json.dumps(published, indent=1)))
    for ascii_only in (True, False):  # False: U+2028 is written as it is, and ends no line
        lines = [json.dumps(record, ensure_ascii=ascii_only) for record in as_hub(published)]
        for content in ["\n".join(lines), "\n".join(lines) + "\n", "\r\n".join(lines),
                        json.dumps(as_hub(published))]:
            assert benchmarks.load_hotpotqa(write(tmp_path, content)) == expected, content


# ---- refusing what is wrong ----------------------------------------------------------------------

def test_2wikimultihopqa_is_read_as_hotpotqa_is(tmp_path):
    path = write(tmp_path, small_2wiki())
    questions = benchmarks.load(str(path))
    check_questions(questions)
    assert benchmarks.form_of(str(path)) == "2wikimultihopqa"
    assert questions == benchmarks.load_hotpotqa(path), "the two forms differ by what is not read"
    assert questions[0] == data.OpenQuestion(
        "Dawn", "Who is the mother of Dawn?", "Eva",
        (("Dawn (film)", "It is old. Ana made it."), ("Ana", "Ana is a child of Eva."),
         ("Rex", "Rex barks.")), ("Dawn (film)", "Ana"))


def test_musique_is_read_whole(tmp_path):
    questions = benchmarks.load(str(write(tmp_path, small_musique())))
    check_questions(questions)
    assert questions[0] == data.OpenQuestion(
        "2hop__11_12", "Who is the spouse of the singer of 11_12?", "Bo",
        (("Rex", "Rex is known."), ("11_12", "11_12 is known."), ("Ana", "Ana is known.")),
        ("11_12", "Ana")), "the alias is no answer, and Rex proves nothing"
    assert benchmarks.load(str(write(tmp_path, small_musique(full=True)))) == questions, (
        "a question whose paragraphs lack the answer was kept: nothing could pay for it")


@pytest.mark.parametrize("change, piece", [
    (remove_at([1, "answer"]), "element 1, field 'answer': found nothing"),
    (set_at([1, "id"], "2hop__11_12"), "element 1, field 'id': found '2hop__11_12'"),
    (set_at([1, "answerable"], "yes"), "field 'answerable': found 'yes', expected true or false"),
    (set_at([1, "paragraphs"], []), "field 'paragraphs': found no passage"),
    (remove_at([1, "paragraphs", 2, "is_supporting"]), "paragraphs[2], field 'is_supporting'"),
])
def test_a_broken_place_in_musique_is_named(tmp_path, change, piece):
    content = small_musique()
    change(content)
    with pytest.raises(data.DataError) as caught:
        benchmarks.load_musique(write(tmp_path, content))
    message = str(caught.value)
    assert piece in message and "musique_ans_v1.0_dev.jsonl" in message and "\n" not in message


def test_a_file_of_questions_without_answers_is_refused(tmp_path):
    unanswerable = [question for question in small_musique(full=True) if not question["answerable"]]
    with pytest.raises(data.DataError, match="'answerable': is false everywhere"):
        benchmarks.load_musique(write(tmp_path, unanswerable))


def refusal(name: str, path: Path) -> str:
    """What the loader `name` says of this path, after checking what all refusals must have."""
    with pytest.raises(data.DataError) as caught:
        benchmarks.LOADERS[name](path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.endswith(
        f'use the original file, which benchmarks.others.fetch("{name}") downloads'), (
        f"path first, remedy last: {message}")
    assert "\n" not in message and len(message) < 500, f"not one short line: {message!r}"
    return message


LAST, EARLIER, ASKED = [1, "dialog"], [1, "previous_dialogs"], [1, "self_instruct"]


MSC = [
    (set_at([1], []), "element 1: found [], expected an object; correct this place, or use"),
    (remove_at(LAST), "element 1, field 'dialog': found nothing, expected a list"),
    (remove_at([*LAST, 0, "text"]), "dialog[0], field 'text': found None, expected text"),
    (set_at([*LAST, 0, "text"], "\ud83d"), "dialog[0], field 'text': found half of a surrogate"),
    (set_at([*LAST, 0, "id"], "Bob"), "field 'id': found 'Bob', expected 'Speaker 1' or 'Speaker"),
    (remove_at([*EARLIER, 1, "time_back"]), "_dialogs[1], field 'time_back': found nothing"),
    (set_at([*EARLIER, 1, "dialog", 2], 0), "previous_dialogs[1], dialog[2]: found 0, expected an"),
    (remove_at(ASKED), "element 1, field 'self_instruct': found nothing, expected an object"),
    (set_at([*ASKED, "B"], " "), "element 1, self_instruct, field 'B': found blank text"),
    (lambda pairs: pairs[1].update(previous_dialogs=[], dialog=[{"text": " ", "id": "Speaker 1"}]),
     "element 1, field 'dialog': found no turn in any session"),
]
HAYSTACK = [1, "haystack_sessions"]
LONGMEMEVAL = [
    (set_at([1, "question_id"], "q1"), "element 1, field 'question_id': found 'q1', expected a na"),
    (set_at([1, "question_type"], "two_hop"), "found 'two_hop', expected 'single-session-user' or"),
    (remove_at([1, "question"]), "element 1 (q2), field 'question': found nothing, expected text"),
    (remove_at([1, "answer"]), "element 1 (q2), field 'answer': found nothing, expected text"),
    (set_at([1, "answer"], None), "field 'answer': found None, expected text or a whole number"),
    (set_at([1, "answer"], ""), "(q2), field 'answer': found blank text"),
    (remove_at([1, "question_date"]), "(q2), field 'question_date': found nothing, expected text"),
    (set_at([1, "question_date"], "30 May"), "field 'question_date': found '30 May', expected a d"),
    (remove_at([1, "haystack_dates", 3]), "field 'haystack_dates': found 3 entries, expected 4, o"),
    (set_at([1, "haystack_dates", 2], "2023/5/20 (Sat) 02:21"), "haystack_dates[2]: found '2023"),
    (set_at([1, "haystack_session_ids"], ["a"] * 5), "'haystack_session_ids': found 5 entries, ex"),
    (remove_at([*HAYSTACK, 0]), "'haystack_dates': found 4 entries, expected 3, one for each"),
    (set_at(HAYSTACK, [[], [], [], []]), "field 'haystack_sessions': found no turn in any session"),
    (set_at([*HAYSTACK, 1, 2], "Bye."), "sessions[1][2]: found 'Bye.', expected an object"),
    (set_at([*HAYSTACK, 1, 2, "role"], "system"), "found 'system', expected 'user' or 'assistant'"),
    (remove_at([*HAYSTACK, 1, 2, "content"]), "[1][2], field 'content': found None, expected text"),
    (set_at([*HAYSTACK, 0, 0, "has_answer"], 1), "'has_answer': found 1, expected true or false"),
]
CONTEXT, FACTS = [1, "context"], [1, "supporting_facts"]
HOTPOTQA = [
    (set_at([1], 7), "element 1: found 7, expected an object; correct this place, or use"),
    (set_at([1, "_id"], "5a8b"), "element 1, field '_id': found '5a8b', expected a name that no"),
    (set_at([1, "question"], " "), "(5a8c), field 'question': found blank text"),
    (set_at([1, "answer"], True), "(5a8c), field 'answer': found True"),
    (set_at(CONTEXT, "x"), "(5a8c), field 'context': found 'x', expected a list or an object"),
    (set_at(CONTEXT, []), "field 'context': found no passage, expected a title and sentences"),
    (set_at(CONTEXT, [["Cats", [" "]], ["", ["x"]]]), "(5a8c), field 'context': found no passage"),
    (set_at([*CONTEXT, 3], ["Cats"]), "context[3]: found 1 items, expected a title and sentences"),
    (set_at([*CONTEXT, 3, 1], "Cats nap."), "context[3]: found 'Cats nap.', expected a list"),
    (set_at([*CONTEXT, 3, 1, 1], "\ud83d"), "(5a8c), context[3]: found half of a surrogate pair"),
    (remove_at(FACTS), "element 1 (5a8c), field 'supporting_facts': found nothing, expected a"),
    (set_at([*FACTS, 1], ["Cats", 1, 2]), "supporting_facts[1]: found 3 items, expected a title"),
    (set_at([*FACTS, 1, 1], "0"), "supporting_facts[1]: found '0', expected a whole number"),
]
HUB = [  # the same questions as the Hugging Face hub's copy holds them
    (set_at([1, "id"], "5a8b"), "element 1, field 'id': found '5a8b', expected a name that no"),
    (remove_at([*CONTEXT, "title"]), "(5a8c), context, field 'title': found nothing"),
    (remove_at([*CONTEXT, "title", 5]), "(5a8c), context[5]: found None, expected text"),
    (set_at(CONTEXT, {"title": [], "sentences": []}), "field 'context': found no passage"),
    (remove_at([*FACTS, "sent_id", 1]), "supporting_facts[1]: found None, expected a whole number"),
]


@pytest.mark.parametrize("name, content, change, piece", [
    *(("msc", small_msc(), *row) for row in MSC),
    *(("longmemeval", small_longmemeval(), *row) for row in LONGMEMEVAL),
    *(("hotpotqa", small_hotpot(), *row) for row in HOTPOTQA),
    *(("hotpotqa", as_hub(small_hotpot()), *row) for row in HUB)])
def test_a_broken_place_is_named(tmp_path, name, content, change, piece):
    questions = copy.deepcopy(content)
    change(questions)
    message = refusal(name, write(tmp_path, questions))
    assert "element 1" in message and piece in message
    if name == "msc" and questions[1]:
        assert piece in refusal(name, write(tmp_path, "\n".join(map(json.dumps, questions)))), (
            "JSON lines, as published, must be refused in the same words")


@pytest.mark.parametrize("content, piece", [
    ("", "is not a JSON file"), ("[{]", "is not a JSON file"), ("{", "is not a JSON file"),
    ("null", "top level: found None, expected a list"),
    ("[]", "top level: found an empty list, expected a list of objects"),
    ("[3]", "element 0: found 3, expected an object"),
])
@pytest.mark.parametrize("name", ["msc", "longmemeval", "hotpotqa"])
def test_a_file_that_is_no_list_of_objects_is_refused(tmp_path, name, content, piece):
    assert piece in refusal(name, write(tmp_path, content))


@pytest.mark.parametrize("name, content, piece", [
    ("msc", '{\n "data": []\n}', "element 0, field 'previous_dialogs': found nothing"),
    ("msc", "\n".join(map(json.dumps, small_msc()))[:-9], "is not a JSON file (Unterminated"),
    ("hotpotqa", '{\n "data": []\n}', "element 0, field '_id': found nothing"),
    ("hotpotqa", '{"id": "a"}\n{"id": }\n', "is not a JSON file (Expecting value: line 2 column 8"),
    ("longmemeval", '{"question_id": "a"}', "element 0 (a), field 'haystack_sessions': found not"),
])
def test_lines_that_break_off_or_are_of_another_form_are_refused(tmp_path, name, content, piece):
    assert piece in refusal(name, write(tmp_path, content))


@pytest.mark.parametrize("name", ["msc", "longmemeval", "hotpotqa"])
def test_an_unreadable_file_is_refused(tmp_path, name):
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    for file, piece in [("absent.json", "cannot be read (No such file or directory); check the pa"),
                        (".", "cannot be read (Is a directory); check the path, or use the"),
                        ("latin.json", "is not a JSON file ('utf-8' codec can't decode")]:
        assert piece in refusal(name, tmp_path / file)


@pytest.mark.parametrize("count, name, content, check", [
    (200, "msc", small_msc(), check_dialogues),
    (250, "longmemeval", small_longmemeval(), check_dialogues),
    (200, "hotpotqa", small_hotpot(), check_questions),
    (200, "hotpotqa", as_hub(small_hotpot()), check_questions),
    (200, "musique", small_musique(full=True), check_questions),
], ids=["msc", "longmemeval", "hotpotqa", "hub", "musique"])
def test_random_changes_load_or_raise_data_error(tmp_path, count, name, content,
                                                              check):
    change_at_random(tmp_path, count, content, benchmarks.LOADERS[name], check,
                     "musique_ans_v1.0_dev" if name == "musique" else
                     f'benchmarks.others.fetch("{name}")')


# ---- what --data names ---------------------------------------------------------------------------

@pytest.mark.parametrize("name, content", [
    ("locomo", small_file()), ("longmemeval", small_longmemeval()), ("hotpotqa", small_hotpot()),
    ("hotpotqa", as_hub(small_hotpot())), ("msc", small_msc()),
    ("2wikimultihopqa", small_2wiki()), ("musique", small_musique()),
], ids=["locomo", "longmemeval", "hotpotqa", "hub", "msc", "2wikimultihopqa", "musique"])
def test_a_file_is_read_by_its_own_loader_whatever_its_name(tmp_path, name, content):
    generator = random.Random(0)
    for _ in range(5):  # in any order of the fields
        mixed = [dict(generator.sample(list(record.items()), len(record))) for record in content]
        path = write(tmp_path, mixed)
        assert benchmarks.load(str(path)) == benchmarks.LOADERS[name](path)


def test_a_long_haystack_before_everything_else_is_known_too(tmp_path):
    question = small_longmemeval()[0]
    question["haystack_sessions"][0][1]["content"] = "Nice! " * 300_000  # 1.8 MB
    path = write(tmp_path, [{"haystack_sessions": question.pop("haystack_sessions"), **question}])
    assert benchmarks.load(str(path)) == benchmarks.load_longmemeval(path)


def test_what_people_say_does_not_decide_the_form(tmp_path):
    conversations = small_file()
    conversations[0]["conversation"]["session_9"][0]["text"] = 'a "question_date": and "previous'
    path = write(tmp_path, conversations)
    assert benchmarks.load(str(path)) == data.load_locomo(path)


@pytest.mark.parametrize("content, piece", [
    (b"", "is empty"), (b" \n", "is empty"), (b"\xff" * 99, "is no text in UTF-8"),
    ('[{"role": "user"}]'.encode("utf-16"), "is no text in UTF-8"),
    (b"PK\x03\x04\x14\x00conversations.json", "is a ZIP archive; unpack it"),
    (b"PAR1\x15\x04", "is a Parquet file"), (b"%PDF-1.7\n", "is a PDF"),
    (b"<!DOCTYPE html><html>", "of ChatGPT's export name conversations.json"),
    (b'[{"uuid": "a", "chat_messages": [{"sender": "human"}]}]', "is an export of Claude"),
    (b'{"messages": [{"from": "Ann", "date_unixtime": "1"}]}', "is an export of Telegram"),
    (b'{"messages": [{"sender_name": "Ann"}]}', "is an export of Facebook or Instagram"),
    (b'{"guild": {}, "messages": [{}]}', "is an export of Discord"),
    (b'[{"prompt": "Hi"}]', "is no JSON of a form"), (b"Dear diary\n", "is no JSON of a form")])
def test_any_other_file_is_named_for_what_it_is(tmp_path, content, piece):
    path = tmp_path / "export"
    path.write_bytes(content)
    with pytest.raises(data.DataError) as caught:
        benchmarks.load(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and piece in message, message
    assert all(form in message for form in ("LoCoMo", "MuSiQue", "WhatsApp", "own-data.md")), (
        "whoever has another file must learn which can be read")
    assert "fetch" not in message and "\n" not in message, "LoCoMo is not what was asked for"


@pytest.mark.parametrize("name, content", [
    ("msc", small_msc()), ("longmemeval", small_longmemeval()), ("hotpotqa", small_hotpot()),
    ("locomo", small_file()), ("2wikimultihopqa", small_2wiki()), ("musique", small_musique())])
def test_every_form_may_be_json_lines(tmp_path, name, content):
    expected = benchmarks.LOADERS[name](write(tmp_path, content))
    path = tmp_path / "lines.jsonl"
    path.write_text("\n\n".join(map(json.dumps, content)) + "\n\n", encoding="utf-8")
    assert benchmarks.load(str(path)) == expected


def test_a_name_is_fetched_and_loaded(tmp_path, monkeypatch):
    path = write(tmp_path, small_longmemeval())
    asked = []
    monkeypatch.setattr(benchmarks, "fetch", lambda name: asked.append(name) or path)
    for name in ("longmemeval", "longmemeval-s", "longmemeval-m"):
        assert len(benchmarks.load(name)) == 3
    assert asked == ["longmemeval", "longmemeval-s", "longmemeval-m"]
    assert set(benchmarks.NAMES) == set(benchmarks.SOURCES), "every name has a file and a loader"
    assert set(benchmarks.NAMES.values()) < set(benchmarks.LOADERS), "and every form a loader"


@pytest.mark.parametrize("written", ["longmemevall", "absent.json", ".", ""])
def test_neither_a_name_nor_a_file_is_refused(tmp_path, monkeypatch, written):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(data.DataError, match="there is no such file") as caught:
        benchmarks.load(written)
    message = str(caught.value)
    assert f"--data {written}: " in message and ", ".join(benchmarks.NAMES) in message


def test_a_broken_file_is_refused_by_the_loader_of_its_form(tmp_path):
    for content, name in [('[{"sample_id": "a"', "locomo"),
                          ('[{"question_id": "a", "question_date": 3}]', "longmemeval")]:
        path = tmp_path / "small.json"
        path.write_text(content)
        with pytest.raises(data.DataError, match=f'benchmarks.others.fetch."{name}".'):
            benchmarks.load(str(path))


# ---- fetching ------------------------------------------------------------------------------------

CONTENT = b"[" + b" " * 300_000 + b"]"  # stands for any file; several blocks long


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT and its damaged kin; the folder says which."""

    def do_GET(self) -> None:  # noqa: N802  (the library's name)
        self.server.requests.append(self.path)
        kind = self.path.split("/")[1]
        if kind == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        body = {"good": CONTENT, "short": CONTENT[:-9], "cut": CONTENT[:150_000],
                "wrong": b"{" + CONTENT[1:], "endless": CONTENT * 200}[kind]
        if kind == "cut":  # promises the whole, then hangs up
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client hangs up on endless
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    """A running server. `server.offer(name, kind)` makes it, or another address, the source."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def offer(name: str, kind: str, base: str | None = None) -> str:
        file = benchmarks.SOURCES[name].url.rsplit("/", 1)[-1]
        url = f"{running.url if base is None else base}/{kind}/{file}"
        monkeypatch.setitem(benchmarks.SOURCES, name, benchmarks.Source(
            url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest()))
        return url

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.requests, running.offer = [], offer
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_the_sources_are_written_as_they_must_be():
    files = [source.url.rsplit("/", 1)[-1] for source in benchmarks.SOURCES.values()]
    assert len(set(files)) == len(files), "two files would overwrite each other in the cache"
    for name, source in benchmarks.SOURCES.items():
        assert source.url.startswith("http") and source.size > 10**6, name
        assert len(source.sha256) == 64 and int(source.sha256, 16), f"{name}: not a SHA-256"


@pytest.mark.parametrize("name", benchmarks.SOURCES)
def test_a_good_download_is_cached_and_used_again(server, tmp_path, name):
    url = server.offer(name, "good")
    folder = tmp_path / "new" / "cache"
    path = benchmarks.fetch(name, folder)
    assert path == folder / url.rsplit("/", 1)[-1] and path.read_bytes() == CONTENT
    assert list(folder.iterdir()) == [path], "a partial file is left"
    assert benchmarks.fetch(name, folder) == path
    assert len(server.requests) == 1, "a file already there must not be downloaded again"


@pytest.mark.parametrize("kind", ["short", "cut", "wrong", "missing", "endless", "down", "no url"])
def test_a_bad_download_is_refused_and_leaves_nothing(server, tmp_path, kind):
    url = server.offer("msc", kind)
    if kind == "down":
        with socket.create_server(("127.0.0.1", 0)) as unused:  # a port that nobody listens on
            base = f"http://127.0.0.1:{unused.getsockname()[1]}"
        url = server.offer("msc", "good", base)
    elif kind == "no url":
        url = server.offer("msc", "good", "")
    with pytest.raises(data.DataError) as caught:
        benchmarks.fetch("msc", tmp_path)
    message = str(caught.value)
    for piece in [f"download {url} (0.3 MB) by hand", "--data PATH",
                  f"save it as {tmp_path / 'msc_self_instruct.jsonl'}"]:
        assert piece in message, f"the message must say what to do: {piece!r} is not in it"
    assert "\n" not in message, f"not one line: {message!r}"
    assert f"{len(CONTENT) * 200:,}" not in message, "read on past the right size, without an end"
    assert list(tmp_path.iterdir()) == [], "a half-written or wrong file is left in the cache"


def test_a_damaged_cached_file_is_replaced(server, tmp_path):
    server.offer("hotpotqa", "good")
    for damaged in (CONTENT[:-9], b"{" + CONTENT[1:]):
        (tmp_path / "hotpot_dev_distractor_v1.json").write_bytes(damaged)
        assert benchmarks.fetch("hotpotqa", tmp_path).read_bytes() == CONTENT


def test_an_interrupted_download_leaves_nothing(server, tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt
    server.offer("locomo", "good")
    for step in ("_is_whole", "os.replace"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"benchmarks.others.{step}", interrupt)
            benchmarks.fetch("locomo", tmp_path)
        assert list(tmp_path.iterdir()) == [], "after Ctrl-C a partial file is left"


def test_a_cache_folder_that_cannot_be_is_refused(server, tmp_path):
    server.offer("locomo", "good")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(data.DataError, match="by hand"):
        benchmarks.fetch("locomo", tmp_path / "file")


def test_where_the_cache_is(server, tmp_path, monkeypatch):
    server.offer("locomo", "good")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))  # the same on Windows
    monkeypatch.setenv("MEMORY_R1_CACHE", "~/mine")
    assert benchmarks.fetch("locomo") == tmp_path / "home" / "mine" / "locomo10.json"
    monkeypatch.setenv("MEMORY_R1_CACHE", "")  # set but empty counts as not set
    assert benchmarks.fetch("locomo") == (
        tmp_path / "home" / ".cache" / "memory-r1" / "locomo10.json")
