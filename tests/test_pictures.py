"""Tests of training/pictures.py and backend/files.py: what is drawn, chosen, written and refused.

    python -m pytest tests/test_pictures.py        (some seconds)
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from canned import refused

from backend.files import check_writable, write_whole
from training import pictures
from trees import Episode


def run_folder(folder: Path, algorithm: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"questions": 2, "group_size": 4}))
    (folder / "summary.json").write_text(json.dumps({"algorithm": algorithm}))
    (folder / "metrics.csv").write_text("step,reward\n1,0.25\n2,0.5\n3,1.0\n")
    return folder


def test_runs_in_one_picture(tmp_path, monkeypatch, capsys):
    folders = [run_folder(tmp_path / name, name[:4]) for name in ("grpo-0", "grpo-1", "ppo-")]
    drawn = []
    monkeypatch.setattr(pictures.plt, "close", drawn.append)
    pictures.main([*map(str, folders), "--out", str(tmp_path / "x.png")])
    assert capsys.readouterr().out == f"saved to {tmp_path / 'x.png'}\n"
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    [axes] = drawn[0].axes
    lines = axes.get_lines()
    assert [list(line.get_xdata()) for line in lines] == [[8, 16, 24]] * 3, "2 x 4 samples a step"
    assert list(lines[0].get_ydata()) == [0.25, 0.375, pytest.approx(1.75 / 3)], (
        "a mean over the last five steps, or as many as there are")
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["GRPO", "PPO-"], (
        "seeds of one algorithm share a colour and an entry in the legend")


def test_an_older_picture_is_moved_aside(tmp_path, capsys):
    folder, path = run_folder(tmp_path / "run", "grpo"), tmp_path / "x.png"
    path.write_bytes(b"somebody's own")
    refused("training.pictures", tmp_path, "--out", path)
    assert path.read_bytes() == b"somebody's own", "lost before there is a new one"
    pictures.main([str(folder), "--out", str(path)])
    assert (tmp_path / "x.1.png").read_bytes() == b"somebody's own"
    assert path.read_bytes().startswith(b"\x89PNG") and "x.1.png" in capsys.readouterr().out


@pytest.mark.parametrize("out, told", [
    ("x", "must end in .png"), ("x.jpeg", "must end in .png"), ("missing/x.png", "be written"),
    ("folder.png", "be written")])
def test_a_picture_that_cannot_be_written_is_refused_before_the_work(
        out, told, tmp_path, monkeypatch):
    (tmp_path / "folder.png").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "draw_rewards", None)  # whatever is drawn is too much
    assert told in refused("training.pictures", "run", "--out", out)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"], "a check leaves no file"


def test_a_folder_that_is_no_runs_is_one_line(tmp_path):
    assert "config.json" in refused("training.pictures", tmp_path, "--out", tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
    (tmp_path / "config.json").write_text('{"questions": 1, "group_size": 2}')
    (tmp_path / "summary.json").write_text('{"algorithm": "grpo"}')
    for metrics in ("step,reward\n1\n", "", "step,reward\n"):  # cut short, empty, no step
        (tmp_path / "metrics.csv").write_text(metrics)
        assert str(tmp_path) in refused("training.pictures", tmp_path, "--out", tmp_path / "x.png")
        assert not (tmp_path / "x.png").exists(), "a picture of nothing"


def episode(reward: float, question: str, category: int = 1, **log) -> Episode:
    return Episode([], reward, {"prompt": "p", "response": f"wrote {reward}", "answer": "a",
                                "gold": "g", "question": question, "category": category, **log})


def test_transcripts_show_what_became_better_one_of_each_kind_first():
    before = [episode(0, "same"), episode(0, "first"), episode(0, "second"),
              episode(0, "other kind", 2), episode(0, "pets", 3, merged=False)]
    after = [episode(0, "same"), episode(1, "first"), episode(1, "second"),
             episode(1, "other kind", 2), episode(1, "pets", 3, merged=True)]
    text = pictures.transcripts(before, after)
    places = [text.find(f"question {name} ") for name in ("pets", "first", "other kind")]
    assert -1 not in places and places == sorted(places), (
        f"second pets first, then one of each kind, in order:\n{text}")
    assert "second" not in text and "same" not in text, "three are enough"
    assert "before wrote 0" in text and "after  wrote 1" in text
    assert "same" in pictures.transcripts(before, after, 5), "with nothing better, what there is"
    long = [episode(1, "q", prompt="line\n" * 60)]
    assert "(60 lines of memories and question)" in pictures.transcripts(long, long)


# ---- Files ---------------------------------------------------------------------------------------

def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "page"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"half")
    assert path.read_bytes() == b"new", "a failed write destroyed what was there"
    assert list(tmp_path.iterdir()) == [path], "half a file was left behind"


@pytest.mark.skipif(os.name == "nt", reason="Unix links and permissions")
def test_a_link_stays_a_link_and_what_is_private_stays_so(tmp_path):
    bank, link = tmp_path / "synced.json", tmp_path / "anna.json"
    bank.write_bytes(b"old")
    bank.chmod(0o600)
    link.symlink_to(bank)
    write_whole(link, b"new")
    assert link.is_symlink() and bank.read_bytes() == b"new", "the file behind the link is detached"
    assert bank.stat().st_mode & 0o777 == 0o600, "others may read now what only the owner could"


def test_a_check_changes_nothing(tmp_path):
    path = tmp_path / "page"
    check_writable(path)
    assert not path.exists()
    path.write_bytes(b"old")
    check_writable(path)
    assert path.read_bytes() == b"old", "the check must not cut off an existing file"
    with pytest.raises(OSError):
        check_writable(tmp_path / "missing" / "page")


# ---- A run's own pictures and tables -------------------------------------------------------------

def test_curve_and_table(tmp_path):
    rows = [{"step": n, "reward": 0.1 * n, "kl": 0.0, "entropy": 1.0} for n in (1, 2, 3)]
    for history in (rows, []):  # --steps 0 draws no line, but must not fail
        pictures.draw_curve(history, {0: 0.2, 3: 0.4}, "reward", "title", tmp_path / "curve.png")
        assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG", "curve.png is no PNG"
    scores = {"exact_match": 0.25, "f1": 0.5, "bleu1": 0.5, "count": 4}
    before = {**scores, "by_category": {1: scores, 2: scores}}
    text = pictures.table(before, {**before, "exact_match": 0.75})
    assert "1 multi-hop" in text and "2 temporal" in text, "question types without their names"
    assert re.search(r"all, exact match +4 +0\.250 +0\.750", text), text


def test_rewards_of_several_questions_are_drawn_as_one(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures.plt, "close", drawn.append)
    rows = [{"step": n, "reward": 1.0 * n, "kl": 0.0, "entropy": 1.0} for n in (1, 2)]
    for questions, shown in ((2, [0.5, 1.0]), (1, [1.0, 2.0])):
        pictures.draw_curve(rows, {0: 0.2, 2: 0.9}, "exact match", "title",
                            tmp_path / "curve.png", questions)
        left = drawn[-1].axes[0]
        lines = {line.get_label(): list(line.get_ydata()) for line in left.lines}
        [label] = [label for label in lines if label.startswith("training reward")]
        assert lines[label] == shown, (
            "a reward that sums over the questions of a task stands beside a share of questions")
        assert lines["validation, greedy"] == [0.2, 0.9]
        assert left.get_ylim()[1] >= shown[-1], "a point lies above the axis"
        assert label.endswith("a question") == (questions == 2), label


def test_a_reward_that_is_no_exact_match_is_not_drawn_as_one(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures.plt, "close", drawn.append)
    rows = [{"step": n, "reward": 0.1 * n, "kl": 0.0, "entropy": 1.0} for n in (1, 2)]
    for paid_by in ("f1", "exact match", None):
        pictures.draw_curve(rows, {0: 0.2, 2: 0.9}, "exact match", "title",
                            tmp_path / "curve.png", 1, paid_by)
        left = drawn[-1].axes[0]
        said = [left.get_title(), *(line.get_label() for line in left.lines)]
        assert all(("f1" in text) == (paid_by == "f1") for text in (said[0], said[2])), (
            f"{said}: paid by {paid_by}, beside a validation score of exact match")
        assert ("exact match" in said[1]) == (paid_by == "f1"), said


def rows_of(n: int) -> list[dict[str, float]]:
    """The history of n steps."""
    return [{"step": i, "reward": 0.5, "kl": 0.0, "entropy": 1.0} for i in range(1, n + 1)]


def test_a_legend_names_only_what_is_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures.plt, "close", drawn.append)
    imitation = [{"step": n, "loss": 1 / n} for n in (1, 2, 3)]
    pictures.draw_curve(imitation, {0: 0.2, 3: 0.4}, "reward", "title", tmp_path / "curve.png")
    named = [[text.get_text() for text in axes.get_legend().get_texts()]
             for axes in drawn[0].axes]
    assert named == [["validation, greedy"], ["loss"]], (
        f"{named}: imitation has no reward, so no line of one may be named")
    pictures.draw_curve(rows_of(2), {}, "exact match", "title", tmp_path / "curve.png")
    [line] = drawn[1].axes[0].lines
    assert line.get_label() == "training reward, sampled", "nothing was validated"


def test_the_comparison_of_harnesses_is_shown(tmp_path):
    scores = {str(n): {harness: {"exact_match": n / k, "f1": n / k, "peak_tokens": 90 * k * n,
                                 "peak_tokens_with_prompt": 100 * k * n, "seconds": 0.5}
                       for k, harness in enumerate(("mem1", "full_context"), start=1)}
              for n in (1, 2, 4)}
    lines = pictures.objectives_table(scores).splitlines()
    assert len(lines) == 1 + 6 and lines[-1].split()[:3] == ["4", "full_context", "2.00"]
    pictures.draw_objectives(scores, "title", tmp_path / "objectives.png")
    assert (tmp_path / "objectives.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_bank_over_the_turns(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures.plt, "close", drawn.append)
    columns = {"size": [1, 2], "right size": [1, 3], "held": [1, 0.5], "right": [1, 0.25]}
    pictures.draw_banks({"before": columns, "after": {**columns, "size": [1, 3]}},
                        tmp_path / "bank.png")
    assert (tmp_path / "bank.png").read_bytes().startswith(b"\x89PNG")
    lines = [[(line.get_label(), list(line.get_xdata()), list(line.get_ydata()))
              for line in axes.get_lines()] for axes in drawn[0].axes]
    assert lines[0] == [("before", [1, 2], [1, 2]), ("after", [1, 2], [1, 3]),
                        ("the right memory", [1, 2], [1, 3])], "turns count from 1"
    assert [panel[0][2] for panel in lines[1:]] == [[1, 0.5], [1, 0.25]]
