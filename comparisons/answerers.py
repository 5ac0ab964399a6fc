"""Answer agents beside each other: the same questions, over banks that keep every fact.

    question ──> the memories most like it ──> each agent's answer ──> exact match, F1, BLEU-1

A training run scores one model at its start and its end. Here any number of checkpoints answer one
sample of the test questions, drawn from all test conversations. The intervals are over
conversations (intervals.py), and those of a difference are paired: each model is compared with the
first, question by question. The checkpoints of one command with several seeds are one row, joined
by "+". Then the interval is over seeds too, and a seed is compared with the same seed.

Greedy responses are kept on disk, by model and prompt (training/kept.py). So a second call with one
more model asks that model alone.

    python -m comparisons.answerers --models smollm2,runs/sft-answer/checkpoint --data locomo
    python -m comparisons.answerers --models tiny,runs/seed-0/checkpoint+runs/seed-1/checkpoint
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from backend.devices import exit_with
from backend.loading import PolicyError
from benchmarks.encoders import EMBEDDER_HELP
from benchmarks.splits import dialogues_to_test
from comparisons.intervals import crossed
from data import DataError, Dialogue, category_name
from memory_bank import Embedder
from memr1 import CHUNK, PER_SPEAKER, AnswerTask, answer_all
from metrics import SCORES
from training.kept import KeptPolicy
from training.options import option, parse_options, preset_of
from training.run import (
    check_models,
    embedder_or_stop,
    launch,
    load_or_stop,
    say_other_start,
    show_bar,
    stop_without_facts,
    with_bar,
)
from training.tasks import add_everything, answer_tasks

Scores = dict[str, list[float]]  # of one model: a score's name -> one number a question


@dataclass
class AnswerersOptions:
    """Options of `python -m comparisons.answerers`."""

    models: str | None = option(None, "what to compare, separated by commas: folders, hub names, "
                                      ".gguf files or smollm2; the others are compared with the "
                                      "first; seeds of one training are joined by +")
    data: str = option("locomo", "world, world-long, locomo, msc or longmemeval, downloaded once, "
                                 "or a file (docs/own-data.md)")
    facts: str = option("observations", "of a turn: as said (turns) or the data's observations",
                        "turns", "observations")
    embedder: str = option("hashed", EMBEDDER_HELP)
    distill: bool = option(True, "select memories, then answer")
    memories: int = option(PER_SPEAKER, "memories of each speaker that the agents read, 5 to 30")
    sample: int | None = option(None, "ask so many questions, drawn at random from all test "
                                      "conversations, the same of each model; default: all")
    max_new_tokens: int | None = option(None, "longest response; default: 48, or 512 if one of the "
                                              "models is not embedded")


def sampled_tasks(dialogues: Sequence[Dialogue], embed: Embedder, facts_from: str,
                  per_speaker: int, n: int | None) -> list[tuple[str, AnswerTask]]:
    """(conversation, task) of `n` questions, in the order of the data; all if there are fewer.

    The draw is that of seed 0, so that two calls ask the same questions.
    """
    reading = add_everything(with_bar(dialogues, "banks"), embed, facts_from)
    tasks = [(dialogue.name, task) for dialogue, bank in zip(dialogues, reading.banks)
             for task in answer_tasks([dialogue], [bank], per_speaker)]
    places = sorted(random.Random(0).sample(range(len(tasks)), min(n or len(tasks), len(tasks))))
    return [tasks[place] for place in places]


def scores_of(policy: KeptPolicy, tasks: Sequence[AnswerTask], distill: bool,
              max_new_tokens: int) -> Scores:
    """Each score of each answer, by name; "cut" says whether the limit of tokens ended it."""
    scores: Scores = {name: [] for name in (*SCORES, "cut", "words")}
    for start in show_bar(range(0, len(tasks), CHUNK), "answer"):
        chunk = tasks[start : start + CHUNK]
        answers = answer_all(policy, chunk, distill, max_new_tokens=max_new_tokens)
        for task, answer in zip(chunk, answers):
            for name, score in SCORES.items():
                scores[name].append(score(answer.text, task.question.answer))
            scores["cut"].append(answer.cut)
            scores["words"].append(len(answer.text.split()))
    return scores


def label(models: str) -> str:
    """What stands before a row: the end of the model's name, and of how many seeds it is a mean."""
    first, *others = models.split("+")
    return f"{first[-24:]}, {len(others) + 1} seeds" if others else first[-33:]


def with_interval(runs: Sequence[Sequence[float]], conversations: Sequence[str]) -> str:
    """The mean of one score, (S, N) for S seeds and N questions, and its interval as text."""
    mean, low, high = crossed(runs, conversations)
    # One conversation does not say how different another would be.
    return (f"{mean:.3f} [{low:.3f}, {high:.3f}]" if len(set(conversations)) > 1
            else f"{mean:.3f} (no interval)")


def ahead(runs: Sequence[Scores], first: Sequence[Scores], name: str) -> list[list[float]]:
    """(S, N): a score less the first row's. A first row of one seed stands beside every seed."""
    others = first if len(first) > 1 else first * len(runs)
    return [[a - b for a, b in zip(of_run[name], other[name])]
            for of_run, other in zip(runs, others)]


def tables(rows: dict[str, list[Scores]], conversations: Sequence[str],
           categories: Sequence[int]) -> str:
    """Means with their intervals, differences from the first row, and F1 by question type.

    `rows` holds the scores of each seed by the row's models, joined by "+".
    """
    first = next(iter(rows.values()))
    lines = [f"{'':<34}" + "".join(f"{name:>24}" for name in SCORES) + f"{'cut':>7}{'words':>7}"]
    for models, runs in rows.items():
        cells = [with_interval([of_run[name] for of_run in runs], conversations)
                 for name in SCORES]
        cut, words = (sum(sum(of_run[name]) for of_run in runs) / len(runs) / len(conversations)
                      for name in ("cut", "words"))
        lines.append(f"{label(models):<34}" + "".join(f"{cell:>24}" for cell in cells)
                     + f"{cut:>7.2f}{words:>7.1f}")
        if runs is not first:
            cells = [with_interval(ahead(runs, first, name), conversations) for name in SCORES]
            lines.append(f"{'    less the first':<34}" + "".join(f"{cell:>24}" for cell in cells))
    kinds = sorted(set(categories))
    lines += ["", f"{'F1 by question type':<34}" + "".join(
        f"{f'{category_name(kind)} ({categories.count(kind)})':>20}" for kind in kinds)]
    for models, runs in rows.items():
        means = [[value for of_run in runs for value, of in zip(of_run["f1"], categories)
                  if of == kind] for kind in kinds]
        lines.append(f"{label(models):<34}"
                     + "".join(f"{sum(values) / len(values):>20.3f}" for values in means))
    return "\n".join(lines)


def named_rows(text: str | None) -> list[list[str]]:
    """The models of each row in `--models`. Stops the program if they cannot be compared."""
    rows = [[name for name in part.split("+") if name] for part in (text or "").split(",")]
    rows = [row for row in rows if row]
    if not rows:
        exit_with("--models: name the models to compare, as in smollm2,runs/grpo-answer/checkpoint")
    if len({name for row in rows for name in row}) < sum(map(len, rows)):
        exit_with(f"--models {text}: a name stands there twice")
    if len(rows[0]) > 1 and any(len(row) != len(rows[0]) for row in rows):
        exit_with(f"--models {text}: the first has {len(rows[0])} seeds, so that each other one "
                  "needs as many, to be compared seed by seed")
    return rows


def main(argv: Sequence[str] | None = None) -> dict[str, list[Scores]]:
    """Ask every model and print the tables; returns each row's scores, seed by seed."""
    options = parse_options(AnswerersOptions, "Compare answer agents on the same test questions, "
                            "over banks that keep every fact.", argv)
    rows = named_rows(options.models)
    names = [name for models in rows for name in models]
    length = options.max_new_tokens or max(
        preset_of(options, name)["max_new_tokens"] for name in names)
    try:
        check_models(*names)
        dialogues, _ = dialogues_to_test(options.data, None, None)
    except (DataError, PolicyError) as error:
        exit_with(str(error))
    stop_without_facts(options.data, options.facts, dialogues)
    pairs = sampled_tasks(dialogues, embedder_or_stop(options.embedder), options.facts,
                          options.memories, options.sample)
    conversations, tasks = [name for name, _ in pairs], [task for _, task in pairs]
    scores: dict[str, list[Scores]] = {}
    for models in rows:
        scores["+".join(models)] = of_row = []
        for name in models:
            policy = KeptPolicy(load_or_stop(name))
            say_other_start(policy.policy, name, "answer")
            of_row.append(scores_of(policy, tasks, options.distill, length))
            print(f"{name}: {policy.n_kept:,} responses from disk, {policy.n_new:,} new")
    print(f"\n{options.data}: {len(tasks):,} questions on {len(set(conversations))} of "
          f"{len(dialogues)} conversations; 95 % intervals over conversations and seeds\n"
          + tables(scores, conversations, [task.question.category for task in tasks]))
    return scores


if __name__ == "__main__":
    launch(main)
