"""Tests of evaluate.py: scripted agents with known outcomes, a random model, the embedded one.

    python -m pytest tests/test_evaluate.py        (about ten seconds)
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import canned
import pytest
from canned import refused

import evaluate
import grpo
from comparisons import compare, recall
from comparisons.recall import mean, share
from data import Dialogue, Question, Turn
from evaluate import EvaluateOptions, evidence_found, main, run_system, table
from memory_bank import hashed_words
from memr1 import CHUNK, AnswerTask, MemoryR1, Reading, answer_all, build_banks, facts_of
from systems.rules_and_mem0 import Mem0
from training.options import EMBEDDED_MODEL
from world import oracle_memories, world


class Scripted(canned.Scripted):
    """Writes what a function makes of the prompt, greedily."""

    def sample(self, prompts, group_size, max_new_tokens, temperature, generator=None):
        assert temperature == 0, "an evaluation must be greedy, or no two give the same numbers"
        return super().sample(prompts, group_size, max_new_tokens, temperature)


def manage(prompt: str) -> str:
    """ADD; but "also" updates memory 0, "gone" deletes it, and of the weather nothing is kept."""
    fact = prompt.split("New fact: ")[1]
    if "weather" in fact:
        return '[{"event": "NOOP"}]'
    if "gone" in fact:
        return '[{"event": "DELETE", "id": 0}]'
    if "also" in fact:
        return json.dumps([{"event": "UPDATE", "id": 0, "text": fact.replace("also ", "")}])
    return json.dumps([{"event": "ADD", "text": fact}])


def dialogue(name: str, facts: list[tuple[str, ...]], questions: list[Question]) -> Dialogue:
    """Turns D1:1, D1:2, ... that state these facts, spoken by Ann and Bob in turn."""
    turns = tuple(Turn(f"D1:{i}", ("Ann", "Bob")[(i - 1) % 2], f"said {i}", "8 May 2023", stated)
                  for i, stated in enumerate(facts, start=1))
    return Dialogue(name, ("Ann", "Bob"), turns, tuple(questions))


PETS = dialogue("pets", [
    ("Ann has a dog Rex",), ("Bob plays chess",), ("Ann also has a dog Milo", "so she has two"),
    ("fine weather",), ()], [
    Question("What dogs does Ann have?", "Rex and Milo", 1, ("D1:1", "D1:3")),
    Question("What weather was it?", "fine", 4, ("D1:4",)),
    Question("Is Ann happy?", "yes", 3, ())])
BOATS = dialogue("boats", [("Ann has a boat",), (), ("the boat is gone",)], [
    Question("What boat does Ann have?", "none", 4, ("D1:1", "D1:3"))])


# ---- pure parts, by hand -------------------------------------------------------------------------

def test_share_and_mean():
    assert share(["D1:1", "D1:2"], {"D1:2", "D9:9"}) == 0.5, "one of two evidence turns was found"
    assert share([], {"D1:1"}) is None, "no evidence is neither found nor missed"
    assert mean([1.0, None, 0.5]) == 0.75, "questions without evidence must not count as 0"
    assert mean([None]) is None and mean([]) is None, "nothing was missed where nothing was sought"


def read_all(manager, dialogues: list[Dialogue], facts: str) -> Reading:
    return build_banks(manager, dialogues, hashed_words(), facts, max_new_tokens=8)


# ---- reading -------------------------------------------------------------------------------------

def test_reading_by_hand():
    reading = read_all(Scripted(manage), [PETS], "observations")
    (bank,), (sources,), counts = reading.banks, reading.sources, reading.counts
    # What Bob said has its own memories, so that memory 0 that Ann's "also" updates is the dog.
    assert [m.text for m in bank] == ["Ann has a dog Milo", "Bob plays chess", "so she has two"]
    assert sources == {0: {"D1:1", "D1:3"}, 1: {"D1:2"}, 2: {"D1:3"}}, (
        "a memory stands for the turns whose facts added or updated it, and for no other")
    assert counts == Counter(facts=5, ADD=3, UPDATE=1, NOOP=1, invalid=0), "operations miscounted"


def test_an_update_that_changes_no_word_still_counts():
    twice = dialogue("twice", [("Ann has a dog",), (), ("Ann also has a dog",)], [])
    (sources,) = read_all(Scripted(manage), [twice], "observations").sources
    assert sources == {0: {"D1:1", "D1:3"}}, (
        "the third turn confirmed the memory, though the memory stayed equal")


@pytest.mark.parametrize("facts", ["turns", "observations", "llm"])
def test_reading_equals_the_system_turn_by_turn(facts):
    def reply(prompt: str) -> str:
        if prompt.startswith("Date:"):  # extraction: two facts of what was said
            said = prompt.splitlines()[-1]
            return json.dumps({"facts": [f"{said} first", f"{said} also second"]})
        return manage(prompt)

    system = MemoryR1(Scripted(reply), Scripted(reply), hashed_words(), PETS.speakers, facts,
                      max_new_tokens=8)
    for turn in PETS.turns:
        system.observe(turn)
    (bank,) = read_all(Scripted(reply), [PETS], facts).banks
    assert list(bank) == list(system.bank), (
        f"facts from {facts}: MemoryR1.observe, one turn after another, leaves another bank")


def test_the_facts_are_those_of_the_start_model(monkeypatch):
    """A trained manager writes other notes. Tested on them, it would meet what it never learned."""
    def note(prompt: str) -> str:
        assert prompt.startswith("Date:"), "the start model was asked to manage"
        return '{"facts": ["Ann has a dog"]}'

    def trained(prompt: str) -> str:
        assert not prompt.startswith("Date:"), "the trained manager was asked for the facts"
        return manage(prompt)

    _, _, reading = run_system(Scripted(trained), Scripted(lambda prompt: "**Answer:** no"), [PETS],
                               hashed_words(), "llm", False, 8, extractor=Scripted(note))
    assert reading.counts["facts"] == len(PETS.turns) and len(reading.banks[0])
    monkeypatch.setattr(evaluate, "load_or_stop", str)
    options = EvaluateOptions(model="start", manager="trained", facts="llm")
    assert evaluate.load_agents(options) == {
        "manager": "trained", "answerer": "start", "extractor": "start"}
    system = Mem0(Scripted(trained), hashed_words(), PETS.speakers, facts="llm",
                  extractor=Scripted(note), max_new_tokens=8)
    system.observe(PETS.turns[0])


def test_extraction_asks_for_many_turns_at_a_time():
    policy = Scripted(lambda prompt: '{"facts": ["' + prompt[-4:] + '"]}')
    many = dialogue("many", [()] * 70, []).turns
    facts = facts_of(many, "llm", policy, 8)
    assert [[fact.text for fact in of_turn] for of_turn in facts] == [
        [turn.text[-4:].strip()] for turn in many], "facts went to the wrong turns"
    assert max(policy.batches) == CHUNK, "one turn at a time is slow on a GPU"


# ---- answering -----------------------------------------------------------------------------------

def test_the_whole_system_by_hand():
    def answer(prompt: str) -> str:
        if "What dogs" in prompt:
            return "**Memories:**\nAnn has a dog Milo\n**Answer:** Milo and Rex"
        return "**Answer:** " + ("The none." if "boat does" in prompt else "no")

    scores, records, _ = run_system(Scripted(manage), Scripted(answer), [PETS, BOATS],
                                 hashed_words(), "observations", True, 8)
    assert [(r["dialogue"], r["category"], r["exact_match"]) for r in records] == [
        ("pets", 1, 0), ("pets", 4, 0), ("pets", 3, 0), ("boats", 4, 1)], (
        "answers are in another order than the questions, or exact match is not SQuAD's")
    assert records[0]["f1"] == 1.0 and records[0]["selected"] == "Ann has a dog Milo"
    # dogs: both turns behind one memory; weather: never stored; happy: no evidence; boat: deleted
    assert [r["evidence_found"] for r in records] == [1.0, 0.0, None, 0.0], (
        "evidence: by hand 1, 0, none, 0")
    assert scores["evidence_found"] == pytest.approx(1 / 3), "the question without evidence counts"
    of_type = scores["by_category"]
    assert of_type[3]["evidence_found"] is None and of_type[3]["count"] == 1
    assert of_type[4]["exact_match"] == 0.5 and scores["exact_match"] == 0.25
    assert scores["memories_per_dialogue"] == 1.5, "three memories and none, over two dialogues"
    assert scores["operations"] == {"ADD": 4, "UPDATE": 1, "DELETE": 1, "NOOP": 1, "invalid": 0}
    assert (scores["turns_read"], scores["facts_read"], scores["dialogues"]) == (8, 7, 2)


def test_evidence_is_of_the_memories_that_are_shown():
    # 31 memories of Ann, the agent sees 30 of them: all share "boat" with the question but one.
    facts = [(f"Ann boat {i}",) if i != 4 else ("Ann lamp",) for i in range(31)]
    one = dialogue("many", [s for fact in facts for s in (fact, ())], [])
    reading = read_all(Scripted(manage), [one], "observations")
    task = AnswerTask(reading.banks[0], Question("boat", "", 4, ("D1:1", "D1:9")), one.speakers)
    [answer] = answer_all(Scripted(lambda prompt: "**Answer:** no"), [task], max_new_tokens=8)
    assert evidence_found(reading.sources[0], task.question, answer) == 0.5, (
        "the lamp of D1:9 is in the bank but not among the 30 that are shown: half was found")


def test_table():
    row = {"exact_match": 0.25, "f1": 0.5, "bleu1": 0.125, "count": 4, "evidence_found": 0.75}
    text = table({**row, "by_category": {1: row, 3: row}, "memories_per_dialogue": 12.34,
                  "facts_read": 30, "facts_unusable": 7, "dialogues": 2, "seconds_per_turn": 0.5,
                  "seconds_per_question": 1.25, "operations": {"ADD": 1234, "invalid": 5},
                  "dropped": 0, "answers_cut": 3})
    assert re.search(r"^1 multi-hop +4 +0\.250 +0\.500 +0\.125 +0\.750$", text, re.MULTILINE), text
    none = table({**row, "evidence_found": None, "by_category": {}, "memories_per_dialogue": 1,
                  "facts_read": 1, "facts_unusable": 0, "dialogues": 1, "seconds_per_turn": 0,
                  "seconds_per_question": 0, "operations": {}, "dropped": 0,
                  "answers_cut": 0})
    assert "3 answers were cut" in text and "were cut" not in none
    assert re.search(r"^all .* -$", none, re.MULTILINE), (
        f"{none}: no question names its evidence, so none was missed")
    assert "3 open-domain" in text and re.search(r"^all +4 ", text, re.MULTILINE), (
        "the table must bear LoCoMo's names: 1 is multi-hop, 3 open-domain")
    assert "12.3 memories" in text and "ADD 1,234, invalid 5" in text
    assert "15.0 facts (7 more were unusable)" in text
    assert "0.500 s a turn, 1.250 s a question" in text and "did not fit" not in text


def test_what_did_not_fit_is_counted_and_said():
    facts = [(f"Ann boat {i}",) for i in range(20)]
    one = dialogue("many", [s for fact in facts for s in (fact, ())],
                   [Question("boat?", "no", 4, ("D1:1",))])
    policies = [Scripted(manage), Scripted(lambda prompt: "**Answer:** no")]
    scores, [record], _ = run_system(*policies, [one], hashed_words(), "observations", True, 8)
    assert scores["dropped"] == 0 and record["evidence_found"] == 1
    policies[1].positions = 200
    scores, [record], _ = run_system(*policies, [one], hashed_words(), "observations", True, 8)
    assert 0 < record["dropped"] == scores["dropped"] < 20, "dropped memories are not counted"
    assert f"{scores['dropped']} memories did not fit" in table(scores)
    assert record["evidence_found"] == ("Ann boat 0\n" in policies[1].read[-1]), (
        "evidence is counted that the answer agent did not read")


# ---- the command ---------------------------------------------------------------------------------

def locomo_like(n: int) -> list:
    """`n` conversations in LoCoMo's format: four turns, three questions each."""
    def said(i: int, speaker: str, text: str) -> dict:
        return {"dia_id": f"D1:{i}", "speaker": speaker, "text": text}

    return [{
        "sample_id": f"talk-{i}",
        "conversation": {"speaker_a": "Ann", "speaker_b": "Bob", "session_1_date_time": "8 May",
                         "session_1": [said(1, "Ann", "I got a dog."), said(2, "Bob", "Nice!"),
                                       said(3, "Ann", "He is Rex."), said(4, "Bob", "I ski.")]},
        "observation": {"session_1_observation": {
            "Ann": [["Ann has a dog.", "D1:1"], ["Ann's dog is Rex.", "D1:3"]],
            "Bob": [["Bob skis.", "D1:4"]]}},
        "qa": [{"question": "Whose dog?", "answer": "Ann's", "category": 4, "evidence": ["D1:1"]},
               {"question": "Which dog?", "answer": "Rex", "category": 1,
                "evidence": ["D1:1", "D1:3"]},
               {"question": "Who flies?", "adversarial_answer": "Ann", "category": 5,
                "evidence": ["D1:4"]},
               {"question": "Who skis?", "answer": "Bob", "category": 3, "evidence": ["D1:4"]}],
    } for i in range(n)]


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(locomo_like(2)))
    return path


def test_a_whole_evaluation(small_file, model_folder, tmp_path, capsys):
    out = tmp_path / "run"
    returned = main(["--data", str(small_file), "--model", str(model_folder), "--out", str(out),
                     "--max-new-tokens", "6"])
    text = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert json.loads(json.dumps(returned)) == summary, "main returns what summary.json holds"
    assert {"model", "manager", "answerer", "data", "facts", "distill", "limit", "turns",
            "exact_match", "f1", "bleu1", "count", "by_category", "evidence_found", "dialogues",
            "turns_read", "facts_read", "memories_per_dialogue", "operations", "seconds_per_turn",
            "seconds_per_question", "seconds", "peak_memory_bytes"} <= set(summary)
    assert summary["facts"] == "observations" and summary["facts_read"] == 6
    assert summary["count"] == 6, "adversarial questions were asked, or others left out"
    assert sum(summary["operations"].values()) >= 6, "every fact is an operation or an invalid one"
    records = [json.loads(line) for line in
               (out / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    assert summary["answers_cut"] == sum(r["cut"] for r in records) > 0, (
        "six tokens are too few for some, and nobody would know")
    assert [r["gold"] for r in records] == ["Ann's", "Rex", "Bob"] * 2, "records: one a question"
    for word in ("4 single-hop", "1 multi-hop", "3 open-domain", "all", "invalid", "s a turn",
                 "6 questions on 2 of 2 dialogues"):
        assert word in text, f"the printed report does not say {word!r}:\n{text}"
    assert "quick look" not in text, "all was read and asked: that is no quick look"
    assert "only the words of the synthetic world" not in text, (
        "a model is taken for the embedded one because it is small")
    assert re.search(r"\nevaluate small: exact match 0\.\d+, F1 0\.\d+ over 6 questions in \d+ s; "
                     r"run folder ", text), f"another last line than the docstring's:\n{text}"
    again = main(["--data", str(small_file), "--model", str(model_folder), "--out", str(out),
                  "--max-new-tokens", "6"])
    assert again["f1"] == returned["f1"], "two evaluations of one model differ"
    assert len((out / "records.jsonl").read_text(encoding="utf-8").splitlines()) == 6, (
        "records of an earlier evaluation were kept")


def test_real_dialogues_are_foreign_to_the_embedded_model(small_file, tmp_path, capsys):
    main(["--data", str(small_file), "--model", str(EMBEDDED_MODEL), "--out",
          str(tmp_path / "run"), "--max-new-tokens", "2", "--limit", "1"])
    assert "only the words of the synthetic world" in capsys.readouterr().out, (
        "a score of 0 would be read as what the method brings")


def test_a_quick_look_says_so(small_file, model_folder, tmp_path, capsys):
    summary = main(["--data", str(small_file), "--answerer", str(model_folder), "--manager",
                    str(model_folder), "--out", str(tmp_path / "run"), "--max-new-tokens", "4",
                    "--limit", "2", "--turns", "3", "--facts", "turns", "--no-distill"])
    text = capsys.readouterr().out
    assert ("a quick look, not the full test: the first 2 questions on 1 of 2 dialogues, of 6 "
            "questions") in text, text
    assert (summary["turns_read"], summary["facts_read"], summary["count"]) == (3, 3, 2)


def test_comparisons_get_their_arguments(monkeypatch):
    """`evaluate.py --systems` and `--recall` are the commands of comparisons/, options and all."""
    calls = []
    for command in (compare, recall):
        monkeypatch.setattr(command, "main", lambda argv, name=command.__name__: (
            calls.append((name, argv)) or {"from": name}))
    assert main(["--limit", "3", "--recall", "--data", "x"]) == {"from": "comparisons.recall"}
    assert main(["--systems", "mem0", "--judge", "m"]) == {"from": "comparisons.compare"}
    main(["--systems=mem0"])
    assert calls == [("comparisons.recall", ["--limit", "3", "--data", "x"]),
                     ("comparisons.compare", ["--systems", "mem0", "--judge", "m"]),
                     ("comparisons.compare", ["--systems=mem0"])], (
        "every option but --recall itself belongs to the command that is handed the line")


@pytest.mark.parametrize("arguments, expected", [
    (["--data", "SMALL", "--turns", "0"], "--turns 0"),
    (["--data", "SMALL", "--judge", "m"], "--judge"),  # only comparisons.compare has a judge
    (["--data", "EMPTY"], "--questions-file"),
    (["--data", "LATE", "--turns", "1"], "leave out --turns"),
    (["--data", "BARE", "--facts", "observations"], "--facts turns"),
    (["--data", "SMALL", "--manager", "MISSING"], "MISSING"),
    (["--data", "SMALL", "--answerer", "MISSING"], "MISSING"),
])
def test_errors_are_one_line(arguments, expected, small_file, model_folder, tmp_path):
    empty, bare, late = locomo_like(1), locomo_like(1), locomo_like(1)
    for question in late[0]["qa"]:
        question["evidence"] = ["D1:3"]
    empty[0]["qa"] = []
    del bare[0]["observation"]
    for name, content in (("EMPTY", empty), ("BARE", bare), ("LATE", late)):
        (tmp_path / name).write_text(json.dumps(content))
    places = {name: tmp_path / name for name in ("EMPTY", "BARE", "LATE", "MISSING")}
    places["SMALL"] = small_file
    typed = [places.get(argument, argument) for argument in arguments]
    assert expected in refused(main, *typed, "--model", model_folder, "--out", tmp_path / "run")


# ---- real data, the embedded model ---------------------------------------------------------------

@pytest.mark.slow
def test_the_embedded_model_answers_in_its_world(tmp_path, capsys):
    if not (EMBEDDED_MODEL / "config.json").exists():
        pytest.skip("the embedded model tiny/ is not there; python -m making.manager makes it")
    summary = main(["--limit", "19", "--out", str(tmp_path / "run")])
    assert summary["data"] == "world" and summary["turns_read"] == 60 and summary["count"] == 19
    operations = summary["operations"]
    assert operations["invalid"] <= 6, f"the embedded model does not keep the format: {operations}"
    assert operations["ADD"] > 10 and summary["memories_per_dialogue"] > 5, (
        f"nearly nothing was remembered: {operations}")
    assert summary["exact_match"] > 0.15, "nearly no question was answered right"
    assert "only the words of the synthetic world" not in capsys.readouterr().out


def test_ones_own_conversation_needs_no_training_split(model_folder, tmp_path, capsys):
    chat, questions = tmp_path / "chat.txt", tmp_path / "questions.json"
    chat.write_text("24/12/2023, 18:05 - Mara: We moved to Bergen.\n24/12/2023, 18:06 - Jonas: Hm\n"
                    "2/1/2024, 09:00 - Cleo: I ski.\n")
    questions.write_text(json.dumps([
        {"question": "Where does Mara live?", "answer": "Bergen", "evidence": ["D1:1"]},
        {"question": "Who skis?", "answer": "Cleo", "category": "people"}]))
    arguments = ["--data", str(chat), "--model", str(model_folder), "--max-new-tokens", "4"]
    summary = main([*arguments, "--questions-file", str(questions), "--facts", "turns",
                    "--out", str(tmp_path / "run")])
    text = capsys.readouterr().out
    assert (summary["count"], summary["turns_read"], summary["facts_read"]) == (2, 3, 3)
    assert summary["questions_file"] == str(questions), "the summary must say what was asked"
    assert all(word in text for word in ("own", "people", "evaluate chat:")), text
    assert "--questions-file" in refused(main, *arguments), "nothing to ask: say how to ask"
    assert "'D9:9'" in refused(main, *arguments, "--questions-file", write_question(
        tmp_path, {"question": "Who?", "answer": "Cleo", "evidence": ["D9:9"]}))
    tasks = main([*arguments, "--questions-file", str(questions), "--agent", "mem1",
                  "--objectives", "2", "--out", str(tmp_path / "mem1")])
    assert tasks["by_objectives"]["2"]["mem1"]["count"] == 1, "both questions, in one task"
    assert "three" in refused(grpo.main, *arguments, "--out", tmp_path / "no"), (
        "training must say what it needs")


def write_question(tmp_path: Path, question: dict) -> Path:
    """A file with this one question."""
    path = tmp_path / "one.json"
    path.write_text(json.dumps([question]))
    return path


def hotpot_like(n: int) -> list:
    """`n` questions in HotpotQA's format, two paragraphs each."""
    return [{"_id": f"q{i}", "question": f"In which land lies town {i}?", "answer": f"land {i}",
             "type": "bridge", "level": "easy", "supporting_facts": [[f"Town {i}", 0]],
             "context": [[f"Town {i}", [f"Town {i} lies in land {i}."]],
                         [f"River {i}", ["It is long."]]]} for i in range(n)]


def test_hotpotqa_is_for_mem1(model_folder, tmp_path):
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(hotpot_like(10)))
    arguments = ["--data", str(path), "--model", str(model_folder), "--max-new-tokens", "6"]
    summary = main([*arguments, "--agent", "mem1", "--objectives", "2", "--limit", "3", "--out",
                    str(tmp_path / "run")])
    assert summary["by_objectives"]["2"]["mem1"]["count"] == 1, (
        "the last three questions in pairs: grpo.py trains on the first six")
    for command in (main, grpo.main):
        assert "--agent mem1" in refused(command, *arguments, "--out", tmp_path / "refused")
    learned = grpo.main([*arguments, "--agent", "mem1", "--steps", "1", "--questions", "2",
                         "--group-size", "2", "--out", str(tmp_path / "learned")])
    assert (learned["train_questions"], learned["test_questions"]) == (6, 2), "3, in pairs"


def test_the_bank_over_the_turns_before_and_after(monkeypatch):
    [dialogue] = world(1, 0, held_out=True)
    right = {turn.turn_id: [text for text, _, _ in
                            oracle_memories(dialogue.turns[:place + 1]).values()]
             for place, turn in enumerate(dialogue.turns)}
    monkeypatch.setattr(evaluate, "KeptPolicy", lambda policy: policy)
    monkeypatch.setattr(evaluate, "load_or_stop", lambda name: Scripted(lambda prompt: "[]"))
    options = EvaluateOptions(model="start", manager="trained", facts="turns", max_new_tokens=8)
    reading = Reading([], [], Counter(), [right])
    banks = evaluate.banks_over_turns(options, [dialogue], hashed_words(), reading)
    assert list(banks) == ["before training", "after training"], "the picture needs both managers"
    assert set(banks["after training"]["held"] + banks["after training"]["right"]) == {1.0}, (
        "the oracle's own memories are called wrong")
    before = banks["before training"]
    assert before["size"] == [0] * 60 and before["held"][-1] == 0
    options.manager = None
    assert list(evaluate.banks_over_turns(options, [dialogue], hashed_words(), reading)) == [
        "manager"], "without a trained manager there is one line"


def test_a_reading_keeps_the_bank_after_every_turn():
    [dialogue] = world(1, 0, held_out=True)
    facts = iter(dialogue.turns)
    add = Scripted(lambda prompt: '[{"event": "ADD", "text": "%s"}]' % next(facts).facts[0])
    reading = build_banks(add, [dialogue], hashed_words(), "turns", max_new_tokens=8)
    texts = [turn.facts[0] for turn in dialogue.turns]
    assert [*reading.histories[0]] == [turn.turn_id for turn in dialogue.turns]
    assert [*reading.histories[0].values()] == [texts[:n] for n in range(1, 61)], (
        "the bank as it is in the end stands at earlier turns")
    unknown = replace(dialogue, turns=tuple(replace(t, fact=None) for t in dialogue.turns))
    facts = iter(dialogue.turns)
    reading = build_banks(add, [unknown], hashed_words(), "turns", max_new_tokens=8)
    assert reading.histories == [{}] and len(reading.banks[0]) == 60, (
        "long conversations would fill the memory with texts that nobody reads")
