"""Tests of environments.py: searching, the shop behind its methods, WebShop, the tasks.

    python -m pytest tests/test_environments.py        (some five seconds)

WebShop itself is not installed where these tests run: a stand-in with the names and signatures of
its text environment takes its place.
"""

from __future__ import annotations

import gc
import re
import sys
import types
import weakref

import pytest
from canned import refused

from benchmarks.shop import Shop, catalogue, goals, solve
from data import Dialogue, OpenQuestion, Question
from data import Turn as Said
from environments import Search, SearchTask, open_tasks, search_tasks
from memory_bank import hashed_words
from training.options import Options
from training.run import long_tasks
from world import world, world_splits

EMBED = hashed_words()

# ---- the search environment ----------------------------------------------------------------------

def small_task(n: int = 2) -> SearchTask:
    names = ["Anna", "Carl", "Emma", "Paul", "Sara", "John", "Alex", "Helen"][:n]
    passages = tuple(f"{name} lives in Oslo{i}, 8 May 2023" for i, name in enumerate(names))
    return SearchTask(tuple(f"Where does {name} live?" for name in names),
                      tuple(f"Oslo{i}" for i in range(n)), (4,) * n, passages, EMBED)


def test_search_by_hand():
    environment = Search()
    text = environment.reset(small_task(5))
    assert text.startswith("Questions: 1. Where does Anna live?; 2. Where does Carl live?")
    found, reward, done = environment.step("query", "Carl")
    assert found.splitlines()[0] == "- Carl lives in Oslo1, 8 May 2023", "best passage first"
    assert len(found.splitlines()) == 3 and (reward, done) == (0.0, False), "three passages"
    assert environment.step("answer", "Oslo0; no; Oslo2") == ("", 2.0, True), "paid by position"


@pytest.mark.parametrize("query", ["8. Carl", " 8. Carl ", "Carl"])
def test_the_number_of_a_question_is_not_searched_for(query):
    """Else "8." finds whatever was said on the 8th of a month."""
    environment, asked = Search(), []
    environment.reset(small_task(2))
    bank = environment.corpus.copy()
    environment.corpus = types.SimpleNamespace(
        search=lambda text, k: asked.append(text) or bank.search(text, k))
    environment.step("query", query)
    assert [text.strip() for text in asked] == ["Carl"], "the question's number is searched for"
    environment.step("query", "In 2023 or on 8. May")
    assert asked[-1] == "In 2023 or on 8. May", "a number inside a query is part of it"


def test_world_tasks_can_be_solved(tmp_path):
    train, _, test = world_splits()
    for n_objectives in (1, 2, 4, 8, 16):
        tasks = search_tasks(test, n_objectives, EMBED)
        assert len(tasks) == 27 * (19 // n_objectives)
        assert all(len(task.questions) == len(set(task.questions)) == n_objectives
                   for task in tasks), "each question once"
        assert "nothing" not in {a for task in tasks for a in task.answers}, (
            "what is not there cannot be found by searching")
    assert len(search_tasks(train, 1, EMBED)) == 152, "as many training questions as the paper's"
    found = [any(answer in memory.text for memory in task.corpus.search(question, 3))
             for task in search_tasks(test, 1, EMBED)
             for question, answer in zip(task.questions, task.answers)
             if "'s " not in question and task.categories[0] != 3]
    assert sum(found) > 0.95 * len(found), "the search does not find what is asked for"


def test_rounds_group_the_same_questions_anew():
    train = world_splits()[0][:3]
    once, often = search_tasks(train, 2, EMBED), search_tasks(train, 2, EMBED, rounds=4)
    assert [t.questions for t in often[:len(once)]] == [t.questions for t in once]
    assert len(often) == 4 * len(once)
    pairs = {frozenset(task.questions) for task in often}
    assert len(pairs) > 3 * len(once), "the rounds pair the same questions"
    known = {pair for task in once for pair in zip(task.questions, task.answers, task.categories)}
    found = {pair for task in often for pair in zip(task.questions, task.answers, task.categories)}
    dropped = {task.questions[0] for task in search_tasks(train, 1, EMBED)}  # the odd ones
    assert {pair[0] for pair in found} <= dropped and known <= found, (
        "other questions, or answers beside questions that are not theirs")


def test_other_dialogues_are_searched_turn_by_turn():
    turns = tuple(Said(f"D1:{i}", "Ann", f"I saw bird number {i}.", "8 May 2023") for i in range(9))
    questions = tuple(Question(f"Which bird {i}?", str(i), 4, ("D1:0",)) for i in range(5))
    tasks = search_tasks([Dialogue("d", ("Ann", "Bob"), turns, questions)], 2, EMBED)
    assert [task.questions for task in tasks] == [("Which bird 0?", "Which bird 1?"),
                                                  ("Which bird 2?", "Which bird 3?")]
    assert len(tasks[0].corpus) == 9 and "Ann: I saw bird" in next(iter(tasks[0].corpus)).text


def test_hotpotqa_tasks_search_the_paragraphs_of_their_own_questions():
    def asked(i: int) -> OpenQuestion:
        passages = ((f"Town {i}", f"Town {i} lies in land {i}."), ("River", "A river flows."))
        return OpenQuestion(str(i), f"In which land lies town {i}?", f"land {i}", passages,
                            (f"Town {i}",))

    tasks = search_tasks([asked(i) for i in range(5)], 2, EMBED)
    assert [task.answers for task in tasks] == [("land 0", "land 1"), ("land 2", "land 3")], (
        "groups in order, the rest dropped")
    for task, others in zip(tasks, ("Town 2", "Town 0")):
        texts = [memory.text for memory in task.corpus]
        assert len(texts) == 3 and not any(others in text for text in texts), (
            "the corpus is what these questions list, a shared paragraph once")
    environment = Search()
    environment.reset(tasks[0])
    found = environment.step("query", "town 1 land")[0].splitlines()
    assert found[0] == "- Town 1: Town 1 lies in land 1.", found
    assert open_tasks([], 1, EMBED) == []


def test_a_corpus_is_embedded_when_its_task_is_played_and_once():
    """The banks of all of HotpotQA's tasks would take 4 GiB before the first step."""
    batches = []

    def embed(texts):
        batches.append(texts)
        return EMBED(texts)

    questions = [OpenQuestion(str(i), f"Town {i}?", f"land {i}", ((f"Town {i}", f"In land {i}."),),
                              (f"Town {i}",)) for i in range(60)]
    tasks = [*search_tasks(questions, 2, embed, rounds=3), *search_tasks(world(2, 3), 2, embed)]
    assert not batches, "building tasks embeds their passages"
    held = {id(passage) for task in tasks[:90] for passage in task.passages}
    assert len(held) == 60, "each round of tasks holds its own copy of every passage"
    stores = [Search() for _ in range(8)]
    for store in stores:
        store.reset(tasks[0])
    assert len(batches) == 1, "the trajectories of a task do not share its corpus"
    found = stores[3].step("query", "town 1 land")[0]
    assert found.splitlines()[0] == "- Town 1: In land 1.", found
    first, *_, last = tasks[90:]
    for task in (first, last):
        assert task.passages and len(task.corpus) == len(task.passages)
    bank = weakref.ref(tasks[5].corpus)
    for task in tasks[6:60]:
        Search().reset(task)
    gc.collect()
    assert bank() is None, "the corpora of tasks that are over pile up"


# ---- shops ---------------------------------------------------------------------------------------

@pytest.fixture
def webshop(monkeypatch):
    """The package as `WebShop` imports it; its visits are those of shop.py's shop."""
    wanted = goals(600, seed=3)
    visits = []

    class Server:
        goals = [{"instruction_text": goal.instruction, "goal_options": dict(goal.options)}
                 for goal in wanted]

    class WebAgentTextEnv:
        def __init__(self, observation_mode="html", file_path="products.json", server=None,
                     **kwargs):
            assert observation_mode == "text" and not kwargs["human_goals"]
            self.server, self.kwargs = server or Server(), kwargs
            self.shop = Shop(catalogue())
            visits.append(self)

        def reset(self, session=None, instruction_text=None):
            assert isinstance(session, int), "another kind of session means a goal at random"
            self.session = self.kwargs["session_prefix"] + str(session)
            return self.as_published(self.shop.reset(wanted[session])), None

        def step(self, action):
            assert not re.search(r"\[\s|\s\]", action), (
                f"{action}: WebShop does not strip what it gets")
            text, reward, done = self.shop.step(action.lower())
            return self.as_published(text), reward, done, None

        @staticmethod
        def as_published(text):
            return text.replace("< prev", "< Prev").replace("next >", "Next >")

    module = types.ModuleType("web_agent_site.envs.web_agent_text_env")
    module.WebAgentTextEnv = WebAgentTextEnv
    for name in ("web_agent_site", "web_agent_site.envs"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return wanted, visits


def test_webshop_takes_the_place_of_the_shop(webshop):
    wanted, visits = webshop
    make, (train, validation, test) = long_tasks(Options(agent="mem1", env="webshop"), [], EMBED)
    places = [{goal.index for goal in goals_of} for goals_of in (train, validation, test)]
    assert min(places[0]) == 500 and max(places[1] | places[2]) < 500, (
        "the first 500 goals are for testing")
    assert not places[1] & places[2], "validation goals among the test goals"
    stores = [make(), make()]
    for store in stores:
        text = store.reset(test[3])
        assert wanted[3].instruction in text and test[3].instruction == wanted[3].instruction
    assert len({id(visit.server) for visit in visits}) == 1, "each visit loaded all products anew"
    sessions = [store.shop._visit.session for store in stores]
    assert sessions[0] != sessions[1], "two visits of one group would share their cart"
    plans = {goal: solve(wanted[goal.index], catalogue()) for goal in test[:100]}
    goal = next(g for g in plans if {"click[< prev]", "click[next >]"} <= set(plans[g]))
    stores[0].reset(goal)
    for action in plans[goal]:
        action = action.replace("< prev", "Prev").replace("next >", "Next")
        action = action.replace("[", "[ ").replace("]", " ]")  # a word behind a space is one token
        page, reward, done = stores[0].step("query", action)
        assert "<" not in page and ">" not in page, f"{page}: only tags have brackets"
    assert (reward, done) == (1.0, True), "a button that the page shows does nothing when clicked"
    assert stores[0].log("")["category"] == f"{len(goal.options)} options"
    assert all(goal.options == wanted[goal.index].options for goal in test), (
        "of a goal's options the values are missing, or the names")


def test_without_webshop_one_line_says_so():
    options = Options(agent="mem1", env="webshop")
    assert "--env shop" in refused(lambda _: long_tasks(options, [], EMBED))
