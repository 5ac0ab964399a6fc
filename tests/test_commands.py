"""Tests of commands.py and pyproject.toml: every command is there, and is installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest
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


def test_arguments_reach_the_module(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        called(monkeypatch, "pictures", "--no-such-option")
    assert stopped.value.code == 2 and "pictures" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        called(monkeypatch, "grop")
    assert stopped.value.code == 2 and "grpo" in capsys.readouterr().err


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
