"""Tests of splits.py: what trains is never tested on, whatever `--data` names.

    python -m pytest tests/test_splits.py        (a few seconds)
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from benchmarks.others import load
from benchmarks.splits import dialogues_to_test, held_out, shop_splits, shorten, splits
from data import DataError, Dialogue, Question, Turn
from world import KINDS, N_WORLDS, named_world

ROOT = Path(__file__).resolve().parent.parent
LOCOMO = ROOT / "../shared/data/locomo10.json"


def locomo_file(path: Path, names: list[str]) -> str:
    """A file in LoCoMo's form: a conversation for each name, of one turn and two questions."""
    path.write_text(json.dumps([{
        "sample_id": name,
        "conversation": {"speaker_a": "Ann", "speaker_b": "Bob", "session_1_date_time": "8 May",
                         "session_1": [{"dia_id": "D1:1", "speaker": "Ann", "text": f"I am {i}."}]},
        "qa": [{"question": f"Who is {name}?", "answer": "Ann", "category": 4,
                "evidence": ["D1:1"]},
               {"question": f"What is {name}?", "answer": i, "category": 1, "evidence": ["D1:1"]},
               {"question": "Who flies?", "adversarial_answer": "Ann", "category": 5,
                "evidence": []}],
    } for i, name in enumerate(names)]))
    return str(path)


def hotpotqa_file(path: Path, n_questions: int) -> str:
    path.write_text(json.dumps([{
        "_id": f"q{i}", "question": f"In which land lies town {i}?", "answer": f"land {i}",
        "type": "bridge", "level": "easy", "supporting_facts": [[f"Town {i}", 0]],
        "context": [[f"Town {i}", [f"Town {i} lies in land {i}."]],
                    [f"River {i}", ["It is long."]]]} for i in range(n_questions)]))
    return str(path)


def musique_file(path: Path, n_questions: int) -> str:
    path.write_text("".join(json.dumps({
        "id": f"2hop__{i}_{i + 1}", "question": f"In which land lies town {i}?",
        "answer": f"land {i}", "answer_aliases": [], "answerable": True, "paragraphs": [
            {"idx": 0, "title": f"Town {i}", "paragraph_text": f"It lies in land {i}.",
             "is_supporting": True}]}) + "\n" for i in range(n_questions)))
    return str(path)


def wiki_file(path: Path, n_questions: int) -> str:
    """2WikiMultihopQA's form: HotpotQA's, with "evidences"."""
    questions = json.loads(Path(hotpotqa_file(path, n_questions)).read_text())
    path.write_text(json.dumps([{**question, "evidences": [["a", "b", "c"]]}
                                for question in questions]))
    return str(path)


def msc_file(path: Path) -> str:
    session = [{"id": "Speaker 1", "text": "I have a cat."}, {"id": "Speaker 2", "text": "Nice."}]
    path.write_text(json.dumps({
        "previous_dialogs": [{"dialog": session, "personas": [], "time_back": "2 days ago"}],
        "dialog": session, "self_instruct": {"B": "Which pet?", "A": "a cat"}}) + "\n")
    return str(path)


def names_of(part) -> list[str]:
    """Whatever tells one dialogue, or one of HotpotQA's questions, from the others."""
    return [getattr(source, "name", None) or source.question_id for source in part]


def questions_of(part) -> list[tuple[str, str]]:
    """Every question of a part, behind the name of its dialogue."""
    return [(name, question.text) for name, source in zip(names_of(part), part)
            for question in getattr(source, "questions", (source,))]


# ---- The three parts -----------------------------------------------------------------------------


def test_no_part_shares_a_dialogue_or_a_question_with_another(tmp_path):
    locomo_names = [f"conv-{number}" for number in (26, 30, 41, 42, 43, 44, 47, 48, 49, 50)]
    random.Random(0).shuffle(locomo_names)
    worlds = [*KINDS, *(f"{kind}-29" for kind in KINDS)]
    every_data = [*worlds, locomo_file(tmp_path / "shuffled.json", locomo_names),
                  locomo_file(tmp_path / "own.json", ["a", "b", "c", "d"]),
                  locomo_file(tmp_path / "two.json", ["a", "b"]),
                  *(hotpotqa_file(tmp_path / f"{n}.json", n) for n in (1, 2, 3, 10, 37)),
                  *(form(tmp_path / f"{form.__name__}{n}", n) for n in (2, 3, 10, 37)
                    for form in (musique_file, wiki_file)),
                  msc_file(tmp_path / "msc.jsonl"), *[str(LOCOMO)] * LOCOMO.exists()]
    for data in every_data:
        test = held_out(data)
        assert test, f"{data}: nothing to test on"
        try:
            parts = splits(data)
        except DataError:  # to test on only
            continue
        assert parts[2] == test, f"{data}: training and evaluate.py have other test parts"
        for identify in (names_of, questions_of):
            train, validation, tested = (set(identify(part)) for part in parts)
            assert not (train | validation) & tested and not train & validation, (
                f"{data}: a test on what a model learned from")
        if data not in worlds:
            everything = names_of(load(data))
            assert sorted(everything) == sorted(sum(map(names_of, parts), [])), (
                f"{data}: a dialogue or question went lost")


def test_how_many_questions_each_part_has():
    sizes = [len(questions_of(part)) for part in splits("world")]
    assert sizes == [152, 81, 513], "as many to train and to validate as LoCoMo's"


def test_worlds_of_other_numbers_are_other_worlds():
    assert splits("world-0") == splits("world") and held_out("world-long-0") == held_out(
        "world-long")
    for kind in KINDS:
        usual, other = (set(questions_of(sum(splits(data), []))) for data in (kind, f"{kind}-29"))
        assert len(usual) == len(other) and not usual & other, (
            f"{kind}-29: shares dialogues with {kind}, so a choice made there is tested here")
    assert questions_of(splits("world-29", 30)[0]) == questions_of(splits("world-29")[0])[:30], (
        "--train-questions learns in the world of number 0")
    for data in ("world-", "world-x", "world--1", "world-1.5", "world-party", f"world-{N_WORLDS}"):
        with pytest.raises(DataError, match=f"world-1 to world-{N_WORLDS - 1}"):
            splits(data)


def test_no_world_is_one_that_the_embedded_models_were_made_from():
    last = N_WORLDS - 1
    assert named_world(f"world-{last}") == ("world", last) and named_world("world-250") is None
    source = "".join((ROOT / "making" / f"{name}.py").read_text() for name in ("manager", "mem1"))
    taught, chosen = ({int(seed) for seed in re.findall(pattern, source)} for pattern in (
        r"world\(1500, seed=(\d+) \+ options.seed\)", r"world\(\d, seed=(\d+), held_out=True\)"))
    assert len(taught) == len(chosen) == 1, "making/ draws its dialogues in another way"
    assert last < min(taught), "dialogues to train on were lessons of the start model"
    assert 2 * last + 1 < min(chosen), "a start model was chosen by dialogues that are tested on"


@pytest.mark.parametrize("form", [hotpotqa_file, wiki_file, musique_file])
def test_questions_over_passages_are_split_in_order(tmp_path, form):
    data = form(tmp_path / "questions.json", 10)
    train, validation, test = splits(data)
    assert (len(train), len(validation), len(test)) == (6, 1, 3), "60, 10 and 30 of 100"
    assert [*train, *validation, *test] == load(data)


@pytest.mark.parametrize("form", [hotpotqa_file, wiki_file, musique_file])
def test_a_question_that_comes_twice_is_not_learned_and_tested(tmp_path, form):
    path = Path(form(tmp_path / "questions.json", 10))
    path.write_text(path.read_text().replace("lies town 9?", "lies town 0?").replace(
        "lies town 6?", "lies town 1?"))
    train, validation, test = ({question.text for question in part} for part in splits(str(path)))
    assert not train & test and not train & validation and not validation & test, (
        "the same words under two names: the model would be tested on what it learned")
    assert (len(train), len(validation), len(test)) == (4, 1, 3), "the test must not get smaller"


def test_locomo_is_split_by_names_in_any_order(tmp_path):
    names = [f"conv-{number}" for number in (26, 30, 41, 42, 43)]
    for seed in range(5):
        shuffled = random.Random(seed).sample(names, len(names))
        train, validation, test = splits(locomo_file(tmp_path / f"{seed}.json", shuffled))
        assert (names_of(train), names_of(validation)) == (["conv-26"], ["conv-30"]), (
            f"{shuffled}: the place in the file decides; a shuffled copy would test on what was "
            "trained on")
        assert names_of(test) == [name for name in shuffled if name in names[2:]]


def test_locomo_files_of_others_are_split_by_place(tmp_path):
    parts = splits(locomo_file(tmp_path / "five.json", ["a", "b", "c", "d", "e"]))
    assert list(map(names_of, parts)) == [["a"], ["b"], ["c", "d", "e"]]


def test_a_file_that_is_too_small_or_only_tests_is_tested_whole_and_not_trained_on(tmp_path):
    for data, names in ((locomo_file(tmp_path / "two.json", ["a", "b"]), ["a", "b"]),
                        (msc_file(tmp_path / "msc.jsonl"), ["msc-0"])):
        assert len(held_out(data)) == len(names)
        with pytest.raises(DataError, match="to test on"):
            splits(data)


def test_training_questions_are_counted_off_from_the_first(tmp_path):
    everything = questions_of(splits("world")[0])
    for n_questions in (1, 30, 152, 304):
        train, *others = splits("world", n_questions)
        assert len(questions_of(train)) == n_questions and others == list(splits("world")[1:])
        shorter = min(n_questions, len(everything))
        assert questions_of(train)[:shorter] == everything[:shorter], (
            "fewer questions must be the first of more")
    data = hotpotqa_file(tmp_path / "questions.json", 10)
    assert names_of(splits(data, 4)[0]) == ["q0", "q1", "q2", "q3"]
    with pytest.raises(DataError, match="--train-questions 7, but there are 6"):
        splits(data, 7)


def test_no_purchase_is_in_two_parts_of_the_shop():
    parts = shop_splits()
    assert [len(part) for part in parts] == [1000, 81, 250]
    train, validation, test = ({goal.instruction for goal in part} for part in parts)
    assert not (train & validation or train & test or validation & test), (
        "a choice made on the validation goals would be made on test goals")


# ---- A quick look --------------------------------------------------------------------------------


def dialogue(name: str, n_turns: int, *evidence: tuple[str, ...]) -> Dialogue:
    """Turns D1:1, D1:2, ..., and one question for each tuple of evidence."""
    return Dialogue(name, ("Ann", "Bob"),
                    tuple(Turn(f"D1:{i}", "Ann", f"said {i}", "") for i in range(1, n_turns + 1)),
                    tuple(Question(f"{name} {i}?", "a", 4, turn_ids)
                          for i, turn_ids in enumerate(evidence)))


PETS = dialogue("pets", 5, ("D1:1", "D1:3"), ("D1:4",), ())
BOATS = dialogue("boats", 3, ("D1:1", "D1:3"))


def test_shorten():
    both = [PETS, BOATS]
    assert shorten(both, None, None) == both, "nothing was asked to be left out"
    (only,) = shorten(both, 2, None)
    assert only.questions == PETS.questions[:2] and only.turns == PETS.turns, (
        "--limit 2 needs the first dialogue alone, read to its end")
    assert [len(d.questions) for d in shorten(both, 4, None)] == [3, 1], "the limit is of all"
    first, second = shorten(both, None, 3)
    assert first.questions == PETS.questions[:1] and second == BOATS, (
        "after three turns nobody knows what was said in the fourth: its questions are not asked")
    assert len(first.turns) == 3, "--turns 3 read more than three turns"
    assert shorten(both, None, 2) == [], "a dialogue without questions is not read"


def test_a_quick_look_is_told_from_the_full_test(tmp_path):
    data = locomo_file(tmp_path / "two.json", ["a", "b"])
    assert dialogues_to_test(data, None, None)[1] == "4 questions on 2 of 2 dialogues"
    assert dialogues_to_test(data, 1, None)[1] == (
        "a quick look, not the full test: the first 1 questions on 1 of 2 dialogues, of 4 "
        "questions")
    assert dialogues_to_test(data, None, 1)[1].startswith("a quick look"), (
        "a dialogue that is not read to its end is an easier one, though all is asked")
    with pytest.raises(DataError, match="--agent mem1"):
        dialogues_to_test(hotpotqa_file(tmp_path / "hotpotqa.json", 10), None, None)


def test_questions_of_ones_own_bring_no_training_question_into_the_test(tmp_path):
    data = locomo_file(tmp_path / "data.json", ["a", "b", "c", "d"])
    own = tmp_path / "own.json"
    own.write_text(json.dumps([{"question": "Who sings?", "answer": "Ann", "conversation": name}
                               for name in ("a", "c")]))
    asked = {dialogue.name: [question.text for question in dialogue.questions]
             for dialogue in held_out(data, str(own))}
    assert asked["a"] == ["Who sings?"] and asked["b"] == [], (
        f"{asked}: an agent trained on this file would be tested on what it learned")
    assert asked["c"] == ["Who is c?", "What is c?", "Who sings?"] and len(asked["d"]) == 2


@pytest.mark.parametrize("data", [*KINDS, "world-29"])
def test_questions_of_ones_own_need_a_conversation_of_ones_own(data):
    """Without --data the data is the world; "no such file: world" would name the wrong culprit."""
    with pytest.raises(DataError, match="name the conversation with --data"):
        held_out(data, "questions.json")
