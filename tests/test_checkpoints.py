"""Tests of checkpoints.py: a run that was killed ends where it would have ended otherwise.

    python -m pytest tests/test_checkpoints.py        (some twenty seconds of one core)

Runs are killed for good: in processes of their own, with SIGKILL. These are forked from a server
that has torch loaded, so each costs no more than its training steps.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import canned
import pytest
import torch
from canned import PROMPTS, FirstTokenAgent, forkserver, make_run, metrics_of, small_data
from conftest import make_model, make_tokenizer
from safetensors import SafetensorError
from safetensors.torch import load_file

import ppo
from backend.loading import PolicyError
from comparisons import harnesses
from comparisons.harnesses import by_objectives
from grpo import train
from memory_bank import hashed_words
from memr1 import ManagerAgent
from policy import Policy
from ppo import PPOOptions
from training import checkpoints, results, run
from training.checkpoints import FILE, CheckpointError, read, write
from training.state import TrainingState, numbered_outcomes, restore_outcomes
from training.tasks import manager_tasks
from world import world

STEPS = 10
SMALL = {"questions": 3, "group-size": 4, "epochs": 2, "max-new-tokens": 5, "agent": "answer",
         "distill": False, "steps": STEPS, "lr": 1e-3, "kl": 0.05, "seed": 3}


def script(name: str, folder: Path, **options: object) -> dict:
    """A run of grpo.py or ppo.py on the model and the data of `material`, by its main."""
    # A random model answers nothing right: pay for answers of odd length.
    run.REWARDS["exact_match"] = lambda answer, gold: float(len(answer) % 2)
    results.draw_curve = results.draw_objectives = lambda *picture: None  # half a second each
    torch.set_num_threads(1)  # so small a model only waits for more; and sums must be in one order
    # Named, because a process of its own would measure whether bfloat16 is faster.
    given = {**SMALL, "precision": "float32", "model": folder.parent / "model",
             "data": folder.parent / "data.json", "out": folder, **options}
    argv = [word for key, value in given.items()
            for word in ([f"--{key}"] if value is True else [f"--no-{key}"] if value is False
                         else [f"--{key}", str(value)])]
    return importlib.import_module(name).main(argv)


def killed_at(step: int, name: str, folder: Path, **options: object) -> None:
    """In a process of its own: the same, until kill -9 after the row of `step` is written."""
    written = run.Run.log_step

    def log_step(self, row):
        written(self, row)
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    run.Run.log_step = log_step
    script(name, folder, **options)


def killed_while_writing(place: str, name: str, folder: Path, **options: object) -> None:
    """In a process of its own: killed in the middle of the second checkpoint, or before its name
    is changed to that of the first."""
    module, function = {"half": (torch, "save"), "whole": (os, "replace")}[place]
    calls, done = [], getattr(module, function)

    def instead(what, where):
        if place == "half" or Path(where).name == FILE:  # other files are written whole, too
            calls.append(where)
        if len(calls) == 2:
            if place == "half":
                buffer = io.BytesIO()
                done(what, buffer)
                where.write(buffer.getvalue()[:5000])
                where.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        done(what, where)

    setattr(module, function, instead)
    script(name, folder, **options)


@pytest.fixture(scope="module")
def forked():
    """Call a function in another process; returns its exit code, -9 for SIGKILL."""
    context = forkserver()

    def call(function, *arguments, **options) -> int:
        process = context.Process(target=function, args=arguments, kwargs=options)
        process.start()
        process.join(120)
        return process.exitcode
    return call


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """A folder with a small random model and three conversations of four questions."""
    folder = tmp_path_factory.mktemp("runs")
    make_model().save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    small_data(folder / "data.json", *(f"Who {does}?" for does in "skis sings swims sails".split()))
    return folder


@pytest.fixture(scope="module")
def straight(material) -> Callable[..., Path]:
    """The folder of a run that nothing interrupted."""
    @cache
    def folder_of(name: str, steps: int = STEPS) -> Path:
        with unchanged():
            script(name, material / f"straight-{name}-{steps}", steps=steps)
        return material / f"straight-{name}-{steps}"
    return folder_of


@contextlib.contextmanager
def unchanged():
    """Undoes what `script` changes for other tests."""
    rewards, pictures = dict(run.REWARDS), (results.draw_curve, results.draw_objectives)
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)
    run.REWARDS.update(rewards)
    results.draw_curve, results.draw_objectives = pictures


@pytest.fixture(autouse=True)
def as_it_was():
    with unchanged():
        yield


def metrics(folder: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in metrics_of(folder)]


def assert_same(found: Path, wanted: Path) -> None:
    """Two run folders tell the same story, seconds aside."""
    rows, straight_rows = metrics(found), metrics(wanted)
    assert [row["step"] for row in rows] == [row["step"] for row in straight_rows], (
        "metrics.csv has gaps or doubles: it must be cut back to the step of the checkpoint")
    for row, other in zip(rows, straight_rows):
        assert row == other, f"step {row['step']} went another way: {row} is not {other}"
    samples = [(folder / "samples.jsonl").read_bytes() for folder in (found, wanted)]
    assert samples[0] == samples[1], "samples.jsonl has gaps or doubles"
    weights, others = (load_file(folder / "checkpoint/model.safetensors")
                       for folder in (found, wanted))
    assert all(torch.equal(weights[name], others[name]) for name in others), (
        "the weights are not those of the straight run, bit for bit: what was not restored? "
        "moments, schedule, the sampler's random state, the place in the data?")
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (found, wanted)]
    for key in ("before", "after", "steps", "train_questions"):
        assert summaries[0][key] == summaries[1][key], f"summary.json: {key} differs"
    assert not (found / FILE).exists(), f"{FILE} of a finished run: the next one would be refused"


# ---- Killed and resumed --------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_five_steps_a_kill_and_five_more_are_ten(name, material, straight, forked):
    folder = material / f"killed-{name}"
    assert forked(killed_at, 7, name, folder, **{"save-every": 5}) == -signal.SIGKILL
    assert len(metrics(folder)) == 7, "the test itself: it was to be killed after seven steps"
    assert not (folder / "summary.json").exists()
    random.seed(0)  # another process has another state
    torch.manual_seed(99)
    script(name, folder, resume=True)
    assert_same(folder, straight(name))
    rows = metrics(folder)
    assert any(float(row["reward_std"]) > 0 for row in rows[5:]), "the test itself: no signal"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["half", "whole"])
def test_killed_while_a_checkpoint_is_written(place, material, straight, forked):
    folder = material / f"killed-{place}"
    assert forked(killed_while_writing, place, "grpo", folder, **{"save-every": 3}) == (
        -signal.SIGKILL)
    assert len(torch.load(folder / FILE, weights_only=True)["rows"]) == 3, (
        "the last whole checkpoint must be there while the next is being written")
    script("grpo", folder, resume=True, **{"save-every": 2})
    assert_same(folder, straight("grpo"))
    assert not (folder / FILE).with_suffix(".part").exists(), "half a checkpoint was left behind"


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(
        material, straight, monkeypatch, capsys):
    folder, handler = material / "ctrl-c", signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(run.Run, "log_step", interrupting(run.Run.log_step, at=2))
        patched.setattr("sys.argv", ["grpo.py", "--out", "a b"])
        with pytest.raises(SystemExit) as stopped:
            script("grpo", folder, steps=3)
    assert stopped.value.code == 130 and len(metrics(folder)) == 2, "the step was not finished"
    line = [line for line in capsys.readouterr().err.splitlines() if "go on with" in line]
    assert len(line) == 1 and line[0].endswith("python grpo.py --out 'a b' --resume"), line
    assert signal.getsignal(signal.SIGINT) is handler, "Ctrl-C stays caught after training"
    script("grpo", folder, resume=True, steps=3)
    assert_same(folder, straight("grpo", 3))


def interrupting(written, at: int, times: int = 1, number: int = signal.SIGINT):
    def log_step(self, row):
        written(self, row)
        for _ in range(times if row["step"] == at else 0):
            os.kill(os.getpid(), number)
    return log_step


@pytest.mark.slow
def test_sigterm_saves_like_ctrl_c(material, straight, monkeypatch, capsys):
    folder, handler = material / "sigterm", signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(run.Run, "log_step", interrupting(
            run.Run.log_step, at=2, number=signal.SIGTERM))
        with pytest.raises(SystemExit) as stopped:
            script("grpo", folder, steps=4)
    assert stopped.value.code == 130 and "go on with" in capsys.readouterr().err, (
        "a cluster sends SIGTERM when the time is up: what was learned is lost")
    assert signal.getsignal(signal.SIGTERM) is handler, "SIGTERM stays caught after training"
    script("grpo", folder, resume=True, steps=4)
    assert_same(folder, straight("grpo", 4))


def test_a_second_ctrl_c_stops_at_once(material, monkeypatch):
    monkeypatch.setattr(run.Run, "log_step", interrupting(run.Run.log_step, at=1, times=2))
    with pytest.raises(KeyboardInterrupt):
        script("grpo", material / "twice")
    assert not (material / "twice" / FILE).exists(), "at once: nothing is saved any more"


def test_a_main_that_is_interrupted_prints_no_traceback(capsys):
    def main():
        raise KeyboardInterrupt
    with pytest.raises(SystemExit) as stopped:
        run.launch(main)
    assert stopped.value.code == 130
    with pytest.raises(SystemExit) as stopped:
        run.launch(lambda: open("/no/such/file"))
    assert stopped.value.code == 2 and "/no/such/file" in capsys.readouterr().err


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_out_of_memory_is_one_line_with_a_way_out(capsys, monkeypatch, error):
    def main():
        raise error
    monkeypatch.setattr("sys.argv", ["grpo.py", "--save-every", "1"])
    with pytest.raises(SystemExit) as stopped:
        run.launch(main)
    [line] = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and "python grpo.py --save-every 1 --resume" in line, line
    assert line.endswith("--micro-batch-tokens 1024"), line
    with pytest.raises(SystemExit):
        run.launch(lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    line = capsys.readouterr().err
    assert "No space left" in line and "make room" in line and "--out" in line, (
        f"{line!r}: writing to an open file fails without a file's name")
    with pytest.raises(RuntimeError, match="size mismatch"):  # a fault of ours stays a traceback
        run.launch(lambda: (_ for _ in ()).throw(RuntimeError("size mismatch")))


@pytest.mark.slow
def test_a_run_that_was_out_of_memory_goes_on_with_smaller_micro_batches(unfinished, material):
    folder = material / "smaller"
    shutil.copytree(unfinished, folder)
    script("grpo", folder, resume=True, **{"micro-batch-tokens": 300})
    assert [row["step"] for row in metrics(folder)] == [str(n + 1) for n in range(STEPS)], (
        "the run that ran out of memory cannot be resumed, because its checkpoint names the size "
        "of the micro-batches")


@pytest.mark.slow
def test_the_other_harnesses_of_mem1_are_resumed_too(material, forked, monkeypatch):
    """Killed in the third of four trainings: two are loaded, the third goes on, one follows."""
    options = {"agent": "mem1", "data": "world", "steps": 2, "questions": 2, "save-every": 1,
               "limit": 1, "train-questions": 8, "compare": True, "distill": True}
    folder = material / "mem1"
    assert forked(killed_in_harness, folder, **options) == -signal.SIGKILL
    assert (folder / "full_context" / FILE).exists() and (folder / FILE).exists()
    trained = []
    patch_mem1(monkeypatch.setattr)
    monkeypatch.setattr(run.Run, "log_step", lambda self, row: trained.append(
        (self.options.harness, row["step"])))
    summary = script("grpo", folder, resume=True, **options)
    assert trained == [("truncation", 2), ("a_mem", 1), ("a_mem", 2)], f"trained again: {trained}"
    assert set(summary["by_objectives"]["1"]) == {"mem1", "full_context", "truncation", "a_mem"}
    assert not list(folder.rglob(FILE))


def patch_mem1(patch) -> None:
    """A dialogue each to learn from and to look at."""
    splits = [world(1, seed, held_out=seed > 0) if seed else world(1, 0) for seed in range(3)]
    patch(run, "data_splits", lambda data, count: splits)
    patch(harnesses, "by_objectives",
          lambda *given: by_objectives(*given[:4], limit=1, counts=(1,)))


def killed_in_harness(folder: Path, **options) -> None:
    patch_mem1(setattr)
    written = run.Run.log_step

    def log_step(self, row):
        written(self, row)
        if self.options.harness == "truncation" and row["step"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    run.Run.log_step = log_step
    script("grpo", folder, **options)


def test_what_the_frozen_judge_said_is_kept(tiny_policy, tmp_path):
    tasks = manager_tasks(world(1, 0), hashed_words(), "turns")[:3]
    one, other = (
        make_run(tiny_policy(), tiny_policy(), ManagerAgent(tiny_policy(), max_new_tokens=6), 3,
                 tmp_path, tasks) for _ in range(2))
    one.agent.outcomes = {(tasks[2], "a"): {"answer": "x"}, (tasks[0], "b"): {"answer": "y"},
                          (replace(tasks[1], n_dropped=2), "c"): {"answer": "z"}}
    restore_outcomes(other, numbered_outcomes(one))
    assert other.agent.outcomes == one.agent.outcomes, (
        "judged again in other batches, a near tie may turn out otherwise")


# ---- Refused -------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def unfinished(material) -> Path:
    """A run folder with a checkpoint of step 2; copy it before you break it."""
    folder = material / "unfinished"
    written, run.Run.log_step = run.Run.log_step, interrupting(run.Run.log_step, at=2)
    with unchanged(), contextlib.suppress(SystemExit):
        script("grpo", folder)
    run.Run.log_step = written
    return folder


def refused(*arguments, **options) -> str:
    return canned.refused(lambda _: script(*arguments, **options))


def test_another_run_is_refused_and_what_differs_is_named(unfinished, material):
    line = refused("grpo", unfinished, resume=True, lr=1e-4, steps=12)
    assert "--lr 0.001 there, 0.0001 here" in line and "--steps 10 there, 12 here" in line, line
    make_model(seed=1).save_pretrained(material / "other")
    make_tokenizer().save_pretrained(material / "other")
    line = refused("grpo", unfinished, resume=True, model=material / "other")
    assert "the start model" in line and "--lr" not in line, line
    data = (material / "data.json").read_text()
    (material / "data.json").write_text(data.replace("skis", "dives"))
    line = refused("grpo", unfinished, resume=True)
    (material / "data.json").write_text(data)
    assert "the content of --data" in line, f"{line}: as many questions, but other ones"
    line = refused("ppo", unfinished, resume=True)
    assert "algorithm grpo there, ppo here" in line and "--lam" not in line, line
    line = refused("grpo", unfinished)
    assert "--resume" in line and str(unfinished) in line, (
        "a new run would overwrite one that can go on")
    assert len(metrics(unfinished)) == 2, "a refused run changed the folder"


@pytest.mark.slow
@pytest.mark.parametrize("agent, option", [("manager", "answerer"), ("answer", "manager")])
def test_another_model_at_the_same_path_is_refused(agent, option, material, monkeypatch):
    other, folder = material / "another", material / f"unfinished-{agent}"
    tokenizer = make_tokenizer()
    options = {"agent": agent, "facts": "turns", "steps": 2, option: other}
    for seed in (5, 6):
        make_model(seed=seed).save_pretrained(other)
        tokenizer.save_pretrained(other)
        if seed == 5:
            monkeypatch.setattr(run.Run, "log_step", interrupting(run.Run.log_step, at=1))
            with contextlib.suppress(SystemExit):
                script("grpo", folder, **options)
            shutil.copytree(other, material / "moved", dirs_exist_ok=True)
    line = refused("grpo", folder, resume=True, **options)
    assert f"the model of --{option}" in line, f"{line}: the run goes on with another {option}"
    assert len(metrics(folder)) == 1, "a refused run changed the folder"
    script("grpo", folder, **{**options, "resume": True, option: material / "moved"})
    assert len(metrics(folder)) == 2, "the same weights in another folder are the same model"


def test_a_broken_or_missing_checkpoint_is_refused(unfinished, material):
    line = refused("grpo", material / "nothing", resume=True)
    assert "nothing to resume" in line and not (material / "nothing").exists(), line
    folder = material / "broken"
    shutil.copytree(unfinished, folder)
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:9000])
    assert "cannot be read" in refused("grpo", folder, resume=True)
    whole = (unfinished / FILE).read_bytes()
    middle = len(whole) // 2
    (folder / FILE).write_bytes(whole[:middle] + bytes(500) + whole[middle + 500:])
    assert "damaged" in refused("grpo", folder, resume=True), (
        "weights that rotted on the disk were trained on")
    (folder / FILE).write_bytes(whole)
    (folder / "metrics.csv").write_text("step\n")
    assert "metrics.csv" in refused("grpo", folder, resume=True)


def test_the_trained_weights_outlive_what_follows(material):
    """An interrupt, or no memory left, while the trained model is scored."""
    folder, scored = material / "outlived", results.evaluate_test

    def interrupted(one):
        if one.before is None:
            return scored(one)
        raise KeyboardInterrupt

    results.evaluate_test = interrupted
    with unchanged(), pytest.raises(KeyboardInterrupt):
        script("grpo", folder, steps=1)
    results.evaluate_test = scored
    assert (folder / "checkpoint" / "model.safetensors").exists(), "trained for nothing"
    with unchanged():
        script("grpo", folder, steps=1)
    assert "finished run" in refused("grpo", folder, steps=1, resume=True)
    line = refused("grpo", folder, model=folder / "checkpoint")
    assert "--out" in line and "replace" in line, "the run would overwrite its own start model"


@pytest.mark.parametrize("trouble", ["full", "forbidden"])
def test_a_disk_that_takes_no_more(trouble, material, unfinished):
    folder = material / trouble
    shutil.copytree(unfinished, folder)
    part = (folder / FILE).with_suffix(".part")
    if trouble == "full":
        if not Path("/dev/full").exists():
            pytest.skip("needs /dev/full, a disk that is always full")
        part.symlink_to("/dev/full")
    else:
        part.mkdir()
    line = refused("grpo", folder, resume=True, **{"save-every": 2})
    assert str(folder / FILE) in line and "last whole one is kept" in line, line
    assert len(torch.load(folder / FILE, weights_only=True)["rows"]) == 2, "the last whole is gone"
    assert len(metrics(folder)) == 4, "the rows behind the checkpoint are cut off when resuming"


def full_disk(*_: object, **__: object) -> None:
    """What the library raises when no room is left: no OSError."""
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os 28)")


def test_a_full_disk_when_the_model_is_saved(material, straight, monkeypatch):
    folder = material / "full-model"
    with monkeypatch.context() as patched:
        patched.setattr(Policy, "save", full_disk)
        line = refused("grpo", folder, steps=4)
    assert "No space left" in line and "--resume" in line and str(folder / FILE) in line, (
        f"{line!r}: all that was learned is lost where --save-every is 0")
    assert not list(folder.glob("checkpoint*")), "half a model takes the room of resume.pt"
    script("grpo", folder, resume=True, steps=4)
    assert_same(folder, straight("grpo", 4))


def test_a_disk_that_takes_neither_model_nor_checkpoint(material, monkeypatch):
    monkeypatch.setattr(Policy, "save", full_disk)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    line = refused("grpo", material / "full-all", steps=1)
    assert "checkpoint" in line and FILE in line and "make room" in line, line


def test_a_full_disk_when_a_step_is_logged(material, monkeypatch):
    folder, written = material / "full-log", run.Run.log_step

    def log_step(self, row):
        written(self, row)
        if row["step"] == 3:
            with (self.folder / "metrics.csv").open("a") as file:
                file.write("half a li")
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(run.Run, "log_step", log_step)
        line = refused("grpo", folder, steps=4)
    assert "No space left" in line and "--resume" in line, line
    script("grpo", folder, resume=True, steps=4)
    assert [row["step"] for row in metrics(folder)] == ["1", "2", "4"], (
        "the half of a line spoils metrics.csv")


def test_a_model_is_saved_whole_or_not_at_all(tmp_path, tiny_policy, monkeypatch):
    policy, folder = tiny_policy(), tmp_path / "checkpoint"
    results.save(policy, folder)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}

    def half(self, where, weights=None):
        (where / "config.json").write_text("half")
        full_disk()

    monkeypatch.setattr(Policy, "save", half)
    with pytest.raises(SafetensorError):
        results.save(policy, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole, (
        "half of a model stands where a whole one stood")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_the_file_holds_data_only(tmp_path):
    torch.save({"identity": os.system}, tmp_path / FILE)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(tmp_path, {})
    content = {**dict.fromkeys(checkpoints.CONTENT), "identity": {}, "sizes": {}, "rows": [1]}
    write(tmp_path / FILE, content)
    assert read(tmp_path, {})["rows"] == [1]
    del content["optimizer"]
    write(tmp_path / FILE, content)
    with pytest.raises(CheckpointError, match="it lacks optimizer"):
        read(tmp_path, {})


def test_what_a_checkpoint_lacks_is_what_training_writes(unfinished):
    assert torch.load(unfinished / FILE, weights_only=True).keys() == checkpoints.CONTENT


# ---- Steps without a finite gradient -------------------------------------------------------------

class BrokenAgent(FirstTokenAgent):
    """Pays what is no number in some steps."""

    def __init__(self, *bad: int):
        self.bad, self.step = bad, -1  # the first rollout is the look at validation questions

    def rollout(self, policy, tasks, group_size, temperature, generator=None):
        groups = super().rollout(policy, tasks, group_size, temperature, generator)
        self.step += group_size > 1
        for group in groups if self.step + 1 in self.bad else ():
            group[0].reward = float("nan")
        return groups


def broken_run(tiny_policy, folder: Path, *bad: int, **options):
    return make_run(tiny_policy(), tiny_policy(), BrokenAgent(*bad), 4, folder, PROMPTS,
                    group_size=8, epochs=2, save_every=1, **options)


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_a_step_without_a_finite_gradient_is_skipped(name, tiny_policy, tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "load_or_stop", lambda *given: tiny_policy(seed=2))
    kind = {"kind": PPOOptions} if name == "ppo" else {}
    one = broken_run(tiny_policy, tmp_path / "run", 2, 3, 5, steps=6, **kind)
    weights, written = [], one.log_step

    def log_step(row):
        weights.append(torch.cat([p.detach().flatten() for p in one.policy.model.parameters()]))
        written(row)

    one.log_step = log_step
    try:
        rows, _ = (ppo.train if name == "ppo" else train)(one)
    except PolicyError as error:
        pytest.fail(f"a step was taken although its gradient is not finite: {error}")
    assert [row["skipped"] for row in rows] == [0, 1, 1, 0, 1, 0], "which steps were skipped"
    moved = [not torch.equal(a, b) for a, b in zip(weights, weights[1:])]
    assert moved == [False, False, True, False, True], "a gradient that is no number was taken"
    assert all(w.isfinite().all() for w in weights)
    assert [row["skipped"] for row in metrics(tmp_path / "run")] == list("011010")


def test_three_such_steps_in_a_row_end_the_run(tiny_policy, tmp_path, capsys):
    one = broken_run(tiny_policy, tmp_path / "run", 2, 3, 5, 6, 7, steps=9)
    with pytest.raises(SystemExit) as stopped:
        train(one)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "steps 5 to 7" in error and "--lr" in error, error
    kept = torch.load(tmp_path / "run" / FILE, weights_only=True)
    assert len(kept["rows"]) == 4, "the checkpoint must be the one from before the bad steps"


def test_a_model_learned_to_pieces_is_named(tiny_policy, tmp_path):
    one = make_run(tiny_policy(), tiny_policy(), FirstTokenAgent(), 4, tmp_path / "run", PROMPTS,
                   group_size=4, steps=4, lr=1e30)
    with pytest.raises(PolicyError, match="--lr"):
        train(one)


def test_a_state_is_restored_whole(tiny_policy, tmp_path):
    """Every tensor of the optimizer and the generators, not only what a short run shows."""
    def state(one) -> TrainingState:
        model = one.policy.model
        model.base_model.embed_tokens.requires_grad_(False)  # as with adapters: some are frozen
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
        return TrainingState(one, {"policy": model}, optimizer, schedule)

    one = make_run(tiny_policy(), tiny_policy(), FirstTokenAgent(), 1, tmp_path)
    first = state(one)
    sum(p.square().sum() for p in one.policy.model.parameters()).backward()
    first.optimizer.step()
    first.schedule.step()
    torch.rand(3, generator=first.generator)  # not where a new one begins
    first.history.append({"step": 1, "skipped": 0})
    one.before = ({"f1": 0.5}, [])
    first.save()
    saved = torch.load(tmp_path / FILE, weights_only=True, mmap=True)  # as `read` does
    names = set(saved["modules"]["policy"])
    assert "model.embed_tokens.weight" not in names, "frozen weights are those of the start model"
    drawn = [torch.rand(2, generator=first.generator), torch.rand(2), random.random()]

    other = make_run(tiny_policy(), tiny_policy(), FirstTokenAgent(), 1, tmp_path)
    other.saved = saved
    torch.manual_seed(99)  # a new process stands elsewhere
    random.seed(99)
    second = state(other)
    for (key, a), b in zip(one.policy.model.named_parameters(), other.policy.model.parameters()):
        assert torch.equal(a, b), f"{key} was not restored"
    a, b = first.optimizer.state_dict(), second.optimizer.state_dict()
    assert a["param_groups"] == b["param_groups"], "learning rate of the schedule"
    assert all(torch.equal(a["state"][i][k], b["state"][i][k]) for i in a["state"]
               for k in a["state"][i]) and a["state"].keys() == b["state"].keys()
    assert first.schedule.state_dict() == second.schedule.state_dict()
    again = [torch.rand(2, generator=second.generator), torch.rand(2), random.random()]
    assert all(torch.equal(x, y) for x, y in zip(drawn[:2], again)) and drawn[2] == again[2], (
        "a random state was not restored: the sampler's, torch's or Python's")
    assert checkpoints.scores_before(saved) == ({"f1": 0.5}, [])
    del saved
    gc.collect()
    maps = Path("/proc/self/maps")  # Linux
    assert not maps.exists() or str(tmp_path / FILE) not in maps.read_text(), (
        "resume.pt is still mapped, and Windows lets nobody replace such a file")
