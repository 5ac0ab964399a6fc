"""The whole system on held-out dialogues: read every turn, answer every question, print a table.

    turn ──facts──> Memory Manager ──operations──> bank ──60 memories──> Answer Agent ──> answer

Training pays for one decision at a time, beside memories that are right. Here a manager lives with
all it did before: the bank starts empty, and what was overwritten in the first session is gone in
the last. The test dialogues are Memory-R1's eight of LoCoMo (arXiv 2508.19828, section 4.1), or 27
of the synthetic world; benchmarks/splits.py says what is left out because it is trained on. With
`--agent mem1` one model answers tasks of several questions instead (arXiv 2506.15841).

Where this differs from the paper
1. Scores are exact match, F1 and BLEU-1. An LLM judge is an option of `comparisons.compare` alone.
   Adversarial questions are not asked, as in the paper.
2. Question types bear LoCoMo's names; the paper prints others over the same numbers (data.py).
3. "Evidence" is our addition: the share of a question's evidence turns among the memories that the
   answer agent was shown. A memory counts for every turn whose fact was before the manager when it
   was added or updated. That is generous: a memory that overwrote another counts for both turns.
4. `--facts llm` lets the manager's model extract the facts; the paper uses GPT-4o-mini.

    python evaluate.py                        the embedded model on the synthetic world, about 20 s
    python evaluate.py --data locomo --limit 20                      a quick look at LoCoMo, 15 s
    python evaluate.py --manager runs/grpo-manager/checkpoint --answerer runs/grpo-answer/checkpoint
    python evaluate.py --agent mem1           MEM1 and two other harnesses
    python evaluate.py --systems all          is python -m comparisons.compare --systems all
    python evaluate.py --recall --data locomo         is python -m comparisons.recall --data locomo

It ends with "evaluate world: exact match A, F1 B over 513 questions in S s; run folder
runs/evaluate-world". The folder holds summary.json, and records.jsonl with one line a question.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backend.devices import exit_with
from benchmarks.splits import dialogues_to_test, held_out
from comparisons import compare, recall
from comparisons.harnesses import TASKS, by_objectives
from comparisons.recall import mean, share
from data import DataError, Dialogue, category_name
from mem1 import HARNESSES
from memory_bank import hashed_words
from memr1 import CHUNK, AnswerTask, Reading, Sources, answer_all, build_banks, candidates
from metrics import bleu1, f1, squad_exact_match, summarise
from policy import Policy
from training.options import option, parse_options, resolve
from training.pictures import objectives_table
from training.results import peak_memory_bytes
from training.run import load_or_stop
from world import KINDS

DESCRIPTION = """Evaluate two agents together on whole dialogues, or MEM1 on long tasks. With
--systems the rest of the line goes to `python -m comparisons.compare`, with
--recall to `python -m comparisons.recall`; each of the two has a --help of its own."""
Record = dict[str, Any]  # one question with its answer and scores


@dataclass
class EvaluateOptions:
    """Options of evaluate.py; None stands for "depends on the model"."""

    model: str | None = option(None, "Hugging Face folder or hub name; default: tiny/")
    manager: str | None = option(None, "another model for the Memory Manager, such as a checkpoint")
    answerer: str | None = option(None, "another model for the Answer Agent, such as a checkpoint")
    agent: str | None = option(None, "mem1: work through tasks of several questions instead, with "
                                     "MEM1's state, everything, or the last turns in context",
                               "mem1")
    objectives: int = option(4, "mem1: questions in a task, 1 to 16")
    data: str | None = option(None, "world, world-long, locomo, msc, longmemeval, hotpotqa (mem1), "
                                    "downloaded once, or a file of theirs; default: world for the "
                                    "embedded model, else locomo")
    facts: str | None = option(None, "of a turn: as said (turns), the data's observations or llm; "
                               "default: turns for the world, observations for LoCoMo, else llm",
                               "turns", "observations", "llm")
    distill: bool = option(True, "select memories, then answer")
    limit: int | None = option(None, "ask only the first so many questions (mem1: tasks), 10 to "
                                     "100, and read only their dialogues: a quick look")
    turns: int | None = option(None, "read only the first so many turns of a dialogue, 20 to 600, "
                                     "and ask only what they hold the evidence for")
    max_new_tokens: int | None = option(None, "longest response; default: 48 (mem1: 160), or 512 "
                                              "if not tiny/")
    out: str | None = option(None, "run folder; default: runs/evaluate-DATA, or "
                                   "runs/evaluate-mem1")


# ---- The two agents ------------------------------------------------------------------------------


def show_bar(steps: range, name: str) -> tqdm:
    """The steps behind a progress bar."""
    return tqdm(steps, desc=name, ncols=100)


def evidence_found(sources: Sources, task: AnswerTask) -> float | None:
    """The share of a question's evidence turns among the memories that the answer agent is shown.

    None if the question names no evidence.
    """
    # The agent sees 60 memories at most. A memory of the bank that is not retrieved does not count,
    # because no answer can rest on it.
    memories = [memory for of_speaker in
                candidates(task.bank, task.question.text, task.speakers).values()
                for memory in of_speaker]
    return share(task.question.evidence,
                 {turn_id for memory in memories for turn_id in sources[memory.id]})


def ask_everything(answerer: Policy, dialogues: Sequence[Dialogue], reading: Reading,
                   distill: bool, max_new_tokens: int) -> list[Record]:
    """A record of every question, answered from the bank of its dialogue, in order."""
    # All dialogues are read before the first answer: questions are asked of the final bank, where
    # what was overwritten on the way is gone.
    tasks = [(dialogue, sources, AnswerTask(bank, question, dialogue.speakers))
             for dialogue, bank, sources in zip(dialogues, reading.banks, reading.sources)
             for question in dialogue.questions]
    records = []
    for start in show_bar(range(0, len(tasks), CHUNK), "answer"):
        # The prompts of a chunk go to the model together: its size is a matter of speed alone.
        chunk = tasks[start : start + CHUNK]
        answers = answer_all(answerer, [task for _, _, task in chunk], distill, max_new_tokens)
        for (dialogue, sources, task), answer in zip(chunk, answers):
            question = task.question
            texts = answer.text, question.answer  # prediction first: BLEU-1 is not symmetric
            records.append({
                "dialogue": dialogue.name, "question": question.text,
                "category": question.category, "gold": question.answer, "answer": answer.text,
                "exact_match": squad_exact_match(*texts), "f1": f1(*texts), "bleu1": bleu1(*texts),
                "evidence": question.evidence, "evidence_found": evidence_found(sources, task),
                # Kept as text, because the first thing to do with a bad score is to read it.
                "selected": answer.selected, "response": answer.response})
    return records


def score_records(records: Sequence[Record]) -> dict[str, Any]:
    """Means over all questions, and by question type."""
    # One mean over questions, not over dialogues: a long dialogue weighs more, as in the papers.
    scores = summarise([r["answer"] for r in records], [r["gold"] for r in records],
                       [r["category"] for r in records])
    # A question without evidence counts in neither mean, because nothing could be found or missed.
    scores["evidence_found"] = mean(r["evidence_found"] for r in records)
    for category, row in scores["by_category"].items():
        row["evidence_found"] = mean(
            r["evidence_found"] for r in records if r["category"] == category)
    return scores


def run_system(manager: Policy, answerer: Policy, dialogues: Sequence[Dialogue], facts: str,
               distill: bool, max_new_tokens: int) -> tuple[dict[str, Any], list[Record]]:
    """Scores, times and counts of the two agents together, and a record of every question."""
    start = time.time()
    # Training scores its managers with the same function, so that both numbers mean the same.
    reading = build_banks(manager, dialogues, hashed_words(), facts, max_new_tokens, show_bar)
    read_seconds = time.time() - start
    # Timed apart: a system that thinks while it reads answers faster, and a table should show both.
    start = time.time()
    records = ask_everything(answerer, dialogues, reading, distill, max_new_tokens)
    answer_seconds = time.time() - start
    n_turns = sum(len(dialogue.turns) for dialogue in dialogues)
    return {
        **score_records(records), "dialogues": len(dialogues), "turns_read": n_turns,
        "facts_read": reading.counts["facts"],
        "memories_per_dialogue": sum(map(len, reading.banks)) / len(reading.banks),
        # Means hide how a manager decides: one that only adds has many memories and few UPDATEs.
        # "invalid" are those that name no memory or cannot be parsed; they change nothing.
        "operations": {name: reading.counts[name]
                       for name in ("ADD", "UPDATE", "DELETE", "NOOP", "invalid")},
        "seconds_per_turn": read_seconds / n_turns,
        "seconds_per_question": answer_seconds / len(records),
    }, records


def table(summary: dict[str, Any]) -> str:
    """Scores by question type, operations and times, as text."""
    lines = [f"{'question type':<16}{'count':>6}{'exact match':>13}{'F1':>8}{'BLEU-1':>8}"
             f"{'evidence':>10}"]
    # By type, because the types fail for different reasons: multi-hop questions need two memories,
    # temporal ones a date, and single-hop ones only that nothing was lost.
    rows = [(category_name(category), row) for category, row in summary["by_category"].items()]
    for name, row in [*rows, ("all", summary)]:
        lines.append(f"{name:<16}{row['count']:>6}{row['exact_match']:>13.3f}{row['f1']:>8.3f}"
                     f"{row['bleu1']:>8.3f}{row['evidence_found']:>10.3f}")
    operations = ", ".join(f"{name} {count:,}" for name, count in summary["operations"].items())
    lines += [f"{summary['memories_per_dialogue']:.1f} memories a dialogue, made of "
              f"{summary['facts_read'] / summary['dialogues']:.1f} facts by {operations}",
              f"{summary['seconds_per_turn']:.3f} s a turn, "
              f"{summary['seconds_per_question']:.3f} s a question"]
    return "\n".join(lines)


# ---- Commands ------------------------------------------------------------------------------------


def open_folder(out: str, name: str) -> Path:
    """The run folder, with an empty file `name`. Stops the program if it cannot be written to."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Before the work and not behind it, because nobody wants to lose an hour to a full disk.
        # The file is emptied, because records of an earlier evaluation must not outlive its scores.
        (folder / name).write_text("")
    except OSError as error:
        exit_with(f"cannot write to the run folder {folder} ({error.strerror}); choose another "
                  "--out")
    return folder


def load_agents(options: EvaluateOptions) -> dict[str, Policy]:
    """The models of "manager" and "answerer"; one that is both is loaded once."""
    names = {"manager": options.manager or options.model,
             "answerer": options.answerer or options.model}
    # Loaded twice, one model in both roles would need its memory twice.
    policies = {name: load_or_stop(name) for name in dict.fromkeys(names.values())}
    return {agent: policies[name] for agent, name in names.items()}


def evaluate_agents(options: EvaluateOptions, dialogues: Sequence[Dialogue], scope: str) -> dict:
    """The two agents on these dialogues; writes the folder, prints, returns the summary."""
    start = time.time()
    # Only some conversations of LoCoMo's form have observations; without any, nothing is read.
    if options.facts == "observations" and not any(t.facts for d in dialogues for t in d.turns):
        exit_with(f"{options.data}: holds no observations to read; use --facts turns")
    folder = open_folder(options.out, "records.jsonl")
    agents = load_agents(options)
    scores, records = run_system(agents["manager"], agents["answerer"], dialogues, options.facts,
                                 options.distill, options.max_new_tokens)
    seconds = time.time() - start
    summary = {**vars(options), "manager": options.manager or options.model,
               "answerer": options.answerer or options.model, **scores,
               "seconds": round(seconds, 1), "peak_memory_bytes": peak_memory_bytes()}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    # One line a question, in the order of the data: two runs can be paired (comparisons.intervals).
    (folder / "records.jsonl").write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in records), encoding="utf-8")
    print(f"\n{options.data}: {scope}, facts from {options.facts}\nmanager {summary['manager']}, "
          f"answer agent {summary['answerer']}\n\n{table(summary)}")
    # Ten million parameters lie between tiny/ with its trained copies and any real model.
    if options.data not in KINDS and agents["answerer"].model.num_parameters() < 10_000_000:
        print("The embedded model knows only the words of the synthetic world; real dialogues need "
              "a real model (--model).")
    print(f"\nevaluate {Path(options.data).stem}: exact match {scores['exact_match']:.3f}, "
          f"F1 {scores['f1']:.3f} over {scores['count']:,} questions in {seconds:.0f} s; "
          f"run folder {folder}")
    return summary


def evaluate_mem1(options: EvaluateOptions) -> dict:
    """One model as MEM1 and in the two other harnesses, on the same tasks; returns the summary."""
    # Whole dialogues, because environments.py makes the corpus; --limit counts tasks here.
    test = held_out(options.data)
    folder = open_folder(options.out, "summary.json")
    policy, count = load_or_stop(options.model), options.objectives
    # The same weights with other contexts: what differs is what the constant state costs or gains.
    scores = {harness: by_objectives(policy, harness, test, hashed_words(),
                                     options.max_new_tokens, options.limit or TASKS, (count,))
              for harness in HARNESSES}
    # The questions of a task come from one dialogue, and some data has one question a dialogue.
    if not scores["mem1"]:
        exit_with(f"{options.data}: no dialogue has {count} questions; lower --objectives")
    summary = {**vars(options), "by_objectives": {
        str(count): {harness: by_count[str(count)] for harness, by_count in scores.items()}}}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"{options.data}: {options.model}, tasks of {count} questions, the first "
          f"{scores['mem1'][str(count)]['count']}\n")
    print(objectives_table(summary["by_objectives"]))
    print(f"\nevaluate mem1: run folder {folder}")
    return summary


def main(argv: Sequence[str] | None = None) -> dict:
    """Evaluate and report; returns what summary.json holds."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Two questions that a student asks here first have commands, and options, of their own.
    if any(argument.split("=")[0] == "--systems" for argument in argv):
        return compare.main(argv)
    if "--recall" in argv:
        return recall.main([argument for argument in argv if argument != "--recall"])
    options = resolve(parse_options(EvaluateOptions, DESCRIPTION, argv), "evaluate")
    try:
        if options.agent == "mem1":
            return evaluate_mem1(options)
        dialogues, scope = dialogues_to_test(options.data, options.limit, options.turns)
    except DataError as error:
        exit_with(str(error))
    return evaluate_agents(options, dialogues, scope)


if __name__ == "__main__":
    main()
