"""Agents that an LLM judge pays: 1 where it calls an answer CORRECT, else 0.

    agent.rollout ──> question, gold answer, answer ──Judge.verdicts──> the reward of each episode

Memory-R1 (arXiv 2508.19828, Table 2) trains the answer agent with exact match and with a judge. A
judge forgives a word too many, so its agent learns long answers: its J score is higher, and its F1
and BLEU-1 are lower.

A comparison of two texts takes no time. A judge is asked about all answers of a step at once, each
different one once, and its replies are kept in verdicts.jsonl in the run folder. A reply that is no
verdict pays 0. No reply at all ends the run, because zeros that mean nothing would be learned from.

    python grpo.py --agent answer --reward judge --judge models/qwen
    python grpo.py --agent answer --reward judge --judge gpt-4o-mini \
        --judge-url https://api.openai.com/v1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from memr1 import AnswerAgent, ManagerAgent, SpanAgent
from training.judge import Judge, JudgeError
from trees import Episode

VERDICTS = {True: "correct", False: "wrong", None: "none"}  # as samples.jsonl has them


def judged(groups: Sequence[Sequence[Episode]], judge: Judge) -> list[list[Episode]]:
    """The same episodes, each paid the share of its answers that the judge calls CORRECT.

    An episode has one answer, a span's several. Raises JudgeError if the judge did not reply.
    """
    episodes = [episode for group in groups for episode in group]
    # The answers of an episode; a span lists them.
    answers = [episode.log.get("objectives", [episode.log]) for episode in episodes]
    n_unreachable = judge.counts["unreachable"]
    verdicts = judge.verdicts([(row["question"], row["gold"], row["answer"])
                               for rows in answers for row in rows])
    if n_missing := judge.counts["unreachable"] - n_unreachable:
        raise JudgeError(f"--judge {judge.name}: no reply about {n_missing:,} of {len(verdicts):,} "
                         f"answers ({judge.problem or 'no reason given'})")
    paid, next_verdicts = [], iter(verdicts)
    for episode, rows in zip(episodes, answers):
        own = [next(next_verdicts) for _ in rows]
        paid.append(replace(episode, reward=own.count(True) / len(own), log={
            **episode.log, "verdict": ", ".join(VERDICTS[verdict] for verdict in own)}))
    next_episodes = iter(paid)
    return [[next(next_episodes) for _ in group] for group in groups]


class Judged:
    """What stands before an agent's own class: the judge pays the episodes that it returns."""

    judge: Judge  # set by `run.prepare`, once the run folder for its replies is there

    def rollout(self, *arguments, **named) -> list[list[Episode]]:
        return judged(super().rollout(*arguments, **named), self.judge)


class JudgedAnswerAgent(Judged, AnswerAgent):
    """The answer agent, paid by a judge."""


class JudgedManagerAgent(Judged, ManagerAgent):
    """The manager: the frozen agent answers, and the judge says whether that was right."""


class JudgedSpanAgent(Judged, SpanAgent):
    """The manager on spans."""


JUDGED = {AnswerAgent: JudgedAnswerAgent, ManagerAgent: JudgedManagerAgent,
          SpanAgent: JudgedSpanAgent}
