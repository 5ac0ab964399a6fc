"""What Memory-R1 (arXiv 2508.19828) is compared with: other memories, each at its essence.

This file holds what all of them share, those that no model manages, and Mem0. Memory-R1 is Mem0's
pipeline with two trained models, so both have one class. graphs_and_tools.py has the larger
systems, A-Mem, Zep and LangMem, and the list of all.

    turn ──observing──> memories        question ──retrieve──> memories ──answer prompt──> Answer

Each system has the methods of `memr1.MemoryR1`, `observe(turn)` and `answer(question)`, the same
language model, embedder and answer prompt. What it keeps and what it shows are its own.

The work is written as generators. A generator yields a `Call`, which is a prompt that waits for a
model, and is sent the response. So `drive` can advance many conversations in step, with their
prompts in one batch, and yet each class reads as if it had the model to itself.

Where this differs from the papers
1. One model does everything, as in Memory-R1's comparison; the systems' own papers mostly ask
   GPT-4o-mini.
2. The prompts are ours. All systems answer from Memory-R1's answer prompt, none from its own.
3. `compact=True` is for the embedded model, which knows only the prompts of the manager and of the
   answer agent. There the manager's call takes every decision, and systems that ask no model store
   the sentences that the world knows of a turn. The docstrings say what else changes.
4. What a model writes is never trusted: what cannot be used changes nothing and is counted.
5. MemoryOS is left out. Memory-SFT is another way to train the two agents, and no other system.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data import Message, Turn
from memory_bank import Embedder, Memory, MemoryBank, memory_line
from memr1 import PER_SPEAKER, SIMILAR, Answer, apply_operations, candidates, facts_of, greedy
from policy import Policy, fit
from prompts import (
    answer_messages,
    extract_messages,
    manager_messages,
    one_line,
    parse_answer,
    parse_facts,
    parse_operations,
)

CHUNK = 32  # prompts handed to a model at a time

# ---- Many conversations in step ------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A prompt that waits for a model."""

    policy: Policy
    prompt_ids: list[int]
    max_new_tokens: int
    counts: Counter[str] = field(default_factory=Counter)  # "cut": by the limit of tokens


Work = Generator[Call, str, Any]  # yields calls, is sent the responses, returns a result


def drive(works: Sequence[Work]) -> list[Any]:
    """Advance all work in step, to its end, and return what each piece of it returned.

    `memr1.build_banks` steps too, but only through Memory-R1's one decision a fact. These systems
    make any number of calls a turn, of several kinds and models, so each call has to wait for the
    response to the one before. Two pieces of work must not write to one memory, because their
    turns would be mixed.
    """
    results: list[Any] = [None] * len(works)
    responses: dict[int, str | None] = dict.fromkeys(range(len(works)))  # None starts a generator
    while responses:
        batches: dict[tuple[int, int], list[tuple[int, Call]]] = {}
        for i, response in sorted(responses.items()):
            try:
                call = works[i].send(response)
            except StopIteration as end:
                results[i] = end.value
            else:
                batches.setdefault((id(call.policy), call.max_new_tokens), []).append((i, call))
        responses = {}
        for batch in batches.values():
            for start in range(0, len(batch), CHUNK):
                places, calls = zip(*batch[start : start + CHUNK])
                written = greedy(calls[0].policy, [c.prompt_ids for c in calls],
                                 calls[0].max_new_tokens)
                responses.update(zip(places, (response.text for response in written)))
                for call, response in zip(calls, written):
                    call.counts["cut"] += response.cut
    return results


@dataclass(eq=False)
class System(ABC):
    """The memory of one conversation. A child says what it stores, and mostly what it shows."""

    policy: Policy
    embed: Embedder
    speakers: Sequence[str]
    compact: bool = False  # for the embedded model
    answerer: Policy | None = None  # another model for the answers
    extractor: Policy | None = None  # another model that notes the facts, with facts "llm"
    distill: bool = True  # select memories before the answer
    facts: str = "turns"  # where Mem0 and the rules have a turn's facts from: memr1.facts_of
    per_speaker: int = PER_SPEAKER  # memories that an answer prompt shows of each speaker
    max_new_tokens: int = field(kw_only=True)
    # "calls" of a model, "prompt tokens" it read, responses that were "cut", "invalid" outputs,
    # memories "dropped" from answer prompts that were too long, operations by name, and what a
    # child counts besides
    counts: Counter[str] = field(default_factory=Counter, init=False)
    answer_note = ""  # what a system adds to the instructions for answers

    def __post_init__(self) -> None:
        self.bank = MemoryBank(self.embed, self.line)

    def line(self, memory: Memory) -> str:
        """What is embedded for a memory."""
        return memory_line(memory)

    @abstractmethod
    def observing(self, turn: Turn) -> Work:
        """The work of reading a turn."""

    def retrieve(self, question: str) -> dict[str, list[Memory]]:
        """What the answer prompt shows, under headings."""
        return candidates(self.bank, question, self.speakers, self.per_speaker)

    def answering(self, question: str, asked: str = "",
                  memories: dict[str, list[Memory]] | None = None) -> Work:
        """The work of answering, from what `retrieve` finds unless memories are given.

        `asked` is the date of the question, "" where the data has none. What does not fit the
        model's positions is dropped, the oldest memories first.
        """
        memories = self.retrieve(question) if memories is None else memories
        policy = self.answerer or self.policy

        def prompt_of(shown: Sequence[tuple[int, str, int]]) -> list[Message]:
            places = set(shown)
            messages = answer_messages(question, {
                heading: [memory for place, memory in enumerate(of_heading)
                          if (memory.id, heading, place) in places]
                for heading, of_heading in memories.items()}, self.distill, asked)
            messages[0]["content"] += self.answer_note
            return messages

        # Ids grow with time, so these begin with the newest memory.
        newest_first = sorted(((memory.id, heading, place)
                               for heading, of_heading in memories.items()
                               for place, memory in enumerate(of_heading)), reverse=True)
        prompt = fit(policy, prompt_of, newest_first, policy.positions - self.max_new_tokens)
        self.counts["dropped"] += prompt.n_dropped
        response = yield from self.call(policy, prompt.ids)
        selected, text = parse_answer(response)
        return Answer(text, selected, prompt.messages[-1]["content"], response, prompt.n_dropped)

    def observe(self, turn: Turn) -> None:
        """Read one turn."""
        drive([self.observing(turn)])

    def answer(self, question: str, asked: str = "") -> Answer:
        """Answer from memory."""
        return drive([self.answering(question, asked)])[0]

    def entries(self) -> int:
        """How many memories there are."""
        return len(self.bank)

    def ask(self, messages: list[Message]) -> Work:
        """One call of the model, counted; returns its response."""
        return (yield from self.call(self.policy, self.policy.encode(messages)))

    def call(self, policy: Policy, prompt_ids: list[int]) -> Work:
        """The same with any model, for a prompt that is encoded already."""
        self.counts.update({"calls": 1, "prompt tokens": len(prompt_ids)})
        return (yield Call(policy, prompt_ids, self.max_new_tokens, self.counts))

    def stated(self, turn: Turn) -> list[str]:
        """What is stored if no model is asked: the turn as said, or compact sentences for it."""
        return list(self.compact and turn.facts or [f"{turn.speaker}: {turn.text}"])

    def stating(self, turn: Turn) -> Work:
        """The work of noting a turn's facts, as training and evaluation have them."""
        if self.facts != "llm":
            [facts] = facts_of([turn], self.facts)
            return [fact.text for fact in facts]
        extractor = self.extractor or self.policy
        response = yield from self.call(extractor, extractor.encode(extract_messages(turn)))
        facts, invalid = parse_facts(response)
        self.counts.update(invalid=invalid)
        return facts

    def headed(self, memories: Sequence[Memory]) -> dict[str, list[Memory]]:
        """Memories as one conversation; in the compact form, speaker by speaker."""
        if self.compact:
            return {name: [m for m in memories if m.speaker == name] for name in self.speakers}
        return {" and ".join(self.speakers): list(memories)}


# ---- No model manages the memory -----------------------------------------------------------------


class AddEverything(System):
    """The manager that only ever adds. A rule, from no paper."""

    def observing(self, turn: Turn) -> Work:
        texts = self.stated(turn) if self.compact else (yield from self.stating(turn))
        self.bank.add_many((text, turn.speaker, turn.timestamp) for text in texts)


@dataclass(eq=False)
class Overwrite(System):
    """The vanilla rule: what is new overwrites the most similar memory of its speaker.

    From no paper, but what Memory-R1's case studies show of an untrained manager: a second dog
    replaces the first.
    """

    # The least cosine at which it overwrites. In the world 0.5 finds two thirds of the memories
    # with the same subject and relation, and takes one in eight of the others for one.
    threshold: float = 0.5

    def observing(self, turn: Turn) -> Work:
        for text in self.stated(turn) if self.compact else (yield from self.stating(turn)):
            nearest = self.bank.search(text, 1, turn.speaker, with_scores=True)
            if nearest and nearest[0][1] >= self.threshold:
                self.bank.update(nearest[0][0].id, text, turn.timestamp)
            else:
                self.bank.add(text, turn.speaker, turn.timestamp)


class FullContext(System):
    """Everything said stands in the prompt; what is oldest goes until the rest fits.

    What LoCoMo's paper (arXiv 2402.17753) gives its base models to read.
    """

    def observing(self, turn: Turn) -> Work:
        self.bank.add_many((text, turn.speaker, turn.timestamp) for text in self.stated(turn))
        yield from ()  # asks no model

    def retrieve(self, question: str) -> dict[str, list[Memory]]:
        return self.headed(list(self.bank))


@dataclass(eq=False)
class LocomoRAG(System):
    """Retrieval from the raw conversation: LoCoMo's (arXiv 2402.17753) as Memory-R1 ran it.

    Kept: chunks of 500 tokens of dated lines; the one most similar to the question is shown. One is
    weak, so four stand beside it in the tables ("locomo-rag-4"). Left out: chunks that break off
    inside a line (only lines too long for one are cut). Compact: 60 tokens, a session of the
    world's shorter conversations.
    """

    k: int = 1
    chunk_tokens: int | None = None  # None is 500, or 60
    chunks: list[list[Memory]] = field(default_factory=list, init=False)  # lines with speakers

    def line(self, memory: Memory) -> str:
        return memory.text

    def joined(self, chunk: Sequence[Memory]) -> str:
        """The chunk as it is embedded and counted."""
        return "\n".join(f"{line.timestamp} | {line.text}" for line in chunk)

    def fits(self, chunk: Sequence[Memory]) -> bool:
        """Whether the chunk is short enough."""
        ids = self.policy.tokenizer.encode(self.joined(chunk), add_special_tokens=False)
        return len(ids) <= (self.chunk_tokens or (60 if self.compact else 500))

    def pieces(self, line: Memory) -> list[Memory]:
        """The line, or its halves until they fit, cut between words where that is possible."""
        if self.fits([line]) or len(line.text) < 2:
            return [line]
        middle = len(line.text) // 2
        cut = max(line.text.rfind(" ", 1, middle + 1), 0) or middle
        return [piece for half in (line.text[:cut], line.text[cut:].strip())
                for piece in self.pieces(replace(line, text=half))]

    def observing(self, turn: Turn) -> Work:
        for text in self.stated(turn):
            for line in self.pieces(Memory(0, one_line(text), turn.speaker, turn.timestamp)):
                if self.chunks and self.fits([*self.chunks[-1], line]):
                    self.chunks[-1].append(line)
                    self.bank.update(len(self.bank) - 1, self.joined(self.chunks[-1]), "")
                else:
                    self.chunks.append([line])
                    self.bank.add(self.joined([line]), "", "")
        yield from ()

    def retrieve(self, question: str) -> dict[str, list[Memory]]:
        places = sorted(memory.id for memory in self.bank.search(question, self.k))
        return self.headed([line for place in places for line in self.chunks[place]])


# ---- A model manages the memory ------------------------------------------------------------------


class Mem0(System):
    """Mem0 (arXiv 2504.19413): extract facts, compare each with the 5 nearest, update.

    Kept: the two calls and the four events, by a model not trained for them. Left out: two turns
    and all their facts in one call (here a call a fact), the graph variant, the summary.

    The package of today (mem0ai 2.2.1, November 2026) is another system. It makes one call a turn,
    and only adds: even an UPDATE that its model writes becomes a new memory. A text that equals one
    of the 10 nearest memories is skipped. So it stores what `AddEverything` stores, less repeats
    (tests/test_baselines.py runs both). It wants to be fed turn by turn: behind a whole session it
    shows its model the first ten messages as the last ones (findings/mem0_last_messages.sh).

    It is also Memory-R1 (arXiv 2508.19828), if `policy` is a trained Memory Manager and `answerer`
    a trained Answer Agent. memr1.py is the file to read about those.
    """

    def observing(self, turn: Turn) -> Work:
        for fact in (yield from self.stating(turn)):
            similar = self.bank.search(fact, SIMILAR, turn.speaker)
            response = yield from self.ask(manager_messages(fact, similar))
            operations, invalid = parse_operations(response, len(similar))
            self.counts.update(invalid=invalid)
            self.counts.update(
                apply_operations(self.bank, similar, operations, turn.speaker, turn.timestamp))
