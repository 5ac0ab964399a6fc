"""Tests of sft.py: the loss is the mean over all tokens and falls; what cannot be is refused.

    python -m pytest tests/test_sft.py        (some ten seconds)
"""

from __future__ import annotations

import json

import pytest
import torch
from canned import CannedAgent, make_run, refused, small_data

import sft
from environments import search_tasks
from mem1 import Mem1Agent
from memory_bank import hashed_words
from policy import load_policy
from sft import SFTOptions
from training.experts import manager_lessons, trajectories_of
from training.options import EMBEDDED_MEM1, EMBEDDED_MODEL
from trees import Episode
from world import world, world_splits

EMBED = hashed_words()


def test_what_no_expert_can_show_is_refused(tmp_path, model_folder):
    line = refused(sft.main, "--agent", "mem1", "--env", "shop", "--out", tmp_path / "run")
    assert "--trajectories" in line, "nobody shows how to buy"
    line = refused(sft.main, "--data", "world", "--facts", "llm", "--out", tmp_path / "run")
    assert "--facts llm" in line, "the oracle's lessons would be of turns, whatever is read later"
    refused(sft.main, "--trajectories", tmp_path / "none.jsonl", "--out", tmp_path / "run")
    mine = str(small_data(tmp_path / "mine.json", "Who skis?"))
    for words in (["--agent", "answer"], ["--trajectories", "x.jsonl"], ["--data", mine],
                  ["--model", str(model_folder)]):
        for option, *value in (["--expert-errors", "0.2"], ["--expert-overwrites"]):
            assert option in refused(sft.main, *words, option, *value, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists(), "refused after the start model was scored, an hour long"


def test_a_manager_that_keeps_no_evidence_leaves_nothing_to_imitate(tmp_path, model_folder):
    """A random manager writes no operation, so every bank is empty: no lesson, and no endless loop.
    """
    path = small_data(tmp_path / "mine.json", "Who skis?")
    line = refused(sft.main, "--agent", "answer", "--data", path, "--model", model_folder,
                   "--manager", model_folder, "--out", tmp_path / "run", "--max-new-tokens", "4")
    assert "none of 1 questions is left to imitate" in line and str(path) in line, line


def test_a_manager_of_other_data_is_shown_the_form_and_what_it_saw_can_be_shown_again(
        tmp_path, model_folder):
    options = ["--data", str(small_data(tmp_path / "mine.json", "Who skis?")), "--facts", "turns",
               "--model", str(model_folder), "--steps", "1", "--questions", "2", "--limit", "1"]
    sft.main([*options, "--max-new-tokens", "80", "--out", str(tmp_path / "run")])
    lessons = tmp_path / "run" / "lessons.jsonl"
    [line] = map(json.loads, lessons.read_text(encoding="utf-8").splitlines())
    assert line["messages"][-1] == {
        "role": "assistant", "content": '[{"event": "ADD", "text": " Ann: I ski."}]'}
    sft.main([*options, "--max-new-tokens", "80", "--trajectories", str(lessons),
              "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "lessons.jsonl").read_bytes() == lessons.read_bytes(), (
        "what a run imitated is not what --trajectories reads back")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sft, "evaluate_before", lambda run: pytest.fail("an hour is lost first"))
        text = refused(sft.main, *options, "--max-new-tokens", "4", "--out", tmp_path / "short")
    assert "none of 1 decisions is left to imitate" in text and "--max-new-tokens" in text, text


def test_a_run_on_chats_says_that_it_learned_from_these(tmp_path, model_folder, capsys):
    chats = tmp_path / "chats.jsonl"
    chats.write_text("\n".join(json.dumps({"messages": [
        {"role": "user", "content": f"Who {verb}?"}, {"role": "assistant", "content": "Ann"}]})
        for verb in ("skis", "sings", "sails")))
    folder = tmp_path / "run"
    summary = sft.main([
        "--agent", "answer", "--data", str(small_data(tmp_path / "mine.json", "Who skis?")),
        "--model", str(model_folder), "--trajectories", str(chats), "--steps", "1", "--questions",
        "2", "--max-new-tokens", "4", "--no-distill", "--out", str(folder)])
    card = (folder / "checkpoint" / "README.md").read_text()
    assert "- Trained on: 3 chats of chats.jsonl, 1 steps" in card, (
        f"a card is made to be published, and names what nobody learned from: {card}")
    assert (summary["train_questions"], summary["train_chats"]) == (0, 3)
    screen = capsys.readouterr().out
    assert f"the chats of {chats}; of {tmp_path / 'mine.json'} 1 validate, 1 test" in screen
    assert "1 steps of 2 chats" in screen


def test_the_loss_is_that_of_separate_rows_and_falls(tmp_path, monkeypatch):
    policy = load_policy(EMBEDDED_MODEL)
    lessons = manager_lessons(policy, world_splits()[0][:1], EMBED, "turns", 48)[:4]
    monkeypatch.setattr(sft, "trajectories_of", lambda run: [[lesson] for lesson in lessons])
    steps = [policy.lesson(*lesson) for lesson in lessons]
    with torch.no_grad():
        separate = torch.cat([policy.token_log_probs([[step]]) for step in steps])  # (N,)
    log = {"answer": "a", "gold": "a", "category": 1}
    agent = CannedAgent([[Episode([steps[0]], 0.0, log)]])
    run = make_run(policy, load_policy(EMBEDDED_MODEL), agent, 4, tmp_path / "run",
                   kind=SFTOptions, steps=8, questions=4, lr=6e-4)
    rows, scores = sft.train(run)
    assert rows[0]["loss"] == pytest.approx(-separate.mean().item(), rel=1e-4), (
        "the loss is the mean over all response tokens of the batch")
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"], "it learns nothing from four lessons"
    assert run.n_tokens == 8 * len(separate) and set(scores) == {0, 8}


def test_all_turns_of_a_trajectory_count_and_mem1_learns_them(tmp_path):
    """Each token of each turn of a batch is imitated once, whatever branches share in packed rows.
    """
    policy, tasks = load_policy(EMBEDDED_MEM1), search_tasks(world(1, 3), 2, EMBED)[:2]
    run = make_run(policy, load_policy(EMBEDDED_MEM1), Mem1Agent(max_new_tokens=160), 2,
                   tmp_path / "run", tasks, SFTOptions, steps=3)
    run.options.agent = "mem1"
    turns = [policy.lesson(*lesson) for trajectory in trajectories_of(run)
             for lesson in trajectory]
    assert len(turns) >= 6, "two tasks of two questions have three turns each, or more"
    with torch.no_grad():
        separate = torch.cat([policy.token_log_probs([[step]]) for step in turns])  # (N,)
    rows, _ = sft.train(run)
    lines = (run.folder / "lessons.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(turns), "lessons.jsonl misses turns"
    assert rows[0]["loss"] == pytest.approx(-separate.mean().item(), rel=1e-4), (
        "the loss is the mean over all tokens of all turns")
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"] and run.n_tokens == 3 * len(separate)
