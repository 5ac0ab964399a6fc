"""Tests of run.py and of every command line: options, errors in one line, batches, documentation.

    python -m pytest tests/test_run.py        (about 20 s on two free cores)

The commands that README.md and the modules' docstrings tell to type are checked against the options
that the scripts have, and the examples in docstrings are run.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import importlib
import io
import itertools
import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import ppo
from grpo import GRPOOptions
from memory_bank import hashed_words
from training.options import EMBEDDED_MODEL, Options, option, parse_options, resolve
from training.pictures import draw_curve, draw_objectives, objectives_table, table
from training.run import Run, prepare
from trees import Episode

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("grpo", "ppo", "evaluate")


def call(name: str, *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a script's main, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            importlib.import_module(name).main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = stopped.code
    return code, out.getvalue(), err.getvalue()


def refused(name: str, *arguments: object) -> str:
    """The one line with which a command refuses its arguments."""
    code, out, err = call(name, *arguments)
    typed = f"{name} {' '.join(map(str, arguments))}"
    assert code == 2, f"{typed}: exit code {code}, expected 2"
    # The libraries' own progress bars and warnings are not ours to silence.
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, f"{typed}: expected one line of error, got {err!r}"
    assert "Traceback" not in err + out, f"{typed}: a traceback tells a student nothing"
    return lines[0]


def options_class(name: str) -> type:
    module = importlib.import_module(name)
    (found,) = [value for value in vars(module).values() if dataclasses.is_dataclass(value)
                and value.__name__.endswith("Options") and value.__module__ == name]
    return found


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option(name):
    code, text, _ = call(name, "--help")
    assert code == 0, "--help must end with exit code 0"
    for f in dataclasses.fields(options_class(name)):
        spelled = "--" + f.name.replace("_", "-")
        assert re.search(rf"^  {spelled}\b", text, re.MULTILINE), f"--help has no entry {spelled}"
        words = f.metadata["help"]
        assert len(words) > 8 and "\n" not in words, f"{spelled}: says nothing in --help"
        assert str(f.type).split(" ")[0] not in ("int", "float") or f.name == "seed" or re.search(
            r"\d", words), f"{spelled}: its help names no typical value"


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("arguments, expected", [
    (["--no-such-option", "1"], "--no-such-option"),
    (["--ste", "3"], "--ste"),  # no abbreviations: what is typed is what is in --help
    (["--limit", "0"], "--limit 0"),
    (["--limit", "many"], "many"),
    (["--distill", "maybe"], "maybe"),  # a switch: --distill or --no-distill
    (["--facts", "guesses"], "turns, observations, llm"),
    (["--data", "no/such/file.json"], "no/such/file.json"),
])
def test_bad_arguments_of_every_command(name, arguments, expected):
    assert expected in refused(name, *arguments), "the line does not name what was wrong"


@pytest.mark.parametrize("arguments, expected", [
    (["--group-size", "1"], "at least 2"),
    (["--agent", "x"], "manager, answer"),
    (["--steps", "-1"], "--steps -1"),
    (["--epochs", "0"], "--epochs 0"),
    (["--lora", "-1"], "--lora -1"),
    (["--precision", "half"], "bfloat16, float32"),
    (["--micro-batch-tokens", "0"], "--micro-batch-tokens 0"),
    (["--lr", "0"], "--lr 0"),
    (["--lr", "nan"], "--lr nan"),
    (["--lr", "inf"], "--lr inf"),
    (["--kl", "-0.1"], "--kl -0.1"),
    (["--clip", "nan"], "--clip nan"),
    (["--temperature", "0"], "--temperature 0"),
    (["--reduction", "mean"], "token, sequence, constant"),
    (["--normalise", "yes"], "yes"),
    (["--compare"], "--agent mem1"),
    (["--seed", 2**32], "--seed 4294967296"),
    (["--clip", "2"], "--clip 2"),
    (["--out", ""], "--out: is empty"),
    (["--lora", "1000"], "--lora 1000"),
    (["--model", "no/such", "--data", "locomo"], "no/such"),
])
def test_bad_numbers_and_choices_of_grpo(arguments, expected):
    assert expected in refused("grpo", *arguments), "the line does not name what was wrong"


@pytest.mark.parametrize("typed, readers", [
    ("grpo --objectives 4", "with --agent mem1"),
    ("ppo --agent answer --env shop", "with --agent mem1"),
    ("sft --harness truncation", "with --agent mem1"),
    ("sft --compare", "with --agent mem1"),
    ("grpo --agent answer --facts llm", "with --agent manager"),
    ("grpo --agent mem1 --reward f1", "with --agent manager or answer"),
    ("grpo --agent mem1 --no-distill", "with --agent manager or answer"),
    ("grpo --agent mem1 --env shop --objectives 4", "with --env search"),
    ("grpo --agent mem1 --env shop --train-questions 19", "with --env search"),
    ("grpo --agent mem1 --env shop --compare", "with --env search"),
    ("evaluate --agent mem1 --manager tiny", "without --agent"),
    ("evaluate --agent mem1 --answerer tiny", "without --agent"),
    ("evaluate --agent mem1 --turns 20", "without --agent"),
    ("evaluate --agent mem1 --facts llm", "without --agent"),
    ("evaluate --agent mem1 --no-distill", "without --agent"),
    ("evaluate --objectives 8", "with --agent mem1"),
])
def test_an_option_that_the_run_does_not_read_is_refused(typed, readers, tmp_path):
    name, *arguments = typed.split()
    unread = next(word for word in reversed(arguments) if word.startswith("--"))
    line = refused(name, *arguments, "--out", tmp_path / "run")
    assert f"{unread}: is read only {readers}" in line, (
        f"{typed}: {line!r}; a student would believe that {unread} was tried")


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


def test_numbers_words_and_switches_are_read():
    @dataclasses.dataclass
    class Some:
        count: int | None = option(None, "how many, 1 to 9")
        rate: float = option(0.5, "how fast, 0 to 1")
        loud: bool = option(False, "with noise")
        kind: str = option("a", "which, 1 or 2", "a", "b")

    assert parse_options(Some, "", []) == Some(None, 0.5, False, "a"), "defaults changed"
    found = parse_options(Some, "", "--count 3 --rate 0 --loud --kind b".split())
    assert found == Some(3, 0.0, True, "b"), "an option was read wrong or as text"


# ---- what depends on the model and the data ------------------------------------------------------


def test_resolve():
    embedded = resolve(Options(), "grpo")
    assert (embedded.data, embedded.facts) == ("world", "turns"), (
        "the embedded model learns in the synthetic world, from turns as they were said")
    # The folder by another name is the same model.
    assert resolve(Options(model=str(EMBEDDED_MODEL / ".." / "tiny")), "grpo").data == "world"
    shopping = resolve(Options(model="some/hub-model", agent="mem1", env="shop"), "grpo")
    assert shopping.data == "world", "a shop needs no dialogues: nothing is to be downloaded"
    other = resolve(Options(model="some/model", agent="answer"), "ppo")
    assert (other.data, other.facts) == ("locomo", "observations")
    assert other.lr < embedded.lr and other.max_new_tokens > embedded.max_new_tokens
    assert other.out == "runs/ppo-answer" and embedded.out == "runs/grpo-manager"
    adapted, full = (resolve(ppo.PPOOptions(model="some/model", lora=rank), "ppo")
                     for rank in (None, 0))
    assert adapted.lr > full.lr and adapted.critic_lr > full.critic_lr, (
        "adapters, the critic's too, want some ten times the rate of all weights")
    given = resolve(Options(model="some/model", data="world", steps=0, lr=0.1, facts="llm",
                            out="here", max_new_tokens=7), "grpo")
    assert (given.data, given.steps, given.lr, given.facts, given.out, given.max_new_tokens) == (
        "world", 0, 0.1, "llm", "here", 7), "an option that was given was overwritten"
    assert resolve(Options(data="my.json"), "grpo").facts == "observations"
    open_ended = ("limit", "train_questions")  # None is "all"
    assert None not in {v for k, v in vars(embedded).items() if k not in open_ended}, (
        "something is still undecided; config.json would not tell what was run")


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


def test_curve_and_table(tmp_path):
    rows = [{"step": n, "reward": 0.1 * n, "kl": 0.0, "entropy": 1.0} for n in (1, 2, 3)]
    for some in (rows, rows[:1], []):  # --steps 0 draws no line, but must not fail
        draw_curve(some, {0: 0.2, 3: 0.4}, "reward", "title", tmp_path / "curve.png")
        assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG", "curve.png is no PNG"
    scores = {"exact_match": 0.25, "f1": 0.5, "bleu1": 0.5, "count": 4}
    before = {**scores, "by_category": {1: scores, 2: scores}}
    after = {**before, "exact_match": 0.75}
    text = table(before, after)
    assert "1 multi-hop" in text and "2 temporal" in text, "question types without their names"
    assert re.search(r"all, exact match +4 +0\.250 +0\.750", text), text


def test_a_new_run_leaves_nothing_of_the_old_one(tmp_path, model_folder):
    for name in ("summary.json", "objectives.png", "curve.png", "metrics.csv", "dialogue.json"):
        (tmp_path / name).write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    prepare(GRPOOptions(model=str(model_folder), data="world", agent="answer", steps=1,
                        out=str(tmp_path)), "grpo")
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["config.json", "notes.txt"], (
        "interrupted, this run would be shown with the scores and pictures of the last")


def test_a_limit_is_for_validation_and_test_alone(tmp_path, model_folder):
    counts = []
    for options in ({}, {"limit": 5}):
        found = prepare(GRPOOptions(model=str(model_folder), data="world", agent="answer", steps=1,
                                    out=str(tmp_path / str(len(counts))), **options), "grpo")
        counts.append([len(tasks) for tasks in (found.train, found.validation, found.test)])
    assert counts == [[152, 81, 513], [152, 5, 5]], (
        "--limit must shorten what is looked at, never what is learned from")


def test_no_steps_leave_everything_as_it_was(tmp_path, model_folder):
    path = small_file(tmp_path / "small.json", [
        {"question": "Who skis?", "answer": "Ann", "category": 4, "evidence": ["D1:1"]}])
    code, out, err = call("grpo", "--steps", "0", "--data", path, "--model", model_folder,
                          "--max-new-tokens", "4", "--out", tmp_path / "run")
    assert code == 0, err
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["before"] == summary["after"], "no training step, and yet the scores changed"
    assert (tmp_path / "run/checkpoint/config.json").exists() and "grpo manager: held-out" in out


# ---- the documentation is true -------------------------------------------------------------------


def test_the_comparison_of_harnesses_is_shown(tmp_path):
    scores = {str(n): {harness: {"exact_match": n / k, "f1": n / k, "peak_tokens": 90 * k * n,
                                 "peak_tokens_with_prompt": 100 * k * n, "seconds": 0.5}
                       for k, harness in enumerate(("mem1", "full_context"), start=1)}
              for n in (1, 2, 4)}
    lines = objectives_table(scores).splitlines()
    assert len(lines) == 1 + 6 and lines[-1].split()[:3] == ["4", "full_context", "2.00"]
    draw_objectives(scores, "title", tmp_path / "objectives.png")
    assert (tmp_path / "objectives.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_runs_are_compared_in_one_picture(tmp_path):
    for name in ("grpo", "ppo"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"questions": 4, "group_size": 8}')
        (tmp_path / name / "summary.json").write_text(f'{{"algorithm": "{name}"}}')
        (tmp_path / name / "metrics.csv").write_text("step,reward\n1,0.2\n2,0.5\n")
    picture = tmp_path / "rewards.png"
    assert call("training.pictures", tmp_path / "grpo", tmp_path / "ppo", "--out", picture)[0] == 0
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    code, _, err = call("training.pictures", tmp_path / "missing")
    assert code == 2 and "missing" in err and "Traceback" not in err


def test_embedded_model_is_beside_the_modules():
    assert EMBEDDED_MODEL == ROOT / "tiny", "tiny/ is found from any folder"
