"""Better than what? Every system on the same questions, in one table.

    systems ──> read every turn ──> answer every question ──> records.jsonl ──> table.csv, bars.png

All of `graphs_and_tools.SYSTEMS` share one language model, one embedder and one answer prompt.
Memory-R1 and Memory-SFT stand beside them, with the checkpoints of grpo.py, ppo.py and sft.py in
runs/. With `--answerer` all of them answer by one trained answer agent: then the memories alone
make the difference. Nine dialogues are read together, a turn of each at a time, because their
prompts then form one batch.

Ctrl-C loses at most the nine dialogues in work: finished ones are in records.jsonl, and the same
command goes on with the next. Intervals are bootstrapped over whole dialogues, because questions of
one dialogue share its memory. Differences are paired, question by question (intervals.py).

Where this differs from the paper
1. Exact match is a column; an LLM judge is one only with `--judge` (judge.py says why).
2. "Tokens" are those of all prompts read to answer one question, tool calls included. The paper
   counts those of the memories retrieved.

    python -m comparisons.compare                               all systems on the synthetic world
    python -m comparisons.compare --systems mem0,zep --limit 20            two systems, a quick look
    python -m comparisons.compare --data locomo --judge models/qwen        with an LLM judge

It ends with "evaluate systems: 9 systems, 27 dialogues; run folder runs/systems-world". With the
three trained ones in runs/ there are 12.
`python evaluate.py --systems all` is the same command.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backend.devices import exit_with
from backend.files import release_locks, write_whole
from backend.loading import PolicyError
from backend.lora import ADAPTER, base_name
from benchmarks.encoders import EMBEDDER_HELP
from benchmarks.splits import dialogues_to_test
from comparisons.intervals import bootstrap, paired
from data import DataError, Dialogue, category_name, json_lines
from memory_bank import Embedder
from memr1 import PER_SPEAKER
from metrics import bleu1, f1, squad_exact_match
from policy import Policy
from systems.graphs_and_tools import SYSTEMS
from systems.rules_and_mem0 import System, drive
from training.checkpoints import file_digest
from training.folders import hold_folder
from training.judge import Judge, JudgeError
from training.kept import KeptPolicy
from training.options import is_embedded, named_path, option, parse_options, resolve
from training.pictures import draw_bars
from training.run import (
    check_models,
    embedder_or_stop,
    judge_or_stop,
    launch,
    load_or_stop,
    stop_without_facts,
)
from world import named_world

RUNS = Path("runs")  # where trained models are looked for
TOGETHER = 9  # dialogues that are read together, and that Ctrl-C can cost
TRAINED = {  # name in the table -> the algorithm that made its two models, in runs/
    "memory-r1": "grpo", "memory-r1-ppo": "ppo", "memory-sft": "sft"}
Record = dict[str, Any]  # one system on one dialogue
FIELDS = {"system", "dialogue", "turns", "entries", "read", "answer", "read_seconds",
          "answer_seconds", "questions", "stamps"}  # of a record
Difference = tuple[float | None, float | None, float | None]  # (difference, low, high)
PAIRED = {"exact_match": "EM", "f1": "F1"}  # of these every question has a score of its own


@dataclass
class CompareOptions:
    """Options of `python -m comparisons.compare`; None stands for "depends on the model"."""

    systems: str = option("all", "all, or some of `graphs_and_tools.SYSTEMS`, as in mem0,zep; "
                                 "trained ones come from runs/, where they fit the others")
    model: str | None = option(None, "Hugging Face folder or hub name, a .gguf file, or "
                                     "smollm2; default: tiny/")
    manager: str | None = option(None, "memory-r1's manager, such as a checkpoint, instead of the "
                                       "one in runs/")
    answerer: str | None = option(None, "another model for the answers of all systems, such as a "
                                        "checkpoint")
    data: str | None = option(None, "world, world-long, world-29 (another world, of that seed), "
                                    "locomo, msc or longmemeval, downloaded once, or a file of "
                                    "theirs; default: world for the embedded model, else locomo")
    facts: str | None = option(None, "of a turn, for Memory-R1, Mem0 and the rules: as said "
                               "(turns), the data's observations or llm (--model notes them); "
                               "default: as evaluate.py",
                               "turns", "observations", "llm")
    embedder: str = option("hashed", EMBEDDER_HELP)
    distill: bool = option(True, "select memories, then answer")
    memories: int = option(PER_SPEAKER, "memories of each speaker that an answer prompt shows, "
                                        "5 to 30")
    limit: int | None = option(None, "ask only the first so many questions, 10 to 100, and read "
                                     "only their dialogues: a quick look")
    turns: int | None = option(None, "read only the first so many turns of a dialogue, 20 to 600, "
                                     "and ask only what they hold the evidence for")
    max_new_tokens: int | None = option(None, "longest response; default: 48, or 512 if not tiny/")
    judge: str | None = option(None, "the folder of an LLM judge, or its name at --judge-url")
    judge_url: str | None = option(None, "base address of a server that speaks OpenAI's chat "
                                         "completions; its key is in OPENAI_API_KEY")
    out: str | None = option(None, "run folder; default: runs/systems-DATA")


# ---- Which systems, with which models ------------------------------------------------------------


def chosen_systems(names: str) -> list[str]:
    """The names in `--systems`; "all" are all of them. Stops the program on an unknown one."""
    every_name = list(dict.fromkeys([*SYSTEMS, *TRAINED]))
    choice = every_name if names == "all" else [name.strip() for name in names.split(",")]
    for name in choice:
        if name not in every_name:
            exit_with(f"--systems {name}: must be all, or some of {','.join(every_name)}")
    return list(dict.fromkeys(choice))


def models_of(name: str, options: CompareOptions, runs: Path) -> tuple[str, str] | None:
    """The models of (manager, answerer): the common one twice, or checkpoints.

    Returns None, and prints a line, if a system's checkpoints are not in `runs`, or do not belong
    into this table.
    """
    folders = folders_of(name, options, runs)
    for folder in folders.values():
        reason = misfit(folder, options)
        if reason:
            print(f"{name} is left out: {folder} {reason}")
            return None
    models = {agent: model or options.model for agent, model in named_models(name, options).items()}
    models |= {agent: str(folder / "checkpoint") for agent, folder in folders.items()}
    return models["manager"], models["answer"]


def named_models(name: str, options: CompareOptions) -> dict[str, str | None]:
    """What the options name for a system's agents, manager and answer; None for nothing."""
    return {"manager": options.manager if name == "memory-r1" else None,
            "answer": options.answerer}


def folders_of(name: str, options: CompareOptions, runs: Path) -> dict[str, Path]:
    """The run folders of the agents that a trained system takes from `runs`, by agent."""
    if name not in TRAINED:
        return {}
    return {agent: runs / f"{TRAINED[name]}-{agent}"
            for agent, model in named_models(name, options).items() if not model}


def trained_with(folder: Path) -> dict[str, Any]:
    """The options of the finished run in a folder; {} if there is none, or it cannot be read."""
    # A run that goes on, or was stopped, has no summary yet, and perhaps an older checkpoint.
    if not all((folder / name).exists() for name in ("summary.json", "checkpoint/config.json")):
        return {}
    try:
        options = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return options if isinstance(options, dict) else {}


def misfit(folder: Path, options: CompareOptions) -> str:
    """Why the model of a run folder does not belong into this table; "" if it does.

    All systems have one start model, one embedder and one form of the answer. What was learned in
    the synthetic world says nothing of real dialogues, and the other way round. What was learned
    from one real benchmark may be tried on another, as in the paper.
    """
    algorithm, _, agent = folder.name.partition("-")
    run = trained_with(folder)
    if not run:
        return f"holds no finished run; `python {algorithm}.py --agent {agent}` makes it"
    start = str(run.get("model"))
    if start != options.model and Path(start).resolve() != Path(options.model).resolve():
        return f"started from {start}, not from --model {options.model}"
    if bool(named_world(str(run.get("data")))) != bool(named_world(options.data)):
        return f"was trained on {run.get('data')}, which is no training for {options.data}"
    # What an agent reads in training and here: a manager facts, an answer agent memories.
    own = "facts" if agent == "manager" else "memories"
    for name in ("distill", "embedder", own):
        if run.get(name) != getattr(options, name):
            return (f"was trained with --{name} {run.get(name)}, the others have "
                    f"{getattr(options, name)}")
    return ""


def training_note(folder: Path) -> str:
    """How the model of a run folder was trained, in a line under the table."""
    run = trained_with(folder)
    facts = f", facts from {run.get('facts')}" if run.get("agent") == "manager" else ""
    return (f"{folder}: data {run.get('data')}, seed {run.get('seed')}, {run.get('steps')} steps"
            f"{facts}")


def stamp(model: str) -> int:
    """When a model's files were written (ns), 0 for a hub name.

    Its adapters and the model that they belong to count too. Each record bears the stamps of its
    models, because records of older weights are of no use.
    """
    paths = [Path(model), Path(model) / ADAPTER, Path(base_name(model))]
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    return max((file.stat().st_mtime_ns for file in files if file.is_file()), default=0)


def make_systems(name: str, manager: Policy, answerer: Policy, embed: Embedder,
                 extractor: Policy | None, dialogues: Sequence[Dialogue], max_new_tokens: int,
                 distill: bool, facts: str, per_speaker: int, compact: bool) -> list[System]:
    """An empty memory for each dialogue; `compact` prompts are for the embedded model."""
    make = SYSTEMS["memory-r1" if name in TRAINED else name]
    return [make(manager, embed, dialogue.speakers, compact=compact, answerer=answerer,
                 extractor=extractor, distill=distill, facts=facts, per_speaker=per_speaker,
                 max_new_tokens=max_new_tokens)
            for dialogue in dialogues]


# ---- Running -------------------------------------------------------------------------------------


def run_together(name: str, systems: Sequence[System], dialogues: Sequence[Dialogue],
                 progress: tqdm) -> list[Record]:
    """Let each system read its dialogue and answer its questions."""
    start = time.time()
    for place in range(max(len(dialogue.turns) for dialogue in dialogues)):
        works = [system.observing(dialogue.turns[place])
                 for system, dialogue in zip(systems, dialogues) if place < len(dialogue.turns)]
        drive(works)
        progress.update(len(works))
    read_seconds = time.time() - start
    read_counts = [Counter(system.counts) for system in systems]
    start = time.time()
    questions = [(system, question) for system, dialogue in zip(systems, dialogues)
                 for question in dialogue.questions]
    answers = drive([system.answering(question.text, question.timestamp)
                     for system, question in questions])
    progress.update(len(questions))
    answer_seconds = time.time() - start
    records: list[Record] = []
    remaining = iter(answers)  # each dialogue takes as many as it has questions
    for system, dialogue, read_count in zip(systems, dialogues, read_counts):
        rows = []
        for question, answer in zip(dialogue.questions, remaining):
            texts = answer.text, question.answer
            rows.append({"question": question.text, "gold": question.answer,
                         "category": question.category, "answer": answer.text,
                         "exact_match": squad_exact_match(*texts), "f1": f1(*texts),
                         "bleu1": bleu1(*texts)})
        records.append({
            "system": name, "dialogue": dialogue.name, "turns": len(dialogue.turns),
            "entries": system.entries(), "read": read_count, "answer": system.counts - read_count,
            "read_seconds": read_seconds / len(dialogues),
            "answer_seconds": answer_seconds / len(dialogues), "questions": rows})
    return records


def read_records(path: Path, dialogues: Sequence[Dialogue]) -> list[Record]:
    """The records of an earlier call on these questions.

    A line that broke off is skipped, and what else is no record of `run_together`.
    """
    questions = {d.name: [q.text for q in d.questions] for d in dialogues}
    records = []
    for line in json_lines(path.read_text(encoding="utf-8")) if path.exists() else ():
        try:
            record = json.loads(line)
            asked = [row["question"] for row in record["questions"]]
            if FIELDS <= record.keys() and questions.get(record["dialogue"]) == asked:
                records.append(record)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
    return records


def run_all(names: Sequence[str], options: CompareOptions, dialogues: Sequence[Dialogue],
            folder: Path, records: list[Record]) -> None:
    """Every system on every dialogue, going on from the records in the folder.

    Appends to `records` as it goes, so that they survive Ctrl-C.
    """
    path = folder / "records.jsonl"
    policies: dict[str, Policy] = {}
    extractor: KeptPolicy | None = None
    earlier, embed = read_records(path, dialogues), embedder_or_stop(options.embedder)
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("ab") as file:  # a killed process left half a line: ours must not go on it
            file.write(b"\n")
    for name in names:
        models = models_of(name, options, RUNS)
        if models is None:
            continue
        stamps = [stamp(model) for model in models]
        reusable = [r for r in earlier if r["system"] == name and r["stamps"] == stamps]
        records += reusable
        finished = {record["dialogue"] for record in reusable}
        unread = [dialogue for dialogue in dialogues if dialogue.name not in finished]
        if not unread:
            continue
        # The common model stays loaded. The last system's checkpoints go, to free their memory.
        policies = {model: policies.get(model) or load_or_stop(model)
                    for model in dict.fromkeys((options.model, *models))}
        if options.facts == "llm" and extractor is None:  # all systems hear of the same facts
            extractor = KeptPolicy(policies[options.model])
        total = sum(len(dialogue.turns) + len(dialogue.questions) for dialogue in unread)
        with tqdm(total=total, desc=name, unit="call", ncols=100) as progress:
            for first in range(0, len(unread), TOGETHER):
                part = unread[first:first + TOGETHER]
                systems = make_systems(
                    name, policies[models[0]], policies[models[1]], embed, extractor, part,
                    options.max_new_tokens, options.distill, options.facts, options.memories,
                    is_embedded(models[0]))
                new = [{**record, "stamps": stamps}
                       for record in run_together(name, systems, part, progress)]
                with path.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in new)
                records += new


# ---- Tables --------------------------------------------------------------------------------------


def without_nan(value: float) -> float | None:
    """None for NaN, which JSON lacks: a single dialogue has no interval."""
    return None if math.isnan(value) else value


def summarise_system(records: Sequence[Record], judge: Judge | None = None) -> dict[str, Any]:
    """One system's scores with their interval, by category, and what they cost."""
    rows = [row for record in records for row in record["questions"]]
    dialogue_names = [record["dialogue"] for record in records for _ in record["questions"]]
    mean, low, high = bootstrap([row["exact_match"] for row in rows], dialogue_names)
    read_counts = sum((Counter(record["read"]) for record in records), Counter())
    answer_counts = sum((Counter(record["answer"]) for record in records), Counter())
    summary = {
        "count": len(rows), "exact_match": mean,
        "low": without_nan(low), "high": without_nan(high),
        "f1": sum(row["f1"] for row in rows) / len(rows),
        "bleu1": sum(row["bleu1"] for row in rows) / len(rows),
        "by_category": {},
        "tokens": answer_counts["prompt tokens"] / len(rows),
        "entries": sum(record["entries"] for record in records) / len(records),
        "calls": (read_counts["calls"] + answer_counts["calls"]) / len(records),
        "seconds_per_question": sum(r["answer_seconds"] for r in records) / len(rows),
        "seconds_per_turn": (sum(r["read_seconds"] for r in records)
                             / sum(r["turns"] for r in records)),
        "counts": dict(read_counts + answer_counts)}
    for category in sorted({row["category"] for row in rows}, key=str):
        scores = [row["exact_match"] for row in rows if row["category"] == category]
        summary["by_category"][category_name(category)] = sum(scores) / len(scores)
    if judge:
        verdicts = judge.verdicts([(r["question"], r["gold"], r["answer"]) for r in rows])
        # A missing verdict is not a correct one.
        summary["judge"] = sum(verdict is True for verdict in verdicts) / len(verdicts)
        summary["judge_missing"] = sum(verdict is None for verdict in verdicts)
    return summary


def summarise_systems(records: Sequence[Record], judge: Judge | None = None) -> dict[str, dict]:
    """`summarise_system` of every system, by name."""
    names = dict.fromkeys(record["system"] for record in records)
    return {name: summarise_system([r for r in records if r["system"] == name], judge)
            for name in names}


def differences(records: Sequence[Record], best: str) -> dict[str, dict[str, Difference]]:
    """How much better `best` is than each other system, paired on the questions of both.

    Returns system -> "exact_match" or "f1" -> (difference, low, high).
    """
    rows_of: dict[str, dict[tuple[str, int], dict]] = {}  # system -> (dialogue, place) -> question
    for record in records:
        of_system = rows_of.setdefault(record["system"], {})
        for place, row in enumerate(record["questions"]):
            of_system[record["dialogue"], place] = row
    by_name: dict[str, dict[str, Difference]] = {}
    for name, other in rows_of.items():
        in_both = [key for key in rows_of[best] if key in other]
        if name == best or not in_both:
            continue
        by_name[name] = {}
        for metric in PAIRED:
            difference, low, high = paired(
                [rows_of[best][key][metric] for key in in_both],
                [other[key][metric] for key in in_both], [dialogue for dialogue, _ in in_both])
            by_name[name][metric] = difference, without_nan(low), without_nan(high)
    return by_name


COLUMNS = {"exact_match": "EM", "low": "low", "high": "high", "f1": "F1", "bleu1": "BLEU-1",
           "judge": "judge", "tokens": "tokens", "entries": "entries", "calls": "calls",
           "seconds_per_question": "s/question", "seconds_per_turn": "s/turn"}


FLAWS = {"invalid": "invalid", "tool loops cut": "tool loops cut",
         "cut": "responses were cut after --max-new-tokens",
         "dropped": "memories did not fit into prompts, because the model has too few positions"}


def number_text(value: float | None) -> str:
    """A cell of the table: scores with three digits, counts of ten and more with none."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 10 else f"{value:.3f}"


def systems_table(summaries: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, as text, best exact match first, F1 where that is equal."""
    categories = sorted({c for summary in summaries.values() for c in summary["by_category"]})
    columns = [c for c in COLUMNS if any(s.get(c) is not None for s in summaries.values())]
    header = ["system", *categories, *(COLUMNS[c] for c in columns)]
    rows = []
    for name, summary in sorted(summaries.items(), reverse=True,
                                key=lambda item: (item[1]["exact_match"], item[1]["f1"])):
        values = [*(summary["by_category"].get(c) for c in categories),
                  *(summary.get(c) for c in columns)]
        rows.append([name, *map(number_text, values)])
    return header, rows


# ---- The command ---------------------------------------------------------------------------------


def open_comparison(options: CompareOptions) -> Path:
    """The run folder. Raises OSError if it cannot be written to.

    Stops the program if the folder holds something else than a comparison, or records of other
    options or of data that was edited since, because one table must not mix them.
    """
    settings = {name: getattr(options, name) for name in
                ("model", "manager", "answerer", "data", "facts", "embedder", "distill",
                 "memories", "limit", "turns", "max_new_tokens")}
    contents = {f"content of --{name}": file_digest(path) for name in ("data", "embedder")
                if (path := named_path(name, getattr(options, name)))}
    settings |= contents
    folder = hold_folder(options, "comparison", moves=False)
    path = folder / "config.json"
    earlier = json.loads(path.read_text()) if path.exists() else settings
    for name, value in settings.items():
        if earlier.get(name) != value:
            what = (name if name in contents else
                    f"--{name.replace('_', '-')} ({earlier.get(name)})")
            exit_with(f"{folder} holds records with another {what}; choose another --out, or "
                      "delete it")
    write_whole(path, (json.dumps(settings, indent=2) + "\n").encode())
    return folder


def print_report(summaries: dict[str, dict], apart: dict[str, dict[str, Difference]],
                 header: list[str], rows: list[list[str]], options: CompareOptions,
                 judge: Judge | None) -> None:
    """Print the table, the differences, and what was unusable or did not fit."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    print()
    for name, *cells in (header, *rows):
        print("  ".join([name.ljust(widths[0]),
                         *(cell.rjust(width) for cell, width in zip(cells, widths[1:]))]))
    for name, by_metric in apart.items():
        cells = []
        for metric, (difference, low, high) in by_metric.items():
            interval = "no interval" if low is None else f"{low:+.3f} to {high:+.3f}"
            cells.append(f"{PAIRED[metric]} {difference:+.3f} ({interval})")
        print(f"{rows[0][0]} - {name}: {', '.join(cells)}")
    for name, summary in summaries.items():
        flaws = [f"{n:,} {FLAWS[what]}" for what, n in summary["counts"].items()
                 if what in FLAWS and n]
        if flaws:
            print(f"{name}: {', '.join(flaws)}")
    for name in summaries:
        for folder in folders_of(name, options, RUNS).values():
            print(f"{name}: {training_note(folder)}")
    if judge:
        print(f"judge {judge.name}: " + ", ".join(f"{n:,} {k}" for k, n in judge.counts.items())
              + (f"; {judge.problem}" if judge.problem else ""))


def compare(names: Sequence[str], options: CompareOptions, dialogues: Sequence[Dialogue],
            folder: Path, judge: Judge | None) -> dict:
    """Run what is not done yet; write and print the table, the picture and the differences."""
    records, interrupted = [], False
    try:
        run_all(names, options, dialogues, folder, records)
    except KeyboardInterrupt:
        interrupted = True
    if not records:
        exit_with("no system has read a dialogue to its end; the same command goes on"
                  if interrupted else
                  f"--systems {','.join(names)}: all are left out, so nothing is compared")
    summaries = summarise_systems(records, judge)
    header, rows = systems_table(summaries)
    best = rows[0][0]
    apart = differences(records, best)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    print_report(summaries, apart, header, rows, options, judge)
    draw_bars({name: (summaries[name]["exact_match"], summaries[name]["low"],
                      summaries[name]["high"]) for name, *_ in rows}, folder / "bars.png")
    summary = {"systems": summaries, "best": best, "differences": apart,
               "complete": not interrupted}
    write_whole(folder / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    if interrupted:
        print("interrupted: the same command goes on where this one stopped")
    print(f"\nevaluate systems: {len(summaries)} systems, {len(dialogues)} dialogues; run folder "
          f"{folder}")
    return summary


def main(argv: Sequence[str] | None = None) -> dict:
    """Compare the systems; returns what summary.json holds."""
    options = parse_options(CompareOptions, "Compare Memory-R1 with other memory systems on the "
                            "same questions.", argv)
    options = resolve(options, "systems")
    if options.judge_url and not options.judge:
        exit_with("--judge-url needs --judge: the name of a model there")
    names = chosen_systems(options.systems)
    if options.manager and "memory-r1" not in names:
        exit_with(f"--manager {options.manager}: is memory-r1's, which --systems does not name")
    try:
        check_models(options.model, options.manager, options.answerer,
                     None if options.judge_url else options.judge)
        dialogues, scope = dialogues_to_test(options.data, options.limit, options.turns)
        stop_without_facts(options.data, options.facts, dialogues)
        print(f"{options.data}: {scope}")
        folder = open_comparison(options)
        judge = None
        if options.judge:
            ask, _ = judge_or_stop(options)
            judge = Judge(options.judge, ask, folder / "verdicts.jsonl")
        return compare(names, options, dialogues, folder, judge)
    except OSError as error:
        exit_with(f"cannot write to the run folder {options.out} ({error.strerror}); choose "
                  "another --out")
    except (DataError, JudgeError, PolicyError) as error:
        exit_with(str(error))
    finally:
        release_locks()


if __name__ == "__main__":
    launch(main)
