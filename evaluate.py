"""The whole system on held-out dialogues: read every turn, answer every question, print a table.

    turn ──facts──> Memory Manager ──operations──> bank ──60 memories──> Answer Agent ──> answer

Training judges one decision at a time, beside memories that are right. Here a manager lives with
all it did before: the bank starts empty, and what was overwritten in the first session is gone in
the last. The test dialogues are Memory-R1's eight of LoCoMo (arXiv 2508.19828, section 4.1), or 27
of the synthetic world; a LoCoMo file of one or two conversations is used whole.

Where this differs from the paper
1. An LLM judge only beside `--systems`, and only if asked for (judge.py says why). Adversarial
   questions are not asked, as in the paper.
2. Question types bear LoCoMo's names; the paper prints others over the same numbers (data.py).
3. "Evidence" is our addition: the share of a question's evidence turns among the memories that the
   answer agent was shown. A memory counts for every turn whose fact was before the manager when it
   was added or updated. That is generous: a memory that overwrote another counts for both turns.
4. `--facts llm` lets the manager's model extract the facts; the paper uses GPT-4o-mini.

    python evaluate.py                        the embedded model on the synthetic world, about 20 s
    python evaluate.py --data locomo --limit 20                      a quick look at LoCoMo, 15 s
    python evaluate.py --systems all          beside every other system, compare.py
    python evaluate.py --recall --data locomo         what is found at all, without a model
    python evaluate.py --manager runs/grpo-manager/checkpoint --answerer runs/grpo-answer/checkpoint

It ends with "evaluate world: exact match A, F1 B over 513 questions in S s; run folder
runs/evaluate-world". The folder holds summary.json, and records.jsonl with one line a question.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from backend.devices import exit_with
from benchmarks.splits import held_out, shorten
from comparisons.compare import chosen_systems, compare
from comparisons.judge import Judge, JudgeError, Server, from_policy
from comparisons.recall import mean, recall_table, search_recall, share, systems_recall
from data import DataError, Dialogue, OpenQuestion, Turn, category_name
from mem1 import HARNESSES, TASKS, by_objectives
from memory_bank import MemoryBank, hashed_words
from memr1 import AnswerTask, answer_all, candidates, greedy, observe_all, turn_facts
from metrics import bleu1, f1, squad_exact_match, summarise
from policy import Policy
from prompts import extract_messages, parse_facts
from training.options import option, parse_options, resolve
from training.pictures import objectives_table
from training.results import peak_memory_bytes
from training.run import load_or_stop
from world import KINDS

CHUNK = 32  # prompts handed to the model at a time, so that the progress bar moves
Sources = dict[int, set[str]]  # memory id -> ids of the turns that it stands for


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
    distill: str = option("on", "on: select memories, then answer; off", "on", "off")
    limit: int | None = option(None, "ask only the first so many questions (mem1: tasks), 10 to "
                                     "100, and read only their dialogues: a quick look")
    turns: int | None = option(None, "read only the first so many turns of a dialogue, 20 to 600, "
                                     "and ask only what they hold the evidence for")
    max_new_tokens: int | None = option(None, "longest response; default: 48 (mem1: 160), or 512 "
                                              "if not tiny/")
    systems: str | None = option(None, "compare: all, or some of `memory_systems.SYSTEMS`, as "
                                       "in mem0,zep; trained ones come from runs/")
    judge: str | None = option(None, "systems: the folder of a judge, or its name at --judge-url")
    judge_url: str | None = option(None, "systems: base address of a server that speaks OpenAI's "
                                         "chat completions; its key is in OPENAI_API_KEY")
    recall: bool = option(False, "only measure how much evidence the search finds; needs no model")
    out: str | None = option(None, "run folder; default: runs/evaluate-DATA, or runs/systems-DATA")


# ---- The whole system ----------------------------------------------------------------------------


def facts_of(policy: Policy, turns: Sequence[Turn], source: str) -> list[list[str]]:
    """The facts of each turn; like `turn_facts`, with many turns before the model at a time."""
    if source != "llm":
        return [turn_facts(turn, source) for turn in turns]
    facts: list[list[str]] = []
    for start in tqdm(range(0, len(turns), CHUNK), desc="extract", ncols=100):
        prompts = [policy.encode(extract_messages(turn)) for turn in turns[start : start + CHUNK]]
        facts += [parse_facts(response) for response in greedy(policy, prompts, 256)]
    return facts


def read_all(manager: Policy, dialogues: Sequence[Dialogue], facts: str, max_new_tokens: int,
             ) -> tuple[list[MemoryBank], list[Sources], Counter[str]]:
    """Put every fact of every dialogue through the manager into the dialogue's bank, from empty.

    The dialogues go in step, one fact each at a time: a decision depends on the bank that the last
    one left. Also returns what each memory stands for, and counts of operations and of "facts".
    """
    embed = hashed_words()
    banks = [MemoryBank(embed) for _ in dialogues]
    sources: list[Sources] = [{} for _ in dialogues]
    queues = [[(fact, turn) for turn, stated in zip(d.turns, facts_of(manager, d.turns, facts))
               for fact in stated] for d in dialogues]
    counts = Counter(facts=sum(map(len, queues)))
    with tqdm(total=counts["facts"], desc="read", unit="fact", ncols=100) as progress:
        for place in range(max(map(len, queues), default=0)):
            going = [i for i, queue in enumerate(queues) if place < len(queue)]
            before = {i: {memory.id: memory for memory in banks[i]} for i in going}
            seen = observe_all(
                manager, [banks[i] for i in going],
                [(fact, turn.speaker, turn.timestamp)
                 for fact, turn in (queues[i][place] for i in going)], max_new_tokens)
            for i, observation in zip(going, seen):
                counts += observation.counts
                for memory in banks[i]:
                    # "is not", since an update that changes no word makes an equal memory.
                    if before[i].get(memory.id) is not memory:
                        turn = queues[i][place][1]
                        sources[i].setdefault(memory.id, set()).add(turn.turn_id)
            progress.update(len(going))
    return banks, sources, counts


def evidence_found(bank: MemoryBank, sources: Sources, task: AnswerTask) -> float | None:
    """The share of a question's evidence among the memories that the answer agent is shown."""
    shown = candidates(bank, task.question.text, task.speakers).values()
    return share(task.question.evidence,
                 {turn_id for memories in shown for m in memories for turn_id in sources[m.id]})


def run_system(manager: Policy, answerer: Policy, dialogues: Sequence[Dialogue], facts: str,
               distill: bool, max_new_tokens: int) -> tuple[dict, list[dict]]:
    """Scores, times and counts of the two agents together, and a record of every question."""
    start = time.time()
    banks, sources, counts = read_all(manager, dialogues, facts, max_new_tokens)
    read_seconds = time.time() - start
    asked = [(i, AnswerTask(banks[i], question, dialogue.speakers))
             for i, dialogue in enumerate(dialogues) for question in dialogue.questions]
    start, records = time.time(), []
    with tqdm(total=len(asked), desc="answer", unit="question", ncols=100) as progress:
        for place in range(0, len(asked), CHUNK):
            chunk = asked[place : place + CHUNK]
            answers = answer_all(answerer, [task for _, task in chunk], distill, max_new_tokens)
            for (i, task), answer in zip(chunk, answers):
                question = task.question
                pair = answer.text, question.answer
                records.append({
                    "dialogue": dialogues[i].name, "question": question.text,
                    "category": question.category, "gold": question.answer,
                    "answer": answer.text, "exact_match": squad_exact_match(*pair),
                    "f1": f1(*pair), "bleu1": bleu1(*pair), "evidence": question.evidence,
                    "evidence_found": evidence_found(banks[i], sources[i], task),
                    "selected": answer.selected, "response": answer.response})
            progress.update(len(chunk))
    answer_seconds = time.time() - start
    scores = summarise([r["answer"] for r in records], [r["gold"] for r in records],
                       [r["category"] for r in records])
    scores["evidence_found"] = mean(r["evidence_found"] for r in records)
    for category, row in scores["by_category"].items():
        row["evidence_found"] = mean(
            r["evidence_found"] for r in records if r["category"] == category)
    n_turns = sum(len(dialogue.turns) for dialogue in dialogues)
    return {
        **scores, "dialogues": len(dialogues), "turns_read": n_turns, "facts_read": counts["facts"],
        "memories_per_dialogue": sum(map(len, banks)) / len(banks),
        "operations": {name: counts[name]
                       for name in ("ADD", "UPDATE", "DELETE", "NOOP", "invalid")},
        "seconds_per_turn": read_seconds / n_turns,
        "seconds_per_question": answer_seconds / len(asked),
    }, records


def table(summary: dict) -> str:
    """What was found, by question type, as text."""
    lines = [f"{'question type':<16}{'count':>6}{'exact match':>13}{'F1':>8}{'BLEU-1':>8}"
             f"{'evidence':>10}"]
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
    """The run folder, with an empty file: what cannot be written to is refused before the work."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    except OSError as error:
        exit_with(f"cannot write to the run folder {folder} ({error.strerror}); choose another "
                  "--out")
    return folder


def evaluate_mem1(options: EvaluateOptions, dialogues: Sequence[Dialogue]) -> dict:
    """One model as MEM1 and in the two other harnesses, on the same tasks; returns the summary."""
    folder = open_folder(options.out, "summary.json")
    policy, count = load_or_stop(options.model), options.objectives
    scores = {harness: by_objectives(policy, harness, dialogues, hashed_words(),
                                     options.max_new_tokens, options.limit or TASKS, (count,))
              for harness in HARNESSES}
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


def evaluate_systems(options: EvaluateOptions, dialogues: Sequence[Dialogue]) -> dict:
    """All systems on the same questions; returns the summary."""
    names, folder = chosen_systems(options.systems), Path(options.out)
    if options.manager or options.answerer:
        exit_with("--systems takes trained models from runs/; leave out --manager and --answerer")
    if options.judge_url and not options.judge:
        exit_with("--judge-url needs --judge: the name of a model there")
    # What a record stands for; records of anything else must not stand beside it.
    same = {name: getattr(options, name) for name in
            ("model", "data", "distill", "limit", "turns", "max_new_tokens")}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.json"
        old = json.loads(path.read_text()) if path.exists() else same
        differs = [name for name in same if old.get(name) != same[name]]
        if differs:
            exit_with(f"{folder} holds records with another --{differs[0].replace('_', '-')} "
                      f"({old.get(differs[0])}); choose another --out, or delete it")
        path.write_text(json.dumps(same, indent=2) + "\n")
        judge = None
        if options.judge:
            ask = (Server(options.judge_url, options.judge).ask if options.judge_url
                   else from_policy(load_or_stop(options.judge)))
            judge = Judge(options.judge, ask, folder / "verdicts.jsonl")
        return compare(names, options.model, dialogues, folder, Path("runs"),
                       options.max_new_tokens, options.distill == "on", judge)
    except OSError as error:
        exit_with(f"cannot write to the run folder {folder} ({error.strerror}); choose another "
                  "--out")
    except JudgeError as error:
        exit_with(str(error))


def main(argv: Sequence[str] | None = None) -> dict:
    """Evaluate and report; returns what summary.json holds."""
    start = time.time()
    options = parse_options(EvaluateOptions, "Evaluate two agents together.", argv)
    options = resolve(options, "systems" if options.systems else "evaluate")
    try:
        test = held_out(options.data)
    except DataError as error:
        exit_with(str(error))
    if options.agent == "mem1":
        return evaluate_mem1(options, test)
    if isinstance(test[0], OpenQuestion):
        exit_with(f"--data {options.data}: questions without a dialogue; they are for --agent mem1")
    dialogues = shorten(test, options.limit, options.turns)
    if not dialogues:
        exit_with(f"{options.data}: no question left to ask; raise or leave out --turns")
    n_asked, n_all = (sum(len(d.questions) for d in split) for split in (dialogues, test))
    scope = f"{n_asked:,} questions on {len(dialogues)} of {len(test)} dialogues"
    if n_asked < n_all or options.turns:
        scope = f"a quick look, not the full test: the first {scope}, of {n_all:,} questions"
    if options.systems:
        print(f"{options.data}: {scope}")
        return evaluate_systems(options, dialogues)
    if options.recall:
        recall, shown = search_recall(dialogues), systems_recall(dialogues)
        print(f"\n{options.data}: {scope}\n"
              f"{recall_table(recall, 'evidence among the best')}\n\n"
              f"{recall_table(shown, 'evidence shown by')}")
        return {**recall, "systems": shown}
    if options.facts == "observations" and not any(t.facts for d in dialogues for t in d.turns):
        exit_with(f"{options.data}: holds no observations to read; use --facts turns")
    folder = open_folder(options.out, "records.jsonl")
    names = [name or options.model for name in (options.manager, options.answerer)]
    loaded = {name: load_or_stop(name) for name in dict.fromkeys(names)}  # each model once
    manager, answerer = (loaded[name] for name in names)
    scores, records = run_system(manager, answerer, dialogues, options.facts,
                                 options.distill == "on", options.max_new_tokens)
    seconds = time.time() - start
    summary = {**vars(options), "manager": names[0], "answerer": names[1], **scores,
               "seconds": round(seconds, 1), "peak_memory_bytes": peak_memory_bytes()}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (folder / "records.jsonl").write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in records), encoding="utf-8")
    print(f"\n{options.data}: {scope}, facts from {options.facts}\n"
          f"manager {names[0]}, answer agent {names[1]}\n\n{table(summary)}")
    if options.data not in KINDS and answerer.model.num_parameters() < 10_000_000:
        print("The embedded model knows only the words of the synthetic world; real dialogues need "
              "a real model (--model).")
    print(f"\nevaluate {Path(options.data).stem}: exact match {scores['exact_match']:.3f}, "
          f"F1 {scores['f1']:.3f} over {n_asked:,} questions in {seconds:.0f} s; "
          f"run folder {folder}")
    return summary


if __name__ == "__main__":
    main()
