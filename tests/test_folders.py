"""Tests of training/folders.py: whatever `--out` names, nothing that stood there is lost.

    python -m pytest tests/test_folders.py        (a few seconds)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from canned import call, refused

from backend.files import LOCK, move_aside, release_locks
from grpo import GRPOOptions
from training import run
from training.folders import begin_folder, hold_folder, maker_of
from training.options import named_path
from training.run import prepare

TRAINING = {"agent": "manager", "steps": 20, "out": "x", "embedder": "hashed", "turns": None}
EVALUATION = {"embedder": "hashed", "turns": None, "out": "x", "exact_match": 0.5}
COMPARISON = {"turns": None, "memories": 30, "max_new_tokens": 48}
SMALL = ("--data", "world", "--limit", "1", "--max-new-tokens", "4")


@pytest.fixture(autouse=True)
def unlocked():
    yield
    release_locks()


def everything(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes; a lock file is nobody's work."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != LOCK}


def filled(folder: Path, **files: object) -> Path:
    """A folder with files, named as `config_json` and `best__model_safetensors`.

    A dict becomes JSON, anything else text.
    """
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content) if isinstance(content, dict) else str(content))
    return folder


def finished_run(folder: Path) -> Path:
    """What a training run leaves, in short."""
    return filled(folder, config_json=TRAINING, summary_json={"algorithm": "grpo"},
                  metrics_csv="step\n1", checkpoint__model_safetensors="weights")


def options_of(folder: Path, **given: object) -> SimpleNamespace:
    return SimpleNamespace(out=str(folder), **given)


# ---- Folders that are not a run's ----------------------------------------------------------------

FOREIGN: dict[str, Callable[[Path], object]] = {
    "somebody's own summary": lambda folder: filled(folder, summary_json={"score": 1},
                                                    metrics_csv="mine", curve_png="mine"),
    "a model": lambda folder: filled(folder, config_json={"model_type": "qwen2"},
                                     tokenizer_json="{}"),
    "a note": lambda folder: filled(folder, notes_txt="mine"),
    "a folder of runs": lambda folder: finished_run(folder / "grpo-manager"),
    "a list": lambda folder: filled(folder, config_json="[]"),
    "a broken config": lambda folder: filled(folder, config_json="{"),
    "a binary config": lambda folder: (folder.mkdir(), (folder / "config.json").write_bytes(
        b"\xff\xfe\x00")),
    "a run with a model of its own": lambda folder: filled(
        finished_run(folder), best__model_safetensors="mine"),
    "a run that replaced a model's config": lambda folder: filled(
        finished_run(folder), model_safetensors="mine"),
}


@pytest.mark.parametrize("fill", FOREIGN.values(), ids=FOREIGN)
def test_a_folder_that_is_not_a_runs_is_refused_and_untouched(fill, tmp_path):
    folder = tmp_path / "out"
    fill(folder)
    files = everything(folder)
    for maker in ("training run", "evaluation", "comparison"):
        line = refused(lambda _, maker=maker: hold_folder(options_of(folder), maker))
        assert str(folder) in line and "new folder" in line, line
    assert everything(folder) == files and not (folder / LOCK).exists(), (
        "a refused folder must stay as it was, without a lock file of ours")


@pytest.mark.parametrize("command", ["grpo", "evaluate", "comparisons.compare"])
def test_every_command_refuses_the_folder_of_its_own_model(command, model_folder):
    files = everything(model_folder)
    arguments = ("--model", model_folder, "--out", model_folder, *SMALL)
    assert "--out" in refused(command, *arguments)
    assert everything(model_folder) == files, "the model's config.json was replaced"


def test_results_of_another_kind_are_refused(tmp_path):
    folders = {"training run": finished_run(tmp_path / "t"),
               "evaluation": filled(tmp_path / "e", summary_json=EVALUATION),
               "comparison": filled(tmp_path / "c", config_json=COMPARISON)}
    for maker, folder in folders.items():
        assert maker_of(folder) == maker
        for other in folders:
            if other != maker:
                line = refused(lambda _, f=folder, o=other: hold_folder(options_of(f), o))
                assert f"of a {maker}" in line, (
                    f"{line!r}: an evaluation would replace a training run's summary.json")
        hold_folder(options_of(folder), maker)


def test_what_the_run_reads_may_not_lie_in_its_folder(tmp_path):
    folder = finished_run(tmp_path / "run")
    data = filled(folder, notes_txt="data") / "notes.txt"
    for option in ({"model": folder / "checkpoint"}, {"data": data}, {"manager": folder}):
        line = refused(lambda _, option=option: hold_folder(
            options_of(folder, **{k: str(v) for k, v in option.items()}), "training run"))
        assert f"--{next(iter(option))}" in line and "replace" in line, line
    hold_folder(options_of(folder, model="tiny", data="world"), "training run")


def test_a_built_in_name_is_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, option in (("world", "data"), ("locomo", "data"), ("world-29", "data"),
                         ("hashed", "embedder"), ("smollm2", "model")):
        folder = finished_run(Path(name))
        assert named_path(option, name) is None, f"--{option} {name} reads no folder"
        hold_folder(options_of(folder, **{option: name}), "training run")
    assert named_path("data", "world/summary.json") == Path("world/summary.json")
    assert named_path("manager", "world") == Path("world")
    assert named_path("trajectories", "smollm2") == Path("smollm2"), "only models have that name"
    assert named_path("data", "none.json") is None and named_path("model", None) is None


@pytest.mark.parametrize("config", [None, "", "{", "[]", "{}"])
def test_an_unfinished_run_is_known_without_its_config(tmp_path, config):
    folder = filled(tmp_path / "run", resume_pt="x", metrics_csv="step\n1")
    if config is not None:
        (folder / "config.json").write_text(config)
    assert maker_of(folder) == "training run", "neither --resume nor a new run would take it"
    hold_folder(options_of(folder), "training run", moves=False)


@pytest.mark.parametrize("config", [None, "{", '{"steps": 3}'])
def test_a_lost_config_is_written_again_and_another_stays(tmp_path, monkeypatch, config):
    monkeypatch.setattr(run, "read", lambda *_: {"rows": []})
    path = tmp_path / "config.json"
    if config is not None:
        path.write_text(config)
    options = options_of(tmp_path, resume=True, steps=9)
    assert run.start_folder(tmp_path, options, {}) == {"rows": []}
    wanted = json.loads(config) if config == '{"steps": 3}' else {
        "out": str(tmp_path), "resume": False, "steps": 9}
    assert json.loads(path.read_text()) == wanted, "the options of a resumed run are lost, or new"


def test_a_folder_cannot_be_moved_from_under_its_command(tmp_path, monkeypatch):
    monkeypatch.chdir(finished_run(tmp_path / "run"))
    line = refused(lambda _: hold_folder(options_of(Path(".")), "training run"))
    assert "started in it" in line, "the new run's relative paths would lead into the old one"


def test_a_link_to_itself_is_one_line(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(link)
    assert str(link) in refused("grpo", "--out", link, *SMALL)
    assert str(link) in refused("evaluate", "--out", link, *SMALL)
    assert str(link) in refused("grpo", "--model", link, *SMALL, "--out", tmp_path / "run")


# ---- Moved aside ---------------------------------------------------------------------------------


def test_an_earlier_run_is_moved_aside_whole(tmp_path):
    folder = filled(finished_run(tmp_path / "run"), notes_txt="mine")
    for number in (1, 2):
        files = everything(folder)
        hold_folder(options_of(folder), "training run")
        assert everything(folder) == files, "lost before the models are even loaded"
        begin_folder(folder)
        assert everything(folder) == {}, "old and new stand in one folder as one run"
        assert everything(tmp_path / f"run.{number}") == files, "something of the old run is lost"
        assert (folder / LOCK).read_text().startswith("process"), "the new folder is not locked"
        finished_run(folder)
        release_locks()


def test_a_link_to_another_disk_stays_a_link(tmp_path):
    disk, link = finished_run(tmp_path / "disk/run"), tmp_path / "run"
    link.symlink_to(disk)
    hold_folder(options_of(link), "training run")
    begin_folder(link)
    assert link.is_symlink() and everything(disk) == {}, "the new run goes to another disk"
    assert len(everything(tmp_path / "disk/run.1")) == 4


def test_a_file_that_is_moved_aside_keeps_its_ending(tmp_path):
    for number in (1, 2):
        (tmp_path / "page.html").write_text(str(number))
        assert move_aside(tmp_path / "page.html").name == f"page.{number}.html"
    assert [(tmp_path / f"page.{n}.html").read_text() for n in (1, 2)] == ["1", "2"]


def test_a_new_run_moves_the_old_one_when_all_is_ready(tmp_path, model_folder, monkeypatch):
    folder = finished_run(tmp_path / "run")
    files = everything(folder)
    options = GRPOOptions(model=str(model_folder), data="world", agent="answer", steps=1,
                          out=str(folder))
    with monkeypatch.context() as patched:
        def fails(*given):
            assert (folder / LOCK).exists(), "the folder is locked only after minutes of work"
            raise KeyboardInterrupt
        patched.setattr(run, "banks_of", fails)
        with pytest.raises(KeyboardInterrupt):
            prepare(options, "grpo")
    assert everything(folder) == files, "a run that never began cost the one that lay there"
    prepare(options, "grpo")
    assert list(everything(folder)) == ["config.json"], (
        "interrupted, this run would be shown with the scores and pictures of the last")
    assert everything(tmp_path / "run.1") == files


def test_an_evaluation_that_fails_costs_no_earlier_one(tmp_path, model_folder):
    folder = tmp_path / "run"
    good = ("--model", model_folder, "--turns", "3", "--out", folder, *SMALL)
    code, _, err = call("evaluate", *good)
    assert code == 0, err
    files = everything(folder)
    assert set(files) >= {"summary.json", "records.jsonl"}
    refused("evaluate", "--model", tmp_path / "typo", "--out", folder, *SMALL)
    assert everything(folder) == files, "a typo in --model emptied the earlier records"
    code, out, err = call("evaluate", *good)
    assert code == 0 and str(tmp_path / "run.1") in out, err
    assert everything(tmp_path / "run.1") == files
