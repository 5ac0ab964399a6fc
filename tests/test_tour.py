"""Tests of docs/tour.ipynb: it is a notebook without outputs, and its cells show what they say.

    python -m pytest tests/test_tour.py -m slow        (two minutes: it trains as the tour does)
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from pathlib import Path

import pytest
from test_chat import typed_into

import grpo
from tools import chat
from training.options import EMBEDDED_MODEL

TOUR = Path(__file__).resolve().parent.parent / "docs" / "tour.ipynb"
CELLS = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]


def test_the_tour_is_a_notebook_without_outputs():
    notebook = json.loads(TOUR.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert [cell["cell_type"] for cell in CELLS] == ["markdown", "code"] * 10
    assert len({cell["id"] for cell in CELLS}) == 20, "format 4.5 wants an id for every cell"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in CELLS), (
        "clear all outputs before committing: they say what another machine once printed")


@pytest.fixture(scope="module")
def tour(tmp_path_factory) -> tuple[dict, list[str]]:
    """The names that all cells define, run in order as they stand, and what each cell prints."""
    space: dict = {}
    printed = []
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(os.getcwd())
        patched.chdir(tmp_path_factory.mktemp("tour"))  # runs/ belongs to the reader
        for cell in (cell for cell in CELLS if cell["cell_type"] == "code"):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile("".join(cell["source"]), cell["id"], "exec"), space)
            printed.append(out.getvalue())
        space["checkpoint"] = os.path.abspath("runs/tour/checkpoint")
    return space, printed


@pytest.mark.slow
def test_every_cell_shows_what_its_text_says(tour):
    space, printed = tour
    untrained, trained = printed[3].splitlines(), printed[8].splitlines()[:4]
    assert len(untrained) == 4 and all(line.endswith("answer Milo") for line in untrained), (
        f"the text says that the untrained manager overwrites, whoever has the dog: {untrained}")
    assert {line[0] for line in printed[4].splitlines()} == {"0", "1"}, (
        "a group of equal rewards shows no comparison")
    advantages = grpo.group_advantages(space["rewards"])
    assert (advantages != 0).any() and str(advantages) in printed[5], "nobody did better or worse"
    differences = [float(word) for word in printed[6].split("difference:")[1].split()]
    assert max(differences) < 1e-4, "a packed tree gives the log-probs of separate rows"
    assert "run folder runs/tour" in printed[7], "the loop ended with its last line"
    assert all(line.endswith("answer Rex and Milo") for line in trained), (
        f"the showpiece shows nothing: before and after training the same is printed: {trained}")
    before, after = re.findall(r"training: (\d+) of 40 names", printed[8])
    assert int(before) <= 4 and int(after) >= 32, "one name in many fails; most must not"
    mem1, full_context = (line.split(":")[1] for line in printed[9].splitlines())
    sizes = [json.loads(text) for text in (mem1, full_context)]
    assert sizes[0][-1] < sizes[1][-1], f"everything kept must end with more tokens: {sizes}"


@pytest.mark.slow
def test_the_lines_that_the_chat_proposes_show_a_trained_manager(tour, monkeypatch, capsys):
    checkpoint = tour[0]["checkpoint"]
    monkeypatch.setattr(chat, "prepare_terminal", lambda: None)
    out = typed_into(lambda: chat.talk_main([]), [], monkeypatch, capsys)
    lines = [line.strip() for line in out.splitlines() if line.startswith("  ")]
    for model, answer in ((str(EMBEDDED_MODEL), "Milo"), (checkpoint, "Rex and Milo")):
        out = typed_into(lambda: chat.talk_main(["--model", model]), lines, monkeypatch, capsys)
        assert f"answer:   {answer}\n" in out, f"{model}: the proposed lines show nothing:\n{out}"
