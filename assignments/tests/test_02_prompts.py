"""Problem 2: reading what a model wrote. python -m pytest assignments/tests/test_02_prompts.py"""

from __future__ import annotations

import time

import pytest
from course_helpers import plain, work


def parsed(text: str, n_memories: int = 3) -> tuple[list[tuple], int]:
    """Operations as tuples (event, number, text), and the count of unusable entries."""
    operations, invalid = work("prompts.parse_operations")(text, n_memories)
    return [(plain(o.event), plain(o.number), plain(o.text)) for o in operations], plain(invalid)


# ---- the manager ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text, wanted", [
    ('[{"event": "ADD", "text": "Lena has a dog"}]', [("ADD", None, "Lena has a dog")]),
    ('[{"event": "UPDATE", "id": 2, "text": " a  cat\\nnow "}]', [("UPDATE", 2, "a cat now")]),
    ('[{"event": "DELETE", "id": 0}]', [("DELETE", 0, "")]),
    ('[{"event": "NOOP"}]', [("NOOP", None, "")]),
    ('[{"event": "DELETE", "id": 0}, {"event": "ADD", "text": "x"}]',
     [("DELETE", 0, ""), ("ADD", None, "x")]),
    ("[]", []),
])
def test_the_compact_form(text, wanted):
    assert parsed(text) == (wanted, 0), (
        "white space in a text becomes single spaces; only UPDATE and DELETE have a number, only "
        "ADD and UPDATE a text")


@pytest.mark.parametrize("text, wanted", [
    ('Sure!\n```json\n[{"event": "NOOP"}]\n```\nDone.', [("NOOP", None, "")]),
    ('As said [above]: {"event": "ADD", "text": "x"}', [("ADD", None, "x")]),
    ('{"memory": [{"id": "1", "text": "x", "event": "UPDATE", "old_memory": "y"}]}',
     [("UPDATE", 1, "x")]),
    ('[{"event": " update ", "id": "1", "text": "x"}]', [("UPDATE", 1, "x")]),
    ('[{"event": "NONE"}]', [("NOOP", None, "")]),
])
def test_other_ways_to_say_the_same(text, wanted):
    assert parsed(text) == (wanted, 0), (
        "text and fences around the JSON, a bracket that is no JSON, the paper's form with "
        "\"memory\" and ids as strings, any case, NONE for NOOP: all are understood")


@pytest.mark.parametrize("text, invalid", [
    ("I would rather not.", 1), ("", 1), ("{", 1), ("7", 1), ('[{"event": "ADD"', 1),
    ('[{"event": "MERGE", "id": 0, "text": "x"}]', 1),
    ('[{"event": "ADD"}]', 1), ('[{"event": "ADD", "text": "  "}]', 1),
    ('[{"event": "ADD", "text": 5}]', 1), ('[{"event": "ADD", "text": "\\ud83d"}]', 1),
    ('[{"event": "UPDATE", "id": 3, "text": "x"}]', 1), ('[{"event": "DELETE", "id": -1}]', 1),
    ('[{"event": "DELETE"}]', 1), ('[{"event": "DELETE", "id": true}]', 1),
    ('[{"event": "DELETE", "id": 1.0}]', 1), ('[{"event": "DELETE", "id": "one"}]', 1),
    ('["ADD", 3, null]', 3), ('[{"event": ["ADD"]}]', 1),
])
def test_what_is_unusable_is_counted(text, invalid):
    assert parsed(text) == ([], invalid), (
        "no JSON at all counts 1, and so does each entry that cannot be carried out; a number that "
        "was not shown (there are 3, so 0 to 2), true and 1.0 are no numbers of memories")


def test_the_usable_entries_of_a_mixture_stay():
    text = '[{"event": "ADD", "text": "x"}, {"event": "DELETE", "id": 9}, {"event": "NOOP"}]'
    assert parsed(text) == ([("ADD", None, "x"), ("NOOP", None, "")], 1), (
        "one bad entry spoils itself, not the others")


def test_half_an_update_is_no_deletion():
    delete, add = '{"event": "DELETE", "id": 0}', '{"event": "ADD", "text": "x"}'
    assert parsed(f"[{delete}, {add}]") == ([("DELETE", 0, ""), ("ADD", None, "x")], 0)
    assert parsed(f"[{delete}, {add[:-6]}") == ([], 2), "the ADD was cut: its DELETE is not done"
    assert parsed(f'[{delete}, {{"event": "ADD"}}]') == ([], 2), "the ADD has no text"
    assert parsed(f"[{delete}] Better: [{add}]") == ([], 2), "the ADD was not read"
    assert parsed(f"[{add}, {add[:-6]}") == ([("ADD", None, "x")], 1), "an ADD loses nothing"


def test_any_text_is_read_quickly_and_without_an_error():
    for text in ("[" * 50_000, "{" * 50_000, '{"a":' * 20_000, "[{" * 20_000 + "]", "\x00\ud800"):
        start = time.process_time()
        assert parsed(text)[0] == [], f"{text[:6]!r}...: there is no operation in it"
        assert time.process_time() - start < 2, (
            f"{text[:6]!r}... took {time.process_time() - start:.1f} s: trying from each of 50,000 "
            "brackets is quadratic; a few tries are enough")


@pytest.mark.parametrize("text, wanted", [
    ('so [1, {"a": 2}] and [3]', ([[1, {"a": 2}]], 0)),  # numbers in brackets are prose
    ('[x] {"a": [1]}', ([{"a": [1]}], 0)),  # a bracket that is no JSON is passed
    ('no brackets, 5, "text"', ([], 1)),  # only lists and objects are values
    ('{"a": 1}\n{"b": 2}', ([{"a": 1}, {"b": 2}], 0)), ('["a"], ["b"]', ([["a"], ["b"]], 0)),
    ('```json\n["a"]\n```\n```json\n["b"]\n```', ([["a"], ["b"]], 0)),
    ('["a"] or rather ["b"] {"c": 1}', ([["a"]], 2)),  # second thoughts are only counted
    ('<think>["a"]</think>["b"]', ([["b"]], 0)), ('["a"]</think>["b"]', ([["b"]], 0)),
    ('<think>["a"]', ([], 1)), ('["a",]', ([["a"]], 0)), ('{"a": 1,}', ([{"a": 1}], 0)),
    ('[{"a": 1}, {"b": 2}, {"c": "d', ([{"a": 1}, {"b": 2}], 1)),  # cut: a break counts once
    ('{"memory": [{"a": 1}, {"b', ([{"a": 1}], 1)), ("[]", ([[]], 0)), ("[0]", ([], 1)),
])
def test_json_values(text, wanted):
    assert plain(work("prompts.json_values")(text)) == wanted, (
        "values that follow each other are read, what stands behind text or is broken is counted")


# ---- the answer agent ----------------------------------------------------------------------------


@pytest.mark.parametrize("text, wanted", [
    ("**Memories:**\n- a\n- b\n**Answer:** Oslo", ("- a\n- b", "Oslo")),
    ("**Answer:** Oslo\nBecause she said so.", ("", "Oslo")),
    ("**Answer:**\n\n Oslo ", ("", "Oslo")),
    ("I think\n**Answer: Oslo** it is", ("I think", "Oslo")),
    ("Answer: Oslo", ("", "Oslo")),
    (" Oslo\n", ("", "Oslo")),
    ("**Memories:**\n- Answer: no\n**Answer:** yes", ("- Answer: no", "yes")),
    ("", ("", "")), ("<think>**Answer:** Rome?</think>Answer: Oslo", ("", "Oslo")),
    ("<think>Answer: Rome?", ("", "")),
])
def test_answers(text, wanted):
    found = work("prompts.parse_answer")(text)
    assert plain(found) == wanted, (
        "the forms are tried in this order: **Answer:** and the rest of its line, **Answer: ...**, "
        "Answer: ..., the whole text; what stands before is what was selected, without its heading")
