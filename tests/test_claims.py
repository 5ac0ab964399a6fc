"""Tests of claims/: what is run, reused, and holds. Nothing is trained here.

    python -m pytest tests/test_claims.py        (a few seconds)
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from canned import metrics_of, refused

import evaluate
import grpo
import ppo
import sft
from claims import __main__ as claims
from claims import runner
from claims.__main__ import check
from claims.lines import (
    CONFIDENCE,
    QUICK,
    SEEDS,
    USUAL,
    WORLD,
    Budget,
    above_zero,
    answers,
    difference,
    every_line,
    interval,
    joint_confidence,
    level,
    mem1,
    no_more,
    race,
    ruled,
    scoring,
    training,
    words,
)
from claims.runner import Job, missing
from comparisons.compare import CompareOptions
from training.options import EMBEDDED_MODEL, parse_options
from world import named_world

ROOT = Path(__file__).parent.parent
OPTIONS = {"grpo.py": grpo.GRPOOptions, "ppo.py": ppo.PPOOptions, "sft.py": sft.SFTOptions,
           "evaluate.py": evaluate.EvaluateOptions}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # `run_missing` sets it: restored behind each test
    return tmp_path


def finished(job: Job, rows: list[tuple[str, str, float, str]] = (), summary: dict | None = None):
    """Leave what a command would leave: (dialogue, question, exact match, answer) a question."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "summary.json").write_text(json.dumps(summary or {}))
    (job.folder / "records.jsonl").write_text("".join(
        json.dumps({"dialogue": d, "question": q, "exact_match": e, "answer": a}) + "\n"
        for d, q, e, a in rows))
    (job.folder / "receipt.txt").write_text(job.receipt())


def every_job(budget: Budget = USUAL) -> list[Job]:
    return [one for line in every_line(budget) for job in line.jobs for one in job.chain()]


def test_each_line_about_imitation_has_its_own_expert():
    """The sixth claim compares with a perfect expert and with one that overwrites, by name."""
    lines = [line for line in every_line() if "Memory-SFT" in line.claim]
    assert len(lines) == 4, "GRPO and PPO, beside two experts"
    for line in lines:
        commands = [one.command for job in line.jobs for one in job.chain()
                    if one.command[0] == "sft.py"]
        assert len(commands) == len(SEEDS)
        for command in commands:
            assert ("--expert-overwrites" in command) == ("overwrites" in line.claim), (
                f"{line.claim}: taught by {' '.join(command)}")


def test_nine_claims_whose_commands_exist():
    assert {line.number for line in every_line()} == set(range(1, 10)), "a claim is missing"
    jobs = [*every_job(USUAL), *every_job(QUICK)]
    assert len({job.name for job in jobs}) == len({job.line for job in jobs}), (
        "two commands share a folder: one overwrites the other, and both are run for ever")
    for job in jobs:
        data = job.command[job.command.index("--data") + 1]
        assert named_world(data) and data.endswith(f"-{WORLD}"), (
            f"{job.line}: learns or asks in a world that was looked at before, such as the usual")
        script, *arguments = job.command
        options = CompareOptions if "--systems" in arguments else OPTIONS[script]
        parse_options(options, "", [*arguments, "--out", "x"])  # SystemExit if unknown
        if script != "evaluate.py":
            assert int(arguments[arguments.index("--seed") + 1]) in SEEDS


def test_trainings_come_before_what_reads_them_and_nothing_twice():
    names = [job.name for job in missing(every_job())]
    assert len(names) == len(set(names)), "a command would be run twice"
    for place, job in enumerate(missing(every_job())):
        assert {needed.name for needed in job.needs} <= set(names[:place]), (
            f"{job.name} is begun before what it reads, and would wait for ever")


def test_a_chain_of_needs_comes_in_its_order():
    manager = Job("manager", ("grpo.py",))
    answerer = Job("answerer", ("grpo.py",), (manager,))
    score = Job("ppo-mem1", ("evaluate.py",), (answerer,))  # a name that else comes early
    assert missing([score]) == [manager, answerer, score], (
        "a command is begun before the one that makes its model has begun")


def test_the_usual_budget_is_that_of_the_commands_in_the_readme():
    for job in every_job(USUAL):
        assert not {"--steps", "--questions", "--lr"} & set(job.command), (
            f"{job.line}: trains less than what a reader of README.md runs")
    trained = {job.name for job in every_job(USUAL) if not job.command[0].startswith("evaluate")}
    quick = {job.name for job in every_job(QUICK) if not job.command[0].startswith("evaluate")}
    assert len(trained) == len(quick) and not trained & quick, (
        "a quick table would be made of full runs, or the other way round")


def test_what_was_done_is_reused_until_what_it_needs_is_made_again():
    job = training("grpo", "manager", 0)
    score = scoring(job, None)
    assert not job.done() and not score.done()
    finished(job)
    finished(score)
    assert job.done() and score.done()
    (job.folder / "summary.json").write_text("{}")  # trained again: another time stamp
    assert job.done() and not score.done(), "scores of an older checkpoint would be reused"
    other = Job(job.name, (*job.command, "--lr", "1e-4"))
    assert not other.done(), "results of other options would be reused"


def test_a_paired_sum_by_hand():
    trained = [training("grpo", "manager", seed) for seed in (0, 1)]
    after, start = [scoring(job, None) for job in trained], scoring(None, None)
    for job in trained:
        finished(job)
    finished(start, [("a", "q", 0, "x y"), ("a", "r", 1, "x"), ("b", "q", 0, "x")])
    finished(after[0], [("a", "q", 1, "x"), ("a", "r", 1, "x"), ("b", "q", 0, "x")])
    finished(after[1], [("a", "q", 1, "x"), ("a", "r", 1, "x"), ("b", "q", 1, "x")])
    mean, low, high = interval([(1, after), (-1, [start])])
    assert mean == pytest.approx(3 / 6), "the mean over seeds and questions of paired differences"
    assert low <= mean <= high and low < high
    assert interval([(1, after), (-1, [start])], lambda q: q == "q")[0] == pytest.approx(3 / 4), (
        "only the questions that are kept")
    shorter = interval([(1, [start]), (-1, after)], value=words)[0]
    assert shorter == pytest.approx(1 / 3), "words, not exact matches"


def test_records_of_compared_systems_are_read_too():
    job = ruled("overwrite")
    finished(job)
    (job.folder / "records.jsonl").write_text(json.dumps({
        "dialogue": "a", "questions": [{"question": "q", "exact_match": 1},
                                       {"question": "r", "exact_match": 0}]}) + "\n")
    assert [(key, row["exact_match"]) for key, row in answers(job).items()] == [
        (("a", 0), 1), (("a", 1), 0)]
    with (job.folder / "records.jsonl").open("a") as file:  # by a model that was made anew
        file.write(json.dumps({"dialogue": "a", "questions": [
            {"question": "q", "exact_match": 0}, {"question": "r", "exact_match": 0}]}) + "\n")
    assert [row["exact_match"] for row in answers(job).values()] == [0, 0], (
        "what an older model answered is counted, beside the newer answers or in their place")


@pytest.mark.parametrize(("effect", "above", "near", "enough"), [
    ((0.1, 0.01, 0.2), True, None, None), ((-0.1, -0.2, -0.01), False, None, True),
    ((0.0, -0.02, 0.02), None, True, True), ((0.1, 0.06, 0.2), True, False, False),
    ((-0.2, -0.3, -0.1), False, False, True), ((0.0, 0.0, 0.0), None, True, True)])
def test_what_holds(effect, above, near, enough):
    assert above_zero(effect) is above, "0 inside the interval proves nothing, in neither direction"
    assert level(effect) is near, "an interval that reaches beyond LEVEL does not show level scores"
    assert no_more(effect) is enough, "worse with more questions is enough too; only gains count"


def objectives(peaks: dict[int, float], right: dict[str, float], slip: float) -> dict:
    """What a run of MEM1 leaves: the same for every number of questions, task 0 off by `slip`."""
    return {"by_objectives": {str(count): {
        harness: {"tasks": [{"corpus": task // 2, "peak_tokens": peaks[count],
                             "exact_match": count * share - slip * (task == 0)}
                            for task in range(8)]}
        for harness, share in right.items()} for count in (1, 2, 4, 8, 16)}}


def test_lines_of_mem1_have_intervals_over_tasks_and_seeds():
    lines = mem1(USUAL)
    [job] = {line.jobs for line in lines}
    assert all("--compare" in one.command for one in job), (
        "without --compare no other harness is trained, and summary.json has no by_objectives")
    peaks = {1: 90.0, 2: 100.0, 4: 110.0, 8: 130.0, 16: 150.0}
    right = {"mem1": 0.9, "full_context": 0.3, "truncation": 0.1, "a_mem": 0.5}
    for one, slip in zip(job, (0.0, 0.5, 1.0)):
        finished(one, summary=objectives(peaks, right, slip))
    assert lines[0].measure(CONFIDENCE) == ("1.50 (1.50 to 1.50)", True)
    text, holds = lines[2].measure(CONFIDENCE)
    assert holds is True and text.startswith("+1.60 ("), (
        f"{text}: ahead of the best of the others at 4 is 4 x (0.9 - 0.5)")
    text, holds = lines[-1].measure(CONFIDENCE)
    mean, low, high = map(float, text.replace("(", "").replace(")", "").replace("to", "").split())
    assert holds is True and mean == pytest.approx(5.4) and low < mean < high, (
        f"{text}: 8 x 0.9 less 2 x 0.9, with the slips of three runs in both")
    for one in job:  # 16 questions take twice the context of 2
        finished(one, summary=objectives({**peaks, 16: 200.0}, right, 0.0))
    assert lines[0].measure(CONFIDENCE)[1] is False


def test_a_race_is_paired_by_step_and_seed():
    first, second = ([Job(f"{name}{i}", ("x.py",)) for i in range(3)] for name in "ab")
    for jobs, ahead in ((first, 0.1), (second, 0.0)):
        for seed, job in enumerate(jobs):
            finished(job)
            rows = [0.2 * seed + 0.05 * step + (ahead if step < 3 else -1) for step in range(6)]
            (job.folder / "metrics.csv").write_text(
                "step,reward\n" + "".join(f"{step},{r}\n" for step, r in enumerate(rows)))
    text, holds = race(first, second, CONFIDENCE)
    assert text == "+0.100 (+0.100 to +0.100)" and holds is True, (
        "the first half of the steps, each beside the same step of the same seed")
    assert race(second, first, CONFIDENCE)[1] is False


def test_what_holds_alone_need_not_hold_with_all_others():
    """Twelve dialogues, eleven of them better: sure enough for one line, not for twenty-nine."""
    assert CONFIDENCE < joint_confidence() < 1
    assert joint_confidence() == pytest.approx(1 - 0.05 / len(every_line()))
    after, start = scoring(training("grpo", "manager", 0), None), scoring(None, None)
    finished(after.needs[0])
    gains = [1] * 5 + [0] * 7
    finished(start, [(f"d{d}", "q", 0, "x") for d in range(12)])
    finished(after, [(f"d{d}", "q", gain, "x") for d, gain in enumerate(gains)])
    verdicts = [above_zero(interval([(1, [after]), (-1, [start])], confidence=confidence))
                for confidence in (CONFIDENCE, joint_confidence())]
    assert verdicts == [True, None], "the wider interval is not used"
    row = claims.measured_row(difference(1, "", "", [(1, [after]), (-1, [start])]), quick=False)
    assert (row["verdict"], row["all at once"]) == ("holds", "not shown"), (
        "the table decides both columns by the same interval")


def test_an_answer_agent_learns_on_the_banks_that_it_is_scored_on():
    for job in every_job():
        if job.name.startswith("of-") and "--answerer" in job.command:
            answerer = next(needed for needed in job.needs if "answer" in needed.name)
            learned_on = answerer.command[answerer.command.index("--manager") + 1]
            read_by = (job.command[job.command.index("--manager") + 1]
                       if "--manager" in job.command else str(EMBEDDED_MODEL))
            assert learned_on == read_by, f"{job.name}: learned on the banks of {learned_on}"


def test_the_table_of_some_claims(folder, monkeypatch, capsys):
    ran = []

    def pretend(job: Job, workers) -> None:
        if not job.needs:
            time.sleep(0.05)  # a command that does not wait for it finds no summary.json
        ran.append(job.name)
        better = float("direct" not in job.name)
        finished(job, [(f"d{d}", f"q{q}", better, "x") for d in range(3) for q in range(2)])

    monkeypatch.setattr(runner, "run_job", pretend)
    [row] = check("3")
    assert row["verdict"] == "holds" and row["here"] == "+1.000 (+1.000 to +1.000)"
    assert row["command"] == "python -m claims 3"
    assert not any("quick" in name for name in ran)
    assert len(ran) == 15, "three managers, answer agents with and without, trained and scored"
    for seed in SEEDS:
        chain = [f"grpo-manager-{seed}", f"grpo-answer-beside-{seed}"]
        assert ran.index(chain[0]) < ran.index(chain[1]) < ran.index("-".join(["of", *chain])), (
            "an answer agent begins before the manager is there whose banks it learns on")
    with (folder / "claims-3.csv").open() as file:
        assert list(csv.DictReader(file)) == [row]
    assert ("claims: 1 hold, 0 do not, 0 are not shown; all at once 1 hold, 0 do not"
            in capsys.readouterr().out)
    ran.clear()
    check("3")
    assert not ran, "a second call must run nothing again"


def test_bad_numbers():
    for numbers in ("3,10", "3,", ","):
        assert f"{numbers}: must be" in refused(lambda _: check(numbers))


class Here(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future


def test_a_command_is_done_only_if_it_ended_well(folder, monkeypatch, capsys):
    given = []
    ends = {"fine": lambda: print("a word"), "refuses": lambda: sys.exit(2),
            "breaks": lambda: 1 / 0}

    def main(argv):
        given.append(list(argv))
        ends[argv[1]]()

    monkeypatch.setitem(runner.MAINS, "evaluate.py", main)
    fine = Job("fine", ("evaluate.py", "--data", "fine"))
    runner.run_job(fine, Here())
    assert fine.done() and fine.log.read_text() == "a word\n"
    assert [path.name for path in fine.folder.iterdir()] == ["receipt.txt"], (
        "a command refuses a folder with files that are no run's, such as its own log")
    assert given == [["--data", "fine", "--out", str(fine.folder)]]
    for name, code in (("refuses", 2), ("breaks", 1)):
        job = Job(name, ("evaluate.py", "--data", name))
        with pytest.raises(ChildProcessError, match=f"ended with {code}; .*{name}.log"):
            runner.run_job(job, Here())
        assert not job.done(), "what failed counts as done"
    assert "ZeroDivisionError" in job.log.read_text()
    assert capsys.readouterr().out == ""


def test_an_interrupted_command_goes_on(folder, monkeypatch):
    given = []
    monkeypatch.setitem(runner.MAINS, "grpo.py", lambda argv: given.append(list(argv)))
    job = Job("stopped", ("grpo.py", "--seed", "1"))
    job.folder.mkdir(parents=True)
    (job.folder / "resume.pt").write_bytes(b"")  # Ctrl-C lets a training write it
    runner.run_job(job, Here())
    assert given == [["--seed", "1", "--out", str(job.folder), "--resume"]], (
        "a training refuses a folder with an unfinished run, unless it goes on with it")
    assert job.done(), "a run that was resumed stands for the same command"


def test_sigterm_ends_the_workers_too(monkeypatch):
    ended, undone = [], Job("never", ("grpo.py",))
    workers = [SimpleNamespace(terminate=lambda: ended.append(True))]
    monkeypatch.setattr(runner.multiprocessing, "active_children", lambda: workers)
    monkeypatch.setattr(runner, "run_job", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        runner.run_missing([undone])
    assert ended == [True], "a worker would train on, though nobody waits for it"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_worker_does_what_the_command_does(folder, tmp_path):
    """Twice in one process, after another command: the same numbers as in a process of its own."""
    options = ("--steps", "2", "--questions", "4", "--limit", "4")
    first, other, again = (Job(name, ("grpo.py", "--agent", agent, *options)) for name, agent in (
        ("first", "manager"), ("other", "answer"), ("again", "manager")))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, runner.prepare_worker) as workers:
        for job in (first, other, again):
            runner.run_job(job, workers)
        with pytest.raises(ChildProcessError, match="ended with 2"):
            runner.run_job(Job("bad", ("grpo.py", "--group-size", "1")), workers)
    alone = tmp_path / "alone"
    subprocess.run([sys.executable, ROOT / "grpo.py", *first.command[1:], "--out", alone],
                   check=True, capture_output=True)

    def rewards(path: Path) -> list[str]:
        return [row["reward"] + row["kl"] for row in metrics_of(path)]

    assert rewards(first.folder) == rewards(alone), "a worker does not what the command does"
    assert rewards(again.folder) == rewards(alone), "a command depends on what ran before"


def test_without_numbers_all_claims_are_checked(monkeypatch):
    asked = []
    monkeypatch.setattr(claims, "check", lambda *options: asked.append(options) or [])
    claims.main([])
    claims.main(["1,7", "--quick"])
    assert asked == [("all", False), ("1,7", True)]
