"""Tests of comparisons/answerers.py: several answer agents on one sample of the test questions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from canned import refused

from comparisons import answerers
from comparisons.answerers import main, sampled_tasks, scores_of, tables
from memory_bank import hashed_words
from memr1 import answer_all
from world import world

DIALOGUES = world(3, seed=77, held_out=True)


def questions_of(n: int | None) -> list[tuple[str, str]]:
    return [(name, task.question.text)
            for name, task in sampled_tasks(DIALOGUES, hashed_words(), "observations", 30, n)]


def test_a_sample_is_drawn_from_all_conversations_and_is_the_same_for_every_model():
    everything, sample = questions_of(None), questions_of(12)
    assert everything == [(d.name, q.text) for d in DIALOGUES for q in d.questions]
    assert sample == questions_of(12), "two calls must ask the same, or a difference is not paired"
    assert len(set(sample)) == 12 and set(sample) <= set(everything)
    assert len({name for name, _ in sample}) == 3, "the first dialogue alone is no sample of all"
    assert [pair for pair in everything if pair in sample] == sample, "in the order of the data"
    assert questions_of(10**6) == everything, "more than there are: all"


def test_scores_are_those_of_the_answers(monkeypatch):
    """An agent that is right on every second question, in words that F1 rewards in part."""
    tasks = [task for _, task in sampled_tasks(DIALOGUES, hashed_words(), "observations", 30, 8)]
    replies = [task.question.answer if i % 2 else f"It is {task.question.answer}"
               for i, task in enumerate(tasks)]
    remaining = iter(replies)
    monkeypatch.setattr(answerers, "CHUNK", 3)
    monkeypatch.setattr(answerers, "answer_all", lambda policy, chunk, distill, max_new_tokens: [
        SimpleNamespace(text=next(remaining), cut=False) for _ in chunk])
    scores = scores_of(None, tasks, False, 16)
    assert scores["exact_match"] == [0, 1] * 4, "an answer was compared with another's gold answer"
    assert all(score == 1 for score in scores["f1"][1::2])
    assert all(0 < score < 1 for score in scores["f1"][::2])
    assert answer_all is not answerers.answer_all


def even(scores: list[float]) -> dict[str, list[float]]:
    """The same scores by every measure."""
    return {name: scores for name in (*answerers.SCORES, "cut", "words")}


def less_the_first(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip().startswith("less the first")]


def test_a_difference_is_paired_with_the_first_model():
    """b is ahead of a by exactly .5 in every conversation, however hard the conversation is."""
    hard, better = even([0.0, 0.5, 0.25, 0.25]), even([0.5, 1.0, 0.75, 0.75])
    text = tables({"a": [hard], "b": [better]}, ["x", "x", "y", "y"], [1, 1, 4, 4])
    [less] = less_the_first(text)
    assert less.count("0.500 [0.500, 0.500]") == len(answerers.SCORES), (
        f"what makes a conversation hard for both must cancel out: {less}")
    alone = tables({"a": [hard]}, ["x"] * 4, [1] * 4)
    assert "0.250 (no interval)" in alone and "nan" not in alone, "one conversation says nothing"
    assert "single-hop (2)" in text and "0.750" in text.splitlines()[-1], "b's F1 on category 4"


def test_a_seed_is_compared_with_the_same_seed():
    """Two seeds far apart, each .25 behind its own first model; and beside one start model."""
    places = ["x", "x", "y", "y"], [1, 1, 4, 4]
    low, high = even([0.0] * 4), even([1.0] * 4)
    trained = [even([-0.25] * 4), even([0.75] * 4)]
    [less] = less_the_first(tables({"a+b": [low, high], "c+d": trained}, *places))
    assert less.count("-0.250 [-0.250, -0.250]") == len(answerers.SCORES), (
        f"paired seed by seed the seeds' own levels cancel out: {less}")
    text = tables({"start": [low], "a+b": [low, high]}, *places)
    assert "0.500 [0.000, 1.000]" in text, "an interval must draw the seeds anew"
    assert "0.500 [0.000, 1.000]" in less_the_first(text)[0], "the start model stands beside both"
    assert "a, 2 seeds" in text and text.splitlines()[-1].count("0.500") == 2, "means over seeds"


def test_the_command_asks_a_model_once(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MEMORY_R1_CACHE", str(tmp_path))
    monkeypatch.setattr(answerers, "dialogues_to_test", lambda *_: (DIALOGUES, ""))
    first = main(["--models", "tiny", "--data", "world", "--sample", "6"])
    assert "0 responses from disk, 6 new" in capsys.readouterr().out
    again = main(["--models", "tiny", "--data", "world", "--sample", "6"])
    assert "6 responses from disk, 0 new" in capsys.readouterr().out and again == first


@pytest.mark.parametrize("arguments, told", [
    ([], "name the models"), (["--models", ","], "name the models"),
    (["--models", "tiny,tiny"], "twice"), (["--models", "tiny,a+tiny"], "twice"),
    (["--models", "a+b,c"], "the first has 2 seeds"),
    (["--models", "no/such/model", "--data", "world"], "no/such/model"),
    (["--models", "tiny", "--data", "no/such/file"], "no/such/file")])
def test_what_cannot_be_compared_is_refused_in_one_line(arguments, told):
    assert told in refused(main, *arguments)
