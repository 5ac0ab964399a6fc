"""Better than what? Every system on the same questions, in one table: `evaluate.py --systems all`.

    systems ──> read every turn ──> answer every question ──> records.jsonl ──> table.csv, bars.png

All of `memory_systems.SYSTEMS` share one language model, one embedder and one answer prompt.
Memory-R1 and Memory-SFT stand beside them with what grpo.py, ppo.py and sft.py left in runs/.
Dialogues are read together, a turn of each at a time, so that their prompts form one batch.

Ctrl-C loses at most the dialogues in work: each is written when it is done, and the same command
goes on from there. Intervals are bootstrapped over whole dialogues, since questions of one dialogue
share its memory; differences are paired, question by question (intervals.py).

Where this differs from the paper
1. Exact match is a column; a judge is one only if asked for (judge.py says why).
2. "Tokens" are those of all prompts read to answer one question, tool calls included. The paper
   counts those of the memories retrieved.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backend.devices import exit_with
from comparisons.graphs_and_tools import SYSTEMS
from comparisons.intervals import bootstrap, paired
from comparisons.judge import Judge
from comparisons.rules_and_mem0 import System, drive
from data import Dialogue, category_name
from memory_bank import hashed_words
from metrics import bleu1, f1, squad_exact_match
from policy import Policy
from training.pictures import draw_bars
from training.run import load_or_stop

TOGETHER = 9  # dialogues that are read in step, and what Ctrl-C can cost
TRAINED = {  # name in the table -> the algorithm that made its two models, in runs/
    "memory-r1": "grpo", "memory-r1-ppo": "ppo", "memory-sft": "sft"}
Record = dict[str, Any]  # one system on one dialogue


def chosen_systems(asked: str) -> list[str]:
    """The names of `--systems`; "all" are all of them. Stops the program on an unknown one."""
    known = list(dict.fromkeys([*SYSTEMS, *TRAINED]))
    names = known if asked == "all" else [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in known:
            exit_with(f"--systems {name}: must be all, or some of {','.join(known)}")
    return list(dict.fromkeys(names))


def models_of(name: str, model: str, runs: Path) -> tuple[str, str] | None:
    """The models of both agents: the common one, or checkpoints; None, and a line, without them."""
    if name not in TRAINED:
        return model, model
    algorithm, found = TRAINED[name], []
    for agent in ("manager", "answer"):
        folder = runs / f"{algorithm}-{agent}" / "checkpoint"
        if not (folder / "config.json").exists():
            print(f"{name} is left out: no {folder}; `python {algorithm}.py --agent {agent}` "
                  "makes it")
            return None
        found.append(str(folder))
    return found[0], found[1]


def stamp(model: str) -> int:
    """When a model folder was written (ns), 0 for a hub name: a record is of these weights only."""
    config = Path(model) / "config.json"
    return config.stat().st_mtime_ns if config.exists() else 0


def make_systems(name: str, policies: tuple[Policy, Policy], dialogues: Sequence[Dialogue],
                 max_new_tokens: int, distill: bool) -> list[System]:
    """An empty memory for each dialogue."""
    make, embed = SYSTEMS["memory-r1" if name in TRAINED else name], hashed_words()
    manager, answerer = policies
    # A chat template that leaves out the system message, as the embedded model's does, leaves out
    # all instructions: such a model knows its prompts by their form.
    user = {"role": "user", "content": "a"}
    compact = manager.encode([{"role": "system", "content": "b"}, user]) == manager.encode([user])
    return [make(manager, embed, dialogue.speakers, compact=compact, answerer=answerer,
                 distill=distill, max_new_tokens=max_new_tokens) for dialogue in dialogues]


# ---- Running -------------------------------------------------------------------------------------


def run_together(name: str, systems: Sequence[System], dialogues: Sequence[Dialogue],
                 progress: tqdm) -> list[Record]:
    """Let each system read its dialogue and answer its questions."""
    start = time.time()
    for place in range(max(len(dialogue.turns) for dialogue in dialogues)):
        going = [(s, d.turns[place]) for s, d in zip(systems, dialogues) if place < len(d.turns)]
        drive([system.observing(turn) for system, turn in going])
        progress.update(len(going))
    read_seconds, read_counts = time.time() - start, [Counter(s.counts) for s in systems]
    start = time.time()
    asked = [(i, question) for i, d in enumerate(dialogues) for question in d.questions]
    answers = drive([systems[i].answering(question.text) for i, question in asked])
    progress.update(len(asked))
    answer_seconds = time.time() - start
    records: list[Record] = []
    for i, (system, dialogue) in enumerate(zip(systems, dialogues)):
        rows = [{"question": q.text, "gold": q.answer, "category": q.category, "answer": a.text,
                 "exact_match": squad_exact_match(a.text, q.answer), "f1": f1(a.text, q.answer),
                 "bleu1": bleu1(a.text, q.answer)}
                for (place, q), a in zip(asked, answers) if place == i]
        answering = system.counts - read_counts[i]
        records.append({
            "system": name, "dialogue": dialogue.name, "turns": len(dialogue.turns),
            "entries": system.entries(), "read": read_counts[i], "answer": answering,
            "read_seconds": read_seconds / len(dialogues),
            "answer_seconds": answer_seconds / len(dialogues), "questions": rows})
    return records


def read_records(path: Path, dialogues: Sequence[Dialogue]) -> list[Record]:
    """What an earlier call left; a line that broke off is as if it had never been written."""
    questions = {d.name: [q.text for q in d.questions] for d in dialogues}
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if questions.get(record["dialogue"]) == [row["question"] for row in record["questions"]]:
            records.append(record)
    return records


def run_all(names: Sequence[str], model: str, dialogues: Sequence[Dialogue], folder: Path,
            runs: Path, max_new_tokens: int, distill: bool, records: list[Record]) -> None:
    """Every system on every dialogue, going on from the records in the folder.

    Appends to `records` as it goes, so that they survive Ctrl-C.
    """
    path, loaded = folder / "records.jsonl", {}
    earlier = read_records(path, dialogues)
    for name in names:
        models = models_of(name, model, runs)
        if models is None:
            continue
        stamps = [stamp(m) for m in models]
        kept = [r for r in earlier if r["system"] == name and r["stamps"] == stamps]
        records += kept
        done = {record["dialogue"] for record in kept}
        left = [dialogue for dialogue in dialogues if dialogue.name not in done]
        if not left:
            continue
        loaded = {m: loaded.get(m) or load_or_stop(m) for m in dict.fromkeys((model, *models))}
        total = sum(len(dialogue.turns) + len(dialogue.questions) for dialogue in left)
        with tqdm(total=total, desc=name, unit="call", ncols=100) as progress:
            for first in range(0, len(left), TOGETHER):
                part = left[first:first + TOGETHER]
                systems = make_systems(name, (loaded[models[0]], loaded[models[1]]), part,
                                       max_new_tokens, distill)
                new = [{**record, "stamps": stamps}
                       for record in run_together(name, systems, part, progress)]
                with path.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in new)
                records += new


# ---- Tables --------------------------------------------------------------------------------------


def without_nan(value: float) -> float | None:
    """None for the ends of an interval that a single dialogue cannot have; JSON has no NaN."""
    return None if math.isnan(value) else value


def summarise_systems(records: Sequence[Record], judge: Judge | None = None) -> dict[str, dict]:
    """Per system: scores with intervals, by category, and what they cost."""
    found: dict[str, dict] = {}
    for name in dict.fromkeys(record["system"] for record in records):
        theirs = [record for record in records if record["system"] == name]
        rows = [row for record in theirs for row in record["questions"]]
        groups = [record["dialogue"] for record in theirs for _ in record["questions"]]
        exact = [row["exact_match"] for row in rows]
        mean, low, high = bootstrap(exact, groups)
        read, answer = (sum((Counter(record[key]) for record in theirs), Counter())
                        for key in ("read", "answer"))
        summary = {
            "count": len(rows), "exact_match": mean,
            "low": without_nan(low), "high": without_nan(high),
            "f1": sum(row["f1"] for row in rows) / len(rows),
            "bleu1": sum(row["bleu1"] for row in rows) / len(rows),
            "by_category": {},
            "tokens": answer["prompt tokens"] / len(rows),
            "entries": sum(record["entries"] for record in theirs) / len(theirs),
            "calls": (read["calls"] + answer["calls"]) / len(theirs),
            "seconds_per_question": sum(r["answer_seconds"] for r in theirs) / len(rows),
            "seconds_per_turn": (sum(r["read_seconds"] for r in theirs)
                                 / sum(r["turns"] for r in theirs)),
            "counts": dict(read + answer)}
        for category in sorted({row["category"] for row in rows}, key=str):
            right = [row["exact_match"] for row in rows if row["category"] == category]
            summary["by_category"][category_name(category)] = sum(right) / len(right)
        if judge:
            verdicts = judge.verdicts([(r["question"], r["gold"], r["answer"]) for r in rows])
            summary["judge"] = sum(v is True for v in verdicts) / len(verdicts)
            summary["judge_missing"] = sum(v is None for v in verdicts)
        found[name] = summary
    return found


def differences(records: Sequence[Record], best: str) -> dict[str, tuple[float | None, ...]]:
    """How much better `best` is than each other system, paired on the questions of both.

    (difference, low, high) by name.
    """
    right: dict[str, dict[tuple[str, int], int]] = {}
    for record in records:
        for place, row in enumerate(record["questions"]):
            theirs = right.setdefault(record["system"], {})
            theirs[record["dialogue"], place] = row["exact_match"]
    found = {}
    for name, theirs in right.items():
        both = [key for key in right[best] if key in theirs]
        if name != best and both:
            found[name] = tuple(map(without_nan, paired(
                [right[best][key] for key in both], [theirs[key] for key in both],
                [dialogue for dialogue, _ in both])))
    return found


COLUMNS = {"exact_match": "EM", "low": "low", "high": "high", "f1": "F1", "bleu1": "BLEU-1",
           "judge": "judge", "tokens": "tokens", "entries": "entries", "calls": "calls",
           "seconds_per_question": "s/question", "seconds_per_turn": "s/turn"}


def systems_table(found: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, as text, best exact match first."""
    categories = sorted({c for summary in found.values() for c in summary["by_category"]})
    columns = [c for c in COLUMNS if any(s.get(c) is not None for s in found.values())]
    header = ["system", *categories, *(COLUMNS[c] for c in columns)]
    rows = []
    for name, summary in sorted(found.items(), key=lambda item: -item[1]["exact_match"]):
        shown = [summary["by_category"].get(c) for c in categories]
        shown += [summary.get(c) for c in columns]
        rows.append([name, *("" if value is None else f"{value:.0f}" if value >= 10
                             else f"{value:.3f}" for value in shown)])
    return header, rows


def compare(names: Sequence[str], model: str, dialogues: Sequence[Dialogue], folder: Path,
            runs: Path, max_new_tokens: int, distill: bool, judge: Judge | None) -> dict:
    """Run what is not done yet; write and print the table, the picture and the differences."""
    records, interrupted = [], False
    try:
        run_all(names, model, dialogues, folder, runs, max_new_tokens, distill, records)
    except KeyboardInterrupt:
        interrupted = True
    if not records:
        exit_with("no system has read a dialogue to its end; the same command goes on")
    found = summarise_systems(records, judge)
    header, rows = systems_table(found)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    print()
    for line in (header, *rows):
        print("  ".join(text.ljust(width) if place == 0 else text.rjust(width)
                        for place, (text, width) in enumerate(zip(line, widths))))
    best = rows[0][0]
    apart = differences(records, best)
    for name, (difference, low, high) in apart.items():
        interval = "no interval" if low is None else f"{low:+.3f} to {high:+.3f}"
        print(f"{best} - {name}: {difference:+.3f} ({interval})")
    for name, summary in found.items():
        unusable = {key: n for key, n in summary["counts"].items()
                    if key in ("invalid", "tool loops cut") and n}
        if unusable:
            print(f"{name}: " + ", ".join(f"{n:,} {key}" for key, n in unusable.items()))
    if judge:
        print(f"judge {judge.name}: " + ", ".join(f"{n:,} {k}" for k, n in judge.counts.items())
              + (f"; {judge.problem}" if judge.problem else ""))
    draw_bars({row[0]: (found[row[0]]["exact_match"], found[row[0]]["low"], found[row[0]]["high"])
               for row in rows}, folder / "bars.png")
    summary = {"systems": found, "best": best, "differences": apart, "complete": not interrupted}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    if interrupted:
        print("interrupted: the same command goes on where this one stopped")
    print(f"\nevaluate systems: {len(found)} systems, {len(dialogues)} dialogues; run folder "
          f"{folder}")
    return summary
