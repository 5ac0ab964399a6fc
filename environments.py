"""What a long task is made of: environments with `reset(task) -> text` and
`step(kind, text) -> (text, reward, done)`, and the tasks of each.

    Search   several questions joined into one task (MEM1, arXiv 2506.15841, section 3.2); the tool
             searches a memory bank, the reward is the number of questions answered right
    Store    a purchase in a web shop: that of shop.py, or the real WebShop where it is installed

An environment knows nothing of the agent (mem1.py): it gets the text of a query or an answer.

Where this differs from the paper
1. The corpus belongs to the task: what a dialogue of the synthetic world left, the turns of a
   LoCoMo conversation, the paragraphs that HotpotQA lists with its questions. The paper searches
   Wikipedia with an encoder, and the web in its tests.
2. Answers are compared by `squad_exact_match`, position by position, as in the paper's reward.
3. Questions are numbered, so that which one comes next can be read off the last query. A number
   before a query is not searched for, and numbers before answers are no part of them.
4. WebShop is passed on as it is. The paper's code adds a list of what can be clicked and takes off
   1 for a turn without an action.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.shop import LONGEST, Goal, Shop, catalogue
from data import Dialogue, OpenQuestion
from embedders import Embedder
from memory_bank import MemoryBank
from metrics import objectives_right, split_answers
from prompts import one_line
from world import oracle_memories, probes

PASSAGES, PER_PASSAGE = 3, 6  # passages a search returns; memories of the world in each

# What the system message says of each kind of task.
QUESTIONS = """
The task is to answer several questions with the help of a search engine. A query asks for one of \
the questions, behind its number. The answer holds all answers in the order of the questions, with \
semicolons between them."""
SHOPPING = """
The task is to buy something in a web shop. A query is one action: search[words] where there is a \
search bar, else click[...] on something that the page offers; click[buy now] ends the task. \
There is no answer to give."""

# ---- Environments: reset(task) -> text, step(kind, text) -> (text, reward, done) -----------------


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


class Store:
    """A web shop: that of shop.py, or one with its methods. Every query is one of its actions.

    The pages' buttons "< prev" and "next >" are shown, and may be clicked, without the brackets
    that only tags have here.
    """

    instructions, answers = SHOPPING, False

    def __init__(self, shop: Shop | WebShop | None = None) -> None:
        self.shop = shop or Shop(catalogue())

    def turns(self, task: Goal | WebShopGoal) -> int:
        """Actions a purchase may take."""
        return LONGEST

    def reset(self, task: Goal | WebShopGoal) -> str:
        """Begin a task; returns the instruction with the first page."""
        self.task, self.reward, self.page = task, 0.0, self._shown(self.shop.reset(task))
        return self.page

    def step(self, kind: str, text: str) -> tuple[str, float, bool]:
        """Act; the shop pays when something is bought. An answer changes nothing."""
        if kind == "query":
            text = text.replace("click[prev]", "click[< prev]")
            text = text.replace("click[next]", "click[next >]")
            page, self.reward, done, *_ = self.shop.step(text)
            self.page = self._shown(page)
            return self.page, self.reward, done
        return self.page, 0.0, False

    @staticmethod
    def _shown(page: str | tuple) -> str:
        page = page if isinstance(page, str) else page[0]  # WebShop returns (text, None)
        return page.replace("< prev", "prev").replace("next >", "next")

    def log(self, answer: str) -> dict:
        """What is worth logging: the gold is the whole reward, the category what to choose."""
        return {"question": self.task.instruction, "answer": f"{self.reward:g}", "gold": "1",
                "category": f"{len(self.task.options)} options"}


# ---- The real WebShop ----------------------------------------------------------------------------

WEBSHOP_PRODUCTS = 1000  # the small of its two sizes; the other, None, takes all 1.18 million
WEBSHOP_TEST = 500  # its first goals are for testing, the rest for training, as in the paper


@dataclass(frozen=True)
class WebShopGoal:
    """One of WebShop's own goals."""

    index: int  # in its list
    instruction: str
    options: tuple[str, ...]  # values to choose


class WebShop:
    """A visit to the real WebShop, behind the methods of `shop.Shop`; visits share one server."""

    _numbers: Iterator[int] = itertools.count()

    def __init__(self, server: Any = None) -> None:
        """Without a server, start one: minutes, and gigabytes with all products.

        Raises ImportError where WebShop (github.com/princeton-nlp/WebShop) is not installed.
        """
        from web_agent_site.envs.web_agent_text_env import WebAgentTextEnv
        # The server knows a visitor by prefix and goal, and a group has one goal.
        self._visit = WebAgentTextEnv(observation_mode="text", server=server,
                                      num_products=WEBSHOP_PRODUCTS, human_goals=False,
                                      session_prefix=f"{next(self._numbers)}-")
        self.server = self._visit.server

    def goals(self) -> list[WebShopGoal]:
        """All goals, in WebShop's fixed order."""
        return [WebShopGoal(index, goal["instruction_text"], tuple(goal.get("goal_options") or ()))
                for index, goal in enumerate(self.server.goals)]

    def reset(self, goal: WebShopGoal) -> tuple[str, None]:
        """Begin a visit."""
        return self._visit.reset(session=goal.index)

    def step(self, action: str) -> tuple[str, float, bool, None]:
        """Act; WebShop takes the spaces in brackets as they are."""
        return self._visit.step(re.sub(r"\[\s+", "[", action))


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
