"""MEM1 beside the same start model with other memories of its own past.

    grpo.py --agent mem1 --compare
        ──> full_context/, truncation/ and a_mem/ are trained, as MEM1 was
        ──> all four work through tasks of 1 to 16 questions

Table 1 of MEM1 (arXiv 2506.15841) lets the number of questions in a task grow from 1 to 16. The
context of MEM1 hardly grows, and the context of other agents grows with the number. `by_objectives`
measures the same of one agent: how many questions it answers right, and how many tokens it had in
context. Training all four takes several times as long as MEM1 alone, so it is an option.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from backend import devices
from data import Dialogue, OpenQuestion
from environments import search_tasks
from mem1 import Mem1Agent
from memory_bank import Embedder
from metrics import context_sizes, objectives_scores
from policy import Policy
from systems.own_past import HARNESSES
from training.checkpoints import FILE
from training.pictures import objectives_table
from training.results import save_card
from training.run import Run, prepare, show_bar

Scores = dict[str, dict[str, Any]]  # number of questions -> metric -> mean, and "tasks"
OBJECTIVES = (1, 2, 4, 8, 16)  # questions in a task
TASKS = 27  # of each number of questions


def by_objectives(policy: Policy, agent: Mem1Agent,
                  sources: Sequence[Dialogue] | Sequence[OpenQuestion], embed: Embedder,
                  limit: int = TASKS, counts: Sequence[int] = OBJECTIVES) -> Scores:
    """Greedy scores by the number of questions in a task: {"2": {"exact_match": 1.4, ...}, ...}.

    Each is a mean over at most `limit` tasks: of `objectives_scores` (exact match and F1 are sums,
    0 .. the number of questions), of `context_sizes` (tokens), of turns "dropped" because the model
    lacks positions for them, and of seconds a task. "tasks" has the rows of the single tasks, each
    with the number of its "corpus", because tasks about one dialogue are not independent. Numbers
    of questions for which the sources have too few are left out.
    """
    scores = {}
    for place in show_bar(range(len(counts)), agent.harness):
        n_objectives = counts[place]
        tasks = search_tasks(sources, n_objectives, embed)[:limit]
        if not tasks:
            continue
        start = time.time()
        episodes = [group[0] for group in agent.rollout(policy, tasks, 1, temperature=0)]
        seconds = (time.time() - start) / len(tasks)
        rows = [{**objectives_scores(episode.log["answer"], task.answers),
                 **context_sizes([len(step.prompt_ids) for step in episode.steps],
                                 [len(step.response_ids) for step in episode.steps]),
                 "dropped": episode.log["dropped"]}
                for task, episode in zip(tasks, episodes)]
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        corpora = list(dict.fromkeys(task.passages for task in tasks))
        each = [{"corpus": corpora.index(task.passages), **row} for task, row in zip(tasks, rows)]
        scores[str(n_objectives)] = {
            **means, "seconds": seconds, "count": len(tasks), "tasks": each}
    return scores


def scores_of(run: Run) -> Scores:
    """A trained run's scores by the number of questions in a task."""
    # Every device does all tasks, because the seconds are to be those of one device.
    with devices.gathered(run.policy.model):
        return by_objectives(run.policy, run.agent, run.test_dialogues, run.embed,
                             run.options.limit or TASKS)


def train_harness(run: Run, harness: str, train: Callable[[Run], Any]) -> Scores:
    """Train the same start model with another harness, in a folder inside this run's.

    The folder has a resume.pt of its own, so `--resume` trains no finished harness again.
    """
    folder = run.folder / harness
    has_begun = run.options.resume and (folder / FILE).exists()
    if not has_begun:
        (folder / FILE).unlink(missing_ok=True)  # left by an older run of the same --out
    options = replace(run.options, harness=harness, out=str(folder), resume=has_begun)
    other = prepare(options, run.algorithm)
    train(other)
    scores = scores_of(other)
    if devices.is_main():
        save_card(other, objectives_table({n: {harness: row} for n, row in scores.items()}))
    return scores


def compare_harnesses(run: Run, train: Callable[[Run], Any]) -> dict[str, dict[str, dict]]:
    """A trained MEM1 beside the other harnesses: number of questions -> harness -> scores."""
    by_harness = {harness: scores_of(run) if harness == run.options.harness
                  else train_harness(run, harness, train) for harness in HARNESSES}
    return {count: {harness: by_harness[harness][count] for harness in HARNESSES}
            for count in by_harness[run.options.harness]}
