"""Tests of commands.py and pyproject.toml: every command is there, and is installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import commands

ROOT = Path(__file__).resolve().parent.parent


def called(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["memr1", *arguments])
    commands.main()


def test_every_command_is_a_module_with_help(monkeypatch, capsys):
    for name in commands.COMMANDS:
        text = (ROOT / f"{name}.py").read_text(encoding="utf-8")
        assert 'if __name__ == "__main__":' in text, f"{name}.py does nothing when it is run"
    called(monkeypatch, "--help")
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in commands.COMMANDS)


def test_arguments_reach_the_module(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        called(monkeypatch, "show", "--no-such-option")
    assert stopped.value.code == 2 and "show.py" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        called(monkeypatch, "grop")
    assert stopped.value.code == 2 and "grpo" in capsys.readouterr().err


def test_pyproject_installs_every_module_and_what_they_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    modules = {path.stem for path in ROOT.glob("*.py")}
    listed = project["tool"]["setuptools"]["py-modules"]
    assert set(listed) == modules, (
        f"not listed: {sorted(modules - set(listed))}; not there: {sorted(set(listed) - modules)}")
    assert project["project"]["scripts"] == {"memr1": "commands:main"}
    required = [line.split("#")[0].strip() for line in
                (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    assert project["project"]["dependencies"] == [line for line in required if line], (
        "requirements.txt and pyproject.toml disagree")


@pytest.mark.slow
def test_every_module_loads_where_there_is_only_what_windows_has():
    missing = ["resource", "fcntl", "termios", "pty", "tty", "pwd", "grp", "readline"]
    names = [path.stem for path in ROOT.glob("*.py")]
    script = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({missing}))
for name in {names}:
    importlib.import_module(name)
import results
assert results.peak_memory_bytes() == 0
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
