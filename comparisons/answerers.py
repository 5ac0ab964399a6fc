"""Answer agents beside each other: the same questions, over banks that keep every fact.

    question ──> the memories most like it ──> each agent's answer ──> exact match, F1, BLEU-1

A training run scores one model at its start and its end. Here any number of checkpoints answer one
sample of the test questions, drawn from all test conversations. The intervals are over
conversations (intervals.py), and those of a difference are paired: each model is compared with the
first, question by question.

Greedy responses are kept on disk, by model and prompt (training/kept.py). So a second call with one
more model asks that model alone.

    python -m comparisons.answerers --models smollm2,runs/sft-answer/checkpoint --data locomo
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from backend.devices import exit_with
from benchmarks.encoders import EMBEDDER_HELP
from benchmarks.splits import dialogues_to_test
from comparisons.intervals import bootstrap, paired
from data import DataError, Dialogue, category_name
from memory_bank import Embedder
from memr1 import CHUNK, PER_SPEAKER, AnswerTask, answer_all
from metrics import SCORES
from training.kept import KeptPolicy
from training.options import option, parse_options
from training.run import (
    embedder_or_stop,
    launch,
    load_or_stop,
    show_bar,
    stop_without_facts,
    with_bar,
)
from training.tasks import add_everything, answer_tasks


@dataclass
class AnswerersOptions:
    """Options of `python -m comparisons.answerers`."""

    models: str | None = option(None, "what to compare, separated by commas: folders, hub names, "
                                      ".gguf files or smollm2; the others are compared with the "
                                      "first")
    data: str = option("locomo", "world, world-long, locomo, msc or longmemeval, downloaded once, "
                                 "or a file (docs/own-data.md)")
    facts: str = option("observations", "of a turn: as said (turns) or the data's observations",
                        "turns", "observations")
    embedder: str = option("hashed", EMBEDDER_HELP)
    distill: bool = option(True, "select memories, then answer")
    memories: int = option(PER_SPEAKER, "memories of each speaker that the agents read, 5 to 30")
    sample: int | None = option(None, "ask so many questions, drawn at random from all test "
                                      "conversations, the same of each model; default: all")
    max_new_tokens: int = option(48, "longest response")


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
              max_new_tokens: int) -> dict[str, list[float]]:
    """Each score of each answer, by name; "cut" says whether the limit of tokens ended it."""
    scores: dict[str, list[float]] = {name: [] for name in (*SCORES, "cut", "words")}
    for start in show_bar(range(0, len(tasks), CHUNK), "answer"):
        chunk = tasks[start : start + CHUNK]
        answers = answer_all(policy, chunk, distill, max_new_tokens=max_new_tokens)
        for task, answer in zip(chunk, answers):
            for name, score in SCORES.items():
                scores[name].append(score(answer.text, task.question.answer))
            scores["cut"].append(answer.cut)
            scores["words"].append(len(answer.text.split()))
    return scores


def with_interval(mean: float, low: float, high: float) -> str:
    """A mean and its interval as text; a single conversation has no interval."""
    return f"{mean:.3f} (no interval)" if math.isnan(low) else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def tables(scores: dict[str, dict[str, list[float]]], conversations: Sequence[str],
           categories: Sequence[int]) -> str:
    """Means with their intervals, differences from the first model, and F1 by question type."""
    first = next(iter(scores.values()))
    lines = [f"{'':<34}" + "".join(f"{name:>24}" for name in SCORES) + f"{'cut':>7}{'words':>7}"]
    for model, of_model in scores.items():
        means = [bootstrap(of_model[name], conversations) for name in SCORES]
        cut, words = (sum(of_model[name]) / len(conversations) for name in ("cut", "words"))
        lines.append(f"{model[-33:]:<34}" + "".join(f"{with_interval(*m):>24}" for m in means)
                     + f"{cut:>7.2f}{words:>7.1f}")
        if of_model is not first:
            ahead = [paired(of_model[name], first[name], conversations) for name in SCORES]
            lines.append(f"{'    less the first':<34}"
                         + "".join(f"{with_interval(*m):>24}" for m in ahead))
    kinds = sorted(set(categories))
    lines += ["", f"{'F1 by question type':<34}" + "".join(
        f"{f'{category_name(kind)} ({categories.count(kind)})':>20}" for kind in kinds)]
    for model, of_model in scores.items():
        means = [[value for value, of in zip(of_model["f1"], categories) if of == kind]
                 for kind in kinds]
        lines.append(f"{model[-33:]:<34}"
                     + "".join(f"{sum(values) / len(values):>20.3f}" for values in means))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, list[float]]]:
    """Ask every model and print the tables; returns each model's scores, question by question."""
    options = parse_options(AnswerersOptions, "Compare answer agents on the same test questions, "
                            "over banks that keep every fact.", argv)
    names = [name for name in (options.models or "").split(",") if name]
    if not names:
        exit_with("--models: name the models to compare, as in smollm2,runs/grpo-answer/checkpoint")
    if len(set(names)) < len(names):
        exit_with(f"--models {options.models}: a name stands there twice")
    try:
        dialogues, _ = dialogues_to_test(options.data, None, None)
    except DataError as error:
        exit_with(str(error))
    stop_without_facts(options.data, options.facts, dialogues)
    pairs = sampled_tasks(dialogues, embedder_or_stop(options.embedder), options.facts,
                          options.memories, options.sample)
    conversations, tasks = [name for name, _ in pairs], [task for _, task in pairs]
    scores = {}
    for name in names:
        policy = KeptPolicy(load_or_stop(name))
        scores[name] = scores_of(policy, tasks, options.distill, options.max_new_tokens)
        print(f"{name}: {policy.n_kept:,} responses from disk, {policy.n_new:,} new")
    print(f"\n{options.data}: {len(tasks):,} questions on {len(set(conversations))} of "
          f"{len(dialogues)} conversations; 95 % intervals over conversations\n"
          + tables(scores, conversations, [task.question.category for task in tasks]))
    return scores


if __name__ == "__main__":
    launch(main)
