"""What an agent of long tasks acts on: the environment, and the tasks of multi-objective search.

    Environment   what mem1.py asks of any environment; write a class like it to add your own
    Search        several questions joined into one task (MEM1, arXiv 2506.15841, section 3.2). The
                  tool searches a memory bank; the reward is the number of questions answered right

A second environment, a web shop, is `Store` in benchmarks/shop.py. An environment knows nothing of
the agent: it gets the text of a query or an answer.

Where this differs from the paper
1. The corpus is small: that of one dialogue (`dialogue_tasks`), or the paragraphs of the task's own
   questions (`open_tasks`). The paper searches Wikipedia with an encoder, and the web in its tests.
2. Questions have numbers. An agent that forgets all but its last turn then knows which question
   comes next. The search ignores a number before a query, and the reward one before an answer.
3. A task of N questions may take 2N + 2 turns, so each has two searches at any N. The paper allows
   6 turns up to four questions and 20 for more, which at 16 leaves little more than one search.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from sys import intern
from typing import Any, NamedTuple, Protocol

from data import Dialogue, OpenQuestion, Question
from memory_bank import Embedder, MemoryBank
from metrics import answers_to_compare, objectives_right
from prompts import one_line
from world import Key, Probe, oracle_memories, probes

PASSAGES = 3  # that a search returns
PER_PASSAGE = 6  # memories of the synthetic world in one passage

# What the system message says of this kind of task.
QUESTIONS = """
The task is to answer several questions with the help of a search engine. A query asks for one of \
the questions, behind its number. The answer holds all answers in the order of the questions, with \
semicolons between them."""

# ---- The environment and its search --------------------------------------------------------------


class Environment(Protocol):
    """What an agent of long tasks needs of the place where it acts.

    Any class with these two attributes and four methods will do; it need not inherit from
    `Environment`. Each environment has tasks of a type of its own.
    """

    instructions: str  # what the system message says of this kind of task
    answers: bool  # whether a task may end with an <answer>; a purchase in a shop does not

    def turns(self, task: Any) -> int:
        """Turns that a task may take."""

    def reset(self, task: Any) -> str:
        """Begin a task; returns its text, which the agent reads again in every turn."""

    def step(self, kind: str, text: str) -> tuple[str, float, bool]:
        """Act: `kind` is "query" or "answer". Returns (what comes back, reward, whether it ended).

        It must never raise, because a model may write any text. The reward of the last step pays
        for the whole task.
        """

    def log(self, answer: str) -> dict:
        """What samples.jsonl keeps of a task that ended with this answer ("" for none).

        It has "question", "answer", "gold" and "category". A task of several questions also has
        "objectives", a list of {"answer", "gold", "category"}: tables score each question.
        """


class Lookup(NamedTuple):
    """One search of an expert: what to ask for, and the texts that prove what it wants to know."""

    query: str
    proofs: tuple[str, ...]  # each stands in a passage


@dataclass(frozen=True)
class SearchTask:
    """Several questions about one corpus, to be answered together."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]  # gold answers, in the order of the questions
    categories: tuple[int | str, ...]
    passages: tuple[str, ...]  # of the corpus
    embed: Embedder
    # Of each question, the searches that lead to its answer; only imitation (sft.py) reads them.
    lookups: tuple[tuple[Lookup, ...], ...] = ()

    @property
    def corpus(self) -> MemoryBank:
        """The passages as a bank that can be searched; see `corpus_of`."""
        return corpus_of(self.passages, self.embed)


def questions_text(questions: Sequence[str]) -> str:
    """A task's text: all questions behind their numbers, on one line.

    >>> questions_text(["Where does Anna live?", "Who is Carl's boss?"])
    "Questions: 1. Where does Anna live?; 2. Who is Carl's boss?"
    """
    return "Questions: " + "; ".join(
        f"{number}. {one_line(question)}" for number, question in enumerate(questions, 1))


class Search:
    """Several questions at once: a query searches the task's corpus."""

    instructions, answers = QUESTIONS, True

    def turns(self, task: SearchTask) -> int:
        """Turns a task may take: two a question and two more, 6 for the two of training."""
        return 2 * len(task.questions) + 2

    def reset(self, task: SearchTask) -> str:
        """Begin a task; returns its questions."""
        self.task, self.corpus = task, task.corpus
        return questions_text(task.questions)

    def step(self, kind: str, text: str) -> tuple[str, float, bool]:
        """A query returns the best passages; an answer ends the task and is paid by position."""
        if kind == "answer":
            return "", float(sum(objectives_right(text, self.task.answers))), True
        # Without the question's number, because "8." is similar to every memory of an 8 May.
        query = re.sub(r"^\s*[0-9]+\.\s+", "", text)
        passages = self.corpus.search(query, PASSAGES)
        return "\n".join(f"- {passage.text}" for passage in passages) or "- none", 0.0, False

    def log(self, answer: str) -> dict:
        """The task as a whole and, as "objectives", question by question."""
        task, parts = self.task, answers_to_compare(answer, self.task.answers)
        parts += [""] * (len(task.answers) - len(parts))  # a missing answer is an empty one
        return {"question": "; ".join(task.questions), "answer": answer,
                "gold": "; ".join(task.answers), "category": len(task.answers),
                "objectives": [{"answer": part, "gold": gold, "category": category} for
                               part, gold, category in zip(parts, task.answers, task.categories)]}


# ---- Tasks ---------------------------------------------------------------------------------------


def search_tasks(sources: Sequence[Dialogue] | Sequence[OpenQuestion], n_objectives: int,
                 embed: Embedder, rounds: int = 1) -> list[SearchTask]:
    """Tasks of `n_objectives` questions each; a smaller group at the end is dropped.

    `rounds` is for training on few questions: the first round keeps their order, and each further
    round groups the same questions in a random order (with a fixed seed).
    """
    make = open_tasks if sources and isinstance(sources[0], OpenQuestion) else dialogue_tasks
    draw, tasks = random.Random(0), []
    for number in range(rounds):
        tasks += make(sources, n_objectives, embed, draw if number else None)
    return tasks


def in_groups(questions: Sequence, size: int, draw: random.Random | None) -> list[Sequence]:
    """Groups of `size` questions: in the given order, or with `draw` in a random one.

    >>> in_groups("abcde", 2, None)
    ['ab', 'cd']
    """
    if draw is not None:
        questions = draw.sample(questions, len(questions))
    return [questions[first:first + size]
            for first in range(0, len(questions) - size + 1, size)]


@lru_cache(maxsize=32)
def corpus_of(passages: tuple[str, ...], embed: Embedder) -> MemoryBank:
    """A bank of passages, embedded as they are, because they have no speaker and no date.

    It is made when a task begins, because the banks of HotpotQA's 13,000 tasks have 4 GiB. All
    trajectories of a task, and all tasks of a dialogue, share one bank while it is among the last
    32 in use. Nobody may change it.
    """
    corpus = MemoryBank(embed, line=lambda memory: memory.text)
    corpus.add_many((passage, "", "") for passage in passages)
    return corpus


def open_tasks(questions: Sequence[OpenQuestion], n_objectives: int, embed: Embedder,
               draw: random.Random | None = None) -> list[SearchTask]:
    """Tasks of HotpotQA's questions; a task's corpus is the paragraphs of all its questions.

    Every question takes two steps, so all are of category 1, multi-hop.
    """
    tasks = []
    for group in in_groups(questions, n_objectives, draw):
        # A paragraph that two questions share must not fill two of the three places of a result.
        paragraphs = dict.fromkeys(passage for question in group for passage in question.passages)
        proofs = [tuple(one_passage(title, text) for title, text in q.passages
                        if title in q.evidence) for q in group]
        tasks.append(SearchTask(
            tuple(q.text for q in group), tuple(q.answer for q in group), (1,) * n_objectives,
            tuple(one_passage(*paragraph) for paragraph in paragraphs), embed,
            tuple((Lookup(q.text, of_q),) for q, of_q in zip(group, proofs))))
    return tasks


def one_passage(title: str, text: str) -> str:
    """A paragraph as a passage; interned, because each round of tasks holds the same ones again."""
    return intern(f"{title}: {text}")


def dialogue_tasks(dialogues: Sequence[Dialogue], n_objectives: int, embed: Embedder,
                   draw: random.Random | None = None) -> list[SearchTask]:
    """Tasks of the questions about each dialogue; all tasks of a dialogue share one corpus."""
    tasks = []
    for dialogue in dialogues:
        of_world = any(turn.fact for turn in dialogue.turns)
        passages, asked = (world_source if of_world else turns_source)(dialogue)
        for group in in_groups(asked, n_objectives, draw):
            questions, lookups = zip(*group)
            tasks.append(SearchTask(tuple(map(dated, questions)),
                                    tuple(q.answer for q in questions),
                                    tuple(q.category for q in questions), passages, embed, lookups))
    return tasks


def dated(question: Question) -> str:
    """A question as a task asks it: with its date, where the data has one."""
    if not question.timestamp:
        return question.text
    return f"{question.text} (asked on {question.timestamp})"


# The passages of a dialogue, and its questions with the lookups that answer them.
Source = tuple[tuple[str, ...], list[tuple[Question, tuple[Lookup, ...]]]]


def turns_source(dialogue: Dialogue) -> Source:
    """A passage is a turn with its date: "Ann: I skied., 8 May 2023".

    The questions are the dialogue's own. Each is asked once, and its evidence proves the answer.
    """
    said = [f"{turn.speaker}: {turn.text}, {turn.timestamp}" for turn in dialogue.turns]
    passage_of = dict(zip((turn.turn_id for turn in dialogue.turns), said))
    asked = []
    for question in dialogue.questions:
        proofs = tuple(passage_of[turn] for turn in question.evidence if turn in passage_of)
        asked.append((question, (Lookup(dated(question), proofs),)))
    return tuple(said), asked


def world_source(dialogue: Dialogue) -> Source:
    """In the synthetic world a passage holds six of the right memories about one person.

    They are those that hold at the end, with their dates: "Anna lives in Oslo, 8 May 2023. Anna
    drives a Fiat, 1 June 2023. ...". The questions are a sample of those that the memories can
    answer, as many as the dialogue has. The dialogue's own will not do: some have the answer
    "nothing", which no search can find.
    """
    right = oracle_memories(dialogue.turns)
    by_person: dict[str, list[str]] = {}
    for (subject, _), (text, _, day) in right.items():
        by_person.setdefault(subject, []).append(f"{text}, {day}")
    passages = [". ".join(memories[first:first + PER_PASSAGE]) for memories in by_person.values()
                for first in range(0, len(memories), PER_PASSAGE)]
    answerable = [(probe.question, world_lookups(probe, right)) for probe in probes(dialogue.turns)
                  if probe.question.answer != "nothing"]
    # The dialogue's name is the seed, so that every command asks the same questions.
    draw = random.Random(dialogue.name)
    return tuple(passages), draw.sample(answerable, len(dialogue.questions))


def world_lookups(probe: Probe, right: dict[Key, tuple[str, str, str]]) -> tuple[Lookup, ...]:
    """The searches for one question of the world, whose right memories are given.

    A question that takes two steps is asked twice, the second time with the name that the first one
    found: "What does Julia's friend play?" and "What does Julia's friend play? Carl".
    """
    query, lookups = probe.question.text, []
    for key in probe.needs:
        text, _, day = right[key]
        lookups.append(Lookup(query, (f"{text}, {day}",)))
        query = f"{query} {text.split()[-1]}"
    return tuple(lookups)
