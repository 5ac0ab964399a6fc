"""A-Mem as an agent's memory of its own past: the harness "a_mem" of MEM1 (arXiv 2506.15841).

    turn that is over ──its text──> a note          last turn ──search──> notes ──> their turns

Table 1 of MEM1 has such an agent. Its context holds the task, its last turn, and those earlier
turns whose notes are most similar to the last one. So it is bounded as MEM1's is, and nobody has to
decide what to keep. But what comes back is what resembles the turn before, not what the answer
needs.

Where this differs from MEM1's code (MIT-MI/MEM1, inference/data_pipelines.py at 08cfff1 and
models.py at 31a8285, read in November 2026, not run)
1. The agent's own model writes the notes, greedily; there GPT-4o-mini does. No reward is paid for a
   note, so training leaves them alone. The embedded model writes none (`AMem`, compact).
2. A turn that comes back stands where it stood, as in full context. There the texts of the notes
   are listed in the system message.
3. There each note lacks as many letters at its beginning as the task has (issue 8 of that
   repository says so, and that it was mended later), and the task is gone after the first turn.
4. As many linked turns come back as similar ones; there three in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from data import Turn
from environments import Environment, Search
from mem1 import Mem1Agent, Mem1Turn, Trajectory
from memory_bank import Embedder
from policy import Policy, Prompt
from systems.graphs_and_tools import AMem
from systems.rules_and_mem0 import Work, drive
from trees import Episode

HARNESSES = (*Mem1Agent.harnesses, "a_mem")
SIMILAR_TURNS = 3  # that come back, as in MEM1's code


def turn_text(turn: Mem1Turn) -> str:
    """What a note is made of, and what is searched with."""
    return " ".join([turn.note, turn.query, *turn.info.splitlines()])


@dataclass
class NotedTrajectory(Trajectory):
    """A task in progress whose turns become notes once they are no longer the last."""

    notes: AMem | None = None  # made before the first turn; a note's id is its turn's place


class AMemAgent(Mem1Agent):
    """An agent of long tasks that looks earlier turns up.

    `compact` is for the embedded model (`System` in rules_and_mem0.py).
    """

    harnesses = ("a_mem",)

    def __init__(self, environment: Callable[[], Environment], embed: Embedder, compact: bool, *,
                 max_new_tokens: int):
        super().__init__(environment, "a_mem", max_new_tokens=max_new_tokens)
        self.embed, self.compact = embed, compact

    def begin(self, task: Any) -> NotedTrajectory:
        return NotedTrajectory(**vars(super().begin(task)))

    def prompts(self, policy: Policy, trajectories: Sequence[NotedTrajectory]) -> list[Prompt]:
        self.take_notes(policy, trajectories)  # before any prompt, so that all calls form batches
        return super().prompts(policy, trajectories)

    def earlier(self, policy: Policy, trajectory: NotedTrajectory) -> Sequence[int]:
        self.take_notes(policy, [trajectory])  # where a prompt is asked for by itself
        if len(trajectory.past) < 2:
            return []
        return trajectory.notes.nearest(turn_text(trajectory.past[-1]))

    def take_notes(self, policy: Policy, trajectories: Sequence[NotedTrajectory]) -> None:
        """Write a note of every turn before the last that has none."""
        drive([self.noting(policy, trajectory) for trajectory in trajectories])

    def noting(self, policy: Policy, trajectory: NotedTrajectory) -> Work:
        """The same of one trajectory."""
        if trajectory.notes is None:
            trajectory.notes = AMem(policy, self.embed, (), self.compact, k=SIMILAR_TURNS,
                                    max_new_tokens=self.max_new_tokens)
        for turn in trajectory.past[:-1][len(trajectory.notes.notes):]:
            yield from trajectory.notes.observing(Turn("", "agent", turn_text(turn), ""))

    def episode(self, trajectory: NotedTrajectory) -> Episode:
        """As any, with what the notes cost: calls of the model, prompt tokens, unusable output."""
        episode = super().episode(trajectory)
        episode.log["notes"] = dict(trajectory.notes.counts)
        return episode


def mem1_agent(harness: str, embed: Embedder, compact: bool,
               environment: Callable[[], Environment] = Search, *,
               max_new_tokens: int) -> Mem1Agent:
    """The agent of a harness, one of HARNESSES. Raises ValueError for any other."""
    if harness == "a_mem":
        return AMemAgent(environment, embed, compact, max_new_tokens=max_new_tokens)
    return Mem1Agent(environment, harness, max_new_tokens=max_new_tokens)
