"""Tests of training/introduction.py: the first screen says in plain words what begins.

    python -m pytest tests/test_introduction.py        (a second)
"""

from __future__ import annotations

import pytest

from grpo import GRPOOptions
from ppo import PPOOptions
from sft import SFTOptions
from training.introduction import first_screen, given_options, what_pays
from training.options import resolve
from training.pictures import what_changed


def screen_of(options, algorithm: str = "grpo") -> str:
    return first_screen(resolve(options, algorithm), given_options(options), algorithm,
                        (298, 81, 513), 1_000_000, 1_000_000)


@pytest.mark.parametrize("agent", ["manager", "answer", "mem1"])
@pytest.mark.parametrize("kind, algorithm", [
    (GRPOOptions, "grpo"), (PPOOptions, "ppo"), (SFTOptions, "sft")])
def test_it_is_one_screen_of_short_lines(kind, algorithm, agent):
    lines = screen_of(kind(agent=agent), algorithm).splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 100, (
        "35 options in one line of 490 characters tell a newcomer nothing")
    for word in ("from", "reward", "model", "length", "folder"):
        assert any(line.startswith(f"  {word} ") for line in lines), f"nothing is said of {word}"


def test_spans_are_called_spans():
    text = screen_of(GRPOOptions(span=4))
    assert "298 spans of 4 decisions" in text and "steps of 19 spans of 4 decisions" in text
    assert "81 others validate" in text and max(map(len, text.splitlines())) <= 100
    assert "else 0" not in text, "a span is paid a share of its questions, not 1 or 0"
    assert "share exactly right, of several answers" in text
    assert "mean F1" in what_pays(GRPOOptions(span=4, reward="f1"), "grpo")


def test_what_was_given_comes_first_and_has_a_star():
    options = GRPOOptions(seed=3, distill=False, agent="answer", lr=1e-5)
    text = screen_of(options)
    cells = text[text.index("--help"):].split("\n", 1)[1].replace("\n", "  ").split("  ")
    starred = [cell[2:].strip() for cell in cells if cell.startswith("* ")]
    assert starred == ["--agent answer", "--no-distill", "--lr 1e-05", "--seed 3"], starred
    assert text.index("--seed 3") < text.index("--group-size 8"), "the given ones come first"


def test_every_agent_says_what_pays():
    for options, said in ((GRPOOptions(), "frozen answer agent (the start model)"),
                          (GRPOOptions(answerer="runs/a/checkpoint"), "(runs/a/checkpoint)"),
                          (GRPOOptions(reward="f1"), "F1"),
                          (GRPOOptions(agent="answer"), "1 if its answer is exactly right"),
                          (GRPOOptions(agent="mem1"), "number of questions"),
                          (GRPOOptions(agent="mem1", env="shop"), "purchase")):
        assert said in what_pays(options, "grpo")
    for options, said in ((SFTOptions(data="world"), "imitates an expert's responses"),
                          (SFTOptions(data="locomo"), "an expert that adds every fact"),
                          (SFTOptions(data="locomo", trajectories="chats.jsonl"), "'s responses")):
        assert said in what_pays(options, "sft"), "whom it imitates decides what it learns"


def test_the_last_sentence_counts_questions():
    before = {"count": 10, "exact_match": 0.4, "reward": 0.5, "by_category": {
        1: {"count": 2, "exact_match": 0.0}, 4: {"count": 8, "exact_match": 0.5}}}
    after = {"count": 10, "exact_match": 0.8, "reward": 0.75, "by_category": {
        1: {"count": 2, "exact_match": 1.0}, 4: {"count": 8, "exact_match": 0.75}}}
    sentence = what_changed(before, after, "manager", "exact_match")
    assert sentence.startswith("Of 10 held-out questions, 4 were") and "and 8 with" in sentence
    assert "gain" not in what_changed(after, before, "manager", "exact_match"), "nothing was gained"
    assert "0.500 to 0.750" in what_changed(before, after, "mem1", "reward")
