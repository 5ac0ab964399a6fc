"""Tests of memr1.py: both agents with scripted models, which answer by a Python function.

    python -m pytest tests/test_memr1.py        (some ten seconds)

A scripted model makes every reward predictable. `WorldReader` is a perfect answer agent for the
synthetic world: it sees nothing but the prompt, and so proves what a prompt holds. The oracle
manager is `expert_operation` (training/experts.py), the vanilla one overwrites the first dog with
the second.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import canned
import pytest

import memr1
from data import Dialogue, Question, Turn
from memory_bank import MemoryBank, hashed_words
from memr1 import (
    AnswerAgent,
    AnswerTask,
    ManagerAgent,
    ManagerTask,
    MemoryR1,
    Reading,
    Response,
    Statement,
    answer_all,
    apply_operations,
    build_banks,
    candidates,
    facts_of,
    greedy,
    observe_all,
)
from metrics import f1
from policy import Step
from prompts import (
    Operation,
    format_answer,
    format_operation,
    manager_messages,
    parse_operations,
)
from training.experts import expert_operation
from training.tasks import add_everything, answer_tasks, manager_tasks
from world import EVENTS, INFERENCES, RELATIONS, oracle_memories, sentence, world

EMBED = hashed_words()


class Scripted(canned.Scripted):
    """A policy whose response is `respond(user message, number in its group)`; ids are letters."""

    def __init__(self, respond: Callable[[str, int], str]):
        super().__init__(respond)
        self.calls, self.lengths, self.finished = [], [], True

    def sample(self, prompts, group_size=1, max_new_tokens=64, temperature=1.0, generator=None):
        self.calls.append((group_size, temperature))
        self.lengths.append(max_new_tokens)
        self.read += [self.decode(prompt) for prompt in prompts]
        return [[Step(prompt, [ord(letter) for letter in self.respond(self.decode(prompt), number)],
                      self.finished) for number in range(group_size)] for prompt in prompts]


def always(*responses: str) -> Scripted:
    """The same responses to every prompt, one for each member of a group."""
    return Scripted(lambda prompt, number: responses[number % len(responses)])


def read_world(prompt: str) -> tuple[list[str], str]:
    """(memories needed, answer) from nothing but the text of an answer prompt."""
    dated = re.findall(r"^- (\d+ \w+ \d+): (.+)$", prompt, re.M)
    [question] = re.findall(r"^Question: (.+)$", prompt, re.M)

    def about(subject: str, relation: str) -> tuple[list[str], str]:
        one = sentence(subject, relation, ["|"])
        many = sentence(subject, relation, ["|", "|"]) if RELATIONS[relation].both else one
        for _, line in reversed(dated):  # the last one counts
            for start in (many[: many.index("|")], one[: one.index("|")]):
                if line.startswith(start):
                    return [line], line[len(start):]
        return [], "nothing"

    for past, verb in EVENTS.items():
        if found := re.fullmatch(f"When did (.+) {verb}\\?", question):
            wanted = f"{found[1]} {past}"
            return next((([wanted], day) for day, line in dated if line == wanted), ([], "never"))
    forms = [(name, form.question, {}) for name, form in RELATIONS.items()]
    forms += [(name, form, answers) for name, (form, answers) in INFERENCES.items()]
    for relation, form, inferred in forms:
        found = re.fullmatch(re.escape(form).replace(r"\{s\}", "(.+)"), question)
        if found and "'s " not in found[1]:
            needed, value = about(found[1], relation)
            return needed, inferred.get(value, value)
        if found:
            owner, link = found[1].split("'s ")
            first, person = about(owner, link)
            needed, value = about(person, relation)
            return first + needed, value
    raise AssertionError(f"no question of the world: {question}")


class WorldReader(Scripted):
    """A perfect answer agent, as far as the memories in its prompt allow."""

    def __init__(self) -> None:
        super().__init__(self.write)

    @staticmethod
    def write(prompt: str, number: int = 0) -> str:
        needed, answer = read_world(prompt)
        return "\n".join(["**Memories:**", *needed, f"**Answer:** {answer}"])


def managers(dialogues: Sequence[Dialogue]) -> tuple[dict[str, str], dict[str, str]]:
    """Prompt -> response of the oracle manager and of the vanilla one, along the right banks."""
    oracle, vanilla = {}, {}
    for dialogue in dialogues:
        for place, turn in enumerate(dialogue.turns):
            messages, response = expert_operation(
                always(""), dialogue, place, EMBED, "turns", 9)
            [operation], _ = parse_operations(response, memr1.SIMILAR)
            if operation.event == "UPDATE":  # what the turn says, whatever the entry already held
                operation = Operation("UPDATE", operation.number, turn.facts[0])
            prompt = messages[-1]["content"]
            oracle[prompt], vanilla[prompt] = response, format_operation(operation)
    return oracle, vanilla


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    return world(4, 11)


@pytest.fixture(scope="module")
def tasks(dialogues: list[Dialogue]) -> list[ManagerTask]:
    return manager_tasks(dialogues, EMBED, "turns")


def bank_of(*texts: str, speaker: str = "Anna") -> MemoryBank:
    bank = MemoryBank(EMBED)
    bank.add_many((text, speaker, "8 May 2023") for text in texts)
    return bank


def contents(bank: MemoryBank) -> list[tuple]:
    return [(m.id, m.text, m.speaker, m.timestamp) for m in bank]


# ---- operations on the bank ----------------------------------------------------------------------

@pytest.mark.parametrize("operations, left, counted", [
    ([Operation("ADD", None, "d")], "a b c d", {"ADD": 1}),
    ([Operation("UPDATE", 0, "d")], "a b d", {"UPDATE": 1}),
    ([Operation("DELETE", 1)], "b c", {"DELETE": 1}),
    ([Operation("NOOP")], "a b c", {"NOOP": 1}),
    ([], "a b c", {}),
    ([Operation("DELETE", 0), Operation("ADD", None, "d")], "a b d", {"DELETE": 1, "ADD": 1}),
    ([Operation("UPDATE", 0, "d"), Operation("UPDATE", 0, "e")], "a b e", {"UPDATE": 2}),
    ([Operation("UPDATE", 0, "d"), Operation("DELETE", 0)], "a b", {"UPDATE": 1, "DELETE": 1}),
    ([Operation("DELETE", 0), Operation("DELETE", 0)], "a b", {"DELETE": 1, "invalid": 1}),
    ([Operation("DELETE", 0), Operation("UPDATE", 0, "d")], "a b", {"DELETE": 1, "invalid": 1}),
    ([Operation("DELETE", 0), Operation("DELETE", 1)], "b", {"DELETE": 2}),
    ([Operation("ADD", None, "a"), Operation("ADD", None, "a")], "a b c a a", {"ADD": 2}),
])
def test_operations_entry_by_entry(operations: list, left: str, counted: dict) -> None:
    """`memories` is c, a, while the bank is a, b, c: numbers are places in the prompt, not ids."""
    bank = bank_of(*"abc")
    shown = [bank[2], bank[0]]
    counts = apply_operations(bank, shown, operations, "Bob", "9 May 2023")
    assert [m.text for m in bank] == left.split(), (
        "number 0 is the first memory shown (c), not the memory with id 0; entries that no "
        "operation names stay, unlike in the letter of Algorithm 3; a deleted one stays deleted")
    assert dict(counts) == counted, "each operation counts once, as invalid if it came too late"


def test_who_and_when_of_an_operation() -> None:
    bank = bank_of("a", "b")
    operations = [Operation("ADD", None, "c"), Operation("UPDATE", 1, "d")]
    apply_operations(bank, list(bank), operations, "Bob", "9 May 2023")
    assert contents(bank) == [
        (0, "a", "Anna", "8 May 2023"), (1, "d", "Anna", "9 May 2023"),
        (2, "c", "Bob", "9 May 2023")], (
        "an ADD belongs to who spoke; an UPDATE keeps id, place and speaker and takes the new date")


# ---- acting --------------------------------------------------------------------------------------

def test_candidates_are_thirty_of_the_speaker_in_the_order_of_the_bank() -> None:
    bank = MemoryBank(EMBED)
    for i in range(100):  # an old memory fits the question best, so by similarity it would lead
        text = "rusty has a red bicycle" if i % 3 == 0 else f"small talk number {i}"
        bank.add(text, ("Anna", "Bob", "Cleo")[i % 3 - 1 if i < 90 else 0], f"{i} days")
    found = candidates(bank, "Who has a red bicycle?", ("Anna", "Bob"))
    assert list(found) == ["Anna", "Bob"], "one list for each speaker asked for, in their order"
    for speaker, memories in found.items():
        ids = [memory.id for memory in memories]
        assert {memory.speaker for memory in memories} == {speaker}, "memories of the wrong speaker"
        assert len(ids) == len(set(ids)) <= 30, "Algorithm 2: at most 30 for each speaker"
        assert ids == sorted(ids), "candidates stand as a timeline, not by similarity"
        best = {m.id for m in bank.search("Who has a red bicycle?", 30, speaker)}
        assert set(ids) == best, "the 30 most similar, not the 30 oldest"
    assert candidates(bank_of("a"), "b?", ("Anna", "Bob"))["Bob"] == []
    assert len(candidates(bank, "b?", ("Anna",), 2)["Anna"]) == 2


def numbered(prompt: str) -> set[int]:
    """The numbers behind "apple" in a prompt's memories."""
    return {int(number) for number in re.findall(r"apple (\d+)", prompt)}


def test_an_answer_agent_drops_the_least_similar_memories_of_all_speakers() -> None:
    bank = MemoryBank(EMBED)
    for i in range(40):  # the later, the more words of the question
        words = "red sweet ripe big apples of the old tree".split()[: i // 5 + 1]
        bank.add(f"{' '.join(words)} and apple {i}", ("Anna", "Bob")[i % 2], "8 May 2023")
    text = "Who has red sweet ripe big apples of the old tree?"
    task = AnswerTask(bank, Question(text, "a", 4, ()), ("Anna", "Bob"))
    policy = always("**Answer:** a")
    [whole] = answer_all(policy, [task], max_new_tokens=20)
    assert whole.n_dropped == 0 and len(whole.memories) == 40
    for room in (len(whole.prompt) - 1, len(whole.prompt) // 2, len(whole.prompt) // 5):
        policy.positions = room + 20
        [answer] = answer_all(policy, [task], max_new_tokens=20)
        [[episode]] = AnswerAgent(max_new_tokens=20).rollout(policy, [task], 1, 0.0)
        assert answer.prompt == episode.log["prompt"], "training reads another prompt"
        assert room - 120 < len(answer.prompt) <= room, (
            "the prompt must leave room for the response, and drop no more than it must")
        assert answer.n_dropped == episode.log["dropped"] == 40 - len(answer.memories) > 0
        shown = numbered(answer.prompt)
        assert shown == {m.id for m in answer.memories} and len(shown) == len(answer.memories)
        for speaker, remainder in (("Anna", 0), ("Bob", 1)):
            own = {i for i in shown if i % 2 == remainder}
            best = [memory.id for memory in bank.search(text, len(own), speaker)]
            assert own == set(best), f"{speaker}: not the most similar memories stay"
            assert abs(2 * len(own) - len(shown)) <= 1, "one speaker pays for the other"
        ids = [int(n) for n in re.findall(r"apple (\d+)", answer.prompt)]
        assert ids == sorted(ids, key=lambda i: (i % 2, i)), "what stays is no timeline"


def test_a_manager_drops_the_least_similar_memories_and_cannot_touch_them() -> None:
    fact = Statement("Anna: I have apple trees", "Anna", "8 May 2023")
    bank = bank_of(*(f"Anna has {'apple trees ' * (5 - i)}and apple {i}" for i in range(5)))
    task = ManagerTask(bank, fact, Question("Who?", "a", 4, ()), ("Anna",))
    similar = task.memories
    whole = len(manager_messages(fact.text, similar)[-1]["content"])
    policy = always('[{"event": "DELETE", "id": 1}, {"event": "DELETE", "id": 3}]')
    policy.positions = whole + 20 - len(similar[-1].text) - len(similar[-2].text)
    agent = ManagerAgent(always("**Answer:** a"), max_new_tokens=20)
    [[episode]] = agent.rollout(policy, [task], 1, 0.0)
    [observation] = observe_all(policy, [bank.copy()], [fact], max_new_tokens=20)
    n_read = len(observation.memories)
    assert 0 < n_read < 4 and observation.memories == similar[:n_read], "the most similar stay"
    assert numbered(episode.log["prompt"]) == {memory.id for memory in similar[:n_read]}
    assert episode.log["dropped"] == observation.counts["dropped"] == 5 - n_read, "not counted"
    for counts in (episode.log["operations"], observation.counts):
        assert counts["invalid"] >= 1, "it changed a memory that it did not read"
    agent.frozen.positions = 20 + 200
    [[both]] = agent.rollout(always("no JSON"), [replace(task, bank=bank.copy())], 1, 0.0)
    assert both.log["dropped"] > 0, "what the answer agent could not read is counted too"


def test_greedy_answers_equal_prompts_once() -> None:
    policy = Scripted(lambda prompt, number: prompt.upper())
    prompts = [policy.encode([{"content": text}]) for text in ("a", "b", "a", "c", "b", "a")]
    assert greedy(policy, prompts, 8) == [Response(text, False) for text in "ABACBA"], (
        "answers in wrong order")
    assert sorted(policy.read) == ["a", "b", "c"], "equal prompts cost a model call each"
    assert policy.calls == [(1, 0)], "greedy means one call, one sample, temperature 0"


def test_answers_come_from_the_prompt_alone(dialogues: list[Dialogue]) -> None:
    """On the right final bank the reader answers everything: 60 memories hold what is needed."""
    tasks = []
    for dialogue in dialogues:
        bank = MemoryBank(EMBED)
        bank.add_many(oracle_memories(dialogue.turns).values())
        tasks += [AnswerTask(bank, question, dialogue.speakers) for question in dialogue.questions]
    answers = answer_all(WorldReader(), tasks, max_new_tokens=64)
    for task, answer in zip(tasks, answers):
        assert answer.text == task.question.answer, f"{task.question}: {answer}"
        assert answer.selected or answer.text == "nothing", "the selected memories got lost"
        assert answer.prompt.endswith("Select the useful memories, then answer.")
    plain = answer_all(always("**Answer:** x"), tasks[:1], False, max_new_tokens=64)
    assert plain[0].prompt.endswith("Answer directly."), "--no-distill does not reach the prompt"


def test_sources_of_facts() -> None:
    turn = Turn("D1:1", "Anna", "I moved to Oslo. Rex came too!", "8 May 2023",
                ("Anna lives in Oslo", "Anna has a dog named Rex"))

    def texts(turns: list[Turn], *how) -> list[list[str]]:
        facts = facts_of(turns, *how)
        assert {f[1:] for of_turn in facts for f in of_turn} <= {("Anna", "8 May 2023")}
        return [[fact.text for fact in of_turn] for of_turn in facts]

    assert texts([turn], "turns") == [["Anna: I moved to Oslo. Rex came too!"]], (
        "a raw turn names its speaker, or nobody knows who I is")
    assert texts([turn, replace(turn, facts=())], "observations") == [list(turn.facts), []], (
        "no observation, no fact")
    model = always('{"facts": ["Anna moved to Oslo", ""]}')
    assert texts([turn], "llm", model, 300) == [["Anna moved to Oslo"]]
    assert model.read == ["Date: 8 May 2023\nAnna: I moved to Oslo. Rex came too!"]
    assert texts([turn], "llm", always("no idea"), 300) == [[]], "no JSON, no fact"
    many = always('{"facts": ["x"]}')
    assert len(texts([replace(turn, text=f"I have {n} cats.") for n in range(70)], "llm", many,
                     300)) == 70 and len(many.calls) == 3, "turns are extracted in batches"
    with pytest.raises(ValueError, match="oracle"):
        facts_of([turn], "oracle")


def test_every_agent_writes_as_many_tokens_as_it_is_told(dialogues: list[Dialogue]) -> None:
    """The lengths that reach `sample`, of every agent and its judge: fault of a real run."""
    task = AnswerTask(DOG.bank, DOG.question, DOG.speakers)
    short = replace(dialogues[0], turns=dialogues[0].turns[:2])
    policy = always("[]")
    system = MemoryR1(policy, policy, EMBED, ("Anna",), "llm", max_new_tokens=77)
    for name, act in {
            "manager and judge": lambda: ManagerAgent(policy, max_new_tokens=77).rollout(
                policy, [DOG], 1, 1.0),
            "answer agent": lambda: AnswerAgent(max_new_tokens=77).rollout(policy, [task], 1, 1.0),
            "chat": lambda: (system.observe(short.turns[0]), system.answer("Who?")),
            "whole dialogues": lambda: build_banks(policy, [short], EMBED, "llm",
                                                   max_new_tokens=77)}.items():
        policy.lengths.clear()
        act()
        assert policy.lengths and set(policy.lengths) == {77}, (
            f"{name}: --max-new-tokens 77 came as {policy.lengths}; a judge that is cut before its "
            "**Answer:** pays nothing for a right memory")


def test_a_cut_answer_of_the_judge_is_logged() -> None:
    judge = Scripted(lambda prompt, number: "**Memories:** and no end")
    for finished in (True, False):
        judge.finished = finished
        [[episode]] = ManagerAgent(judge, max_new_tokens=5).rollout(always("[]"), [DOG], 1, 1.0)
        assert episode.log["answer_cut"] is not finished, "answer_cut is about the judge's limit"


def test_the_manager_sees_similar_memories_of_the_speaker_alone() -> None:
    bank = bank_of(*[f"Anna plays {word}" for word in "a bb cc dd ee ff gg hh".split()])
    bank.add("Anna plays chess well", "Bob", "8 May 2023")
    before = [m.text for m in bank.search("Anna: I play chess", memr1.SIMILAR, "Anna")]
    manager = always('[{"event": "UPDATE", "id": 4, "text": "new"}, '
                     '{"event": "UPDATE", "id": 5, "text": "lost"}]')
    [seen] = observe_all(manager, [bank],
                         [Statement("Anna: I play chess", "Anna", "9 May 2023")],
                         max_new_tokens=64)
    assert [m.text for m in seen.memories] == before and len(before) == 5, (
        "five memories, of this speaker: memories of Bob are another bank in the paper")
    texts = [m.text for m in bank]
    assert before[4] not in texts and "new" in texts and "lost" not in texts, (
        "number 4 is the fifth memory shown; number 5 was not shown and must do nothing")
    assert dict(seen.counts) == {"UPDATE": 1, "invalid": 1}


def test_build_banks_in_step_is_observing_one_by_one(dialogues: list[Dialogue]) -> None:
    def respond(prompt: str, number: int) -> str:
        """Some operation of every kind, fixed by the prompt."""
        fact = prompt.rsplit("New fact: ", 1)[1]
        event = ("ADD", "UPDATE", "ADD", "DELETE", "NOOP", "INVALID")[sum(map(ord, prompt)) % 6]
        return json.dumps([{"event": event, "id": 0, "text": fact}])

    ragged = [replace(d, turns=d.turns[:n]) for d, n in zip(dialogues, (25, 0, 40, 7))]
    for facts in ("turns", "observations"):
        reading = build_banks(Scripted(respond), ragged, EMBED, facts, max_new_tokens=64)
        total: Counter[str] = Counter()
        for dialogue, bank in zip(ragged, reading.banks, strict=True):
            system = MemoryR1(Scripted(respond), None, EMBED, dialogue.speakers, facts,
                              max_new_tokens=64)
            for turn in dialogue.turns:
                for seen in system.observe(turn):
                    total += seen.counts + Counter(facts=1)
            assert contents(bank) == contents(system.bank), (
                "dialogues that go in step must not see each other's memories or change order")
        counts = reading.counts
        assert counts == total and counts["invalid"] and counts["DELETE"], f"{counts} != {total}"
    assert build_banks(Scripted(respond), [], EMBED, "turns", max_new_tokens=64) == Reading(
        [], [], Counter())


def test_the_whole_system_with_oracle_and_vanilla_manager(dialogues: list[Dialogue]) -> None:
    oracle, vanilla = managers(dialogues)
    scores = {}
    for name, book in (("oracle", oracle), ("vanilla", vanilla)):
        right = []
        for dialogue in dialogues:
            noop = '[{"event": "NOOP"}]'  # vanilla banks go astray: then the book has no entry
            manager = Scripted(lambda prompt, number: book.get(prompt, noop))
            system = MemoryR1(manager, WorldReader(), EMBED, dialogue.speakers, max_new_tokens=64)
            for turn in dialogue.turns:
                system.observe(turn)
            if name == "oracle":
                wanted = list(oracle_memories(dialogue.turns).values())
                assert [c[1:] for c in contents(system.bank)] == wanted, (
                    "the oracle's operations, one turn at a time, must build the oracle's bank")
            right += [system.answer(q.text).text == q.answer for q in dialogue.questions]
        scores[name] = sum(right) / len(right)
    assert scores["oracle"] == 1.0, f"{scores}: right operations must give right answers"
    assert scores["vanilla"] < 0.9, f"{scores}: a manager that overwrites must lose something"


# ---- episodes ------------------------------------------------------------------------------------

DOG = ManagerTask(bank_of("Anna has a dog named Rex", "Anna lives in Oslo"),
                  Statement("Anna: I adopted a dog named Milo.", "Anna", "9 May 2023"),
                  Question("What dogs does Anna have?", "Rex and Milo", 1, ("D1:1", "D1:2")),
                  ("Anna", "Bob"), "Anna has dogs named Rex and Milo")


def test_the_reward_is_the_exact_match_of_the_frozen_agents_answer() -> None:
    for answer, reward in [("Rex and Milo", 1.0), ("the rex and  milo.", 1.0), ("Milo", 0.0),
                           ("Rex and Milo and Bo", 0.0), ("Milo and Rex", 0.0), ("", 0.0)]:
        frozen = always(f"**Memories:**\nx\n**Answer:** {answer}")
        [[episode]] = ManagerAgent(frozen, max_new_tokens=64).rollout(always("[]"), [DOG], 1, 1.0)
        assert type(episode.reward) is float and episode.reward == reward, (
            f"{answer!r} earned {episode.reward}: the reward is SQuAD's exact match with the gold "
            "answer, 0 or 1, and nothing else is paid (pitfall 42)")
        [[episode]] = AnswerAgent(max_new_tokens=64).rollout(
            frozen, [AnswerTask(DOG.bank, DOG.question, DOG.speakers)], 1, 1.0)
        assert type(episode.reward) is float and episode.reward == reward, (
            f"answer agent: {answer!r} earned {episode.reward}")


def test_neither_format_nor_length_is_paid() -> None:
    decisions = ("[]", '[{"event": "NOOP"}]', "no JSON at all", "", "[] " + 50 * "and so on ")
    answers = ("**Answer:** x", "**Memories:**\n- a\n**Answer:** x", "", 40 * "long x")
    asked = AnswerTask(DOG.bank, DOG.question, DOG.speakers)
    manager = ManagerAgent(always(answers[1]), max_new_tokens=64)
    for agent, task, responses in ((manager, DOG, decisions),
                                   (AnswerAgent(max_new_tokens=64), asked, answers)):
        [group] = agent.rollout(always(*responses), [task], len(responses), 1.0)
        rewards = {response: episode.reward for response, episode in zip(responses, group)}
        assert not any(rewards.values()), (
            f"{type(agent).__name__}: the answer is wrong, and still {rewards} were paid: for "
            "format or length (pitfall 42)")


def test_a_softer_reward_pays_for_half_an_answer() -> None:
    frozen = always("**Memories:**\nx\n**Answer:** Milo")
    for agent, task in [
            (ManagerAgent(frozen, reward=f1, max_new_tokens=64), DOG),
            (AnswerAgent(reward=f1, max_new_tokens=64),
             AnswerTask(DOG.bank, DOG.question, DOG.speakers))]:
        [[episode]] = agent.rollout(frozen, [task], 1, 1.0)
        assert episode.reward == pytest.approx(f1("Milo", "Rex and Milo")), "--reward f1"
        assert 0 < episode.reward < 1


def test_rewards_depend_on_the_operations() -> None:
    both = "Anna has dogs named Rex and Milo"
    responses = {
        '[{"event": "UPDATE", "id": 0, "text": " Anna has dogs named Rex and Milo"}]': (1, True),
        '[{"event": "UPDATE", "id": 0, "text": " Anna has a dog named Milo"}]': (0, False),
        '[{"event": "ADD", "text": " Anna has dogs named Rex and Milo"}]': (1, True),
        '[{"event": "NOOP"}]': (0, False), "nonsense": (0, False),
        f'[{{"event": "DELETE", "id": 0}}, {{"event": "ADD", "text": "{both}"}}]': (1, True),
        '[{"event": "UPDATE", "id": 0, "text": "Anna has dogs named Milo and Rex"}]': (0, False),
    }
    before, frozen, manager = contents(DOG.bank), WorldReader(), always(*responses)
    [group] = ManagerAgent(frozen, max_new_tokens=64).rollout(manager, [DOG], len(responses), 0.7)
    assert manager.calls == [(len(responses), 0.7)], "group size or temperature got lost"
    assert frozen.calls == [(1, 0)], "the frozen agent answers greedily, all banks in one call"
    assert contents(DOG.bank) == before, (
        "a rollout changed the task's own bank: the next sample and epoch see the future")
    for episode, (response, (reward, merged)) in zip(group, responses.items(), strict=True):
        assert episode.log["response"] == response, "episodes must keep the order of the samples"
        assert episode.reward == reward, f"{response}: {episode.log}"
        assert episode.log["merged"] is merged, (
            f"{response}: merged means that a memory holds both dogs, in the oracle's words")
        assert episode.steps[0].response_ids == [ord(letter) for letter in response]
        assert episode.log["prompt"] == manager.read[0] and len(episode.steps) == 1
        assert episode.log["gold"] == "Rex and Milo" and episode.log["category"] == 1
    assert [e.log["operations"] for e in group][3:6] == [
        {"NOOP": 1, "invalid": 0}, {"invalid": 1}, {"DELETE": 1, "ADD": 1, "invalid": 0}]


def test_equal_decisions_are_answered_once(tasks: list[ManagerTask]) -> None:
    frozen = WorldReader()
    manager = always("x", "x", "y", "x")
    ManagerAgent(frozen, max_new_tokens=64).rollout(manager, [DOG, tasks[0]], 8, 1.0)
    assert len(frozen.read) == 2, (
        "invalid responses leave equal banks: two tasks ask two different questions, not 16")
    frozen = WorldReader()
    add = '[{"event": "ADD", "text": "Anna has a dog named Bo"}]'
    ManagerAgent(frozen, max_new_tokens=64).rollout(always(add, "x", add, add), [DOG], 8, 1.0)
    assert len(frozen.read) == 2, "two different responses in a group of 8: two answers to ask for"


def test_an_interrupted_answer_is_asked_for_again(tasks: list[ManagerTask]) -> None:
    class Interrupted(WorldReader):
        def sample(self, *given, **how):
            if not self.calls:
                self.calls.append("Ctrl-C")
                raise KeyboardInterrupt
            return super().sample(*given, **how)

    agent = ManagerAgent(Interrupted(), max_new_tokens=64)
    with pytest.raises(KeyboardInterrupt):
        agent.rollout(always("x"), [DOG], 1, 1.0)
    [[episode]] = agent.rollout(always("x"), [DOG], 1, 1.0)
    assert "answer" in episode.log, "half an outcome was kept"


def test_oracle_and_vanilla_managers_in_rollouts(dialogues: list[Dialogue],
                                                 tasks: list[ManagerTask]) -> None:
    """What reinforcement learning has to gain: the distance between these two."""
    means, merged = {}, {}
    for name, book in zip(("oracle", "vanilla"), managers(dialogues)):
        manager = Scripted(lambda prompt, number: book[prompt])  # KeyError: another prompt
        groups = ManagerAgent(WorldReader(), max_new_tokens=64).rollout(manager, tasks, 2, 1.0)
        assert [len(group) for group in groups] == [2] * len(tasks)
        for task, group in zip(tasks, groups):
            assert ("merged" in group[0].log) == bool(task.merged)
            assert group[0].reward == group[1].reward, "equal responses, different rewards"
            if task.merged:
                assert group[0].log["merged"] == (group[0].reward == 1.0), group[0].log
        means[name] = sum(g[0].reward for g in groups) / len(groups)
        second = [g[0].reward for t, g in zip(tasks, groups) if t.merged]
        merged[name] = sum(second) / len(second)
    assert means["oracle"] == merged["oracle"] == 1.0, (
        f"{means}: the right operation must earn the reward, or the reward is noise")
    assert merged["vanilla"] == 0.0 and means["vanilla"] < 0.9, (
        f"{means}, second pets {merged}: overwriting the first pet must cost the reward")


def test_episodes_of_the_answer_agent(dialogues: list[Dialogue]) -> None:
    reading = add_everything(dialogues[:1], EMBED, "observations")
    tasks = answer_tasks(dialogues[:1], reading.banks)
    policy = Scripted(lambda prompt, number: WorldReader.write(prompt) if number % 2 else "no idea")
    groups = AnswerAgent(max_new_tokens=64).rollout(policy, tasks, 4, 0.9)
    assert policy.calls == [(4, 0.9)], "all questions go to the model in one call"
    for task, group in zip(tasks, groups, strict=True):
        assert [e.log["response"] == "no idea" for e in group] == [True, False] * 2
        for episode in group:
            assert episode.log["gold"] == task.question.answer
            assert episode.reward == (episode.log["answer"] == task.question.answer)
            assert task.question.text in episode.log["prompt"]
        assert group[0].log["n_selected"] == 0 and group[0].log["answer"] == "no idea"
        selected = read_world(group[1].log["prompt"])[0]
        assert group[1].log["n_selected"] == len(selected), "each selected memory is a line"
    assert 0 < sum(g[1].reward for g in groups) < len(groups), (
        "reading the last line is right for told-once facts and wrong for lists")
    policy = Scripted(lambda prompt, number: format_answer([], "Oslo", distill=True))
    [[episode], *_] = AnswerAgent(max_new_tokens=64).rollout(policy, tasks, 1, 0.9)
    assert episode.log["n_selected"] == 0, "- none is no memory"
    direct = always("**Answer:** x")
    AnswerAgent(False, max_new_tokens=64).rollout(direct, tasks[:1], 2, 1.0)
    assert direct.read[0].endswith("Answer directly."), "--no-distill does not reach the prompt"
