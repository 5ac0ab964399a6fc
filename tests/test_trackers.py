"""Tests of training/trackers.py: TensorBoard, Weights & Biases, and metrics.csv in pandas.

    python -m pytest tests/test_trackers.py        (some seconds)

Trackers and pandas are no requirements: without them their tests are skipped.
"""

from __future__ import annotations

import builtins
import dataclasses
import sys
import types
from pathlib import Path

import pytest
from canned import refused

from grpo import GRPOOptions
from memory_bank import hashed_words
from training import results, trackers
from training import run as runs
from training.options import resolve
from training.run import Run

ROWS = [{"step": 1, "reward": 0.25, "kl": 0.0}, {"step": 2, "reward": 1 / 3, "kl": 1e-5}]


def make_run(folder: Path, run_trackers=()) -> Run:
    options = resolve(GRPOOptions(), "grpo")
    return Run(options, "grpo", None, None, None, [], [], [], [], hashed_words(), folder,
               trackers=list(run_trackers))


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Let a package be missing, whether it is installed or not."""
    real = builtins.__import__

    def imported(name, *rest):
        if name.split(".")[0] == package or name == f"torch.utils.{package}":
            raise ImportError(f"No module named {package!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", imported)


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_line(package, monkeypatch, tmp_path):
    without(monkeypatch, package)
    arguments = (tmp_path, {}) if package == "wandb" else (tmp_path,)
    with pytest.raises(trackers.TrackerError, match=f"pip install {package}"):
        getattr(trackers, package)(*arguments)


def test_a_missing_package_stops_the_command_before_it_trains(monkeypatch, tmp_path, model_folder):
    without(monkeypatch, "wandb")
    options = GRPOOptions(model=str(model_folder), data="world", agent="answer", wandb=True,
                          train_questions=1, limit=1, out=str(tmp_path / "run"))
    assert "--wandb" in refused(lambda _: runs.prepare(options, "grpo"))


def test_every_tracker_gets_every_step_and_validation(tmp_path, monkeypatch):
    seen = []
    run = make_run(tmp_path, [lambda step, row: seen.append((step, dict(row)))] * 2)
    run.log_step(ROWS[0])
    monkeypatch.setattr(results, "evaluate", lambda *_: ({"exact_match": 0.5}, []))
    assert results.validate(run, 8) == 0.5
    assert seen == [(1, ROWS[0])] * 2 + [(8, {"validation": 0.5})] * 2


def test_scalars_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (it is optional)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    for value in (0.75, 0.25):  # a run, and another in the same folder
        track = trackers.tensorboard(tmp_path)
        for row in [*ROWS, {"step": 3, "reward": value}][: 3 if value == 0.75 else 2]:
            track(row["step"], row)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(e.step, round(e.value, 6)) for e in found.Scalars("reward")] == [
        (1, 0.25), (2, 0.333333)], "steps of an earlier run in this folder are still shown"


def test_what_weights_and_biases_is_told(tmp_path, monkeypatch):
    """Against a stand-in with its two functions: no account, no network."""
    calls = []
    started = types.SimpleNamespace(log=lambda row, step: calls.append((step, row)))

    def init(**options):
        calls.append(options)
        return started

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    track = trackers.wandb(tmp_path / "grpo-manager", {"seed": 3})
    track(1, ROWS[0])
    assert calls[0]["config"] == {"seed": 3} and calls[0]["name"] == "grpo-manager"
    assert calls[1] == (1, ROWS[0])

    def refuse(**options):
        raise ValueError("no\naccount")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=refuse))
    with pytest.raises(trackers.TrackerError, match="no account.*WANDB_MODE=offline"):
        trackers.wandb(tmp_path, {})


def test_both_are_options_of_every_training_command():
    for name in ("grpo", "ppo", "sft"):
        module = __import__(name)
        [kind] = [value for value in vars(module).values() if dataclasses.is_dataclass(value)
                  and value.__name__ == f"{name.upper()}Options"]
        assert {"tensorboard", "wandb"} <= {f.name for f in dataclasses.fields(kind)}
