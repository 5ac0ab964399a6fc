"""Tests of judged.py: what a judge's verdicts pay, and a whole run that a server pays for.

    python -m pytest tests/test_judged.py        (some seconds)
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from canned import metrics_of, refused, small_data
from conftest import make_model
from test_judge import close, graded, label, say, serve  # noqa: F401  a fixture

import grpo
import sft
from grpo import GRPOOptions
from prompts import one_line
from training import judge as judge_module
from training import results, run
from training.introduction import what_pays
from training.judge import Judge, JudgeError
from training.judged import judged
from training.options import resolve
from trees import Episode, Step


def canned_judge(folder: Path, replies: dict[str, str | None]) -> Judge:
    """A judge whose reply hangs on the answer to grade; None is no reply."""
    def ask(prompts, keep) -> str:
        for place, prompt in enumerate(prompts):
            asked.append(prompt[-1]["content"])
            reply = replies[graded(prompt[-1]["content"])[1]]
            if reply is not None:
                keep(place, reply)
        return "the server was gone"

    asked: list[str] = []
    judge = Judge("canned", ask, folder / "verdicts.jsonl")
    judge.asked = asked
    return judge


def episode(answer: str, reward: float, **log) -> Episode:
    return Episode([Step([1], [2], True)], reward, {
        "question": "Where does Ann live?", "gold": "Oslo", "answer": answer, **log})


REPLIES = {"in Oslo, Norway": label(True), "Rome": label(False), "?": "I cannot say."}


def test_an_episode_is_paid_by_its_verdict_and_by_nothing_else(tmp_path):
    judge = canned_judge(tmp_path, REPLIES)
    groups = [[episode("Rome", 1.0), episode("in Oslo, Norway", 0.0, n_selected=3)],
              [episode("?", 1.0), episode("Rome", 1.0)]]
    paid = judged(groups, judge)
    assert [[e.reward for e in group] for group in paid] == [[0.0, 1.0], [0.0, 0.0]], (
        "1 for CORRECT; WRONG and no verdict pay 0, whatever exact match had paid")
    assert [[e.log["verdict"] for e in group] for group in paid] == [
        ["wrong", "correct"], ["none", "wrong"]], "samples.jsonl does not show the verdicts"
    assert paid[0][1].log["n_selected"] == 3 and paid[0][1].steps == groups[0][1].steps
    assert groups[0][0].reward == 1.0 and "verdict" not in groups[0][0].log, "changed in place"
    assert len(judge.asked) == 3, "equal answers to a question are asked about twice"
    assert "Question: Where does Ann live?\nGold answer: Oslo\n" in judge.asked[0]
    judged(groups, judge)
    assert len(judge.asked) == 3, "the next step pays for the same replies again"


def test_a_span_is_paid_the_share_of_its_answers(tmp_path):
    rows = [{"question": f"Where does {who} live?", "gold": "Oslo", "answer": answer, "category": 4}
            for who, answer in (("Ann", "Rome"), ("Bob", "in Oslo, Norway"), ("Cid", "?"),
                                ("Dan", "in Oslo, Norway"))]
    judge = canned_judge(tmp_path, REPLIES)
    [[paid]] = judged([[episode("; ".join(REPLIES), 0.0, objectives=rows)]], judge)
    assert paid.reward == 0.5 and paid.log["verdict"] == "wrong, correct, none, correct"
    assert len(judge.asked) == 4 and "Bob" in judge.asked[1], "each with its own question"


def test_no_reply_is_no_reward(tmp_path):
    judge = canned_judge(tmp_path, {**REPLIES, "Rome": None})
    with pytest.raises(JudgeError) as error:
        judged([[episode("Rome", 0.0), episode("in Oslo, Norway", 0.0)]], judge)
    assert str(error.value) == (
        "--judge canned: no reply about 1 of 2 answers (the server was gone)"), (
        "a server that is gone must stop the run: zeros would be learned from")


# ---- Whole runs ----------------------------------------------------------------------------------

SMALL = ["--no-distill", "--questions", "2", "--group-size", "4", "--max-new-tokens", "5",
         "--lr", "1e-3", "--reward", "judge"]


def is_odd(handler) -> None:
    """A judge for a random model, which answers nothing right: answers of odd length are."""
    say(label(len(graded(handler.user)[1]) % 2 == 1))(handler)


@pytest.mark.parametrize("agent", ["answer", "manager"])
def test_a_server_pays_a_run(agent, serve, model_folder, tmp_path):  # noqa: F811
    server = serve(usual=is_odd)
    data = small_data(tmp_path / "data.json", "Who skis?", "Who sings?")
    folder = tmp_path / "run"
    summary = grpo.main([*SMALL, "--agent", agent, "--facts", "turns", "--model", str(model_folder),
                         "--data", str(data), "--steps", "2", "--judge", "odd", "--judge-url",
                         server.url, "--out", str(folder)])
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    verdict_of = {"correct": 1.0, "wrong": 0.0}
    assert lines and all(verdict_of[line["verdict"]] == line["reward"] for line in lines)
    for line in lines:  # a judge reads answers on one line
        odd = len(one_line(line["answer"]) or "(none)") % 2 == 1
        assert line["reward"] == odd, line
    assert [row["no_verdict"] for row in metrics_of(folder)] == ["0", "0"]
    assert 0 <= summary["after"]["reward"] <= 1
    assert summary["after"]["exact_match"] == 0, "exact match stays what it is beside the reward"
    assert summary["after"]["no_verdict"] == 0
    assert f"mean reward of the {'memory manager' if agent == 'manager' else 'answer agent'} went "\
           in summary["what_changed"], "what is paid is what the run reports"
    assert server.url not in (folder / "checkpoint" / "README.md").read_text(), (
        "the model card, which is made to be published, names somebody's server")
    kept = (folder / "verdicts.jsonl").read_text().splitlines()
    assert len(kept) == len(server.requests) > 0, "every reply is kept in the run folder"


def test_a_local_model_without_verdicts_pays_nothing(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(judge_module, "MAX_NEW_TOKENS", 8)
    folder = tmp_path / "run"
    summary = grpo.main([
        *SMALL, "--agent", "answer", "--model", str(model_folder), "--data",
        str(small_data(tmp_path / "data.json", "Who skis?")), "--steps", "1", "--judge",
        str(model_folder), "--out", str(folder)])
    assert summary["after"]["no_verdict"] == 1, "a judge without verdicts must be seen at the end"
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {(line["reward"], line["verdict"]) for line in lines} == {(0.0, "none")}
    assert [row["no_verdict"] for row in metrics_of(folder)] == ["1"], (
        "unusable replies are counted")


def test_a_judge_that_is_gone_ends_the_run_in_one_line(
        serve, model_folder, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(judge_module, "ATTEMPTS", 1)
    server = serve(usual=close)
    data = small_data(tmp_path / "data.json", "Who skis?", "Who sings?")
    with pytest.raises(SystemExit) as stopped:
        grpo.launch(lambda: grpo.main([
            *SMALL, "--agent", "answer", "--model", str(model_folder), "--data", str(data),
            "--steps", "1", "--judge", "odd", "--judge-url", server.url, "--out",
            str(tmp_path / "run")]))
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and "--judge odd: no reply about" in error and (
        "--save-every" in error), error


def test_a_wrong_address_leaves_the_earlier_run_where_it_is(model_folder, tmp_path):
    folder, data = tmp_path / "run", small_data(tmp_path / "data.json", "Who skis?")
    usual = ["--agent", "answer", "--model", str(model_folder), "--data", str(data), "--steps", "0",
             "--no-distill", "--max-new-tokens", "5", "--out", str(folder)]
    grpo.main(usual)
    for url in ("localhost:8765/v1", "no address"):
        assert "address" in refused(grpo.main, *usual, "--reward", "judge", "--judge", "x",
                                    "--judge-url", url)
    assert not (tmp_path / "run.1").exists(), (
        "an earlier run was moved aside for one that cannot begin")


def test_no_device_opens_its_file_before_the_folder_is_begun(model_folder, tmp_path, monkeypatch):
    begun, going_first = run.start_folder, []

    @contextmanager
    def main_first():
        going_first.append(True)
        yield
        going_first.pop()

    def start_folder(*arguments):
        assert going_first, ("the first device may still move an earlier run aside, and with it "
                             "what another has opened: wait for it (devices.main_first)")
        return begun(*arguments)

    monkeypatch.setattr(run.devices, "main_first", main_first)
    monkeypatch.setattr(run, "start_folder", start_folder)
    grpo.main(["--agent", "answer", "--model", str(model_folder), "--data",
               str(small_data(tmp_path / "data.json", "Who skis?")), "--steps", "0",
               "--no-distill", "--max-new-tokens", "5", "--out", str(tmp_path / "run")])


def test_the_curve_says_what_a_run_was_paid_by(model_folder, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(results, "draw_curve", lambda *picture: drawn.append(picture))
    for reward in ("f1", "exact_match"):
        grpo.main(["--agent", "answer", "--model", str(model_folder), "--data",
                   str(small_data(tmp_path / "data.json", "Who skis?")), "--steps", "0",
                   "--no-distill", "--max-new-tokens", "5", "--reward", reward, "--out",
                   str(tmp_path / reward)])
    assert [(headline, paid_by) for _, _, headline, *_, paid_by in drawn] == [
        ("exact match", "f1"), ("exact match", "exact match")], (
        "a line of F1 would be drawn as exact match")


def test_without_validation_questions_no_score_is_logged(model_folder, tmp_path):
    data = small_data(tmp_path / "data.json", "Who skis?")
    conversations = json.loads(data.read_text())
    conversations[1]["qa"] = []
    data.write_text(json.dumps(conversations))
    grpo.main(["--agent", "answer", "--model", str(model_folder), "--data", str(data), "--steps",
               "1", "--questions", "1", "--group-size", "2", "--no-distill", "--max-new-tokens",
               "5", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "cases.jsonl").exists(), (
        "a score of 0 where nothing was asked looks like a model that knows nothing")
    assert (tmp_path / "run" / "curve.png").exists()


def test_another_judge_at_the_same_path_is_refused(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(judge_module, "MAX_NEW_TOKENS", 4)
    judge, folder = tmp_path / "judge", tmp_path / "run"
    shutil.copytree(model_folder, judge)
    command = [*SMALL, "--agent", "answer", "--model", str(model_folder), "--data",
               str(small_data(tmp_path / "data.json", "Who skis?")), "--steps", "2", "--judge",
               str(judge), "--out", str(folder)]
    with monkeypatch.context() as patched:  # Ctrl-C in the first step
        patched.setattr(run.Run, "log_samples", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(SystemExit):
            grpo.main(command)
    make_model(seed=7).save_pretrained(judge)
    assert "the model of --judge" in refused(grpo.main, *command, "--resume")


def test_what_a_judged_run_says_and_saves():
    options = resolve(GRPOOptions(agent="answer", reward="judge", judge="my{model}",
                                  judge_url="http://x"), "grpo")
    assert options.save_every == 5, "a judge may be gone at any step"
    said = what_pays(options, "grpo")  # a judge's name is data, and no template
    assert said == "1 if its answer is right to the judge my{model}, else 0"


@pytest.mark.parametrize("main", [grpo.main, sft.main])
@pytest.mark.parametrize("words, said", [
    (["--reward", "judge"], "go together"), (["--judge", "x"], "go together"),
    (["--judge-url", "http://x"], "needs --judge"),
    (["--reward", "judge", "--judge", "a\x1b[2J"], "cannot be printed"),
    (["--reward", "judge", "--judge", "no-such-folder"], "no-such-folder"),
    (["--reward", "judge", "--judge", "x", "--agent", "mem1"], "is read only")])
def test_wrong_options_are_one_line(main, words, said, tmp_path):
    assert said in refused(main, *words, "--out", str(tmp_path / "run"))
