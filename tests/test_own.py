"""Tests of benchmarks/own.py: small invented files in the forms that people have at home.

    python -m pytest tests/test_own.py        (some seconds)
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_data import change_at_random, check_dialogues, remove_at, set_at, write

import data
from benchmarks import others, own
from benchmarks.splits import dialogues_to_test, held_out, splits
from data import DataError


def lines_of(dialogue: data.Dialogue) -> list[tuple[str, str, str]]:
    """What was said, as (turn, speaker, text)."""
    return [(turn.turn_id, turn.speaker, turn.text) for turn in dialogue.turns]


def load_one(path: Path | str) -> data.Dialogue:
    """The one dialogue that `--data` makes of a file."""
    [dialogue] = others.load(str(path))
    check_dialogues([dialogue])
    return dialogue


# ---- Chat lists ----------------------------------------------------------------------------------


def small_messages() -> list:
    """Two conversations in OpenAI's form, with everything in them that nobody said."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    return [
        {"messages": [
            {"role": "system", "content": "You are kind."},
            {"role": "user", "content": "I moved to Oslo."},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function"}]},
            {"role": "tool", "tool_call_id": "a", "content": "4 degrees"},
            {"role": "assistant", "content": "It is cold there."}]},
        {"messages": [
            {"role": "user", "name": "Ann", "content": [
                {"type": "text", "text": "My cat"}, image, {"type": "text", "text": "is Tom."}]},
            {"role": "user", "content": [image]},
            {"role": "assistant", "content": "  "},
            {"role": "user", "name": "Bob", "content": "Mine is Kit."}]}]


SAID = [("D1:1", "user", "I moved to Oslo."), ("D1:2", "assistant", "It is cold there."),
        ("D2:1", "Ann", "My cat is Tom."), ("D2:2", "Bob", "Mine is Kit.")]


def small_sharegpt() -> list:
    """The same in ShareGPT's form, in which nobody has a name."""
    return [
        {"id": "x_0", "conversations": [
            {"from": "system", "value": "You are kind."},
            {"from": "human", "value": "I moved to Oslo."},
            {"from": "gpt", "value": "It is cold there."}]},
        {"id": "x_1", "conversations": [
            {"from": "human", "value": "My cat is Tom."},
            {"from": "function_call", "value": "{}"}, {"from": "observation", "value": "7"},
            {"from": "Bob", "value": "Mine is Kit."}]}]


def test_openais_chat_lists_are_read(tmp_path):
    dialogue = load_one(write(tmp_path, small_messages()))
    assert lines_of(dialogue) == SAID, "what nobody said, or no words, became a turn; or words went"
    assert dialogue.speakers == ("user", "assistant", "Ann", "Bob"), "of four, each has memories"
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(map(json.dumps, small_messages())) + "\n")
    assert lines_of(load_one(path)) == SAID, "JSON lines hold the same"
    assert load_one(path).name == "lines"


def test_one_bare_list_of_messages_is_one_session(tmp_path):
    [first, _] = small_messages()
    for text in (json.dumps(first["messages"]), "\n".join(map(json.dumps, first["messages"]))):
        path = tmp_path / "list.json"
        path.write_text(text)
        assert lines_of(load_one(path)) == SAID[:2], "a list without 'messages' is a conversation"


def test_sharegpt_is_read(tmp_path):
    assert lines_of(load_one(write(tmp_path, small_sharegpt()))) == [
        *SAID[:2], ("D2:1", "user", "My cat is Tom."), ("D2:2", "Bob", "Mine is Kit.")]
    as_openai = [{"conversations": [{"role": "user", "content": "I ski."}]}]
    assert lines_of(load_one(write(tmp_path, as_openai))) == [("D1:1", "user", "I ski.")], (
        "many files have ShareGPT's list with OpenAI's names of fields")


def test_a_long_message_becomes_turns_that_a_model_can_read(tmp_path):
    words = " ".join(f"word{number}" for number in range(2000))
    path = write(tmp_path, [{"role": "user", "content": text} for text in (words, "x\ny")])
    *pieces, last = load_one(path).turns
    assert len(pieces) > 3 and max(len(turn.text) for turn in pieces) <= own.LONGEST
    assert " ".join(turn.text for turn in pieces) == words, "a word was lost or cut"
    assert last.text == "x\ny", "a short message stays as it is"


# ---- ChatGPT's export ----------------------------------------------------------------------------


def node(parent: str | None, children: list[str], role: str, parts: list, **more: object) -> dict:
    """One node of a tree, with its message."""
    message = {"id": "m", "author": {"role": role, "name": None, "metadata": {}},
               "create_time": 1703441100.5, "status": "finished_successfully", "weight": 1.0,
               "content": {"content_type": "text", "parts": parts}, "metadata": {},
               "recipient": "all"}
    return {"id": "n", "parent": parent, "children": children, "message": {**message, **more}}


def small_chatgpt() -> list:
    """Two conversations as ChatGPT exports them: the newest first, with branches and hidden nodes.

    The first question of the older one was edited, so that its tree has two branches.
    """
    hidden = {"is_visually_hidden_from_conversation": True}
    code = {"content_type": "code", "text": "search('Oslo')"}
    asset = {"content_type": "image_asset_pointer", "asset_pointer": "sediment://file"}
    return [
        {"title": "Cats", "create_time": 1704225600.0, "current_node": "b", "id": "2", "mapping": {
            "r": {"id": "r", "parent": None, "children": ["a"], "message": None},
            "b": node("a", [], "assistant", ["A fine name."], create_time=None),
            "a": node("r", ["b"], "user", [asset, "My cat is Tom."], create_time=1704225600,
                      content={"content_type": "multimodal_text",
                               "parts": [asset, "My cat is Tom."]})}},
        {"title": "Move", "create_time": 1703441100.5, "current_node": "new answer", "id": "1",
         "mapping": {
             "s": node("somewhere else", ["i"], "system", [""]),
             "i": node("s", ["old", "new"], "user", ["I like brevity."], metadata=hidden),
             "old": node("i", ["old answer"], "user", ["I moved to Rome."]),
             "old answer": node("old", [], "assistant", ["Rome is warm."]),
             "new": node("i", ["call"], "user", ["I moved to Oslo."]),
             "call": node("new", ["found"], "assistant", [], content=code, recipient="browser"),
             "found": node("call", ["thought"], "tool", ["4 degrees"]),
             "thought": node("found", ["new answer"], "assistant", [],
                             content={"content_type": "thoughts", "thoughts": []}),
             "new answer": node("thought", [], "assistant", ["It is cold there."])}}]


def test_of_chatgpts_trees_the_path_is_read_that_was_shown_last(tmp_path):
    dialogue = load_one(write(tmp_path, small_chatgpt()))
    texts = [text for _, _, text in lines_of(dialogue)]
    assert "I moved to Rome." not in texts and "Rome is warm." not in texts, (
        "an abandoned branch was read: follow 'parent' from 'current_node', not all of 'mapping'")
    assert lines_of(dialogue) == [*SAID[:2], ("D2:1", "user", "My cat is Tom."),
                                  ("D2:2", "assistant", "A fine name.")], (
        "in the order of time, from the root, without what was not shown")
    assert [turn.timestamp for turn in dialogue.turns] == [
        "24 December 2023", "24 December 2023", "2 January 2024", "2 January 2024"], (
        "a message without a moment has its conversation's")


@pytest.mark.parametrize("change, piece", [
    (remove_at([1, "current_node"]), "field 'current_node': found nothing"),
    (set_at([1, "current_node"], "x"), "'current_node': found 'x', expected the name of a node"),
    (set_at([1, "mapping", "s", "parent"], "new"), "field 'parent': found a circle"),
    (set_at([1, "mapping", "new", "parent"], 7), "mapping['new'], field 'parent': found 7"),
    (remove_at([1, "mapping", "new", "message", "author"]), "mapping['new'], field 'author'"),
    (set_at([1, "create_time"], 1e99), "field 'create_time': found 1e+99, expected seconds"),
    (set_at([1, "mapping"], []), "field 'mapping': found [], expected an object"),
])
def test_a_broken_tree_is_named(tmp_path, change, piece):
    content = small_chatgpt()
    change(content)
    with pytest.raises(DataError) as caught:
        own.load_chatgpt(write(tmp_path, content))
    message = str(caught.value)
    assert "element 1" in message and piece in message and "own-data.md" in message, message
    assert "\n" not in message


@pytest.mark.parametrize("count, content, load", [
    (150, small_messages(), own.load_messages), (100, small_sharegpt(), own.load_sharegpt),
    (300, small_chatgpt(), own.load_chatgpt),
    (100, small_messages()[0]["messages"], own.load_message_list)],
    ids=["messages", "sharegpt", "chatgpt", "list"])
def test_random_changes_load_or_raise_data_error(tmp_path, count, content, load):
    change_at_random(tmp_path, count, content, load, check_dialogues, "docs/own-data.md")


# ---- WhatsApp's export ---------------------------------------------------------------------------

ANN = ("D1:1", "Ann", "We moved: to Bergen.\n\nThe cat too."), ("D1:2", "Bob B.", "Oh"), (
    "D2:1", "Ann", "See you")
# In each {} stands one header.
CHAT = "{}Ann: We moved: to Bergen.\n\nThe cat too.\n{}Bob B.: Oh\n{}Ann: See you\n"
HEADERS = {
    "Android, 24 hours": "24/12/2023, 18:05 - |24/12/2023, 18:06 - |2/1/2024, 09:00 - ",
    "iPhone, 24 hours": "[24/12/2023, 18:05:12] |[24/12/2023, 18:06:00] |[02/01/2024, 09:00:01] ",
    "Android, USA": "12/24/23, 6:05\u202fPM - |12/24/23, 6:06\u202fPM - |1/2/24, 9:00\u202fAM - ",
    "iPhone, USA": "[12/24/23, 6:05:12\u202fPM] |\u200e[12/24/23, 6:06:00 PM] |"
                   "[1/2/24, 9:00:01\u202fAM] ",
    "Germany": "24.12.23, 18:05 - |24.12.23, 18:06 - |02.01.24, 09:00 - ",
    "an old German one": "24.12.23 um 18:05 - |24.12.23 um 18:06 - |02.01.24 um 09:00 - ",
    "India": "24/12/23, 6:05 pm - |24/12/23, 6:06 pm - |02/01/24, 9:00 am - ",
    "Spain": "24/12/2023 6:05 p.\u00a0m. - |24/12/2023 6:06 p. m. - |2/1/2024 9:00 a. m. - ",
    "Netherlands": "24-12-2023 18:05 - |24-12-2023 18:06 - |02-01-2024 09:00 - ",
    "Canada": "2023-12-24, 6:05 p.m. - |2023-12-24, 6:06 p.m. - |2024-01-02, 9:00 a.m. - ",
    "China": "[2023/12/24 18:05:12] |[2023/12/24 18:06:00] |[2024/1/2 09:00:01] ",
    "Finland": "24.12.2023 klo 18.05 - |24.12.2023 klo 18.06 - |2.1.2024 klo 9.00 - ",
    "Korea": "[2023. 12. 24. PM 6:05:12] |[2023. 12. 24. PM 6:06:00] |[2024. 1. 2. AM 9:00:01] ",
    "an old iPhone": "24/12/2023, 18:05:12: |24/12/2023, 18:06:00: |02/01/2024, 09:00:01: ",
    # As the calendars of these languages (Unicode's CLDR) write dates; no export was at hand.
    "Egypt": "٢٤\u200f/١٢\u200f/٢٠٢٣، ٦:٠٥ م - |٢٤\u200f/١٢\u200f/٢٠٢٣، ٦:٠٦ م - |"
             "٢\u200f/١\u200f/٢٠٢٤، ٩:٠٠ ص - ",
    "Taiwan": "2023/12/24 下午6:05 - |2023/12/24 下午6:06 - |2024/1/2 上午9:00 - ",
    "Greece": "24/12/23, 6:05 μ.μ. - |24/12/23, 6:06 μ.μ. - |2/1/24, 9:00 π.μ. - ",
    "Bulgaria": "24.12.2023 г., 18:05 - |24.12.2023 г., 18:06 - |2.01.2024 г., 9:00 - ",
    "Arabic digits": "٢٤/١٢/٢٠٢٣، ٦:٠٥ م - |٢٤/١٢/٢٠٢٣، ٦:٠٦ م - |٢/١/٢٠٢٤، ٩:٠٠ ص - ",
}


def chat_file(tmp_path: Path, text: str, name: str = "_chat.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8"))  # as bytes, because Windows would change line ends
    return path


@pytest.mark.parametrize("country", HEADERS)
@pytest.mark.parametrize("start, line_end", [("", "\n"), ("\ufeff", "\r\n")])
def test_whatsapps_forms_are_read(tmp_path, capsys, country, start, line_end):
    text = start + CHAT.format(*HEADERS[country].split("|"))
    dialogue = load_one(chat_file(tmp_path, text.replace("\n", line_end)))
    assert tuple(lines_of(dialogue)) == ANN, f"{country}: a header was not known, or taken for text"
    assert [turn.timestamp for turn in dialogue.turns] == [
        "24 December 2023", "24 December 2023", "2 January 2024"], f"{country}: day and month"
    assert capsys.readouterr().err == "", "24 is no month, so nothing is in doubt"


def test_what_whatsapp_says_is_left_out(tmp_path):
    android = (
        "24/12/2023, 18:00 - Messages and calls are end-to-end encrypted. Tap to learn more.\n"
        '24/12/2023, 18:01 - Ann created group "Trip: Rome"\n'
        "24/12/2023, 18:02 - Bob joined using this group's invite link\nand more of it\n"
        "24/12/2023, 18:03 - Ann: <Media omitted>\n"
        "24/12/2023, 18:03 - Ann: IMG-20231224-WA0001.jpg (file attached)\nThe harbour\n"
        "24/12/2023, 18:03 - Ann: Mein Brief.pdf (file attached)\n"
        "24/12/2023, 18:03 - Ann: PTT-20231224-WA0002.opus (Datei angehängt)\n"
        "24/12/2023, 18:04 - Bob: This message was deleted\n"
        "24/12/2023, 18:04 - Ann: null\n24/12/2023, 18:05 - Ann: \n"
        "24/12/2023, 18:06 - Bob: I saw foo.com (a good site) <This message was edited>\n"
        "24/12/2023, 18:07 - \u202a+47\u00a0555\u202c: I come at 24/12/2023 too\n"
        "24/12/2023, 18:07 - Bob: 1 <3 and 5 > 4\n"
        "24/12/2023, 18:08 - Missed voice call\n")
    assert lines_of(load_one(chat_file(tmp_path, android))) == [
        ("D1:1", "Ann", "The harbour"), ("D1:2", "Bob", "I saw foo.com (a good site)"),
        ("D1:3", "+47\u00a0555", "I come at 24/12/2023 too"), ("D1:4", "Bob", "1 <3 and 5 > 4")]
    iphone = (
        "[24/12/2023, 18:00:00] Trip: \u200eMessages and calls are end-to-end encrypted.\n"
        "\u200e[24/12/2023, 18:01:00] Ann: \u200eimage omitted\n"
        "\u200e[24/12/2023, 18:02:00] Ann: The harbour \u200e<attached: 1-PHOTO.jpg>\n"
        "[24/12/2023, 18:03:00] ~\u202fBob: \u2068Ann\u2069, look \u200e<This message was edited>\n"
        "25/12/2023, 18:00 - lunch: with all\n"
        "[24/12/2023, 18:04:00] ~\u202fBob: \u200eYou deleted this message.\n")
    assert lines_of(load_one(chat_file(tmp_path, iphone))) == [
        ("D1:1", "Ann", "The harbour"),
        ("D1:2", "Bob", "Ann, look \n25/12/2023, 18:00 - lunch: with all")], (
        "beside headers in brackets a date without them was written by somebody")


def test_words_that_look_like_whatsapps_own_are_kept(tmp_path):
    text = ('24/12/2023, 18:00 - Ann "Annie" Lee: I moved to Bergen\n'
            "24/12/2023, 18:01 - Ann changed the subject from “Trip” to “Trip: Rome”\n"
            "24/12/2023, 18:02 - Bob “B” Berg: <https://example.org/flat> is the flat\n"
            "24/12/2023, 18:03 - Bob “B” Berg: <3 I love it> so much\n"
            "24/12/2023, 18:04 - Bob “B” Berg: Good night <This message was edited>\n")
    assert lines_of(load_one(chat_file(tmp_path, text))) == [
        ("D1:1", 'Ann "Annie" Lee', "I moved to Bergen"),
        ("D1:2", "Bob “B” Berg", "<https://example.org/flat> is the flat"),
        ("D1:3", "Bob “B” Berg", "<3 I love it> so much"), ("D1:4", "Bob “B” Berg", "Good night")]


@pytest.mark.parametrize("days, day_first", [
    ("3/4/24 13/4/24", True), ("3/4/24 4/13/24", False),  # no month is 13
    ("10/1/24 11/1/24 2/2/24", True),  # months first: 1 October, then back to 2 February
    ("1/10/24 1/11/24 2/2/24", False),
    ("31/12/23 1/1/24", True), ("12/31/23 1/1/24", False), ("5/5/24 6/6/24", True)])
def test_the_whole_file_decides_the_order_of_day_and_month(tmp_path, capsys, days, day_first):
    path = chat_file(tmp_path, "".join(f"{day}, 18:05 - Ann: Hi\n" for day in days.split()))
    first = days.split()[0].split("/")
    day, month = first[:2] if day_first else first[1::-1]
    found = load_one(path).turns[0].timestamp
    assert found.split()[0] == day and found.split()[1] == own.MONTHS[int(month) - 1], found
    assert capsys.readouterr().err == "", "the file tells; nobody needs a warning"


def test_an_order_that_nothing_tells_is_said_in_one_line(tmp_path, capsys):
    path = chat_file(tmp_path, "3/4/24, 18:05 - Ann: Hi\n4/5/24, 18:05 - Ann: Ho\n")
    assert [turn.timestamp for turn in load_one(path).turns] == ["3 April 2024", "4 May 2024"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(path) in said and "3/4/2024" in said, said
    assert "year first" in said, "the line must say what to do if the guess is wrong"
    path = chat_file(tmp_path, "2024/3/4, 18:05 - Ann: Hi\n2024/4/5, 18:05 - Ann: Ho\n")
    assert load_one(path).turns[0].timestamp == "4 March 2024" and not capsys.readouterr().err


@pytest.mark.parametrize("text, piece", [
    ("13/4/24, 18:05 - Ann: Hi\n4/13/24, 18:05 - Ann: Ho\n", "year first"),
    ("31/2/24, 18:05 - Ann: Hi\n", "line 1: its date is on no calendar"),
    ("1/5/24, 18:05 - Ann: Hi\n0/5/24, 18:05 - Ann: Hi\n", "line 2: its date is on no calendar"),
    ("2024/13/1, 18:05 - Ann: Hi\n", "line 1: its date is on no calendar"),
    ("1/5/24, 18:05 - Ann left\n", "no message with words")])
def test_an_export_that_cannot_be_is_refused(tmp_path, text, piece):
    path = chat_file(tmp_path, text)
    with pytest.raises(DataError) as caught:
        others.load(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and piece in message and "\n" not in message, message


def test_an_export_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"24/12/2023, 18:05 - Ren\xe9: Hi\n")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        others.load(str(tmp_path / "latin.txt"))


# ---- Questions of one's own ----------------------------------------------------------------------


def small_questions() -> list:
    return [{"question": "Where does Ann live?", "answer": "Bergen", "evidence": ["D1:1"]},
            {"question": "How many cats?", "answer": 1.0, "evidence": None, "category": 4,
             "date": None, "conversation": None},
            {"question": "Who met?", "answer": ["Bob", "Bob B."], "evidence": "D2:1",
             "category": "people", "date": "3 January 2024"}]


def test_a_category_in_quotes_is_the_number(tmp_path):
    """Else a summary has two rows of the name "4", of which readers keep one."""
    path = tmp_path / "questions.json"
    path.write_text(json.dumps([{"question": "Where does Ann live?", "answer": "Bergen",
                                 "category": name} for name in (4, "4", " 4", "5", "four")]))
    [dialogue] = held_out(ann_and_bob(tmp_path), str(path))
    assert [question.category for question in dialogue.questions] == [4, 4, 4, "5", "four"]


def ann_and_bob(tmp_path: Path) -> str:
    headers = HEADERS["Android, 24 hours"].split("|")
    return str(chat_file(tmp_path, CHAT.format(*headers), "ann.txt"))


def test_questions_come_from_a_second_file(tmp_path):
    chat, questions = ann_and_bob(tmp_path), tmp_path / "questions.jsonl"
    for text in (json.dumps(small_questions()), "\n".join(map(json.dumps, small_questions()))):
        questions.write_text(text)
        [dialogue] = held_out(chat, str(questions))
        check_dialogues([dialogue])
        assert dialogue.questions == (
            data.Question("Where does Ann live?", "Bergen", "own", ("D1:1",)),
            data.Question("How many cats?", "1", 4, ()),
            data.Question("Who met?", "Bob", "people", ("D2:1",), "3 January 2024"))
    test, scope = dialogues_to_test(chat, None, None, str(questions))
    assert len(test[0].questions) == 3 and scope == "3 questions on 1 of 1 dialogues"


def test_of_several_conversations_a_question_names_its_own(tmp_path):
    both = write(tmp_path, [{"sample_id": name, "conversation": {
        "session_1_date_time": "8 May", "session_1": [{"speaker": name, "text": "Hi"}]}}
        for name in ("ann", "bob")])
    questions = tmp_path / "questions.json"
    questions.write_text(json.dumps([{"question": "Who?", "answer": "Bob", "evidence": ["D1:1"],
                                      "conversation": "bob"}]))
    first, second = held_out(str(both), str(questions))
    assert not first.questions and len(second.questions) == 1
    questions.write_text(json.dumps([{"question": "Who?", "answer": "Bob"}]))
    with pytest.raises(DataError, match="field 'conversation': found nothing"):
        held_out(str(both), str(questions))


@pytest.mark.parametrize("change, piece", [
    (remove_at([1, "answer"]), "field 'answer': found nothing"),
    (set_at([1, "answer"], float("nan")), "field 'answer': found nan"),
    (set_at([1, "question"], " "), "field 'question': found blank text"),
    (set_at([1, "evidence"], ["D9:9"]), "'evidence': found 'D9:9', expected the id of a turn"),
    (set_at([1, "category"], 5), "field 'category': found 5, expected a name, or 1 to 4"),
    (set_at([1, "category"], True), "field 'category': found True"),
    (set_at([1, "category"], " "), "field 'category': found ' ', expected a name"),
    (set_at([1, "conversation"], "bob"), "field 'conversation': found 'bob', expected one of"),
    (set_at([1, "date"], 3), "field 'date': found 3")])
def test_a_broken_question_is_named(tmp_path, change, piece):
    content = small_questions()
    change(content)
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        held_out(ann_and_bob(tmp_path), str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: element 1") and piece in message, message
    assert "own-data.md" in message and "\n" not in message


def test_without_questions_one_line_says_what_is_needed(tmp_path):
    chat = ann_and_bob(tmp_path)
    with pytest.raises(DataError, match="no question to test on.*--questions-file.*memr1.py"):
        dialogues_to_test(chat, None, None)
    with pytest.raises(DataError, match="fewer than three conversations.*own-data.md"):
        splits(chat)
    three = write(tmp_path, [{"sample_id": name, "conversation": {
        "session_1_date_time": "8 May", "session_1": [{"speaker": name, "text": "Hi"}]}}
        for name in "abc"])
    with pytest.raises(DataError, match="nobody asks about 'a', its first conversation.*'qa'"):
        splits(str(three))
