"""The whole system on held-out dialogues: read every turn, answer every question, print a table.

    turn ──facts──> Memory Manager ──operations──> bank ──60 memories──> Answer Agent ──> answer

In training a manager decides once, beside memories that are right, and is paid. Here it lives with
its own decisions: the bank starts empty, and a memory that is overwritten in the first session is
missing in the last. The test dialogues are Memory-R1's eight of LoCoMo (arXiv 2508.19828, section
4.1), or 27 of the synthetic world (benchmarks/splits.py). With `--agent mem1` one model works
through tasks of several questions instead (arXiv 2506.15841).

Where this differs from the paper
1. Scores are exact match, F1 and BLEU-1. Only `comparisons.compare` has an LLM judge.
2. Question types bear LoCoMo's names; the paper prints others over the same numbers (data.py).
3. "Evidence" is our addition: the share of a question's evidence turns that stand behind the
   memories shown to the answer agent. A memory stands for each turn whose fact added or updated
   it. This is generous, because a memory that overwrote another stands for both turns.
4. `--facts llm` lets the manager's model extract the facts; the paper uses GPT-4o-mini.

    python evaluate.py                        the embedded model on the world, half a minute
    python evaluate.py --data locomo --limit 20                      a quick look at LoCoMo, 15 s
    python evaluate.py --manager runs/grpo-manager/checkpoint --answerer runs/grpo-answer/checkpoint
    python evaluate.py --agent mem1           MEM1 and three other harnesses
    python evaluate.py --systems all          is python -m comparisons.compare --systems all
    python evaluate.py --recall --data locomo         is python -m comparisons.recall --data locomo

It ends with "evaluate world: exact match A, F1 B over 513 questions in S s; run folder
runs/evaluate-world". The folder holds summary.json, and records.jsonl with one line a question. In
the world it also holds bank.png: the bank's size and its share of right memories over the turns.
With `--manager` the picture has the start model (`--model`) beside the trained one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.devices import exit_with
from backend.files import release_locks, write_whole
from backend.loading import PolicyError
from benchmarks.encoders import EMBEDDER_HELP
from benchmarks.splits import dialogues_to_test, held_out
from comparisons import compare, recall
from comparisons.harnesses import TASKS, by_objectives
from comparisons.recall import mean, share, share_text
from data import DataError, Dialogue, Question, category_name
from memory_bank import Embedder
from memr1 import (
    CHUNK,
    PER_SPEAKER,
    Answer,
    AnswerTask,
    Reading,
    Sources,
    answer_all,
    build_banks,
)
from metrics import bleu1, f1, squad_exact_match, summarise
from policy import Policy
from systems.own_past import HARNESSES, mem1_agent
from training.folders import begin_folder, hold_folder
from training.kept import KeptPolicy
from training.options import is_embedded, option, parse_options, resolve
from training.oracle import over_turns
from training.pictures import draw_banks, objectives_table
from training.results import peak_memory_bytes
from training.run import (
    check_models,
    embedder_or_stop,
    launch,
    load_or_stop,
    say_other_start,
    show_bar,
    stop_without_facts,
)
from world import named_world

DESCRIPTION = """Evaluate two agents together on whole dialogues, or MEM1 on long tasks. With
--systems the rest of the line goes to `python -m comparisons.compare`, with
--recall to `python -m comparisons.recall`; each of the two has a --help of its own."""
Record = dict[str, Any]  # one question with its answer and scores


@dataclass
class EvaluateOptions:
    """Options of evaluate.py; None stands for "depends on the model"."""

    model: str | None = option(None, "Hugging Face folder or hub name, a .gguf file, or smollm2; "
                                     "default: tiny/, and tiny/mem1/ for mem1")
    manager: str | None = option(None, "another model for the Memory Manager, such as a "
                                       "checkpoint", agents=(None,))
    answerer: str | None = option(None, "another model for the Answer Agent, such as a checkpoint",
                                  agents=(None,))
    agent: str | None = option(None, "mem1: work through tasks of several questions instead, with "
                                     "MEM1's state, everything, the last turns, or those most "
                                     "like the last in context",
                               "mem1")
    objectives: int = option(4, "mem1: questions in a task, 1 to 16", agents=("mem1",))
    data: str | None = option(None, "world, world-long, world-29 (another world, of that seed), "
                                    "locomo, msc, longmemeval, hotpotqa (mem1), downloaded once, "
                                    "or a file (docs/own-data.md); default: world for the embedded "
                                    "model, else locomo")
    questions_file: str | None = option(None, "questions about a conversation of one's own: a JSON "
                                              "list of question, answer and, if known, evidence")
    facts: str | None = option(None, "of a turn: as said (turns), the data's observations or llm "
                               "(--model notes them); default: turns for the world, observations "
                               "where there are some, else llm",
                               "turns", "observations", "llm", agents=(None,))
    embedder: str = option("hashed", EMBEDDER_HELP)
    distill: bool = option(True, "select memories, then answer", agents=(None,))
    memories: int = option(PER_SPEAKER, "memories of each speaker that the answer agent reads, 5 "
                                        "to 30", agents=(None,))
    limit: int | None = option(None, "ask only the first so many questions (mem1: tasks), 10 to "
                                     "100, and read only their dialogues: a quick look")
    turns: int | None = option(None, "read only the first so many turns of a dialogue, 20 to 600, "
                                     "and ask only what they hold the evidence for",
                               agents=(None,))
    max_new_tokens: int | None = option(None, "longest response; default: 48 (mem1: 160), or 512 "
                                              "if not tiny/")
    out: str | None = option(None, "run folder; default: runs/evaluate-DATA, or "
                                   "runs/evaluate-mem1")


# ---- The two agents ------------------------------------------------------------------------------


def evidence_found(sources: Sources, question: Question, answer: Answer) -> float | None:
    """The share of a question's evidence turns behind the memories that the answer agent read.

    None if the question names no evidence.
    """
    # Only the memories of the prompt count, 60 at most, because no answer can rest on another.
    return share(question.evidence,
                 {turn_id for memory in answer.memories for turn_id in sources[memory.id]})


def ask_everything(answerer: Policy, dialogues: Sequence[Dialogue], reading: Reading,
                   distill: bool, max_new_tokens: int, per_speaker: int) -> list[Record]:
    """A record of every question, answered from the bank of its dialogue, in order."""
    # Every question is asked of the final bank, because LoCoMo asks after the last session.
    tasks = [(dialogue, sources, AnswerTask(bank, question, dialogue.speakers, per_speaker))
             for dialogue, bank, sources in zip(dialogues, reading.banks, reading.sources)
             for question in dialogue.questions]
    records = []
    for start in show_bar(range(0, len(tasks), CHUNK), "answer"):
        # The prompts of a chunk are one batch, because a GPU is slow with one prompt at a time.
        chunk = tasks[start : start + CHUNK]
        answers = answer_all(answerer, [task for _, _, task in chunk], distill,
                             max_new_tokens=max_new_tokens)
        for (dialogue, sources, task), answer in zip(chunk, answers):
            question = task.question
            texts = answer.text, question.answer  # prediction first: BLEU-1 is not symmetric
            records.append({
                "dialogue": dialogue.name, "question": question.text,
                "category": question.category, "gold": question.answer, "answer": answer.text,
                "exact_match": squad_exact_match(*texts), "f1": f1(*texts), "bleu1": bleu1(*texts),
                "evidence": question.evidence,
                "evidence_found": evidence_found(sources, question, answer),
                "dropped": answer.n_dropped, "cut": answer.cut,
                # As text, because the first thing to do with a bad score is to read the answers.
                "selected": answer.selected, "response": answer.response})
    return records


def score_records(records: Sequence[Record]) -> dict[str, Any]:
    """Means over all questions, and by question type."""
    # A mean over questions, not over dialogues: a long dialogue weighs more, as in the papers.
    scores = summarise([r["answer"] for r in records], [r["gold"] for r in records],
                       [r["category"] for r in records])
    # `mean` leaves out questions without evidence, because nothing of them can be found or missed.
    scores["evidence_found"] = mean(r["evidence_found"] for r in records)
    for category, row in scores["by_category"].items():
        row["evidence_found"] = mean(
            r["evidence_found"] for r in records if r["category"] == category)
    return scores


def run_system(manager: Policy, answerer: Policy, dialogues: Sequence[Dialogue], embed: Embedder,
               facts: str, distill: bool, max_new_tokens: int, per_speaker: int = PER_SPEAKER,
               extractor: Policy | None = None,
               ) -> tuple[dict[str, Any], list[Record], Reading]:
    """Scores, times and counts of the two agents, a record of every question, and the banks."""
    start = time.time()
    # training/results.py reads with the same function, so both commands' scores can be compared.
    reading = build_banks(manager, dialogues, embed, facts, show_bar,
                          max_new_tokens=max_new_tokens, extractor=extractor)
    read_seconds = time.time() - start
    # Answers are timed apart, because a system may buy fast answers with slow reading.
    start = time.time()
    records = ask_everything(answerer, dialogues, reading, distill, max_new_tokens, per_speaker)
    answer_seconds = time.time() - start
    n_turns = sum(len(dialogue.turns) for dialogue in dialogues)
    return {
        **score_records(records), "dialogues": len(dialogues), "turns_read": n_turns,
        "facts_read": reading.counts["facts"], "facts_unusable": reading.counts["unusable facts"],
        "memories_per_dialogue": sum(map(len, reading.banks)) / len(reading.banks),
        # The counts show how a manager decides: one that never says UPDATE only piles up memories.
        # An "invalid" operation names no memory or cannot be parsed; it changes nothing.
        "operations": {name: reading.counts[name]
                       for name in ("ADD", "UPDATE", "DELETE", "NOOP", "invalid")},
        "dropped": reading.counts["dropped"] + sum(record["dropped"] for record in records),
        "answers_cut": sum(record["cut"] for record in records),
        "seconds_per_turn": read_seconds / n_turns,
        "seconds_per_question": answer_seconds / len(records),
    }, records, reading


def banks_over_turns(options: EvaluateOptions, dialogues: Sequence[Dialogue], embed: Embedder,
                     reading: Reading) -> dict[str, dict[str, list[float]]]:
    """Size and right memories of the banks over the turns: manager -> columns of `over_turns`.

    With `--manager` the start model reads the dialogues, too, because only beside it can one see
    what training changed.
    """
    turns = [dialogue.turns for dialogue in dialogues]
    if Path(options.manager or options.model).resolve() == Path(options.model).resolve():
        return {"manager": over_turns(turns, reading.histories)}
    start = build_banks(KeptPolicy(load_or_stop(options.model)), dialogues, embed, options.facts,
                        show_bar, max_new_tokens=options.max_new_tokens)
    return {"before training": over_turns(turns, start.histories),
            "after training": over_turns(turns, reading.histories)}


def banks_table(banks: dict[str, dict[str, list[float]]]) -> str:
    """What `banks_over_turns` says of the last turn, as text."""
    return "\n".join(f"{name}: after the last turn {columns['held'][-1]:.3f} of the right memories "
                     f"are in the bank, and {columns['right'][-1]:.3f} of the bank is right"
                     for name, columns in banks.items())


def table(summary: dict[str, Any]) -> str:
    """Scores by question type, operations and times, as text."""
    lines = [f"{'question type':<16}{'count':>6}{'exact match':>13}{'F1':>8}{'BLEU-1':>8}"
             f"{'evidence':>10}"]
    # One row a type, because the types fail for different reasons: a multi-hop question needs two
    # memories, a temporal one a date, and a single-hop one only that nothing was lost.
    rows = [(category_name(category), row) for category, row in summary["by_category"].items()]
    for name, row in [*rows, ("all", summary)]:
        lines.append(f"{name:<16}{row['count']:>6}{row['exact_match']:>13.3f}{row['f1']:>8.3f}"
                     f"{row['bleu1']:>8.3f}{share_text(row['evidence_found']):>10}")
    operations = ", ".join(f"{name} {count:,}" for name, count in summary["operations"].items())
    unusable = (f" ({summary['facts_unusable']:,} more were unusable)"
                if summary["facts_unusable"] else "")
    lines += [f"{summary['memories_per_dialogue']:.1f} memories a dialogue, made of "
              f"{summary['facts_read'] / summary['dialogues']:.1f} facts{unusable} by {operations}",
              f"{summary['seconds_per_turn']:.3f} s a turn, "
              f"{summary['seconds_per_question']:.3f} s a question"]
    if summary["dropped"]:
        lines.append(f"{summary['dropped']:,} memories did not fit into prompts, because the model "
                     "has too few positions")
    if summary["answers_cut"]:  # they may have been right, and count as they stand
        lines.append(f"{summary['answers_cut']:,} answers were cut after --max-new-tokens")
    return "\n".join(lines)


# ---- Commands ------------------------------------------------------------------------------------


def write_results(folder: Path, summary: dict[str, Any], records: Sequence[Record] = ()) -> None:
    """Write summary.json, and one line a question; an earlier evaluation is moved aside first.

    Not before the work is done, because a look that fails must cost no earlier result.
    """
    begin_folder(folder)
    write_whole(folder / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    # In the order of the data, because comparisons.intervals pairs two runs.
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if records:
        write_whole(folder / "records.jsonl", lines.encode())


def load_agents(options: EvaluateOptions) -> dict[str, Policy]:
    """The models of "manager" and "answerer", and of "extractor" if one notes the facts.

    It is the model that training started from, which noted them there.
    """
    names = {"manager": options.manager or options.model,
             "answerer": options.answerer or options.model}
    if options.facts == "llm":
        names["extractor"] = options.model
    # Each name is loaded once, because two copies of a large model need twice the memory.
    policies = {name: load_or_stop(name) for name in dict.fromkeys(names.values())}
    for name, policy in policies.items():
        say_other_start(policy, name, options.agent)
    return {agent: policies[name] for agent, name in names.items()}


def evaluate_agents(options: EvaluateOptions, dialogues: Sequence[Dialogue], scope: str) -> dict:
    """The two agents on these dialogues; writes the folder, prints, returns the summary."""
    start = time.time()
    stop_without_facts(options.data, options.facts, dialogues)
    # Before the work, because nobody wants to lose an hour to a wrong folder.
    folder = hold_folder(options, "evaluation")
    embed = embedder_or_stop(options.embedder)
    agents = load_agents(options)
    reader = KeptPolicy(agents["manager"])  # to read eight conversations takes a real model hours
    scores, records, reading = run_system(
        reader, agents["answerer"], dialogues, embed, options.facts, options.distill,
        options.max_new_tokens, options.memories,
        KeptPolicy(agents["extractor"]) if "extractor" in agents else None)
    # Only the world says what the right memories are.
    banks = (banks_over_turns(options, dialogues, embed, reading) if named_world(options.data)
             else {})
    seconds = time.time() - start
    summary = {**vars(options), "manager": options.manager or options.model,
               "answerer": options.answerer or options.model, **scores,
               **({"right_memories": {name: columns["held"][-1] for name, columns in banks.items()}}
                  if banks else {}),
               "responses_from_disk": reader.n_kept, "responses_new": reader.n_new,
               "seconds": round(seconds, 1), "peak_memory_bytes": peak_memory_bytes()}
    write_results(folder, summary, records)
    if banks:
        draw_banks(banks, folder / "bank.png")
    print(f"\n{options.data}: {scope}, facts from {options.facts}\nmanager {summary['manager']}, "
          f"answer agent {summary['answerer']}\n\n{table(summary)}")
    if banks:
        print(banks_table(banks))
    if reader.n_kept:
        print(f"{reader.n_kept:,} of the manager's {reader.n_kept + reader.n_new:,} responses were "
              "kept on disk by an earlier run, so its seconds a turn are those of the others")
    if not named_world(options.data) and is_embedded(summary["answerer"]):
        print("The embedded model knows only the words of the synthetic world; real dialogues need "
              "a real model (--model).")
    print(f"\nevaluate {Path(options.data).stem}: exact match {scores['exact_match']:.3f}, "
          f"F1 {scores['f1']:.3f} over {scores['count']:,} questions in {seconds:.0f} s; "
          f"run folder {folder}")
    return summary


def evaluate_mem1(options: EvaluateOptions) -> dict:
    """One model as MEM1 and in the other harnesses, on the same tasks; returns the summary."""
    # The test part is not shortened, because --limit counts tasks and not questions.
    test = held_out(options.data, options.questions_file)
    folder = hold_folder(options, "evaluation")
    embed = embedder_or_stop(options.embedder)
    policy, n_objectives = load_or_stop(options.model), options.objectives
    say_other_start(policy, options.model, options.agent)
    # The weights are the same for all, so the harness alone makes the difference.
    agents = [mem1_agent(harness, embed, is_embedded(options.model),
                         max_new_tokens=options.max_new_tokens) for harness in HARNESSES]
    scores = {agent.harness: by_objectives(policy, agent, test, embed, options.limit or TASKS,
                                           (n_objectives,)) for agent in agents}
    # All questions of a task come from one dialogue, which may have too few.
    if not scores["mem1"]:
        exit_with(f"{options.data}: no dialogue has {n_objectives} questions; lower --objectives")
    # by_objectives keys its scores by text, because JSON has no other keys.
    key = str(n_objectives)
    summary = {**vars(options), "by_objectives": {
        key: {harness: by_count[key] for harness, by_count in scores.items()}}}
    write_results(folder, summary)
    print(f"{options.data}: {options.model}, tasks of {n_objectives} questions, the first "
          f"{scores['mem1'][key]['count']}\n")
    print(objectives_table(summary["by_objectives"]))
    if dropped := scores["full_context"][key]["dropped"]:
        print(f"full_context: {dropped:.1f} turns a task did not fit into its last prompt, because "
              "the model has too few positions")
    print(f"\nevaluate mem1: run folder {folder}")
    return summary


def main(argv: Sequence[str] | None = None) -> dict:
    """Evaluate and report; returns what summary.json holds."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Students look for both comparisons here, but each has options of its own. So the line goes on
    # before any option of this command is read.
    if any(argument.split("=")[0] == "--systems" for argument in argv):
        return compare.main(argv)
    if "--recall" in argv:
        return recall.main([argument for argument in argv if argument != "--recall"])
    options = resolve(parse_options(EvaluateOptions, DESCRIPTION, argv), "evaluate")
    try:
        check_models(options.model, options.manager, options.answerer)
        if options.agent == "mem1":
            return evaluate_mem1(options)
        dialogues, scope = dialogues_to_test(options.data, options.limit, options.turns,
                                             options.questions_file)
        return evaluate_agents(options, dialogues, scope)
    except (DataError, PolicyError) as error:
        exit_with(str(error))
    finally:
        release_locks()


if __name__ == "__main__":
    launch(main)
