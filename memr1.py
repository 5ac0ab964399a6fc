"""Memory-R1 (arXiv 2508.19828): a Memory Manager and an Answer Agent, paid by exact match alone.

    turn ──1──> fact ──2──> Memory Manager ──3──> operations ──4──> MemoryBank
    question ──5──> 30 memories per speaker ──6──> Answer Agent ──7──> selected memories, answer

1. `turn_facts`        what a turn states: itself, LoCoMo's observations, or a model's words
2. `manager_messages`  the fact and the memories most like it, numbered 0, 1, ...   (Eq. 1)
3. `parse_operations`  ADD, UPDATE, DELETE or NOOP, in JSON; never raises
4. `apply_operations`  the bank changes (Algorithm 3)
5. `candidates`        cosine search in each speaker's memories (Algorithm 2)
6. `answer_messages`   all candidates and the question (Figure 11)
7. `parse_answer`      the answer is what follows **Answer:**

Both agents learn from one number (Eq. 4): whether the final answer is exactly the gold answer. For
the manager a *frozen* answer agent gives that answer from the bank the manager leaves behind.

Where this differs from the paper
1. A training example of the manager is one decision: the bank of all earlier turns, the last turn
   that a question's evidence names, and that question. The paper links a turn to every question
   whose evidence contains it; but before the last of the turns nobody can answer.
2. In training the same question also judges a later decision, on a turn that is easily mistaken
   for its own but has nothing to do with it: there the memory must survive. Judged by linked turns
   alone, a manager learns to overwrite whatever stands nearby, since nobody asks for it again.
3. The earlier bank is the right one where the data knows it (the synthetic world), and otherwise
   holds every earlier fact. The paper lets GPT-4o-mini build it from the last 24 or 50 turns (its
   text and its Algorithm 1 disagree).
4. The manager sees the 5 most similar memories, as in the authors' code; the paper does not say.
5. Candidates stand in the order of the bank, as a timeline, not in the order of similarity.
6. Exact match is SQuAD's (metrics.py says why); the paper does not say.
7. While the manager learns, the answer agent is the start model, not one that was trained.

`python memr1.py` starts a chat with both agents in the terminal, which shows every operation
(chat.py).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from data import Dialogue, Question, Turn
from memory_bank import Embedder, Memory, MemoryBank
from metrics import squad_exact_match
from policy import Policy
from prompts import (
    Operation,
    answer_messages,
    extract_messages,
    manager_messages,
    parse_answer,
    parse_facts,
    parse_operations,
)
from trees import Episode
from world import oracle_memories, second_pet

SIMILAR = 5  # memories shown to the manager with a new fact
PER_SPEAKER = 30  # memories of each speaker shown to the answer agent
CHUNK = 32  # prompts of a whole dialogue handed to the model at a time, so that a bar moves
Reward = Callable[[str, str], float]  # of an answer and the gold answer
Sources = dict[int, set[str]]  # memory id -> ids of the turns that the memory stands for
Progress = Callable[[range, str], Iterable[int]]  # shows a bar of this name over the steps

# ---- Acting --------------------------------------------------------------------------------------

@dataclass(frozen=True)
class AnswerTask:
    """A question and the bank to answer it from."""

    bank: MemoryBank
    question: Question
    speakers: tuple[str, ...]


@dataclass(frozen=True)
class ManagerTask:
    """One decision of the manager, and the question that will judge it."""

    bank: MemoryBank  # before the turn; never changed
    fact: str
    speaker: str
    timestamp: str
    question: Question
    speakers: tuple[str, ...]
    merged: str = ""  # for a second pet: the memory that ought to stand afterwards (world only)

    @cached_property
    def shown(self) -> list[Memory]:
        """The memories most similar to the fact, in the order of their numbers in the prompt."""
        return self.bank.search(self.fact, SIMILAR, self.speaker)


@dataclass(frozen=True)
class Answer:
    """What an answer agent made of a question."""

    text: str
    selected: str
    prompt: str  # the user message, as it was read
    response: str


def candidates(bank: MemoryBank, question: str, speakers: Sequence[str],
               per_speaker: int = PER_SPEAKER) -> dict[str, list[Memory]]:
    """The memories of each speaker most similar to the question, in the order of the bank."""
    return {speaker: sorted(bank.search(question, per_speaker, speaker), key=lambda m: m.id)
            for speaker in speakers}


def greedy(policy: Policy, prompts: list[list[int]], max_new_tokens: int) -> list[str]:
    """The likeliest response to each prompt; equal prompts are answered once."""
    distinct = {tuple(prompt): prompt for prompt in prompts}
    groups = policy.sample(list(distinct.values()), 1, max_new_tokens, temperature=0)
    texts = dict(zip(distinct, (policy.decode(group[0].response_ids) for group in groups)))
    return [texts[tuple(prompt)] for prompt in prompts]


def answer_all(policy: Policy, tasks: Iterable[AnswerTask], distill: bool = True,
               max_new_tokens: int = 64) -> list[Answer]:
    """The greedy answers of an answer agent.

    Each task's bank is searched when it comes, and let go: tasks may come from a generator.
    """
    messages = [answer_messages(t.question.text, candidates(t.bank, t.question.text, t.speakers),
                                distill) for t in tasks]
    responses = greedy(policy, [policy.encode(m) for m in messages], max_new_tokens)
    answers = []
    for message, response in zip(messages, responses):
        selected, text = parse_answer(response)
        answers.append(Answer(text, selected, message[-1]["content"], response))
    return answers


@dataclass(frozen=True)
class Observation:
    """What a manager did with one fact."""

    fact: str
    shown: list[Memory]
    response: str
    counts: Counter[str]


def observe_all(policy: Policy, banks: Sequence[MemoryBank],
                facts: Sequence[tuple[str, str, str]],
                max_new_tokens: int = 64) -> list[Observation]:
    """Let a manager put one fact `(text, speaker, timestamp)` into each bank, in place, greedily.

    The banks must be different objects: one decision a bank and call.
    """
    shown = [bank.search(fact, SIMILAR, speaker)
             for bank, (fact, speaker, _) in zip(banks, facts)]
    prompts = [policy.encode(manager_messages(fact, memories))
               for (fact, _, _), memories in zip(facts, shown)]
    seen = []
    responses = greedy(policy, prompts, max_new_tokens)
    for bank, (fact, speaker, timestamp), memories, response in zip(banks, facts, shown, responses):
        operations, invalid = parse_operations(response, len(memories))
        counts = apply_operations(bank, memories, operations, speaker, timestamp)
        counts["invalid"] += invalid
        seen.append(Observation(fact, memories, response, counts))
    return seen


# Problem 10
def apply_operations(bank: MemoryBank, shown: Sequence[Memory], operations: Sequence[Operation],
                     speaker: str, timestamp: str) -> Counter[str]:
    """Change the bank in place (Algorithm 3, entry by entry); count events and "invalid" ones.

    `shown` are the memories as they were numbered in the prompt. An operation on a memory that an
    earlier operation deleted changes nothing.
    """
    counts: Counter[str] = Counter()
    for operation in operations:
        try:
            if operation.event == "ADD":
                bank.add(operation.text, speaker, timestamp)
            elif operation.event == "UPDATE":
                bank.update(shown[operation.number].id, operation.text, timestamp)
            elif operation.event == "DELETE":
                bank.delete(shown[operation.number].id)
            counts[operation.event] += 1
        except KeyError:
            counts["invalid"] += 1
    return counts


def turn_facts(turn: Turn, source: str, policy: Policy | None = None) -> list[str]:
    """What one turn states; see `facts_of`."""
    return facts_of([turn], source, policy)[0]


def without_bar(steps: range, name: str) -> range:
    """The steps themselves; a command that shows a bar gives another function (`Progress`)."""
    return steps


def facts_of(turns: Sequence[Turn], source: str, policy: Policy | None = None,
             progress: Progress = without_bar) -> list[list[str]]:
    """What each turn states, by `--facts`: "turns" as said, "observations" of the data, or "llm".

    "llm" needs a policy to ask. Raises ValueError for another source.
    """
    if source == "turns":
        return [[f"{turn.speaker}: {turn.text}"] for turn in turns]
    if source == "observations":
        return [list(turn.facts) for turn in turns]
    if source != "llm":
        raise ValueError(f"facts come from turns, observations or llm, not from {source!r}")
    facts: list[list[str]] = []
    for start in progress(range(0, len(turns), CHUNK), "extract"):
        prompts = [policy.encode(extract_messages(turn)) for turn in turns[start : start + CHUNK]]
        facts += [parse_facts(response) for response in greedy(policy, prompts, 256)]
    return facts


@dataclass(frozen=True)
class Reading:
    """What a manager made of whole dialogues; banks and sources in the order of the dialogues."""

    banks: list[MemoryBank]
    sources: list[Sources]
    counts: Counter[str]  # operations by name, "invalid" ones, and the "facts" that were read


def build_banks(policy: Policy, dialogues: Sequence[Dialogue], embed: Embedder, facts: str,
                max_new_tokens: int = 64, progress: Progress = without_bar) -> Reading:
    """Put every fact of every dialogue through the manager into the dialogue's bank, from empty.

    A decision depends on the bank that the last one left, so a dialogue's facts go one by one. The
    dialogues go in step: the next fact of each makes one batch of prompts.
    """
    banks = [MemoryBank(embed) for _ in dialogues]
    sources: list[Sources] = [{} for _ in dialogues]
    queues = [[(fact, turn) for turn, stated in
               zip(dialogue.turns, facts_of(dialogue.turns, facts, policy, progress))
               for fact in stated] for dialogue in dialogues]
    counts = Counter(facts=sum(map(len, queues)))
    for place in progress(range(max(map(len, queues), default=0)), "read"):
        unfinished = [i for i, queue in enumerate(queues) if place < len(queue)]
        memories_before = {i: {memory.id: memory for memory in banks[i]} for i in unfinished}
        observations = observe_all(
            policy, [banks[i] for i in unfinished],
            [(fact, turn.speaker, turn.timestamp)
             for fact, turn in (queues[i][place] for i in unfinished)], max_new_tokens)
        for i, observation in zip(unfinished, observations):
            counts += observation.counts
            turn = queues[i][place][1]
            for memory in banks[i]:
                # "is not", because an update that changes no word makes an equal memory.
                if memories_before[i].get(memory.id) is not memory:
                    sources[i].setdefault(memory.id, set()).add(turn.turn_id)
    return Reading(banks, sources, counts)


class MemoryR1:
    """The whole system over one conversation: `observe` every turn, `answer` any question.

    `build_banks` reads many dialogues at once; here somebody can ask in between, as the chat does.
    """

    def __init__(self, manager: Policy, answerer: Policy, embed: Embedder,
                 speakers: Sequence[str], facts: str = "turns", distill: bool = True):
        self.manager, self.answerer, self.speakers = manager, answerer, tuple(speakers)
        self.facts, self.distill = facts, distill
        self.bank = MemoryBank(embed)

    def observe(self, turn: Turn) -> list[Observation]:
        """Read one turn: each of its facts goes through the manager into the bank."""
        return [observe_all(self.manager, [self.bank], [(fact, turn.speaker, turn.timestamp)])[0]
                for fact in turn_facts(turn, self.facts, self.manager)]

    def answer(self, question: str) -> Answer:
        """Answer from the bank."""
        task = AnswerTask(self.bank, Question(question, "", 0, ()), self.speakers)
        return answer_all(self.answerer, [task], self.distill)[0]


# ---- Tasks and episodes --------------------------------------------------------------------------

def everything(turns: Sequence[Turn]) -> list[tuple[str, str, str]]:
    """What a manager that only ever adds would keep: every fact, or the turn itself."""
    return [(fact, turn.speaker, turn.timestamp) for turn in turns
            for fact in turn.facts or (f"{turn.speaker}: {turn.text}",)]


def answer_tasks(dialogues: Sequence[Dialogue], embed: Embedder) -> list[AnswerTask]:
    """Every question over a bank that kept everything: what is stale is the agent's to tell."""
    tasks = []
    for dialogue in dialogues:
        bank = MemoryBank(embed)
        bank.add_many(everything(dialogue.turns))
        tasks += [AnswerTask(bank, question, dialogue.speakers) for question in dialogue.questions]
    return tasks


def manager_tasks(dialogues: Sequence[Dialogue], embed: Embedder, facts: str,
                  policy: Policy | None = None, guards: bool = False) -> list[ManagerTask]:
    """One decision for each question whose evidence names a turn: see "differs", 1 to 3.

    `policy` extracts the facts where `facts` is "llm". With `guards`, for training, a second one:
    at a later turn that has nothing to do with it.
    """
    tasks = []
    draw = random.Random(0)
    for dialogue in dialogues:
        places = {turn.turn_id: place for place, turn in enumerate(dialogue.turns)}
        decisions = []  # (place of a turn, question)
        for question in dialogue.questions:
            if question.evidence:
                place = max(places[turn_id] for turn_id in question.evidence)
                later = guard_place(dialogue, place, embed, draw) if guards else None
                decisions += [(at, question) for at in (place, later) if at is not None]
        banks = banks_before(dialogue, {place for place, _ in decisions}, embed)
        for place, question in decisions:
            before, turn = dialogue.turns[:place], dialogue.turns[place]
            fact = " ".join(turn_facts(turn, facts, policy)) or f"{turn.speaker}: {turn.text}"
            tasks.append(ManagerTask(banks[place], fact, turn.speaker, turn.timestamp, question,
                                     dialogue.speakers, second_pet(before, turn)))
    return tasks


def banks_before(dialogue: Dialogue, places: set[int], embed: Embedder) -> dict[int, MemoryBank]:
    """The memory right before each of these turns, the right one where the data knows it."""
    banks = {}
    if any(turn.fact for turn in dialogue.turns):
        for place in places:
            banks[place] = MemoryBank(embed)
            banks[place].add_many(oracle_memories(dialogue.turns[:place]).values())
        return banks
    bank, read = MemoryBank(embed), 0
    for place in sorted(places):
        bank.add_many(everything(dialogue.turns[read:place]))
        # LoCoMo's 1,500 questions need so many banks of hundreds: these share their vectors.
        banks[place], read = bank.copy(), place
    return banks


def guard_place(dialogue: Dialogue, place: int, embed: Embedder,
                draw: random.Random) -> int | None:
    """A later turn of the same speaker to which no earlier one is more similar than this.

    So the memory of this turn is what a manager who overwrites whatever stands nearby would lose.
    Where there is no such turn, one of the five most similar.
    """
    turn, bank = dialogue.turns[place], MemoryBank(embed)
    said = [at for at, other in enumerate(dialogue.turns) if other.speaker == turn.speaker]
    mistaken = []
    for at in said:
        text = dialogue.turns[at].text
        if at > place and said[bank.search(text, 1)[0].id] == place:
            mistaken.append(at)
        bank.add(text, turn.speaker, "")
    if not mistaken:
        alike = (said[memory.id] for memory in bank.search(turn.text, len(said)))
        mistaken = [at for at in alike if at > place][:5]
    return draw.choice(mistaken) if mistaken else None


class ManagerAgent:
    """Turns manager tasks into episodes of one step, judged by a frozen answer agent."""

    def __init__(self, frozen: Policy, distill: bool = True, max_new_tokens: int = 64,
                 reward: Reward = squad_exact_match):
        self.frozen, self.distill, self.max_new_tokens = frozen, distill, max_new_tokens
        self.reward = reward
        # The judge is frozen and greedy: what was judged once need not be judged again.
        self.outcomes: dict[tuple[ManagerTask, str], dict] = {}

    # Problem 10
    def rollout(self, policy: Policy, tasks: Sequence[ManagerTask], group_size: int,
                temperature: float, generator: torch.Generator | None = None,
                ) -> list[list[Episode]]:
        """`group_size` decisions for each task, paid by the answer agent's answer after each."""
        messages = [manager_messages(task.fact, task.shown) for task in tasks]
        groups = policy.sample([policy.encode(m) for m in messages], group_size,
                               self.max_new_tokens, temperature, generator)
        responses = [[policy.decode(step.response_ids) for step in group] for group in groups]
        self.judge([(task, response) for task, theirs in zip(tasks, responses)
                    for response in theirs])
        episodes = []
        for task, message, group, theirs in zip(tasks, messages, groups, responses):
            episodes.append([])
            for step, response in zip(group, theirs):
                outcome = self.outcomes[task, response]
                reward = float(self.reward(outcome["answer"], task.question.answer))
                log = {"prompt": message[-1]["content"], "response": response,
                       "question": task.question.text, "gold": task.question.answer,
                       "category": task.question.category, **outcome}
                episodes[-1].append(Episode([step], reward, log))
        return episodes

    # Problem 10
    def judge(self, decisions: Sequence[tuple[ManagerTask, str]]) -> None:
        """Put into `outcomes` what the answer agent says after each decision that is new."""
        # No set: its order, and so the answer agent's batches, would differ by process.
        fresh = [d for d in dict.fromkeys(decisions) if d not in self.outcomes]

        changes: list[dict] = []  # what each did to the bank

        def question_after(task: ManagerTask, response: str) -> AnswerTask:
            """The question over the memory that a decision leaves behind."""
            bank = task.bank.copy()
            operations, invalid = parse_operations(response, len(task.shown))
            counts = apply_operations(bank, task.shown, operations, task.speaker, task.timestamp)
            counts["invalid"] += invalid
            changes.append({"operations": dict(counts)})
            if task.merged:
                changes[-1]["merged"] = any(memory.text == task.merged for memory in bank)
            return AnswerTask(bank, task.question, task.speakers)

        # One by one: as many banks of a real dialogue, 5 MB each, would take gigabytes together.
        asked = (question_after(*decision) for decision in fresh)
        answers = answer_all(self.frozen, asked, self.distill)
        for decision, change, answer in zip(fresh, changes, answers):
            self.outcomes[decision] = {
                **change, "answer": answer.text, "answer_response": answer.response}


class AnswerAgent:
    """Turns questions into episodes of one step: select memories, answer."""

    def __init__(self, distill: bool = True, max_new_tokens: int = 64,
                 reward: Reward = squad_exact_match):
        self.distill, self.max_new_tokens, self.reward = distill, max_new_tokens, reward

    def rollout(self, policy: Policy, tasks: Sequence[AnswerTask], group_size: int,
                temperature: float, generator: torch.Generator | None = None,
                ) -> list[list[Episode]]:
        """`group_size` answers to each question, each paid by itself."""
        messages = [answer_messages(t.question.text,
                                    candidates(t.bank, t.question.text, t.speakers), self.distill)
                    for t in tasks]
        groups = policy.sample([policy.encode(m) for m in messages], group_size,
                               self.max_new_tokens, temperature, generator)
        episodes = []
        for task, message, group in zip(tasks, messages, groups):
            episodes.append([])
            for step in group:
                response = policy.decode(step.response_ids)
                selected, answer = parse_answer(response)
                log = {"prompt": message[-1]["content"], "response": response,
                       "question": task.question.text, "answer": answer,
                       "gold": task.question.answer, "category": task.question.category,
                       "n_selected": len(selected.splitlines())}
                reward = float(self.reward(answer, task.question.answer))
                episodes[-1].append(Episode([step], reward, log))
        return episodes


if __name__ == "__main__":
    from tools.chat import talk_main  # not above: the chat imports this module
    talk_main()
