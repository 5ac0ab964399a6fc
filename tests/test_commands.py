"""Tests of tools/commands.py and pyproject.toml: every command is there, and is installed.

    python -m pytest tests/test_commands.py        (some ten seconds)
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib

import pytest
from canned import refused
from test_house import MODULES, ROOT

from tools import commands


def called(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["memr1", *arguments])
    commands.main()


def test_every_command_is_listed(monkeypatch, capsys):
    called(monkeypatch, "--help")
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in commands.COMMANDS)
    for module, _ in commands.COMMANDS.values():
        path = ROOT / module.replace(".", "/")
        path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"), (
            f"{module} does nothing when it is run")


@pytest.mark.parametrize("words, told", [
    (["pictures", "--no-such-option", "run"], "unrecognized arguments: --no-such-option"),
    (["report"], "the following arguments are required: runs"),
    (["making.mem1", "--steps", "x"], "argument --steps: invalid int value"),
    (["grop"], "memr1 grop: the name must be one of grpo, ppo")])
def test_arguments_reach_the_module_and_errors_are_one_line(words, told, monkeypatch):
    assert told in refused(lambda words: called(monkeypatch, *words), *words)


@pytest.mark.parametrize("name", [*commands.COMMANDS, "assignments/make.py",
                                  "assignments/grade.py"])
def test_an_unknown_option_is_one_line_everywhere(name, monkeypatch, capsys):
    path = str(ROOT / name)
    with pytest.raises(SystemExit) as stopped:
        if name in commands.COMMANDS:
            called(monkeypatch, name, "x", "--no-such-option")
        else:
            monkeypatch.setattr(sys, "argv", [path, "x", "--no-such-option"])
            runpy.run_path(path, run_name="__main__")
    [line] = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and line.startswith("error: ") and "--no-such-option" in line


@pytest.mark.parametrize("name", ["report", "pictures", "bench", "making.manager"])
def test_the_help_names_the_command(name, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        called(monkeypatch, name, "--help")
    usage = capsys.readouterr().out.splitlines()[0]
    assert stopped.value.code == 0 and f"python -m {commands.COMMANDS[name][0]}" in usage, (
        f"{usage!r}: a reader cannot type that")


def test_pyproject_installs_every_module_and_what_they_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["setuptools"]
    assert set(listed["py-modules"]) == {path.stem for path in ROOT.glob("*.py")}, (
        "pyproject.toml lists other modules than lie at the root")
    folders = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(listed["packages"]) == folders, "pyproject.toml lists other folders than there are"
    assert project["project"]["scripts"] == {"memr1": "tools.commands:main"}
    required = [line.split("#")[0].strip() for line in
                (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    assert project["project"]["dependencies"] == [line for line in required if line], (
        "requirements.txt and pyproject.toml disagree")


@pytest.mark.slow
@pytest.mark.parametrize("words", [
    ["grpo.py"], ["ppo.py"], ["sft.py"], ["grpo.py", "--agent", "mem1"],
    ["grpo.py", "--lora", "2", "--precision", "bfloat16", "--checkpointing"],
    ["evaluate.py"]], ids=" ".join)
def test_a_command_prints_our_own_lines_and_progress_only(words, tmp_path):
    """No library warns in a user's first minute: such a warning hides the lines that matter."""
    sizes = [] if words[0] == "evaluate.py" else ["--steps", "1"] + (
        ["--questions", "2", "--group-size", "2"] if words[0] != "sft.py" else ["--questions", "2"])
    done = subprocess.run(
        [sys.executable, "-W", "default", *words, *sizes, "--limit", "2",
         "--out", tmp_path / "run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # A progress bar stands in one line with all that overwrote it, and has "it/s" or "s/it".
    foreign = [line for line in done.stderr.splitlines()
               if line.strip() and not re.search(r"\d+%\|.*(it/s|s/it|\?it)", line)]
    assert not foreign, "lines of a library: " + "; ".join(foreign)


@pytest.mark.slow
def test_every_module_loads_where_there_is_only_what_windows_has():
    missing = ["resource", "fcntl", "termios", "pty", "tty", "pwd", "grp", "readline"]
    names = [name for name in MODULES if name != "claims.__main__"]
    script = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({missing}))
for name in {names}:
    importlib.import_module(name)
from training import results
assert results.peak_memory_bytes() == 0
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
