"""Tests of docs/tour.ipynb: it is a notebook without outputs, and its cells show what they say.

    python -m pytest tests/test_tour.py -m slow        (some fifteen seconds: it trains for a step)
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

TOUR = Path(__file__).resolve().parent.parent / "docs" / "tour.ipynb"
CELLS = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]


def test_the_tour_is_a_notebook_without_outputs():
    notebook = json.loads(TOUR.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert [cell["cell_type"] for cell in CELLS] == ["markdown", "code"] * 10
    assert len({cell["id"] for cell in CELLS}) == 20, "format 4.5 wants an id for every cell"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in CELLS), (
        "clear all outputs before committing: they say what another machine once printed")


@pytest.mark.slow
def test_all_cells_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(os.getcwd())
    monkeypatch.chdir(tmp_path)  # runs/ belongs to the reader
    space: dict = {}
    printed = []
    for cell in (cell for cell in CELLS if cell["cell_type"] == "code"):
        exec(compile("".join(cell["source"]), cell["id"], "exec"), space)
        if cell["id"] == "code-1":
            space["STEPS"] = 1
        printed.append(capsys.readouterr().out)
    assert "answer Milo" in printed[3], "the text says that the untrained manager overwrites"
    assert {line[0] for line in printed[4].splitlines()} <= {"0", "1"}
    differences = [float(word) for word in printed[6].split("difference:")[1].split()]
    assert max(differences) < 1e-4, "a packed tree gives the log-probs of separate rows"
    assert space["summary"]["steps"] == 1 and "->" in printed[8]
    mem1, full_context = (line.split(":")[1] for line in printed[9].splitlines())
    assert "[" in mem1 and "[" in full_context
