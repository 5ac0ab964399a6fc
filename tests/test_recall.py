"""Tests of recall.py: evidence that is found, by search alone and by each system.

    python -m pytest tests/test_recall.py        (some five seconds with LoCoMo)

The tests on LoCoMo are skipped without ../shared/data/locomo10.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from canned import refused

from benchmarks.splits import held_out, shorten
from comparisons.recall import (
    MEASURED,
    main,
    recall_table,
    search_recall,
    shown_by,
    systems_recall,
)
from data import Dialogue, Question, Turn
from memory_bank import Embedder, hashed_words

LOCOMO = Path(__file__).resolve().parent.parent / "../shared/data/locomo10.json"
needs_locomo = pytest.mark.skipif(not LOCOMO.exists(), reason="needs LoCoMo")
WORDS = "oak elm harp ash fir yew box ivy bay fig nut pea".split()


def plain(lines: Sequence[str]) -> Embedder:
    """Hashed words, which weigh every word alike."""
    return hashed_words()


def spoken(texts: list[str], question: str, *evidence: str) -> Dialogue:
    turns = tuple(Turn(f"D1:{i}", "Ann", text, "", (f"fact {text}",))
                  for i, text in enumerate(texts, start=1))
    return Dialogue("d", ("Ann", "Bob"), turns, (Question(question, "", 4, evidence),))


def test_search_recall_by_hand():
    # Twelve turns of one word each. "harp" is in the third; a tie of zeros goes to the oldest, so
    # that of the twelve the last two are not among the ten best.
    turns = tuple(Turn(f"D1:{i}", "Ann", word, "", (f"fact {word}",) if i < 12 else ())
                  for i, word in enumerate(WORDS, start=1))
    questions = (Question("harp", "", 4, ("D1:3", "D1:12")), Question("harp", "", 4, ("D1:3",)),
                 Question("harp", "", 3, ()))
    recall = search_recall([Dialogue("d", ("Ann", "Bob"), turns, questions)], plain)
    assert recall["raw turns"] == {"10": 0.75, "60": 1.0, "30 a speaker": 1.0}, (
        "by hand: at 10 half of the first question's evidence and all of the second's")
    assert recall["facts"] == {"10": 0.75, "60": 0.75, "30 a speaker": 0.75}, (
        "the twelfth turn states no fact, so no search can find it")


def test_every_system_shows_what_it_would_show_and_no_more():
    """Forty turns; the evidence is one that shares a word with the question, and one that does
    not."""
    said = [f"{WORDS[i % 12]} number{i}" for i in range(40)]
    dialogue = spoken(said, "number7?", "D1:8", "D1:31")
    turns_of = {name: shown_by(name, dialogue, lambda turn: [turn.text], plain)[0][0]
                for name in MEASURED}
    assert all("D1:8" in turns for turns in turns_of.values()), (
        f"the best match is shown by every system, or its memory counts as another turn's: "
        f"{[name for name, turns in turns_of.items() if 'D1:8' not in turns]}")
    sizes = {name: len(turns) for name, turns in turns_of.items()}
    assert sizes["full-context"] == 40, "everything fits"
    assert sizes["langmem"] == 10 and 10 < sizes["a-mem"] <= 20, "ten best, and as many linked"
    assert sizes["mem0, memory-r1, rules"] == sizes["zep"] == 30, "of one speaker"


def test_chunks_of_rag_are_told_apart():
    """Chunks of 500 tokens: a line of 120 words fills a chunk with three others."""
    texts = [" ".join([f"word{i}", *["and"] * 119]) for i in range(12)]
    dialogue = spoken(texts, "word9?", "D1:10")
    found = [shown_by(f"locomo-rag, k = {k}", dialogue, lambda turn: [turn.text], plain)[0]
             for k in (1, 2, 4)]
    assert [len(turns) for turns, _ in found] == [4, 8, 12], "chunks of four lines, k of them"
    assert "D1:10" in found[0][0] and found[0][1] < 520
    assert found[1][1] == pytest.approx(2 * found[0][1], rel=0.05), "tokens of what is shown"


def test_a_turn_of_many_chunks_is_found_in_each():
    long = " ".join([*["and"] * 1000, "harp", *["or"] * 2000])  # its word is in the third of eight
    dialogue = spoken(["oak", long, "elm"], "harp?", "D1:2")
    [(turns, _)] = shown_by("locomo-rag, k = 1", dialogue, lambda turn: [turn.text], plain)
    assert "D1:2" in turns, "a chunk from the middle of a long turn belongs to no turn"


@pytest.mark.slow
@needs_locomo
def test_recall_on_locomo():
    recall = search_recall(held_out(str(LOCOMO)), plain)
    promised = {"raw turns": (0.52, 0.74), "facts": (0.59, 0.72)}  # memory_bank.py's table
    for name, (at_10, at_60) in promised.items():
        found = recall[name]["10"], recall[name]["60"]
        assert found == pytest.approx((at_10, at_60), abs=0.0051), (
            f"{name}: {found}, but the docstring of memory_bank.py says {at_10} and {at_60}")


@pytest.mark.slow
@needs_locomo
def test_systems_on_a_conversation_of_locomo():
    first_turns = shorten(held_out(str(LOCOMO)), 15, 150)  # 150 of one conversation
    found = systems_recall(first_turns, plain)
    chunks = [found[f"locomo-rag, k = {k}"]["raw turns"] for k in (1, 2, 4, 8)]
    assert chunks == sorted(chunks) and chunks[0] < chunks[-1], "more chunks show more"
    assert found["full-context"]["raw turns"] == 1.0, "150 turns fit, and nothing is lost"
    for row in found.values():
        assert 0 < row["facts"] <= 1 and row["tokens, facts"] > 0


def test_the_command_needs_no_model(capsys):
    recall = main(["--limit", "19"])
    printed = capsys.readouterr().out
    assert "a quick look, not the full test" in printed and "zep" in printed, printed
    assert 0 < recall["raw turns"]["10"] <= recall["raw turns"]["60"] <= 1
    assert set(recall["systems"]) == set(MEASURED)
    assert "--model" in refused(main, "--model", "no/such/model"), "an option that nobody reads"


def test_what_cannot_be_found_is_no_zero(tmp_path):
    silent = spoken(["harp", "lamp"], "harp", "D1:1")
    silent = replace(silent, turns=tuple(replace(turn, facts=()) for turn in silent.turns))
    for found in (search_recall([silent], plain), systems_recall([silent], plain)):
        table = recall_table(found, "head")
        assert re.search(r" -( |$)", table, re.MULTILINE), (
            f"{table}: nobody stated a fact, and a share of 0 says that search missed it")
    chat = tmp_path / "chat.json"
    chat.write_text(json.dumps([{
        "sample_id": "us", "conversation": {"session_1_date_time": "8 May", "session_1": [
            {"speaker": "Ann", "text": "I ski."}]},
        "qa": [{"question": "What?", "answer": "ski", "category": 4}]}]))
    assert "no question names its evidence" in refused(main, "--data", chat)
