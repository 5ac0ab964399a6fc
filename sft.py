"""Imitation: the three agents, shown what an expert writes instead of paid for what works.

    for each step:
        1. show     P episodes as an expert would write them
        2. push     up the log-probability of every token that the expert wrote
        3. log      and, now and then, look at unseen questions

This is behaviour cloning. Memory-R1 (arXiv 2508.19828, section 4.2) calls it Memory-SFT, and beats
it by reinforcement. So does MEM1 (arXiv 2506.15841), whose imitator breaks down beyond six
questions a task. Imitation sees the same 152 training questions, for as many steps, with the same
start model, and is scored by the same code. Unlike reinforcement it needs an expert
(training/experts.py):

    the synthetic world        the oracle, which knows what each turn means
    other data, answer agent   the memories of the evidence turns, and the gold answer
    other data, MEM1           searches that find the evidence, and the gold answers
    other data, manager        adds every fact in its own words, which shows the form

Where this differs from the papers
1. Their experts are GPT-5 and GPT-4o. `--trajectories FILE` reads what such a model wrote: JSON
   lines with {"messages": [{"role": ..., "content": ...}, ...]}, the last of them the response to
   learn. A turn of MEM1 is a line of its own. A call of a tool is no text, and is refused. What a
   run imitates stands in its folder in the same form (lessons.jsonl). So lessons can be mixed: the
   lines of two such files are one file of chats.
2. As in grpo.py most questions of a manager also bring a guard, a turn that must leave the
   question's memory alone (training/tasks.py, "differs", 2).
3. The oracle never errs, and GPT-5 does. `--expert-errors 0.2` makes one operation in five wrong,
   in the ways of an untrained manager (`wrong_operation`). Such slips fall on any decision, and a
   pupil sees through them. `--expert-overwrites` is a habit: one kind of turn always goes wrong.

    python sft.py                   the Memory Manager, about a minute
    python sft.py --expert-errors 0.2       the same, from an expert that errs
    python sft.py --expert-overwrites       the same, from one that never joins two facts
    python sft.py --agent answer    the Answer Agent, about a minute
    python sft.py --agent mem1      MEM1, about a minute
    python sft.py --agent answer --model smollm2        on LoCoMo, from its evidence

It ends with "sft manager: held-out exact match A -> B in S s, M GiB; run folder ...".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from backend.devices import clip_gradients, exit_with
from backend.lora import learned
from comparisons.harnesses import compare_harnesses
from training.experts import (
    Lesson,
    chats_that_fit,
    check_expert,
    save_lessons,
    trajectories_of,
)
from training.options import Options, option, parse_options, resolve
from training.results import evaluate_after, evaluate_before, finish
from training.run import Run, launch, prepare
from training.state import TokenMetrics, TrainingState, warm_up_then_decay


@dataclass
class SFTOptions(Options):
    """Options of sft.py."""

    trajectories: str | None = option(None, "JSON lines of prompts and responses to imitate; "
                                            "default: those of the world's oracle; of other data "
                                            "its evidence and gold answers (manager: its facts)")
    expert_errors: float = option(0.0, "manager, in the world: share of the oracle's operations "
                                       "that are made wrong, 0 to 1", low=0, high=1)
    expert_overwrites: bool = option(False, "manager, in the world: the oracle always overwrites "
                                            "a memory that it should join with the new fact")


def train(run: Run, shown: list[list[Lesson]] | None = None,
          ) -> tuple[list[dict[str, float]], dict[int, float]]:
    """Train; returns the rows of metrics.csv, and the validation scores by step.

    `shown` is what the expert writes, if that was asked already (`trajectories_of`).
    """
    options, policy = run.options, run.policy
    shown = trajectories_of(run) if shown is None else shown
    save_lessons(run.folder, shown)
    # Encoded once: the expert does not change while its pupil learns, so the lessons come back.
    trajectories = [[policy.lesson(*lesson) for lesson in trajectory]  # each a list of Steps
                    for trajectory in shown]
    # The optimizer of grpo.py, so that a comparison of the two compares what they learn from.
    optimizer = torch.optim.AdamW(
        learned(policy.model), lr=options.lr, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = warm_up_then_decay(optimizer, options.steps)
    state = TrainingState(run, {"policy": policy.model}, optimizer, schedule)
    for batch in state.steps(trajectories):
        packed_rows = policy.rows(batch)
        # Prompts are read and not imitated, because the agent will never have to write one.
        metrics = TokenMetrics(sum(len(step.response_ids) for turns in batch for step in turns))
        optimizer.zero_grad()
        for micro_batch in policy.micro_batches(packed_rows):
            # No advantage, no ratio and no clip: what the expert wrote is right by assumption, and
            # stays the target however far the policy moves.
            log_probs, _ = policy.score(micro_batch, 1.0)  # (m,)
            # The mean over the tokens of the whole batch, however it is cut up.
            (-log_probs.sum() / metrics.n_tokens).backward()
            metrics.add(0, loss=-log_probs)
        grad_norm = clip_gradients(policy.model.parameters(), options.max_grad_norm)
        if math.isfinite(grad_norm):
            optimizer.step()
        else:  # a loss that is not finite: keep the weights
            metrics.skipped = 1
        state.log(metrics, grad_norm)
    return state.history, state.scores


def main(argv: Sequence[str] | None = None) -> dict:
    """Train one agent and report; returns what summary.json holds."""
    options = parse_options(SFTOptions, "Teach a memory agent by imitation.", argv)
    if options.trajectories and options.train_questions:
        exit_with("--train-questions: is read only without --trajectories; leave it out")
    check_expert(resolve(options, "sft"))
    run = prepare(options, "sft")
    # Before the start model is scored, because lessons that cannot be shown end the program.
    run.n_chats = chats_that_fit(run)
    shown = trajectories_of(run)
    before = evaluate_before(run)
    history, scores = train(run, shown)
    after = evaluate_after(run)
    by_objectives = compare_harnesses(run, train) if options.compare else None
    return finish(run, before, after, history, scores, by_objectives)


if __name__ == "__main__":
    launch(main)
