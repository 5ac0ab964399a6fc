"""MEM1 beside the same start model with other memories of its own past.

    grpo.py --agent mem1 --compare ──> full_context/ and truncation/ are trained, as MEM1 was
                                   ──> all three work through tasks of 1 to 16 questions

It takes four times as long as MEM1 alone, so it is an option of the training commands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from backend import devices
from mem1 import HARNESSES, TASKS, by_objectives
from training.checkpoints import FILE
from training.pictures import objectives_table
from training.results import save, save_card
from training.run import Run, prepare

Scores = dict[str, dict[str, float]]  # number of questions -> metric -> mean


def scores_of(run: Run) -> Scores:
    """A trained run's scores by the number of questions in a task."""
    options = run.options
    with devices.gathered(run.policy.model):  # all devices do the same: what is timed is one
        return by_objectives(run.policy, options.harness, run.test_dialogues, run.embed,
                             options.max_new_tokens, options.limit or TASKS)


def train_harness(run: Run, harness: str, train: Callable[[Run], Any]) -> Scores:
    """Train the same start model with another harness, in a folder inside this run's.

    The folder has a resume.pt of its own: a harness that was finished trains no step when resumed.
    """
    folder = run.folder / harness
    has_begun = run.options.resume and (folder / FILE).exists()
    if not has_begun:
        (folder / FILE).unlink(missing_ok=True)  # of an older run in the folder above
    options = replace(run.options, harness=harness, out=str(folder), resume=has_begun)
    other = prepare(options, run.algorithm)
    train(other)
    save(other.policy, other.folder / "checkpoint")
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
