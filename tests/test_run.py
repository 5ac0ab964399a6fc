"""Tests of training/run.py: broken models and data in one line, batches, logs, a whole run.

    python -m pytest tests/test_run.py        (about 20 s on two free cores)
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from canned import LOG, Scripted, call, refused

import grpo
import memr1
from backend import devices
from backend.files import lock, release_locks
from benchmarks.splits import splits
from claims import runner
from data import Dialogue, Question, Turn
from grpo import GRPOOptions
from memory_bank import hashed_words
from policy import load_policy
from training import run
from training.options import EMBEDDED_MEM1, EMBEDDED_MODEL, Options, parse_options, resolve
from training.results import SCORED, evaluate_before
from training.run import Run, memory_r1, prepare
from training.state import TokenMetrics, warm_up_then_decay
from trees import Episode

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("grpo", "ppo", "evaluate")


@pytest.mark.parametrize("name", COMMANDS)
def test_broken_data_model_and_folder(name, tmp_path, model_folder):
    broken = tmp_path / "broken.json"
    broken.write_text('[{"sample_id": 3}]')
    assert "sample_id" in refused(name, "--data", broken), "the line must name the broken field"
    no_json = tmp_path / "text.json"
    no_json.write_text("{")
    assert "JSON" in refused(name, "--data", no_json)
    tiny_world = ["--data", "world", "--limit", "1"]
    assert "missing" in refused(name, *tiny_world, "--model", tmp_path / "missing")
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    assert "--out" in refused(
        name, *tiny_world, "--model", model_folder, "--out", in_the_way / "run"), (
        "a run folder that cannot be made must be refused in one line")


@pytest.mark.parametrize("spoil", [
    lambda folder: (folder / "config.json").unlink(),
    lambda folder: (folder / "config.json").write_text("[]"),
    lambda folder: (folder / "model.safetensors").write_bytes(b"cut"),
    lambda folder: (folder / "tokenizer.json").write_text("{"),
    lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
], ids=["no config", "config is a list", "weights cut", "tokenizer cut", "no tokenizer"])
def test_broken_model_folders(spoil, model_folder):
    spoil(model_folder)
    line = refused("grpo", "--data", "world", "--model", model_folder)
    assert str(model_folder) in line, "the line does not say which folder is broken"


@pytest.mark.slow
def test_the_script_itself_prints_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "grpo.py", "--data", "world", "--model", tmp_path / "missing"], cwd=ROOT,
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: "), done.stderr


# ---- a run ---------------------------------------------------------------------------------------


def make_run(folder: Path, train: list, **options) -> Run:
    resolved = resolve(Options(**options), "grpo")
    return Run(resolved, "grpo", None, None, None, train, [], [], [], hashed_words(), folder)


def test_batches_use_every_task_before_any_comes_again(tmp_path):
    for questions, n in ((4, 10), (10, 10), (16, 5), (3, 1)):
        one = make_run(tmp_path, list(range(n)), questions=questions, seed=1)
        batches = list(itertools.islice(one.batches(), 12))
        assert all(len(batch) == questions for batch in batches), "a batch of another size"
        counts = Counter()
        for batch in batches:
            counts.update(batch)
            seen = [counts[task] for task in range(n)]
            assert max(seen) - min(seen) <= 1, (
                f"{n} tasks in batches of {questions}: one came again before all had come")
            assert batch == sorted(batch), "questions about one dialogue are no neighbours"
        again = list(itertools.islice(make_run(
            tmp_path, list(range(n)), questions=questions, seed=1).batches(), 12))
        assert batches == again, "the same seed must give the same batches"
    first, other = (
        next(iter(make_run(tmp_path, list(range(50)), questions=8, seed=seed).batches()))
        for seed in (1, 2))
    assert first != other, "not shuffled, or not by the seed"


def test_batches_leave_the_global_random_state_alone(tmp_path):
    state = random.getstate()
    next(iter(make_run(tmp_path, [1, 2, 3]).batches()))
    assert random.getstate() == state, "batches draws from the global generator"


def small_file(path: Path, questions: list[dict]) -> Path:
    """Three conversations of one turn in LoCoMo's format: training, validation, test."""
    conversation = {"speaker_a": "Ann", "speaker_b": "Bob", "session_1_date_time": "8 May, 2023",
                    "session_1": [{"dia_id": "D1:1", "speaker": "Ann", "text": "I ski."}]}
    path.write_text(json.dumps([{"sample_id": name, "conversation": conversation, "qa": questions}
                                for name in "abc"]))
    return path


def test_a_run_without_questions_is_refused(tmp_path, model_folder):
    path = small_file(tmp_path / "silent.json", [])
    assert "learn from" in refused("grpo", "--data", path, "--model", model_folder), (
        "no training question: batches would wait for one for ever")
    unproven = [{"question": "Who skis?", "answer": "Ann", "category": 4}]
    path = small_file(tmp_path / "unproven.json", unproven)
    assert "'evidence'" in refused("grpo", "--data", path, "--model", model_folder, "--facts",
                                   "turns"), "the line must say what a manager's question needs"


def test_logs(tmp_path):
    one = make_run(tmp_path, [1])
    for step in (1, 2):
        one.log_step({"step": step, "reward": 1 / 3})
        one.log_samples(step, [[Episode([], 0.5, {"response": "Zoë,\n\"x\""})]])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["step", "reward"], ["1", "0.333333"], ["2", "0.333333"]]
    lines = [json.loads(line) for line in
             (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["response"] == "Zoë,\n\"x\"", "samples.jsonl must give back the text as it was"


def test_the_spread_of_ratios_is_that_of_all_tokens():
    draw = np.random.default_rng(0)
    for n_tokens in (1, 2, 99, 1000):
        errors = draw.exponential(size=n_tokens).astype(np.float32)
        metrics = TokenMetrics(n_tokens, epochs=2)
        for tokens in np.array_split(errors, 3):  # micro-batches; some are empty
            metrics.add(0, ratio_error=torch.from_numpy(tokens))
        metrics.add(1, ratio_error=torch.full((n_tokens,), 9.0))
        columns = metrics.columns()
        for name, share in (("_median", 50), ("_p99", 99), ("", 100)):
            wanted = np.percentile(errors, share, method="lower")
            assert columns[f"ratio_error{name}"] == pytest.approx(wanted), (
                f"ratio_error{name} of {n_tokens} tokens: a mean over micro-batches, or the tokens "
                "of the second epoch, whose ratio is off because the policy moved?")


def test_the_rate_warms_up_over_four_steps_and_then_falls():
    weights = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.5)]
    optimizer = torch.optim.SGD(weights)
    schedule = warm_up_then_decay(optimizer, 20)
    rates, of_critic = [], []
    for _ in range(20):
        for of_group, group in zip((rates, of_critic), optimizer.param_groups):
            of_group.append(group["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 0.865]), (
        "the rate must rise by a quarter a step, up to the falling line: 1 - 0.9 * 3 / 20 in the "
        "fourth; Adam's first steps are too long otherwise, whatever the gradient")
    assert np.diff(rates[3:]) == pytest.approx(-0.9 / 20), (
        "behind the warm-up the rate must fall along one line, which ends at a tenth; at a "
        "constant rate the reward drifts down again")
    assert of_critic == pytest.approx([rate / 2 for rate in rates]), (
        "all groups of weights follow one schedule, each from a rate of its own")
    warm_up_then_decay(optimizer, 0)  # `--steps 0` divides by nothing


def test_a_limit_is_for_validation_and_test_alone(tmp_path, model_folder):
    counts = []
    for options in ({}, {"limit": 5}):
        found = prepare(GRPOOptions(model=str(model_folder), data="world", agent="answer", steps=1,
                                    out=str(tmp_path / str(len(counts))), **options), "grpo")
        counts.append([len(tasks) for tasks in (found.train, found.validation, found.test)])
    assert counts == [[152, 81, 513], [152, 5, 5]], (
        "--limit must shorten what is looked at, never what is learned from")


def test_a_limit_that_leaves_no_usable_question_is_named(tmp_path, model_folder):
    """Questions are cut off before it is known whose evidence states a fact."""
    asked = [{"question": f"Who skis {n}?", "answer": "Ann", "category": 4, "evidence": evidence}
             for n, evidence in enumerate([[], ["D1:1"]])]
    options = ["--data", str(small_file(tmp_path / "mine.json", asked)), "--facts", "turns",
               "--model", str(model_folder), "--out", str(tmp_path / "run")]
    assert "or --limit 1 must be higher" in refused(grpo.main, *options, "--limit", "1")
    prepare(parse_options(GRPOOptions, "", [*options, "--limit", "2"]), "grpo")


def test_a_manager_learns_from_guards_and_is_asked_without(tmp_path, model_folder):
    found = prepare(GRPOOptions(model=str(model_folder), data="world", steps=1, limit=5,
                                out=str(tmp_path / "run")), "grpo")
    assert [len(tasks) for tasks in (found.train, found.validation, found.test)] == [298, 5, 5], (
        "152 questions and 146 guards to learn from (README); without them a manager learns to "
        "overwrite, and in a score they would hide that")


@pytest.mark.parametrize("given, n_waits", [
    ({"agent": "manager", "facts": "turns"}, 0), ({"agent": "answer", "facts": "turns"}, 0),
    ({"agent": "answer", "facts": "llm"}, 1), ({"agent": "manager", "facts": "llm"}, 1),
    ({"agent": "answer", "facts": "turns", "manager": "MODEL"}, 1)])
def test_a_rank_waits_only_for_what_another_keeps_on_disk(given, n_waits, tmp_path, model_folder,
                                                          monkeypatch):
    waits = []

    @contextlib.contextmanager
    def main_first() -> Iterator[None]:
        waits.append("rank 0 first")
        yield

    monkeypatch.setattr(devices, "main_first", main_first)
    given = {name: str(model_folder) if value == "MODEL" else value
             for name, value in given.items()}
    path = small_file(tmp_path / "small.json", [
        {"question": "Who skis?", "answer": "Ann", "category": 4, "evidence": ["D1:1"]}])
    options = resolve(GRPOOptions(model=str(model_folder), data=str(path), lora=0,
                                  max_new_tokens=4, **given), "grpo")
    memory_r1(options, splits(str(path), None), load_policy(model_folder), hashed_words())
    assert len(waits) == n_waits, "ranks work one after the other, and find nothing on disk"


def test_an_answer_agent_learns_on_facts_of_the_start_model(tmp_path, model_folder, monkeypatch):
    asked = []
    monkeypatch.setattr(run, "build_banks", lambda manager, *given, extractor, **named: (
        asked.append((manager, extractor)), memr1.build_banks(
            manager, *given, extractor=extractor, **named))[1])
    path = small_file(tmp_path / "small.json", [
        {"question": "Who skis?", "answer": "Ann", "category": 4, "evidence": ["D1:1"]}])
    options = resolve(GRPOOptions(model=str(model_folder), data=str(path), lora=0, agent="answer",
                                  facts="llm", manager=str(model_folder), max_new_tokens=4), "grpo")
    reference = load_policy(model_folder)
    memory_r1(options, splits(str(path), None), reference, hashed_words())
    [(manager, extractor)] = asked
    assert extractor.policy is reference and manager.policy is not reference, (
        "the manager noted its own facts, which evaluate.py would not show it")


def test_no_steps_leave_everything_as_it_was(tmp_path, model_folder):
    path = small_file(tmp_path / "small.json", [
        {"question": "Who skis?", "answer": "Ann", "category": 4, "evidence": ["D1:1"]}])
    silent = refused("grpo", "--data", path, "--model", model_folder, "--facts", "observations",
                     "--out", tmp_path / "no")
    assert "no observations" in silent and "--facts turns" in silent
    code, out, err = call("grpo", "--steps", "0", "--data", path, "--model", model_folder,
                          "--facts", "turns", "--max-new-tokens", "4", "--out", tmp_path / "run")
    assert code == 0, err
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["before"] == summary["after"], "no training step, and yet the scores changed"
    assert (tmp_path / "run/checkpoint/config.json").exists() and "grpo manager: held-out" in out


# ---- one run in a folder -------------------------------------------------------------------------


@contextlib.contextmanager
def another_run(folder: Path, name: str = ".lock") -> Iterator[subprocess.Popen]:
    """A process that holds the lock of a run folder, as a run does, until it is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    script = ("import sys, time; from pathlib import Path; from backend.files import lock;"
              "lock(Path(sys.argv[1])); print('locked', flush=True); time.sleep(600)")
    process = subprocess.Popen([sys.executable, "-c", script, folder / name], cwd=ROOT,
                               stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_a_second_run_in_a_folder_is_refused(tmp_path, model_folder, monkeypatch):
    folder = tmp_path / "run"
    common = ("--data", "world", "--model", model_folder, "--limit", "1", "--max-new-tokens", "4")
    monkeypatch.setattr(runner, "FOLDER", folder)
    with another_run(folder) as process:
        (folder / "metrics.csv").write_text("step\n1\n")  # a run that has only just begun
        for name, *options in (("grpo",), ("evaluate",), ("evaluate", "--agent", "mem1"),
                               ("comparisons.compare",), ("sft", "--resume")):
            if "--resume" in options:
                (folder / "resume.pt").write_text("the other's")
            line = refused(name, *options, *common, "--out", folder)
            assert f"in use by process {process.pid} " in line, (
                f"{name}: {line!r}; two runs would write into the same files")
        assert f"in use by process {process.pid} " in refused("claims.__main__", "1")
        assert (folder / "resume.pt").read_text() == "the other's", "the other's file was touched"
    # Killed, and its lock file still there: nobody is barred.
    for name in ("resume.pt", "metrics.csv"):
        (folder / name).unlink()
    code, _, err = call("evaluate", *common, "--out", folder)
    assert code == 0, f"a lock outlived its process: {err}"
    with another_run(folder):
        pass  # this process has let go of the folder, though it lives on
    release_locks()


def test_a_lock_of_ones_own_is_no_obstacle(tmp_path):
    for _ in range(2):
        lock(tmp_path / ".lock")  # a run that was stopped and goes on in the same process
    release_locks()


def test_embedded_model_is_beside_the_modules():
    assert EMBEDDED_MODEL == ROOT / "tiny", "tiny/ is found from any folder"


def test_a_bar_stands_over_every_stretch_of_scoring(tmp_path, capsys):
    """A real model takes minutes for them, in which nothing else is printed."""
    batches, kinds = [], set()

    class Recorder:
        frozen = Scripted(lambda prompt: "**Answer:** Rex")

        def rollout(self, policy, tasks, group_size, temperature, generator=None):
            batches.append(len(tasks))
            kinds.add((group_size, temperature))
            return [[Episode([], float(task), dict(LOG, question=str(task)))] for task in tasks]

    run = make_run(tmp_path, [], agent="manager", facts="turns")
    run.agent = Recorder()
    run.policy = run.reference = Scripted(
        lambda prompt: '[{"event": "ADD", "text": "Anna has a dog named Rex"}]')
    n_tasks = 2 * SCORED + 3
    run.test = list(range(n_tasks))
    run.test_dialogues = [Dialogue(
        "talk", ("Anna",), (Turn("D1:1", "Anna", "I have a dog named Rex now.", "8 May 2023"),),
        (Question("What dogs does Anna have?", "Rex", 1, ("D1:1",)),))]
    scores, episodes = evaluate_before(run)
    assert batches == [SCORED, SCORED, 3], "one batch of all tasks moves no bar"
    assert kinds == {(1, 0)}, (
        f"(group size, temperature) {kinds}: a score is of one greedy response, or it is luck, and "
        "scores before and after training do not compare")
    assert [episode.reward for episode in episodes] == list(range(n_tasks)), "another order"
    assert scores["whole_dialogues"] == 1, "the answer of the whole dialogue was lost"
    bars = capsys.readouterr().err
    for name, times in (("score", 1), ("read", 1), ("answer", 1)):
        assert len(re.findall(f"{name}: 100%", bars)) == times, f"{name} is silent: {bars!r}"


@pytest.mark.parametrize("agent, option", [("manager", "answerer"), ("answer", "manager")])
def test_a_frozen_agent_made_for_other_prompts_is_said_to_be_one(tmp_path, agent, option):
    _, _, err = call("grpo", "--agent", agent, f"--{option}", str(EMBEDDED_MEM1), "--steps", "1",
                     "--questions", "1", "--limit", "1", "--train-questions", "1",
                     "--out", tmp_path / "run")
    assert "was made for MEM1" in err, "a whole run would learn from rewards of 0"


def test_an_embedded_model_of_the_other_agents_is_said_to_be_one(capsys):
    for model, agent, said in ((EMBEDDED_MODEL, "mem1", "take tiny/mem1/"),
                               (EMBEDDED_MEM1, "manager", "take tiny/"),
                               (EMBEDDED_MEM1, None, "take tiny/"),
                               (EMBEDDED_MODEL, None, ""), (EMBEDDED_MEM1, "mem1", "")):
        run.say_other_start(load_policy(model), str(model), agent)
        err = capsys.readouterr().err
        assert (said in err) if said else not err, (
            f"{model} as {agent}: {err!r}; a score of 0 would look like a broken program")
