"""Tests of mem1.py: its text, its rewards, what stays in context, and that training is exact.

    python -m pytest tests/test_mem1.py        (some ten seconds)
"""

from __future__ import annotations

import random
import re
import signal

import canned
import pytest
import torch
from canned import plain_log_probs
from hypothesis import given, settings
from hypothesis import strategies as st
from test_environments import small_task
from test_prompts import bounded_work

from benchmarks.shop import Store, catalogue, goals, solve
from comparisons.harnesses import by_objectives
from environments import Environment, Search
from mem1 import (
    NOTES,
    STOP,
    Mem1Agent,
    Mem1Turn,
    parse_turn,
    turn_messages,
)
from memory_bank import hashed_words
from trees import Step, pack
from world import world

EMBED = hashed_words()


class Scripted(canned.Scripted):
    """Writes what a function makes of the prompt, and is always told where to stop."""

    def sample(self, *given, stop_texts=(), **options):
        assert stop_texts == STOP, "text must stop at the closing tag (pitfall 35)"
        return super().sample(*given, **options)


# ---- text ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, wanted", [
    ("<IS> a | b</IS><query> who? </query>", ("a | b", "query", "who?")),
    ("<IS>a</IS>\n<answer>x; y</answer>", ("a", "answer", "x; y")),
    ("<query>who</query>", ("", "query", "who")),
    ("chatter <IS>a\n b</IS> more <query>q</query><answer>x</answer>", ("a b", "query", "q")),
    ("<IS>a</IS>", None), ("", None), ("<query>never closed", None),
    ("<IS>a</IS><query>  </query>", None), ("<answer></answer>", None),
    ("<query>a</answer>", None),
    ("<query>a</query><IS>late</IS>", ("", "query", "a")),
])
def test_parse_turn(text, wanted):
    assert parse_turn(text, "mem1") == wanted, text


@pytest.mark.parametrize("text, state, note", [
    ("<think>Or <query>x</query>?</think><IS>s</IS><query>q</query>", "s", "Or <query>x</query>?"),
    ("Or <answer>x</answer>?\n</think>\n<IS>s</IS><query>q</query>", "s", "Or <answer>x</answer>?"),
    ("<think>a</think><think>b</think><query>q</query>", "", "a b"),
    ("<think><IS>no</IS></think><IS>s</IS><query>q</query>", "s", "<IS>no</IS>")])
def test_thinking_is_no_action(text, state, note):
    assert parse_turn(text, "mem1") == (state, "query", "q"), (
        "MEM1's tags count behind the thinking only")
    assert parse_turn(text, "full_context") == (note, "query", "q"), (
        "full context's note is its thinking; what is tried out in it is no action")


@pytest.mark.parametrize("text", [
    "<think>Or <query>x</query>", "<think>", "<query>x</query></think>",
    "a</think><think><query>q</query>"])
@pytest.mark.parametrize("kind", NOTES)
def test_an_action_inside_thinking_ends_the_task(text, kind):
    assert parse_turn(text, kind) is None, "nobody knows what it would have said afterwards"


def old_parse_turn(text: str, kind: str) -> tuple[str, str, str] | None:
    """The same for texts without thinking, by patterns that take quadratic time."""
    action = re.search(r"<(query|answer)>(.*?)</\1>", text, re.DOTALL)
    if action is None or not action[2].strip():
        return None
    note = re.search(rf"<{NOTES[kind]}>(.*?)</{NOTES[kind]}>", text[: action.start()], re.DOTALL)
    return (" ".join(note[1].split()) if note else "", action[1], " ".join(action[2].split()))


@settings(max_examples=150, derandomize=True)
@given(st.lists(st.sampled_from(["<IS>", "</IS>", "<query>", "</query>", "<answer>", "</answer>",
                                 "<", "\n", "a", " "]), max_size=14).map("".join))
def test_finding_tags_equals_the_pattern(text):
    assert parse_turn(text, "mem1") == old_parse_turn(text, "mem1"), text


@pytest.mark.skipif(not hasattr(signal, "SIGVTALRM"), reason="needs an alarm of processor time")
@pytest.mark.parametrize("text", [
    "<query>" * 80_000, "<IS>" * 80_000 + "<query>a</query>", "<query>a</answer>" * 40_000,
    "<think>" * 80_000, "<answer></answer>" * 40_000])
def test_reading_a_turn_is_linear(text):
    with bounded_work():
        parse_turn(text, "mem1")
        parse_turn(text, "full_context")


@settings(max_examples=120, derandomize=True)
@given(st.lists(st.sampled_from(["<IS>", "</IS>", "<query>", "</query>", "<answer>", "</answer>",
                                 "<think>", "</think>", "<", ">", "\n", ";", "a", " ", "é", "\0"])
                | st.text(max_size=3), max_size=14).map("".join))
def test_the_parser_is_total(text):
    for kind in NOTES:
        found = parse_turn(text, kind)
        if found is not None:
            assert found[1] in ("query", "answer") and found[2], f"{text!r}: {found}"


@settings(max_examples=80, derandomize=True)
@given(st.lists(st.sampled_from(["<", ">", "/", "info", "IS", "answer", "</info>", "<answer>", "<<",
                                 " ", "\n", "x"]), max_size=10).map("".join))
def test_what_is_read_cannot_imitate_a_tag(text):
    turn = Mem1Turn(text, text, f"- {text}\n- x")
    for kind, tag in NOTES.items():
        user = turn_messages(f"Questions: {text}?", [turn], 3, kind, "")[1]["content"]
        body = user.rsplit("\n", 1)[0]  # the last line names the tags to write
        assert re.findall("<[^>]*>", body) == [f"<{tag}>", f"</{tag}>", "<query>", "</query>",
                                               "<info>", "</info>"], (
            "a task, note, query or passage wrote a tag of its own into the prompt")
        assert len(user.splitlines()) <= 4 + 2 + 2 + 2 * text.count("\n"), "it left its line"


def test_the_hint_counts_down_and_the_last_turn_asks_for_the_answer():
    for turns_left in (6, 2, 1):
        line = turn_messages("t", [], turns_left, "mem1", "")[1]["content"].splitlines()[-1]
        assert str(turns_left) in line, "the hint says how many turns are left"
        assert ("<query>" in line) == (turns_left > 1), "on the last turn it must answer"


# ---- the shop ------------------------------------------------------------------------------------

def test_the_shop_is_worked_through_by_its_oracle():
    products = catalogue()
    chosen = goals(6, seed=3, products=products)
    plans = {goal.instruction: solve(goal, products) for goal in chosen}
    shown = []

    def respond(prompt: str) -> str:
        [plan] = [plan for text, plan in plans.items() if text in prompt]
        shown.append(prompt)
        n_done = Store.turns(None, None) - int(re.search(r"Turns left: (\d+)", prompt)[1])
        action = plan[n_done].replace("< prev", "prev").replace("next >", "next")
        return f"<IS> {n_done}</IS><query> {action}</query>"

    groups = Mem1Agent(Store, max_new_tokens=160).rollout(Scripted(respond), chosen, 1, 0.0)
    for goal, [episode] in zip(chosen, groups):
        assert episode.reward == 1 and len(episode.steps) == len(plans[goal.instruction]), (
            f"{plans[goal.instruction]}: an action did not reach the shop as it was written")
        assert episode.log["invalid"] == 0
    assert all("<answer>" not in prompt for prompt in shown), "there is no answer to give"


def test_a_shopper_who_buys_nothing_gets_nothing():
    [goal] = goals(1, seed=3)
    for response in ("<IS> a</IS><query> search[shirt]</query>", "<IS> a</IS><answer> 1</answer>"):
        [[episode]] = Mem1Agent(Store, max_new_tokens=160).rollout(
            Scripted(lambda p: response), [goal], 1, 0.0)
        assert episode.reward == 0 and len(episode.steps) == 10, response
        assert episode.log["invalid"] == 1


# ---- the agent -----------------------------------------------------------------------------------

def diligent(prompt: str) -> str:
    """Asks the questions one by one and keeps all answers in its note."""
    questions = prompt.splitlines()[0].removeprefix("Questions: ").split("; ")
    notes = re.findall(r"^<(?:IS|think)>(.*)</", prompt, re.M)
    queries = re.findall(r"^<query> (.*)</query>", prompt, re.M)
    held = notes[-1].split() if notes else []
    tag = "IS" if "Write <IS>" in prompt else "think"
    if queries:
        wanted = re.search(r"Where does (\w+) live", queries[-1])[1]
        infos = prompt.split("<info>")[-1]
        held.append(re.search(rf"{wanted} lives in (\w+)", infos)[1])
    if len(held) == len(questions):
        return f"<{tag}> {' '.join(held)}</{tag}><answer> {'; '.join(held)}</answer>"
    return f"<{tag}> {' '.join(held)}</{tag}><query> {questions[len(held)]}</query>"


@pytest.mark.parametrize("harness", ["mem1", "full_context", "truncation"])
def test_a_task_is_worked_through(harness):
    policy = Scripted(diligent)
    tasks = [small_task(2), small_task(8)]
    groups = Mem1Agent(harness=harness, max_new_tokens=160).rollout(policy, tasks, 2, 1.0)
    assert [[episode.reward for episode in group] for group in groups] == [[2, 2], [8, 8]]
    for group, task in zip(groups, tasks):
        for episode in group:
            assert len(episode.steps) == len(task.questions) + 1 and (
                episode.log["answer"] == "; ".join(task.answers))
            assert [row["answer"] for row in episode.log["objectives"]] == list(task.answers)
            written = [policy.decode(step.response_ids) for step in episode.steps]
            assert all(text.endswith(STOP) for text in written), (
                f"{written}: a response holds what the environment wrote (pitfall 35)")


@pytest.mark.parametrize("harness, n_past", [("mem1", [0] + [1] * 8),
                                             ("full_context", list(range(9)))])
def test_what_is_in_context(harness, n_past):
    policy = Scripted(diligent)
    [[episode]] = Mem1Agent(harness=harness, max_new_tokens=160).rollout(
        policy, [small_task(8)], 1, 0.0)
    tag = NOTES["mem1" if harness == "mem1" else "full_context"]
    prompts = [policy.decode(step.prompt_ids) for step in episode.steps]
    bodies = [prompt.rsplit("\n", 1)[0] for prompt in prompts]
    for mark in (f"<{tag}>", "<query>", "<info>"):
        assert [body.count(mark) for body in bodies] == n_past, (
            f"{mark}: at most two states and queries and one result are in context, the ones "
            "that are written included" if harness == "mem1" else "everything is kept")
    sizes = [len(step.prompt_ids) for step in episode.steps]
    if harness == "mem1":
        assert max(sizes[1:]) - min(sizes[1:]) < 60, f"context grows: {sizes}"
    else:
        assert sizes == sorted(sizes) and sizes[-1] > 3 * sizes[1], f"nothing is kept: {sizes}"


def test_truncation_keeps_the_task_and_the_last_turns():
    policy, window = Scripted(diligent), 160
    agent = Mem1Agent(harness="truncation", max_new_tokens=window)
    [[episode]] = agent.rollout(policy, [small_task(8)], 1, 0.0)
    first = len(episode.steps[0].prompt_ids)
    for step in episode.steps:
        prompt = policy.decode(step.prompt_ids)
        assert prompt.startswith("Questions: 1. Where does Anna live?"), "the task was cut away"
        assert len(step.prompt_ids) <= first + window or prompt.count("<info>\n") == 1, (
            "more than the last tokens, though a turn could have been dropped")
    assert prompt.count("<query> ") == 2 and "Helen" in prompt.split("<query>")[1], (
        "the oldest turns go first")
    assert episode.log["dropped"] == 0, "truncation drops turns in any model: nothing did not fit"


@pytest.mark.parametrize("window", [10, 200, 300, 400, 1000])
def test_truncation_has_the_room_that_mem1_has_for_its_state(window):
    policy, agent = Scripted(str), Mem1Agent(harness="truncation", max_new_tokens=window)
    trajectory = agent.begin(small_task(8))
    trajectory.past = [Mem1Turn(str(i), f"query {i}", "found " * 10) for i in range(6)]

    def size(n_turns: int) -> int:
        past = trajectory.past[len(trajectory.past) - n_turns:]
        return len(policy.encode(turn_messages(
            trajectory.text, past, trajectory.turns_left, "full_context",
            trajectory.environment.instructions)))

    fitting = [n for n in range(1, 7) if size(n) - size(0) <= window]
    agent.prompt(policy, trajectory)
    assert len(trajectory.remembered) == max(fitting, default=1), (
        f"{fitting}: the last turn counts inside the room, and stays where it has none")


def test_an_answer_in_the_last_turn_counts():
    task = small_task(1)

    def respond(prompt: str) -> str:
        is_last = "Turns left: 1." in prompt
        return f"<answer> {task.answers[0]}</answer>" if is_last else "<query> who</query>"

    [[episode]] = Mem1Agent(max_new_tokens=160).rollout(Scripted(respond), [task], 1, 0.0)
    assert (episode.reward, episode.log["invalid"]) == (1, 0), "it ended in time"


def test_turns_that_the_model_has_no_positions_for_are_dropped_and_counted():
    unlimited, policy = Scripted(diligent), Scripted(diligent)
    agent = Mem1Agent(harness="full_context", max_new_tokens=100)
    [[free]] = agent.rollout(unlimited, [small_task(8)], 1, 0.0)
    policy.positions = len(free.steps[3].prompt_ids) + 100 + 5
    [[episode]] = agent.rollout(policy, [small_task(8)], 1, 0.0)
    sizes = [len(step.prompt_ids) + 100 for step in episode.steps]
    assert max(sizes) <= policy.positions, f"{max(sizes)} tokens, {policy.positions} positions"
    assert max(sizes[4:]) > 0.7 * policy.positions, "more is dropped than must be"
    assert [s.prompt_ids for s in episode.steps[:4]] == [s.prompt_ids for s in free.steps[:4]], (
        "a prompt that fits is changed")
    kept = [len(turn["kept"]) for turn in episode.log["turns"]]
    assert min(kept[1:]) >= 1, "the last turn must stay: the agent must see what came back"
    assert episode.log["dropped"] == len(kept) - 1 - kept[-1] > 0, (
        "the turns that are missing in the last prompt are counted")
    asked = re.findall(r"^<query> (\d)\.", policy.decode(episode.steps[-1].prompt_ids), re.M)
    assert asked == [str(n) for n in range(9 - len(asked), 9)], "not the oldest turns went"
    assert free.log["dropped"] == 0


@pytest.mark.parametrize("response, answer", [
    ("<IS> a</IS>", ""), ("no tags", ""), ("<IS> a</IS><query> Anna</query>", "")])
def test_unusable_turns_end_the_episode_with_nothing(response, answer):
    [[episode]] = Mem1Agent(max_new_tokens=160).rollout(
        Scripted(lambda prompt: response), [small_task()], 1, 1.0)
    n_turns = Search().turns(small_task()) if "<query>" in response else 1
    assert len(episode.steps) == n_turns == (6 if "<query>" in response else 1)
    assert episode.reward == 0 and episode.log["invalid"] == 1, (
        "no action, or a query on the last turn: reward 0, counted")
    assert episode.log["answer"] == answer
    assert [row["answer"] for row in episode.log["objectives"]] == ["", ""]


def test_each_trajectory_has_an_environment_of_its_own():
    answers = iter(["Oslo0; Oslo1", "x; y"])
    policy = Scripted(lambda prompt: f"<IS> a</IS><answer> {next(answers)}</answer>")
    [group] = Mem1Agent(max_new_tokens=160).rollout(policy, [small_task()], 2, 1.0)
    assert [episode.reward for episode in group] == [2.0, 0.0]


def test_any_class_like_environment_will_do():
    """The agent asks for what `Environment` names and for nothing else."""
    class Countdown:
        instructions, answers = "\nCount down to 0.", False

        def turns(self, task):
            return task + 1

        def reset(self, task):
            self.number = task
            return f"From {task}"

        def step(self, kind, text):
            self.number -= 1
            return f"at {self.number}", float(self.number == 0), self.number == 0

        def log(self, answer):
            return {"question": "?", "answer": answer, "gold": "", "category": 0}

    wanted = {*Environment.__annotations__, *vars(Environment)}
    wanted = {name for name in wanted if not name.startswith("_")}
    assert {name for name in vars(Countdown) if not name.startswith("_")} == wanted, (
        "this environment is the smallest one: the protocol asks for other names")
    assert all(hasattr(kind, name) for kind in (Search, Store) for name in wanted)
    [[episode]] = Mem1Agent(Countdown, max_new_tokens=160).rollout(
        Scripted(lambda prompt: "<IS> a</IS><query> less</query>"), [3], 1, 1.0)
    assert episode.reward == 1.0 and len(episode.steps) == 3, "one step down a turn, paid at 0"
    assert [turn["info"] for turn in episode.log["turns"]] == ["at 2", "at 1", "at 0"]


def test_sampled_text_stops_at_the_closing_tag(tiny_policy):
    """With a real tokenizer: nothing behind the tag is kept, so nothing behind it is trained."""
    policy = tiny_policy()
    ids = policy.tokenizer.encode("<IS> a</IS><query> b</query> and a made-up <info>")
    step = policy._step([5], ids, STOP, [0.0] * len(ids))
    assert policy.decode(step.response_ids).endswith("</query>") and step.finished, (
        "the model goes on behind its closing tag, and its invented result is trained (pitfall 35)")
    assert len(step.log_probs) == len(step.response_ids), "one log-prob a response token"


def test_scores_by_objectives():
    dialogues = world(3, 9, held_out=True)
    found = by_objectives(Scripted(diligent_of_the_world), Mem1Agent(max_new_tokens=160), dialogues,
                          EMBED)
    assert set(found) == {"1", "2", "4", "8", "16"}
    for n_objectives, scores in found.items():
        assert 0 <= scores["exact_match"] <= int(n_objectives) and scores["f1"] >= 0
        assert scores["peak_tokens"] <= scores["peak_tokens_with_prompt"] and scores["seconds"] > 0


def diligent_of_the_world(prompt: str) -> str:
    """Searches once, then answers the last line it saw: enough to be counted."""
    if "<info>" not in prompt.rsplit("\n", 1)[0]:
        return "<IS> a</IS><query> Where does Anna live?</query>"
    n_questions = prompt.splitlines()[0].count("?")
    return f"<IS> a</IS><answer> {'; '.join(['x'] * n_questions)}</answer>"


# ---- training is exact ---------------------------------------------------------------------------

def trajectory(n_turns: int, seed: int) -> list[Step]:
    """Turns as MEM1 samples them: each prompt holds the task and a copy of the last turn alone."""
    draw = random.Random(seed)

    def words(n: int) -> list[int]:
        return [draw.randrange(3, 320) for _ in range(n)]

    task, steps, last = words(12), [], []
    for _ in range(n_turns):
        written = words(draw.randrange(6, 14))
        steps.append(Step(task + last, written, True))
        last = written + words(draw.randrange(10, 20))  # what came back
    return steps


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("n_turns", [1, 3, 16])
def test_a_packed_trajectory_is_exact(tiny_policy, kind, n_turns):
    policy = tiny_policy(kind)
    steps = [*trajectory(n_turns, 1), *trajectory(n_turns, 1)[:1]]  # and a sibling that begins so
    wanted = torch.cat([plain_log_probs(policy, step) for step in steps])
    weights = torch.linspace(-1, 1, len(wanted))
    expected = torch.autograd.grad((wanted * weights).sum(), list(policy.model.parameters()))
    for width in (32, 10 ** 6):  # rows as they are cheapest, and all turns in one tree
        rows = pack([steps], 4096, width)
        assert width == 32 or len(rows) == 1, "all turns of a trajectory in one tree"
        found = torch.zeros(len(wanted))
        policy.model.zero_grad()
        for row in rows:
            scores = policy.score([row])[0]
            (scores * weights[row.token_index]).sum().backward()
            found[row.token_index] = scores.detach()
        error = (found - wanted).abs().max().item()
        assert error < 1e-5, f"{n_turns} turns: log-probs off by {error:.1e} nats"
        for parameter, gradient in zip(policy.model.parameters(), expected):
            off = (parameter.grad - gradient).abs().max() / gradient.abs().max()
            assert off < 1e-4, f"{n_turns} turns: gradients off by {off:.1e} of their size"
