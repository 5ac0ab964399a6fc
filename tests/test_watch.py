"""Tests of tools/watch.py: what the demo of MEM1 shows, and that nothing typed can break it.

    python -m pytest tests/test_watch.py        (some seconds; -m slow starts it as a program)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_chat import as_a_program, interrupted, typed_into
from test_environments import small_task
from test_mem1 import diligent
from test_report import Scripted

from backend.loading import load_tokenizer
from mem1 import Mem1Agent
from tools.watch import watch
from training.options import EMBEDDED_MEM1


def watch_with(lines: Sequence[str], monkeypatch, capsys, respond=diligent) -> str:
    """What the demo prints when these lines are typed, with tasks of two and three questions."""
    tasks = [small_task(2), small_task(3)]
    agents = [Mem1Agent(harness=harness, max_new_tokens=160)
              for harness in ("mem1", "full_context")]
    return typed_into(lambda: watch(Scripted(respond), agents, tasks, 0), lines, monkeypatch,
                      capsys)


def test_the_demo_shows_every_turn(monkeypatch, capsys):
    out = watch_with([], monkeypatch, capsys)
    assert out.count("== mem1 ==") == out.count("== full_context ==") == 1
    assert out.count("turn 1 is dropped") == 1, "with a state, turn 1 is gone in turn 3; else never"
    assert out.count("right: 2 of 2") == 2 and "gold:   Oslo0; Oslo1" in out, out
    sizes = [int(n) for n in re.findall(r"(\d+) tokens in context", out)]
    assert len(sizes) == 6 and sizes[2] < sizes[5], f"everything kept must be more: {sizes}"
    assert f"{max(sizes[:3])} with a state, {max(sizes[3:])} with everything" in out


def test_the_demo_goes_on_with_what_is_typed(monkeypatch, capsys):
    question = small_task(2).questions[1]
    out = watch_with(["", "", "1", "7", "9" * 400, question + " ; ;", "/corpus", "/help", "/x y"],
                     monkeypatch, capsys)
    assert [len(line.split("; ")) for line in re.findall("^Questions: (.*)", out, re.M)[::2]] == [
        2, 3, 2, 3, 1], "the task, the next, round to the first, that of the number, one's own"
    assert out.count("There is no task") == 2 and "0 to 1" in out
    own = out.split("Questions: 1. " + question + "\n")[-1]
    assert "right:" not in own, "nobody knows what is right for a question of one's own"
    assert "lives in Oslo1" in own and "no command /x" in own and "Ctrl-C" in own
    assert out.endswith("Good-bye.\n")


def test_words_that_mem1_cannot_read_are_marked(monkeypatch, capsys):
    model = Scripted(diligent)
    model.tokenizer = load_tokenizer(EMBEDDED_MEM1)
    agents = [Mem1Agent(harness="mem1", max_new_tokens=160)] * 2
    lines = ["Where does Carl live, kindly?;Where does Anna live?"]
    out, real = (typed_into(lambda: watch(model, agents, [small_task(2)], 0, in_the_world),
                            lines, monkeypatch, capsys) for in_the_world in (True, False))
    assert out.count("unknown to the embedded model: kindly;") == 1, f"one word is foreign:\n{out}"
    assert "unknown" not in real, "real models read words in pieces"


@pytest.mark.parametrize("mark", ["; ", "；", " ；"])
def test_questions_of_ones_own_are_cut_at_the_semicolons_of_all_languages(
        mark, monkeypatch, capsys):
    out = watch_with([mark.join(small_task(2).questions) + mark], monkeypatch, capsys)
    assert out.count("Questions: 1. Where does Anna live?; 2. Where does Carl live?\n") >= 2, (
        f"two questions with {mark!r} between them were asked as one")


def test_the_demo_survives_everything_typed(monkeypatch, capsys):
    odd = [";", " ; ;", "?", "\x00", "\x1b[2J", "x" * 100_000, "\u0663", "\u00b2", "-1", "</IS>",
           "/"]
    out = watch_with(odd, monkeypatch, capsys, lambda prompt: "no tags \x1b[2J")
    assert "\x1b" not in out and "100000 characters" in out and "invalid no tags" in out
    out = watch_with(["/quit", "never"], monkeypatch, capsys, interrupted)
    assert "Stopped." in out and out.endswith("Good-bye.\n"), "Ctrl-C stops the model alone"


@pytest.mark.slow
def test_the_demo_as_a_program(model_folder: Path) -> None:
    done = as_a_program("mem1.py", "--model", str(model_folder), "--objectives", "1",
                        typed=b"/\xff\xfe\n;\x00;\n/help\n")
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode()
    assert done.stdout.count(b"mem1> ") == 4 and b"/corpus" in done.stdout
