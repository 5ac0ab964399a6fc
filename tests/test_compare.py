"""Tests of `python -m comparisons.compare`: its records, its tables, its interruptions.

    python -m pytest tests/test_compare.py        (some fifteen seconds)

The test on LoCoMo is skipped without ../shared/data/locomo10.json.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from canned import refused, small_data

import evaluate
from comparisons import answerers, compare
from comparisons.compare import (
    TRAINED,
    CompareOptions,
    chosen_systems,
    differences,
    main,
    make_systems,
    models_of,
    read_records,
    run_all,
    summarise_systems,
    systems_table,
    training_note,
)
from memory_bank import hashed_words
from systems.graphs_and_tools import SYSTEMS
from training.judge import Judge, JudgeError
from training.options import EMBEDDED_MODEL, resolve
from world import world_splits

LOCOMO = Path(__file__).resolve().parent.parent / "../shared/data/locomo10.json"


def record(system: str, dialogue: str, right: list[int], category: int = 4) -> dict:
    return {"system": system, "dialogue": dialogue, "turns": 10, "entries": 6,
            "read": {"calls": 10, "prompt tokens": 1000}, "read_seconds": 2.0,
            "answer": {"calls": len(right), "prompt tokens": 50 * len(right)},
            "answer_seconds": 1.0, "stamps": ["one", "one"],
            "questions": [{"question": f"{dialogue} {i}?", "gold": "a", "category": category,
                           "answer": "a" if r else "b", "exact_match": r, "f1": r, "bleu1": r}
                          for i, r in enumerate(right)]}


def test_names_of_systems():
    assert set(chosen_systems("all")) == {*SYSTEMS, *TRAINED}
    assert chosen_systems("zep, mem0,zep") == ["zep", "mem0"]


def test_scores_and_costs_by_hand():
    records = [record("a", "one", [1, 1]), record("a", "two", [0, 1], category=1),
               record("b", "one", [0, 1]), record("b", "two", [0, 0], category=1)]
    found = summarise_systems(records)
    a = found["a"]
    assert a["exact_match"] == 0.75 and a["count"] == 4
    assert a["by_category"] == {"1 multi-hop": 0.5, "4 single-hop": 1.0}
    assert a["tokens"] == 50, "tokens read to answer one question, not those of reading turns"
    assert a["calls"] == 12 and a["entries"] == 6, "a dialogue"
    assert a["seconds_per_question"] == 0.5 and a["seconds_per_turn"] == 0.2
    # Whole dialogues are drawn: their means are 1 and 0.5.
    assert (a["low"], a["high"]) == (0.5, 1.0), "the interval must resample dialogues"
    header, rows = systems_table(found)
    assert [row[0] for row in rows] == ["a", "b"], "best first"
    assert header[:3] == ["system", "1 multi-hop", "4 single-hop"]
    records[1]["questions"][0]["f1"] = 1  # half right
    assert differences(records, "a") == {"b": {"exact_match": (0.5, 0.5, 0.5),
                                               "f1": (0.75, 0.5, 1.0)}}, (
        "a is better by one question of two in both dialogues: paired, that is certain")


def test_a_judge_is_a_column_and_what_it_cannot_judge_is_not_correct(tmp_path):
    replies = iter(['{"label": "CORRECT"}', "who knows"])

    def ask(prompts, keep):
        for place in range(len(prompts)):
            keep(place, next(replies))
        return ""

    judge = Judge("canned", ask, tmp_path / "verdicts.jsonl")
    found = summarise_systems([record("a", "one", [1, 1])], judge)
    assert found["a"]["judge"] == 0.5 and found["a"]["judge_missing"] == 1
    assert "judge" in systems_table(found)[0]


def test_records_of_other_questions_and_broken_lines_are_read_over(tmp_path):
    dialogues = world_splits()[2][:2]
    good = record("a", dialogues[0].name, [1])
    good["questions"] = [{"question": q.text} for q in dialogues[0].questions]
    other = record("a", dialogues[1].name, [1])
    path = tmp_path / "records.jsonl"
    odd = [[1], 3, "a", None, {"dialogue": "x"}, {"questions": 3}, {**good, "questions": [[]]},
           {**good, "dialogue": ["a"]}, {name: good[name] for name in good if name != "stamps"}]
    path.write_text("\n".join(map(json.dumps, [good, *odd, other])) + '\n{"system": "a", "dial')
    assert read_records(path, dialogues) == [good]
    assert read_records(tmp_path / "none", dialogues) == []
    run_all([], CompareOptions(), dialogues, tmp_path, [])
    assert path.read_text().endswith('"dial\n'), "the next record goes on the line that broke off"


def test_trained_systems_say_how_they_are_made(tmp_path, capsys):
    options = CompareOptions(model="tiny", data="world", facts="turns")
    assert models_of("mem0", options, tmp_path) == ("tiny", "tiny")
    assert models_of("memory-sft", options, tmp_path) is None
    assert "python sft.py --agent manager" in capsys.readouterr().out
    for agent in ("manager", "answer"):
        finished_run(tmp_path, agent)
    found = models_of("memory-sft", options, tmp_path)
    assert [Path(path).parent.name for path in found] == ["sft-manager", "sft-answer"]
    assert training_note(tmp_path / "sft-manager").endswith(
        "sft-manager: data world, seed 3, 20 steps, facts from turns"), "say what was compared"


def finished_run(runs: Path, agent: str, **different: object) -> Path:
    """What a finished sft.py leaves, as far as a comparison reads it."""
    folder = runs / f"sft-{agent}"
    (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint" / "config.json").write_text("{}")
    (folder / "summary.json").write_text("{}")
    trained = {"agent": agent, "model": "tiny", "data": "world", "seed": 3, "steps": 20,
               "facts": "turns", "memories": 30, "distill": True, "embedder": "hashed",
               **different}
    (folder / "config.json").write_text(json.dumps(trained))
    return folder


def test_one_answer_agent_for_all(tmp_path, capsys):
    options = CompareOptions(model="tiny", data="world", facts="turns", answerer="reader")
    assert models_of("zep", options, tmp_path) == ("tiny", "reader")
    assert models_of("memory-r1", options, tmp_path) is None, "its manager is still missing"
    assert "--agent manager" in capsys.readouterr().out
    finished_run(tmp_path, "manager")
    assert models_of("memory-sft", options, tmp_path) == (
        str(tmp_path / "sft-manager" / "checkpoint"), "reader"), (
        "an answer agent of its own would be a second difference in its row")
    options = CompareOptions(model="tiny", data="world", facts="turns", manager="keeper",
                             answerer="reader")
    assert models_of("memory-r1", options, tmp_path) == ("keeper", "reader")
    assert models_of("mem0", options, tmp_path) == ("tiny", "reader"), "Mem0 learns nothing"
    options = CompareOptions(model="tiny", data="world", facts="turns", manager="keeper")
    assert models_of("memory-r1", options, tmp_path) is None, "its answer agent is still missing"
    assert "--agent answer" in capsys.readouterr().out


def test_all_systems_hear_of_the_same_facts():
    for name in (*SYSTEMS, *TRAINED):
        [system] = make_systems(name, "manager", "answerer", hashed_words(), "start model",
                                world_splits()[2][:1], 9, True, "llm", 30, False)
        assert system.extractor == "start model", (
            f"{name}: a trained manager would note facts of its own, and be tested on them")


@pytest.mark.parametrize("different, said", [
    ({"model": "other/model"}, "started from other/model, not from --model"),
    ({"data": "locomo"}, "trained on locomo, which is no training for world"),
    ({"distill": False}, "trained with --distill False"),
    ({"memories": 5}, "trained with --memories 5"),
    ({"embedder": "minilm"}, "trained with --embedder minilm")])
def test_a_model_of_another_comparison_is_left_out(tmp_path, capsys, different, said):
    options = CompareOptions(model=str(Path("tiny").resolve()), data="world-long", facts="turns")
    finished_run(tmp_path, "manager")
    finished_run(tmp_path, "answer")
    assert models_of("memory-sft", options, tmp_path), "the same folder by another name fits"
    folder = finished_run(tmp_path, "answer", **different)
    assert models_of("memory-sft", options, tmp_path) is None, (
        "its row would be read as what training brings, and it is what else is different")
    line = capsys.readouterr().out
    assert said in line and str(folder) in line and line.count("\n") == 1, line


def test_an_unfinished_run_is_left_out(tmp_path, capsys):
    options = CompareOptions(model="tiny", data="world", facts="turns")
    for agent in ("manager", "answer"):
        finished_run(tmp_path, agent)
    for broken in ("{", "[]"):
        (tmp_path / "sft-answer" / "config.json").write_text(broken)
        assert models_of("memory-sft", options, tmp_path) is None
    finished_run(tmp_path, "answer")
    (tmp_path / "sft-answer" / "summary.json").unlink()  # begun anew: the checkpoint is older
    assert models_of("memory-sft", options, tmp_path) is None
    assert capsys.readouterr().out.count("holds no finished run") == 3


def test_a_line_break_of_unicode_does_not_cut_a_record(tmp_path):
    dialogue = world_splits()[2][0]
    one = record("a", dialogue.name, [1])
    one["questions"] = [{"question": q.text, "answer": "a\u2028b\x85c"} for q in dialogue.questions]
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(one, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_records(path, [dialogue]) == [one], "a finished dialogue would be asked again"


def test_records_of_edited_data_or_weights_are_not_used_again(tmp_path, capsys):
    data, model = small_data(tmp_path / "data.json", "Who skis?"), tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"one")
    before = compare.stamp(str(model))
    os.utime(model / "model.safetensors", ns=(before + 10**9, before + 10**9))
    assert compare.stamp(str(model)) > before, "new weights beside an old config.json"
    adapter = {"r": 2, "lora_alpha": 4, "base_model_name_or_path": str(model)}
    for folder in (model / "adapter", tmp_path / "above"):
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(adapter))
    later = before + 10**12
    for asked, written in ((model, model / "adapter" / "adapter_config.json"),
                           (tmp_path / "above", model / "config.json")):
        os.utime(written, ns=(later, later))
        assert compare.stamp(str(asked)) == later, f"{asked} is made of {written} too"
        later += 10**9
    options = resolve(CompareOptions(model="tiny", data=str(data), out=str(tmp_path / "run")), "x")
    compare.open_comparison(options)
    compare.open_comparison(options)
    data.write_text(data.read_text().replace("I ski.", "I sail."))
    with pytest.raises(SystemExit):
        compare.open_comparison(options)
    assert "another content of --data; choose another --out" in capsys.readouterr().err, (
        "who corrects a file would get the scores of before")


def test_nothing_to_compare_is_not_an_interruption(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "RUNS", tmp_path)
    said = refused(main, "--systems", "memory-r1", "--limit", "19", "--out", tmp_path / "run")
    assert "memory-r1: all are left out" in said and "goes on" not in said


@pytest.mark.slow
def test_all_systems_on_the_world(tmp_path, capsys):
    out = tmp_path / "run"
    names = [name for name in SYSTEMS if name not in TRAINED]
    summary = main(["--systems", ",".join(names), "--limit", "25", "--out", str(out)])
    assert set(summary["systems"]) == set(names) and summary["complete"]
    rows = list(csv.reader((out / "table.csv").open()))
    assert len(rows) == len(names) + 1 and rows[0][0] == "system"
    assert (out / "bars.png").stat().st_size > 1000
    for name, scores in summary["systems"].items():
        assert scores["count"] == 25 and 0 < scores["exact_match"] < 1, f"{name}: {scores}"
    capsys.readouterr()


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on(tmp_path, capsys, monkeypatch):
    out, ran = tmp_path / "run", Counter()
    arguments = ["--systems", "overwrite,add-everything", "--limit", "40", "--out", str(out)]
    whole = compare.run_together

    def interrupted(name, systems, dialogues, progress):
        if ran[name] or name == "add-everything":
            raise KeyboardInterrupt
        ran[name] += 1
        return whole(name, systems, dialogues, progress)

    monkeypatch.setattr(compare, "TOGETHER", 2)  # three dialogues: a pair, and one
    monkeypatch.setattr(compare, "run_together", interrupted)
    first = main(arguments)
    assert not first["complete"] and first["systems"]["overwrite"]["count"] == 38
    assert "goes on" in capsys.readouterr().out
    read = []
    monkeypatch.setattr(compare, "run_together", lambda name, systems, dialogues, progress: (
        read.append((name, [d.name for d in dialogues])),
        whole(name, systems, dialogues, progress))[1])
    second = main(arguments)
    assert second["complete"]
    assert [name for name, _ in read] == ["overwrite", "add-everything", "add-everything"]
    assert len(read[0][1]) == 1, "dialogues were read again that had been written"
    assert all(s["count"] == 40 for s in second["systems"].values())
    fresh = main([*arguments[:-1], str(tmp_path / "fresh")])
    for name in ("overwrite", "add-everything"):
        assert (fresh["systems"][name]["exact_match"]
                == second["systems"][name]["exact_match"]), "going on changed the scores"
    read.clear()
    main(arguments)
    assert not read, "nothing was left to do"
    monkeypatch.setattr(compare, "stamp", lambda model: 1)
    main(arguments)
    assert len(read) == 4, "records of a model that was trained again since were taken for its own"
    assert "--distill" in refused(compare.__name__, *arguments, "--no-distill"), (
        "records of other options must not stand in one table")


@pytest.mark.parametrize("arguments, said", [
    (["--systems", "zep,nothing"], "nothing: must be all"),
    (["--systems", "mem0", "--manager", "x"], "is memory-r1's, which --systems does not name"),
    (["--systems", "memory-r1", "--manager", "runs/none", "--answerer", "tiny"], "runs/none"),
    (["--facts", "oracle"], "--facts oracle: must be one of"),
    (["--systems", "mem0", "--judge-url", "http://localhost:1/v1"], "needs --judge"),
    (["--systems", "mem0", "--judge", "m", "--judge-url", "nonsense"], "address")])
def test_bad_options_are_one_line(arguments, said, tmp_path):
    assert said in refused(compare.__name__, *arguments, "--limit", "19", "--out", tmp_path / "run")


@pytest.mark.parametrize("module, arguments", [
    (compare, ["--systems", "overwrite,memory-r1", "--manager", "runs/none"]),
    (compare, ["--answerer", "runs/none"]), (evaluate, ["--answerer", "runs/none"]),
    (answerers, ["--models", f"{EMBEDDED_MODEL},runs/none"])])
def test_a_mistyped_model_is_refused_before_the_work(module, arguments, monkeypatch, tmp_path):
    def too_late(*_):
        raise AssertionError("the data was read first: a typo may cost a download, or hours")

    monkeypatch.setattr(module, "dialogues_to_test", too_late)
    monkeypatch.chdir(tmp_path)
    assert "runs/none" in refused(module.main, *arguments)


def test_a_judge_that_fails_is_one_line(monkeypatch, tmp_path):
    def failing(*_):
        raise JudgeError("HTTP 401; check the key")

    monkeypatch.setattr(compare, "compare", failing)
    line = refused(compare.__name__, "--systems", "mem0", "--limit", "1", "--out", tmp_path / "run")
    assert line == "error: HTTP 401; check the key", "a comparison has no --resume to go on with"


@pytest.mark.slow
@pytest.mark.skipif(not LOCOMO.exists(), reason="needs ../shared/data/locomo10.json")
def test_all_systems_on_locomo_with_a_random_model(model_folder, tmp_path):
    names = [name for name in SYSTEMS if name not in TRAINED]
    summary = main(["--systems", ",".join(names), "--data", str(LOCOMO), "--limit", "2", "--turns",
                    "12", "--model", str(model_folder), "--max-new-tokens", "6", "--out",
                    str(tmp_path / "run")])
    assert set(summary["systems"]) == set(names)
    for name, scores in summary["systems"].items():
        assert scores["count"] == 2 and scores["calls"] >= 2, f"{name}: {scores}"
