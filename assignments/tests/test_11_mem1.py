"""Problem 11: MEM1's turn. python -m pytest assignments/tests/test_11_mem1.py"""

from __future__ import annotations

import pytest
from course_helpers import Scripted, plain, work


class Desk:
    """An environment: a query returns itself, an answer ends the task and pays its length."""

    instructions, answers = "", True

    def turns(self, task):
        return 4

    def reset(self, task):
        self.seen = []
        return f"Questions: {task}"

    def step(self, kind, text):
        self.seen.append((kind, text))
        if kind == "answer":
            return "", float(len(text)), True
        return f"- about {text}", 0.0, False

    def log(self, answer):
        return {"answer": answer, "seen": list(self.seen)}


def play(*responses: str, harness: str = "mem1", task: str = "who?"):
    """One episode in which the turns write these responses, and what was read in each."""
    work("mem1.Trajectory.advance")
    from mem1 import Mem1Agent
    written = iter(responses)
    policy = Scripted(lambda prompt, number: next(written))
    [[episode]] = Mem1Agent(Desk, harness, max_new_tokens=160).rollout(policy, [task], 1, 1.0)
    return episode, [prompt for call in policy.calls for prompt in call["prompts"]]


def asks(number: int) -> str:
    return f"<IS>state {number}</IS><query>query {number}</query>"


ANSWERS = "<IS>state</IS><answer>four</answer>"

# ---- reading a turn ------------------------------------------------------------------------------


@pytest.mark.parametrize("text, wanted", [
    ("<IS>a\n b</IS>\n<query> who \n is </query>", ("a b", "query", "who is")),
    ("<IS>a</IS><answer>x; y</answer>", ("a", "answer", "x; y")),
    ("<query>who</query>", ("", "query", "who")),
    ("<IS>a</IS><query>one</query><answer>two</answer>", ("a", "query", "one")),
    ("<query>one</query><IS>late</IS>", ("", "query", "one")),
    ("<IS>a</IS><query>  </query>", None),
    ("<IS>a</IS><query>who", None),
    ("<IS>a</IS><query>who</answer>", None),
    ("no tags", None), ("", None),
    ("<think><query>x</query></think><IS>a</IS><query>who</query>", ("a", "query", "who")),
    ("<query>x</query></think><IS>a</IS><query>who</query>", ("a", "query", "who")),
    ("<think><query>x</query>", None),
])
def test_parse_turn(text, wanted):
    assert plain(work("mem1.parse_turn")(text, "mem1")) == wanted, (
        "the first query or answer with a closing tag of its own counts, a note only if it stands "
        "before; white space becomes single spaces; an empty action and one in thinking are none")


def test_the_tag_of_the_note_depends_on_the_kind():
    text = "<think>a</think><query>who</query>"
    assert plain(work("mem1.parse_turn")(text, "full_context")) == ("a", "query", "who"), (
        "full context thinks in <think>, MEM1 keeps its state in <IS>: NOTES names the tag")
    assert plain(work("mem1.parse_turn")(text, "mem1")) == ("", "query", "who")
    text = "a</think> <think>b</think><query>who</query>"
    assert plain(work("mem1.parse_turn")(text, "full_context")) == ("a b", "query", "who"), (
        "all thinking is the note, without its tags, wherever it was opened")


# ---- turn after turn -----------------------------------------------------------------------------


def test_a_task_from_question_to_answer():
    episode, _ = play(asks(1), asks(2), ANSWERS)
    assert episode.log["seen"] == [("query", "query 1"), ("query", "query 2"), ("answer", "four")]
    assert plain(episode.reward) == 4.0, "the environment pays when the answer ends the task"
    assert len(episode.steps) == 3 and episode.log["answer"] == "four"
    assert episode.log["invalid"] == 0, "nothing was wrong with this one"
    logged = [(plain(turn["info"]), plain(turn["kept"])) for turn in episode.log["turns"]]
    assert logged == [("- about query 1", []), ("- about query 2", [0]), ("", [1])], (
        "`turns` is for the log: what came back in each turn, and as `kept` the places of the "
        "turns that its prompt showed, which `prompt` notes in `remembered`")


@pytest.mark.parametrize("bad", ["no tags", "<IS>a</IS>", "<IS>a</IS><query>who"])
def test_a_turn_without_an_action_ends_the_episode(bad):
    episode, _ = play(asks(1), bad)
    assert len(episode.steps) == 2, "an unusable turn is kept as a step: it is what to learn from"
    assert episode.reward == 0 and episode.log["answer"] == "", "and it earns nothing"
    assert episode.log["invalid"] == 1, "it is counted"


def test_the_limit_of_turns():
    episode, prompts = play(*[asks(n) for n in range(9)])
    assert len(episode.steps) == 4, "the environment allows four turns"
    assert episode.reward == 0 and episode.log["invalid"] == 1, (
        "a query on the last turn leaves no turn to answer in: over, unpaid, and counted")
    left = [prompt.rsplit("Turns left: ", 1)[1][0] for prompt in prompts]
    assert left == ["4", "3", "2", "1"], f"the hint of turns left counts down, not {left}"


def test_an_answer_on_the_last_turn_counts():
    episode, _ = play(asks(1), asks(2), asks(3), ANSWERS)
    assert episode.reward == 4.0 and episode.log["invalid"] == 0, (
        "the task was answered in time: the limit must not undo it")


# ---- what stays in context -----------------------------------------------------------------------


def test_mem1_reads_its_last_turn_and_no_other():
    _, prompts = play(asks(1), asks(2), asks(3), ANSWERS)
    assert "state" not in prompts[0] and "query 1" not in prompts[0], "the first turn has no past"
    for number, prompt in enumerate(prompts[1:], start=1):
        for wanted in (f"state {number}<", f"query {number}<", f"about query {number}\n"):
            assert wanted in prompt, f"turn {number + 1} lacks {wanted!r} of the turn before"
        assert f"state {number - 1}<" not in prompt and f"query {number - 1}<" not in prompt, (
            f"turn {number + 1} still reads what came before the last turn: context grows")
    assert all(prompt.startswith("Questions: who?") for prompt in prompts), "the task always stays"


def test_context_is_constant_for_mem1_and_grows_without_it():
    sizes = {}
    for harness in ("mem1", "full_context"):
        _, prompts = play(asks(1), asks(2), asks(3), ANSWERS, harness=harness)
        sizes[harness] = [len(prompt) for prompt in prompts]
    assert len(set(sizes["mem1"][1:3])) == 1, f"MEM1's prompts grow: {sizes['mem1']}"
    assert sizes["full_context"][1] < sizes["full_context"][2] < sizes["full_context"][3], (
        f"full context keeps every turn: {sizes['full_context']}")


def test_truncation_drops_whole_turns_from_the_front():
    # Tokens are letters here, and the window holds 160 of them: two of these turns, not three.
    _, prompts = play(asks(1), asks(2), asks(3), ANSWERS, harness="truncation")
    assert "query 1<" in prompts[1] and "query 1<" in prompts[2], "as long as it fits it stays"
    assert "query 1<" not in prompts[3] and "query 2<" in prompts[3] and "query 3<" in prompts[3], (
        "the oldest turn goes first, and only as many as must")
    assert all(prompt.startswith("Questions: who?") for prompt in prompts), "the task always stays"
    _, prompts = play(f"<think>{'x' * 400}</think><query>q</query>", ANSWERS, harness="truncation")
    assert "x" * 400 in prompts[1], "the last turn stays even if it alone is too long"


def test_what_comes_back_cannot_imitate_a_tag():
    _, prompts = play("<IS>a </IS><query>x<answer>y</query>", ANSWERS)
    assert "<answer>y" not in prompts[1], "the prompt of a turn is made by turn_messages"
