"""What a long task is made of: environments with `reset(task) -> text` and
`step(kind, text) -> (text, reward, done)`, and the tasks of each.

    Search   several questions joined into one task (MEM1, arXiv 2506.15841, section 3.2); the tool
             searches a memory bank, the reward is the number of questions answered right
    Store    a purchase in a web shop (benchmarks/shop.py)

An environment knows nothing of the agent (mem1.py): it gets the text of a query or an answer.

Where this differs from the paper
1. The corpus belongs to the task: what a dialogue of the synthetic world left, the turns of a
   LoCoMo conversation, the paragraphs that HotpotQA lists with its questions. The paper searches
   Wikipedia with an encoder, and the web in its tests.
2. Answers are compared by `squad_exact_match`, position by position, as in the paper's reward.
3. Questions are numbered, so that which one comes next can be read off the last query. A number
   before a query is not searched for, and numbers before answers are no part of them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from data import Dialogue, OpenQuestion
from memory_bank import Embedder, MemoryBank
from metrics import objectives_right, split_answers
from prompts import one_line
from world import oracle_memories, probes

PASSAGES, PER_PASSAGE = 3, 6  # passages a search returns; memories of the world in each

# What the system message says of each kind of task.
QUESTIONS = """
The task is to answer several questions with the help of a search engine. A query asks for one of \
the questions, behind its number. The answer holds all answers in the order of the questions, with \
semicolons between them."""

# ---- Environments: reset(task) -> text, step(kind, text) -> (text, reward, done) -----------------


class Environment(Protocol):
    """What MEM1 acts in."""


@dataclass(frozen=True)
class SearchTask:
    """Several questions about one corpus, to be answered together."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    categories: tuple[int, ...]
    corpus: MemoryBank  # a memory a passage


def numbered(questions: Sequence[str]) -> str:
    """A task's text.

    >>> numbered(["Where does Anna live?", "Who is Carl's boss?"])
    "Questions: 1. Where does Anna live?; 2. Who is Carl's boss?"
    """
    return "Questions: " + "; ".join(
        f"{number}. {one_line(question)}" for number, question in enumerate(questions, 1))


class Search:
    """Multi-objective questions: the tool searches a memory bank."""

    instructions, answers = QUESTIONS, True

    def turns(self, task: SearchTask) -> int:
        """Turns a task may take: 6 for two questions, as in the paper."""
        return 2 * len(task.questions) + 2

    def reset(self, task: SearchTask) -> str:
        """Begin a task; returns what the agent is told in every turn."""
        self.task = task
        return numbered(task.questions)

    def step(self, kind: str, text: str) -> tuple[str, float, bool]:
        """A query returns the best passages; an answer ends the task and is paid by position."""
        if kind == "answer":
            return "", float(sum(objectives_right(text, self.task.answers))), True
        # The number helps who asks, not the search: there are numbers in dates.
        found = self.task.corpus.search(re.sub(r"^\s*[0-9]+\.\s+", "", text), PASSAGES)
        return "\n".join(f"- {memory.text}" for memory in found) or "- none", 0.0, False

    def log(self, answer: str) -> dict:
        """What is worth logging of a task that ended with this answer ("" for none)."""
        task, given = self.task, split_answers(answer)
        given += [""] * (len(task.answers) - len(given))
        return {"question": "; ".join(task.questions), "answer": answer,
                "gold": "; ".join(task.answers), "category": len(task.answers),
                "objectives": [{"answer": one, "gold": gold, "category": category} for
                               one, gold, category in zip(given, task.answers, task.categories)]}


# ---- Tasks ---------------------------------------------------------------------------------------


def search_tasks(sources: Sequence[Dialogue] | Sequence[OpenQuestion], n_objectives: int,
                 embed: Embedder, rounds: int = 1) -> list[SearchTask]:
    """Questions in groups of `n_objectives`, in order; a rest is dropped.

    For training on few questions: `rounds` times, each after the first in an order drawn anew.
    """
    group = open_tasks if sources and isinstance(sources[0], OpenQuestion) else dialogue_tasks
    draw, tasks = random.Random(0), []
    for place in range(rounds):
        tasks += group(sources, n_objectives, embed, draw if place else None)
    return tasks


def open_tasks(questions: Sequence[OpenQuestion], n_objectives: int, embed: Embedder,
               draw: random.Random | None = None) -> list[SearchTask]:
    """HotpotQA's questions; the corpus of a task are the paragraphs of all its questions.

    They all take two steps, so all are of category 1, multi-hop.
    """
    tasks = []
    if draw is not None:
        questions = draw.sample(questions, len(questions))
    for first in range(0, len(questions) - n_objectives + 1, n_objectives):
        chosen = questions[first:first + n_objectives]
        corpus = MemoryBank(embed, line=lambda memory: memory.text)
        passages = dict.fromkeys(passage for question in chosen for passage in question.passages)
        corpus.add_many((f"{title}: {text}", "", "") for title, text in passages)
        tasks.append(SearchTask(tuple(q.text for q in chosen), tuple(q.answer for q in chosen),
                                (1,) * n_objectives, corpus))
    return tasks


def dialogue_tasks(dialogues: Sequence[Dialogue], n_objectives: int, embed: Embedder,
                   draw: random.Random | None = None) -> list[SearchTask]:
    """Each dialogue's questions.

    The corpus of a world's dialogue are the memories that hold in the end, person by person, six
    to a passage, and its questions as many as a dialogue of the world has, of all that these can
    answer; other dialogues have their turns and questions.
    """
    tasks = []
    for dialogue in dialogues:
        corpus, questions = MemoryBank(embed, line=lambda memory: memory.text), dialogue.questions
        if any(turn.fact for turn in dialogue.turns):
            about: dict[str, list[str]] = {}
            for (subject, _), (text, _, day) in oracle_memories(dialogue.turns).items():
                about.setdefault(subject, []).append(f"{text}, {day}")
            texts = [". ".join(lines[i:i + PER_PASSAGE]) for lines in about.values()
                     for i in range(0, len(lines), PER_PASSAGE)]
            found = [probe.question for probe in probes(dialogue.turns)
                     if probe.question.answer != "nothing"]  # what is not there cannot be found
            questions = random.Random(dialogue.name).sample(found, len(dialogue.questions))
        else:
            texts = [f"{turn.speaker}: {turn.text}, {turn.timestamp}" for turn in dialogue.turns]
        corpus.add_many((text, "", "") for text in texts)
        if draw is not None:
            questions = draw.sample(questions, len(questions))
        for first in range(0, len(questions) - n_objectives + 1, n_objectives):
            chosen = questions[first:first + n_objectives]
            tasks.append(SearchTask(tuple(q.text for q in chosen), tuple(q.answer for q in chosen),
                                    tuple(q.category for q in chosen), corpus))
    return tasks
