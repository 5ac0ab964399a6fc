"""Memory-R1 (arXiv 2508.19828): a Memory Manager and an Answer Agent, paid by exact match alone.

    turn ──1──> fact ──2──> Memory Manager ──3──> operations ──4──> MemoryBank
    question ──5──> 30 memories per speaker ──6──> Answer Agent ──7──> selected memories, answer

1. `turn_facts`        what a turn states: its own words, LoCoMo's observations, or a model's words
2. `manager_messages`  the fact and the memories most like it, numbered 0, 1, ...   (Eq. 1)
3. `parse_operations`  ADD, UPDATE, DELETE or NOOP, read from JSON; never raises
4. `apply_operations`  the bank changes (Algorithm 3)
5. `candidates`        cosine search in each speaker's memories (Algorithm 2)
6. `answer_messages`   all candidates and the question (Figure 11)
7. `parse_answer`      the answer is what follows **Answer:**

Both agents learn from one number (Eq. 4): whether the final answer is exactly the gold answer. The
manager does not answer itself. So a *frozen* answer agent answers from the bank that the manager
leaves behind, and the manager is paid for that answer.

Where this differs from the paper
1. The manager sees the 5 most similar memories, as in the authors' code; the paper does not say.
2. Candidates stand in the order of the bank, as a timeline, not in the order of similarity.
3. Exact match is SQuAD's (metrics.py says why); the paper does not say.
4. The frozen answer agent is the start model, unless a trained one is given (`--answerer`).
5. Each fact is a decision of its own. The authors' code hands the manager all facts of a message
   at once, with the memories found for any of them, so one reward pays for several operations.
6. In the authors' code GPT-4o-mini notes the facts, also where a small model manages them. Here
   they come from the data, or from the start model (`--facts llm`).
With `--span` several decisions in a row share one reward (Spans, below). What the agents learn on
is made in training/tasks.py, with its own list of differences.

    python memr1.py      a chat with both agents, which shows every operation (tools/chat.py)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import zip_longest
from typing import NamedTuple

import torch

from data import Dialogue, Message, Question, Turn
from memory_bank import Embedder, Memory, MemoryBank
from metrics import squad_exact_match
from policy import Policy, Prompt, fit
from prompts import (
    Operation,
    answer_messages,
    extract_messages,
    manager_messages,
    parse_answer,
    parse_facts,
    parse_operations,
)
from trees import Episode, Step

SIMILAR = 5  # memories that the manager reads with a new fact
PER_SPEAKER = 30  # memories of each speaker that the answer agent reads
CHUNK = 32  # prompts of a whole dialogue handed to the model at a time, so that a bar moves
Reward = Callable[[str, str], float]  # (answer, gold answer) -> what the answer is worth
Sources = dict[int, set[str]]  # memory id -> ids of the turns that the memory stands for
Progress = Callable[[range, str], Iterable[int]]  # shows a bar of this name over the steps

# ---- Acting --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnswerTask:
    """A question and the bank to answer it from."""

    bank: MemoryBank
    question: Question
    speakers: tuple[str, ...]  # whose memories are searched, and shown in this order
    per_speaker: int = PER_SPEAKER  # memories of each that are shown

    def prompt(self, policy: Policy, distill: bool, max_new_tokens: int) -> Prompt:
        """The candidates of each speaker, and the question.

        What does not fit the model's positions is dropped, the least similar memories first.
        """
        text, asked = self.question.text, self.question.timestamp

        def prompt_of(memories: Sequence[Memory]) -> list[Message]:
            return answer_messages(text, timelines(memories, self.speakers), distill, asked)

        memories = ranked(self.bank, text, self.speakers, self.per_speaker)
        return fit(policy, prompt_of, memories, policy.positions - max_new_tokens)


@dataclass(frozen=True)
class Answer:
    """What an answer agent made of a question."""

    text: str  # what exact match compares
    selected: str  # the memories that the agent wrote down before its answer, one a line
    prompt: str  # the user message that the agent read
    response: str  # all that the agent wrote
    cut: bool = False  # whether the limit of tokens ended the response
    n_dropped: int = 0  # candidates that did not fit the model's positions
    # The candidates that fit, the most similar first; the other systems (comparisons/) have none.
    memories: Sequence[Memory] = field(default=(), compare=False)


def candidates(bank: MemoryBank, question: str, speakers: Sequence[str],
               per_speaker: int = PER_SPEAKER) -> dict[str, list[Memory]]:
    """The memories of each speaker most similar to the question, in the order of the bank."""
    return timelines(ranked(bank, question, speakers, per_speaker), speakers)


def ranked(bank: MemoryBank, question: str, speakers: Sequence[str],
           per_speaker: int = PER_SPEAKER) -> list[Memory]:
    """The same memories, the most similar ones first: one of each speaker, then another of each."""
    rankings = [bank.search(question, per_speaker, speaker) for speaker in speakers]
    return [memory for of_rank in zip_longest(*rankings) for memory in of_rank if memory]


def timelines(memories: Sequence[Memory], speakers: Sequence[str]) -> dict[str, list[Memory]]:
    """The memories of each speaker, in the order of the bank."""
    # Ids grow with time, so sorted memories are a timeline: the most recent one stands last. In
    # the order of similarity "lives in Oslo" and "lives in Rome" would come in any order.
    return {speaker: sorted((m for m in memories if m.speaker == speaker), key=lambda m: m.id)
            for speaker in speakers}


class Response(NamedTuple):
    """What a model wrote, and whether the limit of tokens ended it."""

    text: str
    cut: bool


def greedy(policy: Policy, prompts: list[list[int]], max_new_tokens: int) -> list[Response]:
    """The greedy response to each prompt of token ids; equal prompts are answered once."""
    # Many samples of a group leave the same bank behind, and so the same prompt for its question.
    distinct = {tuple(prompt): prompt for prompt in prompts}
    groups = policy.sample(list(distinct.values()), 1, max_new_tokens, temperature=0)
    responses = {key: Response(policy.decode(step.response_ids), not step.finished)
                 for key, [step] in zip(distinct, groups)}
    return [responses[tuple(prompt)] for prompt in prompts]


# No agent has a default for `max_new_tokens`. One that is cut before its **Answer:** pays 0 for
# a right memory, so the length has to come from the run's options.
def answer_all(policy: Policy, tasks: Iterable[AnswerTask], distill: bool = True, *,
               max_new_tokens: int) -> list[Answer]:
    """The greedy answers of an answer agent, one for each task.

    `tasks` may be a generator: each bank is searched when its task comes, and is not kept.
    """
    prompts = [task.prompt(policy, distill, max_new_tokens) for task in tasks]
    responses = greedy(policy, [prompt.ids for prompt in prompts], max_new_tokens)
    answers = []
    for prompt, response in zip(prompts, responses):
        selected, text = parse_answer(response.text)
        answers.append(Answer(text, selected, prompt.messages[-1]["content"], *response,
                              prompt.n_dropped, prompt.parts))
    return answers


class Statement(NamedTuple):
    """What a turn states, with what the bank keeps beside it."""

    text: str
    speaker: str
    timestamp: str


@dataclass(frozen=True)
class Observation:
    """What a manager did with one fact."""

    fact: str
    memories: list[Memory]  # that the manager read with the fact, by their numbers in the prompt
    response: str
    # Operations by event, "invalid" entries, which did nothing, and "dropped" memories, which were
    # similar and did not fit the model's positions.
    counts: Counter[str]


def manager_prompt(policy: Policy, fact: str, memories: Sequence[Memory],
                   max_new_tokens: int) -> Prompt:
    """The fact and the memories; those that do not fit the model's positions are dropped."""
    return fit(policy, partial(manager_messages, fact), memories,
               policy.positions - max_new_tokens)


def manager_prompts(policy: Policy, banks: Iterable[MemoryBank], facts: Sequence[Statement],
                    max_new_tokens: int) -> list[Prompt]:
    """The prompt of each fact, with the memories of its own bank that are most similar to it."""
    return [manager_prompt(policy, fact.text, bank.search(fact.text, SIMILAR, fact.speaker),
                           max_new_tokens) for bank, fact in zip(banks, facts)]


def observe_all(policy: Policy, banks: Sequence[MemoryBank], facts: Sequence[Statement], *,
                max_new_tokens: int) -> list[Observation]:
    """Let a manager put one fact into each bank, in place, greedily.

    The banks must be different objects, because all searches come before the first change: a
    second decision on one bank would not see the first.
    """
    prompts = manager_prompts(policy, banks, facts, max_new_tokens)
    responses = greedy(policy, [prompt.ids for prompt in prompts], max_new_tokens)  # one batch
    observations = []
    for bank, fact, prompt, response in zip(banks, facts, prompts, responses):
        counts = carry_out(response.text, bank, prompt.parts, fact.speaker, fact.timestamp)
        if prompt.n_dropped:
            counts["dropped"] = prompt.n_dropped
        observations.append(Observation(fact.text, prompt.parts, response.text, counts))
    return observations


def carry_out(response: str, bank: MemoryBank, memories: Sequence[Memory], speaker: str,
              timestamp: str) -> Counter[str]:
    """Change the bank as a manager's response says; count operations, and all "invalid" entries."""
    operations, n_unusable = parse_operations(response, len(memories))
    counts = apply_operations(bank, memories, operations, speaker, timestamp)
    counts["invalid"] += n_unusable
    return counts


# Problem 10
def apply_operations(bank: MemoryBank, memories: Sequence[Memory],
                     operations: Sequence[Operation], speaker: str, timestamp: str) -> Counter[str]:
    """Change the bank in place (Algorithm 3, entry by entry); count events and "invalid" ones.

    `memories[n]` is memory number n of the prompt, whatever its id. An operation on a memory that
    an earlier operation deleted changes nothing, and counts as "invalid".
    """
    counts: Counter[str] = Counter()
    for operation in operations:
        # Numbers outlive a deletion: memory 1 of the prompt stays number 1 when 0 is deleted.
        try:
            if operation.event == "ADD":
                bank.add(operation.text, speaker, timestamp)  # belongs to who spoke
            elif operation.event == "UPDATE":
                # The memory keeps its speaker, and takes the date of what was said last.
                bank.update(memories[operation.number].id, operation.text, timestamp)
            elif operation.event == "DELETE":
                bank.delete(memories[operation.number].id)
            counts[operation.event] += 1
        except KeyError:  # what the bank raises for an id that it does not hold
            counts["invalid"] += 1
    return counts


# ---- Whole dialogues -----------------------------------------------------------------------------


def without_bar(steps: range, name: str) -> range:
    """The steps themselves; a command that shows a bar gives another function (`Progress`)."""
    return steps


def facts_of(turns: Sequence[Turn], source: str, policy: Policy | None = None,
             max_new_tokens: int = 0, progress: Progress = without_bar,
             counts: Counter[str] | None = None) -> list[list[Statement]]:
    """What each turn states, by `--facts`: "turns" as said, "observations" of the data, or "llm".

    "llm" needs a policy to ask, and the tokens that it may write about a turn. What cannot be used
    of its responses is added to `counts`. Raises ValueError for another source. Training,
    evaluation and the other systems all ask this function, because an agent must not learn from
    facts that it never meets again.
    """
    if source == "turns":
        texts = [[f"{turn.speaker}: {turn.text}"] for turn in turns]
    elif source == "observations":
        texts = [list(turn.facts) for turn in turns]
    elif source == "llm":
        texts = []
        for start in progress(range(0, len(turns), CHUNK), "extract"):
            prompts = [policy.encode(extract_messages(turn))
                       for turn in turns[start : start + CHUNK]]
            for response in greedy(policy, prompts, max_new_tokens):
                facts, n_unusable = parse_facts(response.text)
                texts.append(facts)
                if counts is not None:
                    counts["unusable facts"] += n_unusable
    else:
        raise ValueError(f"facts come from turns, observations or llm, not from {source!r}")
    return [[Statement(text, turn.speaker, turn.timestamp) for text in of_turn]
            for turn, of_turn in zip(turns, texts)]


@dataclass(frozen=True)
class Reading:
    """What a manager made of whole dialogues; banks and sources in the order of the dialogues."""

    banks: list[MemoryBank]
    sources: list[Sources]
    counts: Counter[str]  # of all observations, the "facts" that were read, "unusable facts"
    # Of each dialogue of the world: turn id -> the texts of the bank after the turn, if the turn
    # stated a fact. Other data has no oracle to compare them with, and may be long.
    histories: list[dict[str, list[str]]] = field(default_factory=list)


def build_banks(policy: Policy, dialogues: Sequence[Dialogue], embed: Embedder, facts_from: str,
                progress: Progress = without_bar, *, max_new_tokens: int,
                extractor: Policy | None = None) -> Reading:
    """Put every fact of every dialogue through the manager into the dialogue's bank, from empty.

    A decision depends on the bank that the last one left, so a dialogue's facts go one by one. The
    dialogues go in step: the next fact of each makes one batch of prompts. `facts_from` is the
    source that `facts_of` takes. "llm" asks the extractor, or the manager where none is given. A
    manager that learns needs one that stays as it is, or it would be tested on facts of its own.
    """
    banks = [MemoryBank(embed) for _ in dialogues]
    sources: list[Sources] = [{} for _ in dialogues]
    histories: list[dict[str, list[str]]] = [{} for _ in dialogues]
    of_world = [any(turn.fact for turn in dialogue.turns) for dialogue in dialogues]
    counts: Counter[str] = Counter()
    queues = [[(turn, fact) for turn, facts in
               zip(dialogue.turns, facts_of(dialogue.turns, facts_from, extractor or policy,
                                            max_new_tokens, progress, counts))
               for fact in facts] for dialogue in dialogues]
    counts["facts"] = sum(map(len, queues))
    for place in progress(range(max(map(len, queues), default=0)), "read"):
        # A dialogue whose facts are used up has no part in this batch.
        batch = [(i, *queue[place]) for i, queue in enumerate(queues) if place < len(queue)]
        memories_before = {i: {memory.id: memory for memory in banks[i]} for i, _, _ in batch}
        observations = observe_all(policy, [banks[i] for i, _, _ in batch],
                                   [fact for _, _, fact in batch], max_new_tokens=max_new_tokens)
        for (i, turn, _), observation in zip(batch, observations):
            counts += observation.counts
            for memory in banks[i]:
                # "is not", because an update that changes no word makes an equal memory.
                if memories_before[i].get(memory.id) is not memory:
                    sources[i].setdefault(memory.id, set()).add(turn.turn_id)
            if of_world[i]:
                histories[i][turn.turn_id] = [memory.text for memory in banks[i]]
    return Reading(banks, sources, counts, histories)


class MemoryR1:
    """The whole system over one conversation: `observe` every turn, `answer` any question.

    `build_banks` reads many dialogues to their ends. Here a question may come after any turn, as in
    the chat.
    """

    def __init__(self, manager: Policy, answerer: Policy, embed: Embedder,
                 speakers: Sequence[str], facts_from: str = "turns", distill: bool = True, *,
                 max_new_tokens: int):
        self.manager, self.answerer, self.speakers = manager, answerer, tuple(speakers)
        self.facts_from, self.distill = facts_from, distill
        self.max_new_tokens = max_new_tokens
        self.bank = MemoryBank(embed)
        self.counts: Counter[str] = Counter()  # "unusable facts" of the extractions

    def observe(self, turn: Turn) -> list[Observation]:
        """Read one turn: each of its facts goes through the manager into the bank."""
        [facts] = facts_of([turn], self.facts_from, self.manager, self.max_new_tokens,
                           counts=self.counts)
        return [observe_all(self.manager, [self.bank], [fact],
                            max_new_tokens=self.max_new_tokens)[0] for fact in facts]

    def answer(self, question: str, asked: str = "") -> Answer:
        """Answer from the bank a question that is asked on this date, if there is one."""
        task = AnswerTask(self.bank, Question(question, "", 0, (), asked), self.speakers)
        return answer_all(self.answerer, [task], self.distill,
                          max_new_tokens=self.max_new_tokens)[0]


# ---- Tasks and episodes --------------------------------------------------------------------------


@dataclass(frozen=True)
class ManagerTask:
    """One decision of the manager, and the question whose answer pays for it."""

    bank: MemoryBank  # before the fact; decisions change copies of it, never the bank itself
    fact: Statement
    question: Question
    speakers: tuple[str, ...]
    # For a second pet: the memory that ought to stand afterwards ("Anna has dogs named Rex and
    # Milo"). Only the synthetic world knows it. It is logged and never paid for.
    merged: str = ""
    n_dropped: int = 0  # memories that did not fit the model's positions

    @cached_property  # one search a task, however many epochs and samples ask for it
    def memories(self) -> list[Memory]:
        """The memories most similar to the fact, in the order of their numbers in the prompt."""
        memories = self.bank.search(self.fact.text, SIMILAR, self.fact.speaker)
        return memories[:len(memories) - self.n_dropped]


class ManagerAgent:
    """Turns manager tasks into episodes of one step, paid by a frozen answer agent's answers.

    The frozen answer agent reads the bank that a decision leaves behind. It answers greedily, so
    equal decisions have equal outcomes. `outcomes` keeps them, because a group of samples and the
    steps of a run repeat many decisions.
    """

    def __init__(self, frozen: Policy, distill: bool = True,
                 reward: Reward = squad_exact_match, per_speaker: int = PER_SPEAKER, *,
                 max_new_tokens: int):
        self.frozen, self.distill, self.reward = frozen, distill, reward
        self.per_speaker = per_speaker  # memories that the answer agent reads
        self.max_new_tokens = max_new_tokens  # of both agents
        self.outcomes: dict[tuple[ManagerTask, str], dict] = {}  # (task, response) -> for the log

    # Problem 10
    def rollout(self, policy: Policy, tasks: Sequence[ManagerTask], group_size: int,
                temperature: float, generator: torch.Generator | None = None,
                ) -> list[list[Episode]]:
        """`group_size` decisions for each task, paid by the answer agent's answer after each."""
        prompts = [manager_prompt(policy, task.fact.text, task.memories, self.max_new_tokens)
                   for task in tasks]
        # An operation may name no memory that the manager did not read.
        tasks = [replace(task, n_dropped=prompt.n_dropped) if prompt.n_dropped else task
                 for task, prompt in zip(tasks, prompts)]
        # One call for all tasks: it reads each prompt once, and samples all groups together.
        groups = policy.sample([prompt.ids for prompt in prompts], group_size,
                               self.max_new_tokens, temperature, generator)
        decisions = [[(task, policy.decode(step.response_ids)) for step in group]
                     for task, group in zip(tasks, groups)]
        # All tasks at once: the frozen agent answers in one batch.
        outcomes = self.outcomes_of([d for of_task in decisions for d in of_task])
        episodes = []
        for prompt, group, of_task in zip(prompts, groups, decisions):
            episodes.append([])
            for step, (task, response) in zip(group, of_task):
                outcome = outcomes[task, response]
                reward = float(self.reward(outcome["answer"], task.question.answer))
                log = {"prompt": prompt.messages[-1]["content"], "response": response,
                       "question": task.question.text, "gold": task.question.answer,
                       "category": task.question.category, **outcome}
                # The step keeps its sampled ids: decoded and encoded again they might differ.
                episodes[-1].append(Episode([step], reward, log))
        return episodes

    # Problem 10
    def outcomes_of(self, decisions: Sequence[tuple[ManagerTask, str]],
                    ) -> dict[tuple[ManagerTask, str], dict]:
        """What came of each decision (task, response); new ones are carried out and remembered.

        An outcome holds "operations" (counts by event), "answer", "answer_response", "answer_cut",
        which says whether the limit of tokens ended that response, and as "dropped" the memories
        that did not fit either prompt. Where the task names a memory in `merged`, "merged" says
        whether the bank holds it afterwards.
        """
        # No set: its order, and so the answer agent's batches, would differ by process.
        new = [d for d in dict.fromkeys(decisions) if d not in self.outcomes]
        changes: list[dict] = []  # of the bank, for each new decision

        def questions() -> Iterator[AnswerTask]:
            """Carry out each new decision on a copy of its bank, and ask there."""
            for task, response in new:
                bank = task.bank.copy()  # or the next sample of the group would find it changed
                counts = carry_out(response, bank, task.memories, task.fact.speaker,
                                   task.fact.timestamp)
                changes.append({"operations": dict(counts)})
                if task.merged:
                    changes[-1]["merged"] = any(memory.text == task.merged for memory in bank)
                yield AnswerTask(bank, task.question, task.speakers, self.per_speaker)

        # A generator, because the banks of a real dialogue have 5 MB each: one lives at a time.
        answers = answer_all(self.frozen, questions(), self.distill,
                             max_new_tokens=self.max_new_tokens)
        for decision, change, answer in zip(new, changes, answers):
            self.outcomes[decision] = {
                **change, "answer": answer.text, "answer_response": answer.response,
                "answer_cut": answer.cut, "dropped": decision[0].n_dropped + answer.n_dropped}
        return {decision: self.outcomes[decision] for decision in decisions}


class AnswerAgent:
    """Turns questions into episodes of one step: select memories, answer, be paid for the answer.

    Nobody else has a part in the reward, so no frozen agent is needed.
    """

    def __init__(self, distill: bool = True, reward: Reward = squad_exact_match, *,
                 max_new_tokens: int):
        self.distill, self.reward, self.max_new_tokens = distill, reward, max_new_tokens

    def rollout(self, policy: Policy, tasks: Sequence[AnswerTask], group_size: int,
                temperature: float, generator: torch.Generator | None = None,
                ) -> list[list[Episode]]:
        """`group_size` answers to each question, each paid by itself."""
        prompts = [task.prompt(policy, self.distill, self.max_new_tokens) for task in tasks]
        groups = policy.sample([prompt.ids for prompt in prompts], group_size,
                               self.max_new_tokens, temperature, generator)
        episodes = []
        for task, prompt, group in zip(tasks, prompts, groups):
            episodes.append([])
            for step in group:
                response = policy.decode(step.response_ids)
                selected, answer = parse_answer(response)
                # The number of selected memories shows how much the agent distils.
                log = {"prompt": prompt.messages[-1]["content"], "response": response,
                       "question": task.question.text, "answer": answer,
                       "gold": task.question.answer, "category": task.question.category,
                       "n_selected": len([line for line in selected.splitlines()
                                          if line.strip("- ") != "none"]),
                       "dropped": prompt.n_dropped}
                reward = float(self.reward(answer, task.question.answer))
                episodes[-1].append(Episode([step], reward, log))
        return episodes


# ---- Spans ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpanTask:
    """Consecutive facts of a dialogue, to be put into memory one after the other."""

    facts: tuple[Statement, ...]  # of the whole dialogue
    start: int  # the span is facts[start:stop]; the manager has read all facts before it
    stop: int
    questions: tuple[Question, ...]  # that can be answered after the span
    speakers: tuple[str, ...]
    embed: Embedder


# Problem 13
def banks_so_far(policy: Policy, tasks: Sequence[SpanTask], *,
                 max_new_tokens: int) -> list[MemoryBank]:
    """For each task a bank of its own, as the manager makes it of the facts before the span.

    It begins with an empty bank and decides greedily. Each dialogue is read once, up to the latest
    `start` of its tasks. The next facts of all dialogues make one batch. All this is done anew at
    every training step, because the policy has changed.
    """
    readers = {task.facts: MemoryBank(task.embed) for task in tasks}
    furthest = {facts: max(task.start for task in tasks if task.facts == facts)
                for facts in readers}
    banks: dict[int, MemoryBank] = {}  # by the number of the task
    for place in range(max(furthest.values(), default=-1) + 1):
        banks |= {number: readers[task.facts].copy() for number, task in enumerate(tasks)
                  if task.start == place}
        reading = [facts for facts in readers if place < furthest[facts]]
        if reading:
            observe_all(policy, [readers[facts] for facts in reading],
                        [facts[place] for facts in reading], max_new_tokens=max_new_tokens)
    return [banks[number] for number in range(len(tasks))]


# Problem 13
def span_reward(reward: Reward, answers: Sequence[str], questions: Sequence[Question]) -> float:
    """The mean reward of a span's answers: one number from 0 to 1, for all its steps.

    Raises ValueError if there are not as many answers as questions.
    """
    rewards = [float(reward(answer, question.answer))
               for answer, question in zip(answers, questions, strict=True)]
    return sum(rewards) / len(rewards)


@dataclass
class SpanSample:
    """One sample of a span: the bank that its decisions change, and what they were."""

    task: SpanTask
    bank: MemoryBank
    steps: list[Step] = field(default_factory=list)  # for training, one a fact
    prompts: list[str] = field(default_factory=list)  # for the log, one a fact
    responses: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # operations by event, and "invalid"
    n_dropped: int = 0  # memories that did not fit the manager's prompts


class SpanAgent(ManagerAgent):
    """A manager that learns on spans: several decisions, from a memory of its own making.

    A single decision starts from a memory that the manager did not make, and its reward ignores
    what it does to later decisions. In a span the manager meets its own mistakes, and the questions
    come after the last decision. All samples of a group start from the same bank. grpo.py and
    ppo.py need no change, because MEM1's episodes have several steps too.

    Validation and test use single decisions, so the agent takes these as well. The follow-up of the
    same authors (Memory-R2, arXiv 2605.21768) compares decisions from equal memories too, but
    inside a trajectory as well as at its start.
    """

    # Problem 13
    def rollout(self, policy: Policy, tasks: Sequence[SpanTask | ManagerTask], group_size: int,
                temperature: float, generator: torch.Generator | None = None,
                ) -> list[list[Episode]]:
        """`group_size` samples of each span, or of each single decision; never both in a call."""
        if not all(isinstance(task, SpanTask) for task in tasks):
            return super().rollout(policy, tasks, group_size, temperature, generator)
        banks = banks_so_far(policy, tasks, max_new_tokens=self.max_new_tokens)
        groups = [[SpanSample(task, bank.copy()) for _ in range(group_size)]
                  for task, bank in zip(tasks, banks)]
        samples = [sample for group in groups for sample in group]
        for offset in range(max((task.stop - task.start for task in tasks), default=0)):
            unfinished = [s for s in samples if s.task.start + offset < s.task.stop]
            self._decide(policy, unfinished, offset, temperature, generator)
        asked = [AnswerTask(sample.bank, question, sample.task.speakers, self.per_speaker)
                 for sample in samples for question in sample.task.questions]
        answers = iter(answer_all(self.frozen, asked, self.distill,
                                  max_new_tokens=self.max_new_tokens))
        return [[self._episode(sample, [next(answers) for _ in sample.task.questions])
                 for sample in group] for group in groups]

    def _decide(self, policy: Policy, samples: Sequence[SpanSample], offset: int,
                temperature: float, generator: torch.Generator | None) -> None:
        """The next decision of each sample; it changes the sample's bank.

        It is about fact number `offset` of the span, counted from 0, which the span must have.
        """
        facts = [sample.task.facts[sample.task.start + offset] for sample in samples]
        prompts = manager_prompts(policy, [sample.bank for sample in samples], facts,
                                  self.max_new_tokens)
        # One response a prompt, because after the first decision the banks of a group differ.
        sampled = policy.sample([prompt.ids for prompt in prompts], 1, self.max_new_tokens,
                                temperature, generator)
        for sample, fact, prompt, [step] in zip(samples, facts, prompts, sampled):
            response = policy.decode(step.response_ids)
            sample.steps.append(step)
            sample.prompts.append(prompt.messages[-1]["content"])
            sample.responses.append(response)
            sample.counts.update(carry_out(response, sample.bank, prompt.parts, fact.speaker,
                                           fact.timestamp))
            sample.n_dropped += prompt.n_dropped

    def _episode(self, sample: SpanSample, answers: Sequence[Answer]) -> Episode:
        """A finished sample as training and samples.jsonl see it; answers in questions' order."""
        questions, texts = sample.task.questions, [answer.text for answer in answers]
        log = {"prompt": "\n\n".join(sample.prompts),
               "response": "\n".join(" ".join(text.split()) for text in sample.responses),
               "question": "; ".join(question.text for question in questions),
               "answer": "; ".join(texts), "category": len(questions),
               "gold": "; ".join(question.answer for question in questions),
               "objectives": [{"question": question.text, "answer": text,
                               "gold": question.answer, "category": question.category}
                              for text, question in zip(texts, questions)],
               "operations": dict(sample.counts),
               "dropped": sample.n_dropped + sum(answer.n_dropped for answer in answers),
               "answer_cut": sum(answer.cut for answer in answers) / len(answers)}
        return Episode(sample.steps, span_reward(self.reward, texts, questions), log)


if __name__ == "__main__":
    from tools.chat import talk_main  # not above: the chat imports this module
    talk_main()
