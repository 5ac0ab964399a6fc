"""Tests that nothing takes the CPU for granted: whole commands on a device that is another.

    python -m pytest tests/test_second_device.py -m slow        (one to four minutes, two cores)

No GPU is needed: pretended.py has a device that refuses what a GPU would. Each command is run on
the CPU and there, in a process of its own; both must log the same numbers.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import sys
import traceback
from pathlib import Path

import pytest
import torch
from canned import forkserver

from backend.lora import low_rank_layers
from policy import Policy, load_policy

pytestmark = pytest.mark.slow

SMALL = "--steps 2 --limit 4 --questions 4 --max-new-tokens 40"
COMMANDS = {
    "manager": f"grpo {SMALL} --group-size 4",
    "answer agent": f"grpo {SMALL} --group-size 4 --agent answer --no-signal drop",
    "mem1 in the shop": "grpo --agent mem1 --env shop --steps 1 --limit 2 --questions 2 "
                        "--group-size 2",
    "adapters": f"grpo {SMALL} --group-size 4 --lora 4 --checkpointing",
    "half precision": f"grpo {SMALL} --steps 1 --group-size 4 --precision bfloat16",
    "ppo, responses cut off": f"ppo {SMALL} --max-new-tokens 15 --bootstrap",
    "ppo, shared critic": f"ppo {SMALL} --critic shared",
    "ppo, adapters in half precision": f"ppo {SMALL} --steps 1 --lora 4 --precision bfloat16",
    "sft": "sft --steps 2 --limit 4",
    "sft, half precision": "sft --steps 2 --limit 4 --precision bfloat16",
    "systems": "comparisons.compare --limit 2 --turns 12",
    "bench": "tools.bench.__main__ --model tiny --prompts 2 --group 2 --prompt-tokens 64 "
             "--new-tokens 4",
}
# In names of numbers that need not agree: times, memory, and on which side of the clip a ratio is.
LOOSE = "seconds", "per_second", "all_steps", "memory_bytes", "share_of_rate", "clip_fraction"


def run_here(folder: Path) -> None:
    os.chdir(Path(__file__).resolve().parent.parent)  # where tiny/ is
    torch.set_num_threads(1)
    folder.mkdir()
    sys.stdout = sys.stderr = open(folder / "said.txt", "w")
    run_all(folder)


def on_the_other(folder: Path) -> None:
    import pretended  # it changes torch for good, and must be there before the first backward

    from tools.bench import step as bench_step
    from training import run
    loaded = []

    def load_there(name, device=None, *given, **how):
        loaded.append(name)
        return load_policy(name, pretended.NAME, *given, **how)

    run.load_policy = bench_step.load_policy = load_there
    written = Policy.save

    def save(self, folder, weights=None):
        """Writing files asks for the memory itself, which is the CPU's."""
        if not low_rank_layers(self.model):
            weights = {name: pretended.on_cpu(x) for name, x in self.model.state_dict().items()}
        written(self, folder, weights)

    Policy.save = save
    with pretended.Pretended():
        run_here(folder)
        (folder / "loaded.txt").write_text(str(len(loaded)))
        with pytest.raises(RuntimeError) as refused:
            torch.ones(3, device=pretended.NAME) + torch.ones(3)
        (folder / "refused.txt").write_text(str(refused.value))


def run_all(folder: Path) -> None:
    """Keep what each command returned and logged, or its error."""
    for name, command in COMMANDS.items():
        script, *arguments = command.split()
        if name != "bench":  # it writes nothing
            arguments += ["--out", str(folder / name)]
        try:
            found = importlib.import_module(script).main(arguments)
            log = folder / name / "metrics.csv"
            if log.exists():
                with log.open(newline="") as file:
                    found["steps"] = list(csv.DictReader(file))
        except (Exception, SystemExit):
            found = traceback.format_exc()
        (folder / f"{name}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("devices")
    processes = [forkserver().Process(target=function, args=(folder / name,), daemon=True)
                 for function, name in ((run_here, "cpu"), (on_the_other, "pretended"))]
    for process in processes:
        process.start()
    for process in processes:
        process.join(1500)  # beside other work; a quiet machine takes a fifth
    assert [process.exitcode for process in processes] == [0, 0], "\n".join(
        path.read_text()[-2000:] for path in folder.glob("*/said.txt"))
    return folder


def numbers(found: object, name: str = "") -> dict[str, float]:
    """All numbers in what a command returned, by where they stand."""
    if isinstance(found, dict):
        found = {key: value for key, value in found.items()
                 if not any(word in str(key) for word in LOOSE)}
    elif isinstance(found, list):
        found = dict(enumerate(found))
    else:
        try:
            return {name: float(found)}
        except (TypeError, ValueError):  # a text
            return {}
    return {place: number for key, value in found.items()
            for place, number in numbers(value, f"{name}/{key}").items()}


def test_the_device_refuses_what_a_gpu_would(folder):
    refused = (folder / "pretended" / "refused.txt").read_text()
    assert "of the CPU beside tensors on pretended" in refused, "the test itself"
    loaded = int((folder / "pretended" / "loaded.txt").read_text())
    assert loaded >= len(COMMANDS), "the test itself: some models were loaded on the CPU"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_gives_on_another_device_what_it_gives_on_the_cpu(name, folder):
    here, there = (json.loads((folder / device / f"{name}.json").read_text())
                   for device in ("cpu", "pretended"))
    assert isinstance(here, dict), f"on the CPU: {here}"
    assert isinstance(there, dict), (
        f"{there}\na tensor without device=, or a generator of the CPU? It fails on a GPU too")
    here, there = numbers(here), numbers(there)
    assert len(here) >= 5, "the test itself: nothing to compare"
    near = pytest.approx(here, rel=1e-2, abs=1e-4)
    if "half" in name:  # bfloat16 leaves few bits, and each device rounds in its own order
        near = pytest.approx(here, rel=0.05, abs=0.02)
    if "half" in name and not name.startswith("sft"):
        # What is sampled hangs on the last bit of a probability, so a response or two may be
        # others. How far sampling and scoring round apart is each device's own.
        for found in (here, there):
            errors = [found.pop(key) for key in list(found) if "ratio_error" in key]
            assert max(errors) < 0.2, "sampling and scoring differ by more than bfloat16 rounds"
        near = pytest.approx(here, rel=0.05, abs=0.15)
    assert there == near, "other numbers on another device: something stayed behind on the CPU"
