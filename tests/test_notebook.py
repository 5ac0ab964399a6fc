"""Tests of notebook.py: the file is a notebook, and its ten cells run and show what they say.

    python -m pytest tests/test_notebook.py        (some fifteen seconds: it trains for a step)
"""

from __future__ import annotations

import json
import os

import pytest

from notebook import CELLS, main, notebook


def test_the_file_is_a_notebook(tmp_path, capsys):
    main(["--out", str(tmp_path / "tour.ipynb")])
    found = json.loads((tmp_path / "tour.ipynb").read_text(encoding="utf-8"))
    assert found["nbformat"] == 4 and len({cell["id"] for cell in found["cells"]}) == 20, (
        "format 4.5 wants an id of its own for every cell")
    assert [cell["cell_type"] for cell in found["cells"]] == ["markdown", "code"] * 10
    assert "10 cells" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path / "no" / "folder.ipynb")])
    assert stopped.value.code == 2


@pytest.mark.slow
def test_all_cells_run_in_order(tmp_path, monkeypatch, capsys):
    root = os.getcwd()
    monkeypatch.syspath_prepend(root)
    monkeypatch.chdir(tmp_path)  # runs/ belongs to the reader
    space: dict = {}
    said = []
    for cell in (cell for cell in notebook()["cells"] if cell["cell_type"] == "code"):
        code = "".join(cell["source"])
        exec(compile(code, cell["id"], "exec"), space)
        if cell["id"] == "code-1":
            space["STEPS"] = 1
        said.append(capsys.readouterr().out)
    assert "answer Milo" in said[3], "the text says that the untrained manager overwrites"
    assert {line[0] for line in said[4].splitlines()} <= {"0", "1"}
    differences = [float(word) for word in said[6].split("difference:")[1].split()]
    assert max(differences) < 1e-4, "a packed tree gives the log-probs of separate rows"
    assert space["summary"]["steps"] == 1 and "->" in said[8]
    mem1, full = (line.split(":")[1] for line in said[9].splitlines())
    assert "[" in mem1 and "[" in full
    assert len(CELLS) == 10
