"""Tests of tools/terminal.py: colors, and which words an embedded model cannot read.

    python -m pytest tests/test_terminal.py        (a second)
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.loading import load_tokenizer
from tools import terminal
from training.options import EMBEDDED_MEM1, EMBEDDED_MODEL
from world import EVENTS, INFERENCES, NAMES, RELATIONS, SMALL_TALK


def test_colors_only_where_they_are_wanted(monkeypatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("WT_SESSION", "x")  # for Windows: a console that has colors
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.paint("x", "ADD") == "x", "the output is no terminal"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert terminal.paint("x\x1b", "ADD") == "\x1b[32mx\ufffd\x1b[0m"
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert terminal.paint("x", "ADD") == "x", f"{name}={value} asks for no colors"


@pytest.mark.parametrize("folder", [EMBEDDED_MODEL, EMBEDDED_MEM1], ids=["tiny", "mem1"])
def test_no_word_that_an_embedded_model_learned_is_marked(folder: Path) -> None:
    """MEM1 learned questions alone, because its passages are memories."""
    policy = SimpleNamespace(tokenizer=load_tokenizer(folder))
    forms = [*RELATIONS.values()]
    texts = [*NAMES, *(value for form in forms for value in form.values),
             *(form.question for form in forms), *(question for question, _ in INFERENCES.values()),
             *(f"When did Anna {event}?" for event in EVENTS.values())]
    if folder == EMBEDDED_MODEL:
        texts += [*(text for form in forms for text in (*form.said, *form.said_of)),
                  *(text for text, _ in SMALL_TALK), *(f"I {event} today." for event in EVENTS)]
    marked = terminal.unknown_words(policy, " ".join(texts).format(s="Anna", v="Oslo"))
    assert not marked, f"{marked} are words of the world: a mark on what it reads misleads"


@pytest.mark.parametrize("line, words", [
    ("I work as a software engineer in Munich.", ["software", "engineer"]),
    ("My favourite food is sushi, favourite!", ["favourite"]),
    ("i live in OSLO now", ["i", "OSLO"]), ("Where does Bob's cousin live?", ["Bob"]),
    ("雷克斯在哪里？", ["雷克斯在哪里"]), ("🐕 - ?", ["🐕"]),
    ("J'habite Oslo", ["J'habite"]),
    ("Robert has a dog named Rex.", []), ("", []), (" ... ; - ", [])])
def test_words_that_the_tokenizer_cuts_are_found(line, words) -> None:
    policy = SimpleNamespace(tokenizer=load_tokenizer(EMBEDDED_MODEL))
    assert terminal.unknown_words(policy, line) == words
