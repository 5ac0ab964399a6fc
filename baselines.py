"""What Memory-R1 (arXiv 2508.19828) is compared with: other memories, each at its essence.

    turn ──observing──> memories        question ──retrieve──> memories ──answer prompt──> Answer

Each system has the methods of `memr1.MemoryR1`, `observe(turn)` and `answer(question)`, the same
language model, embedder and answer prompt. What it keeps and what it shows are its own.

The work is written as generators, which yield a `Call`, a prompt that waits for a model, and are
sent the response. So `drive` can advance many conversations in step, with their prompts in one
batch, and yet each class reads as if it had the model to itself.

Where this differs from the papers
1. One model does everything, as in Memory-R1's comparison; the systems' own papers mostly ask
   GPT-4o-mini.
2. The prompts are ours. All systems answer from Memory-R1's answer prompt, none from its own.
3. `compact=True` is for the embedded model, which knows two prompts, the manager's and the answer
   agent's: the manager's call takes every decision, and systems that ask no model keep the
   sentences that the world knows of a turn. The docstrings say what else becomes of a system.
4. What a model writes is never trusted: what cannot be used changes nothing and is counted.
5. MemoryOS is left out. Memory-SFT is no other system but another way to train the two agents.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from data import Turn
from embedders import STOP_WORDS, Embedder, words_of
from memory_bank import Memory, MemoryBank, memory_line
from memr1 import PER_SPEAKER, SIMILAR, Answer, apply_operations, candidates, greedy, turn_facts
from policy import Message, Policy
from prompts import (Operation, answer_messages, extract_messages, first_json, manager_messages,
                     one_line, parse_answer, parse_facts, parse_operations)

CHUNK = 32  # prompts handed to a model at a time

# ---- Many conversations in step ------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A prompt that waits for a model."""

    policy: Policy
    prompt_ids: list[int]
    max_new_tokens: int


Work = Generator[Call, str, Any]  # yields calls, is sent the responses, returns a result


def drive(works: Sequence[Work]) -> list[Any]:
    """Advance all work in step, to its end, and return what each piece of it returned.

    Two pieces must not write to one memory: their turns would be mixed.
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
                responses.update(zip(places, greedy(
                    calls[0].policy, [c.prompt_ids for c in calls], calls[0].max_new_tokens)))
    return results


@dataclass(eq=False)
class System(ABC):
    """The memory of one conversation. A child says what it keeps, and mostly what it shows."""

    policy: Policy
    embed: Embedder
    speakers: Sequence[str]
    compact: bool = False  # for the embedded model
    answerer: Policy | None = None  # another model for the answers
    distill: bool = True  # select memories before the answer
    max_new_tokens: int = 64
    # "calls" of a model, "prompt tokens" it read, "invalid" outputs, operations by name
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
        return candidates(self.bank, question, self.speakers)

    def answering(self, question: str, memories: dict[str, list[Memory]] | None = None) -> Work:
        """The work of answering, from what `retrieve` finds unless memories are given."""
        memories = self.retrieve(question) if memories is None else memories
        messages = answer_messages(question, memories, self.distill)
        messages[0]["content"] += self.answer_note
        response = yield from self.ask(messages, self.answerer)
        selected, text = parse_answer(response)
        return Answer(text, selected, messages[-1]["content"], response)

    def observe(self, turn: Turn) -> None:
        """Read one turn."""
        drive([self.observing(turn)])

    def answer(self, question: str) -> Answer:
        """Answer from memory."""
        return drive([self.answering(question)])[0]

    def entries(self) -> int:
        """How many memories are kept."""
        return len(self.bank)

    def ask(self, messages: list[Message], policy: Policy | None = None) -> Work:
        """One call of a model, counted; returns its response."""
        policy = policy or self.policy
        prompt_ids = policy.encode(messages)
        self.counts.update({"calls": 1, "prompt tokens": len(prompt_ids)})
        return (yield Call(policy, prompt_ids, self.max_new_tokens))

    def stated(self, turn: Turn) -> list[str]:
        """What is kept where no model is asked: the turn as said, or compact sentences for it."""
        return list(self.compact and turn.facts or [f"{turn.speaker}: {turn.text}"])

    def headed(self, memories: Sequence[Memory]) -> dict[str, list[Memory]]:
        """Memories as one conversation; in the compact form, speaker by speaker."""
        if self.compact:
            return {name: [m for m in memories if m.speaker == name] for name in self.speakers}
        return {" and ".join(self.speakers): list(memories)}


# ---- No model manages the memory -----------------------------------------------------------------


class AddEverything(System):
    """The manager that only ever adds. A rule, from no paper."""

    def observing(self, turn: Turn) -> Work:
        self.bank.add_many((text, turn.speaker, turn.timestamp) for text in self.stated(turn))
        yield from ()  # asks no model


@dataclass(eq=False)
class Overwrite(System):
    """The vanilla rule: what is new overwrites the most similar memory of its speaker.

    From no paper, but what Memory-R1's case studies show of an untrained manager: a second dog
    replaces the first.
    """

    # Cosine from which on it overwrites. In the world 0.5 finds two thirds of the memories with the
    # same subject and relation, and mistakes one in eight others for them.
    threshold: float = 0.5

    def observing(self, turn: Turn) -> Work:
        for text in self.stated(turn):
            nearest = self.bank.search(text, 1, turn.speaker, with_scores=True)
            if nearest and nearest[0][1] >= self.threshold:
                self.bank.update(nearest[0][0].id, text, turn.timestamp)
            else:
                self.bank.add(text, turn.speaker, turn.timestamp)
        yield from ()


@dataclass(eq=False)
class FullContext(AddEverything):
    """Everything said stands in the prompt; what is oldest goes until the rest fits.

    What LoCoMo's paper (arXiv 2402.17753) gives its base models to read.
    """

    limit: int = 30_000  # tokens of the whole prompt; Qwen2.5 reads 32,768

    def retrieve(self, question: str) -> dict[str, list[Memory]]:
        memories = list(self.bank)

        def fits(dropped: int) -> bool:
            shown = self.headed(memories[dropped:])
            messages = answer_messages(question, shown, self.distill)
            return len((self.answerer or self.policy).encode(messages)) <= self.limit

        # What fits still fits when more is dropped, so halving finds the place.
        dropped = 0 if fits(0) else bisect_left(range(len(memories)), True, key=fits)
        self.counts["dropped"] += dropped
        return self.headed(memories[dropped:])


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
        found = sorted(memory.id for memory in self.bank.search(question, self.k))
        return self.headed([line for place in found for line in self.chunks[place]])


# ---- A model manages the memory ------------------------------------------------------------------


@dataclass(eq=False)
class Mem0(System):
    """Mem0 (arXiv 2504.19413): extract facts, compare each with the 5 nearest, update.

    Kept: the two calls and the four events, by a model not trained for them. Left out: two turns
    and all their facts in one call (here a call a fact), the graph variant, the summary.
    """

    facts: str | None = None  # "turns", "observations" or "llm"; None is llm, or turns if compact

    def observing(self, turn: Turn) -> Work:
        source = self.facts or ("turns" if self.compact else "llm")
        if source == "llm":
            response = yield from self.ask(extract_messages(turn))
            facts, found = parse_facts(response), first_json(response)
            written = found.get("facts") if isinstance(found, dict) else found
            self.counts.update(invalid=int(not isinstance(written, list)))
        else:
            facts = turn_facts(turn, source)
        for fact in facts:
            shown = self.bank.search(fact, SIMILAR, turn.speaker)
            response = yield from self.ask(manager_messages(fact, shown))
            operations, invalid = parse_operations(response, len(shown))
            self.counts.update(invalid=invalid)
            self.counts.update(
                apply_operations(self.bank, shown, operations, turn.speaker, turn.timestamp))


class MemoryR1System(Mem0):
    """Memory-R1 (arXiv 2508.19828): Mem0's pipeline with two trained models.

    `policy` is the Memory Manager and `answerer` the Answer Agent; memr1.py is the one to read.
    """


def instructed(instructions: str, *lines: str) -> list[Message]:
    """A prompt in the form of prompts.py: the system message instructs, the user's holds data."""
    return [{"role": "system", "content": instructions},
            {"role": "user", "content": "\n".join(lines)}]


def numbered(memories: Sequence[Memory], first: int = 0) -> list[str]:
    """Memories behind their numbers and dates, one a line."""
    return [f"- {number}: {one_line(m.timestamp)}: {one_line(m.text)}"
            for number, m in enumerate(memories, first)] or ["- none"]


def clean(value: object) -> str:
    """A text that a model wrote, made fit to keep; "" for anything that is no text."""
    # JSON can spell one half of a surrogate pair, which no file can hold.
    return one_line(value.encode(errors="replace").decode()) if isinstance(value, str) else ""


def numbers_in(value: object, n: int) -> tuple[list[int], int]:
    """Of a list, or of one value: the numbers below n, each once, and how many were no such."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    digits = [str(v).strip() if isinstance(v, (int, str)) else "" for v in values]
    usable = [int(d) for d in digits if re.fullmatch(r"[0-9]{1,9}", d) and int(d) < n]
    return list(dict.fromkeys(usable)), len(values) - len(usable)


NOTE_INSTRUCTIONS = """\
You keep linked notes of a long conversation. You see notes, each with its number, and what is \
said next. Describe that in JSON and nothing else: the words that matter, a sentence on what it is \
about, a few broad topics, the numbers of the notes that it belongs to, and a new context for \
those notes that it puts in another light. Example:
{"keywords": ["Lena", "tailor"], "context": "Lena leaves her work", "tags": ["work"], \
"links": [0, 2], "contexts": {"2": "the work that Lena left"}}"""


@dataclass
class Note:
    """What A-Mem knows of a memory beside its text."""

    context: str = ""
    keywords: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    links: set[int] = field(default_factory=set)


def parse_note(response: str, n: int) -> tuple[Note, dict[int, str], int]:
    """A note with links to n numbered ones, their new contexts, how much was unusable.

    Like all parsers here it never raises.
    """
    found = first_json(response)
    if not isinstance(found, dict):
        return Note(), {}, 1
    keywords, tags = ([text for text in map(clean, found[name]) if text]
                      if isinstance(found.get(name), list) else [] for name in ("keywords", "tags"))
    links, invalid = numbers_in(found.get("links"), n)
    written, contexts = found.get("contexts"), {}
    for name, context in written.items() if isinstance(written, dict) else ():
        numbers, _ = numbers_in(name, n)
        invalid += not (numbers and clean(context))
        contexts.update((number, clean(context)) for number in numbers if clean(context))
    return Note(clean(found.get("context")), keywords, tags, set(links)), contexts, invalid


@dataclass(eq=False)
class AMem(System):
    """A-Mem (arXiv 2502.12110): notes that describe themselves, link up and evolve.

    Kept: a note a turn, never rewritten or deleted; context, keywords and tags, embedded with it;
    links among the 5 nearest and new contexts for them; the `k` best notes are shown, and as many
    that they link to. Left out: description and evolution in two calls, new tags for neighbours,
    keywords for the question; links lead both ways. Compact: keywords are the words, the two
    nearest notes are linked, and there is no context that could evolve.
    """

    k: int = 10
    notes: list[Note] = field(default_factory=list, init=False)  # by id: 0, 1, ..., none deleted

    def line(self, memory: Memory) -> str:
        note = self.notes[memory.id]
        return " ".join([memory_line(memory), note.context, *note.keywords, *note.tags])

    def observing(self, turn: Turn) -> Work:
        for text in self.stated(turn):
            near = self.bank.search(text, 2 if self.compact else SIMILAR)
            if self.compact:
                words = [word for word in text.split() if word.lower() not in STOP_WORDS]
                note, contexts = Note(keywords=words, links=set(range(len(near)))), {}
            else:
                response = yield from self.ask(instructed(
                    NOTE_INSTRUCTIONS, "Notes:", *numbered([self.described(m) for m in near]),
                    f"Said on {one_line(turn.timestamp)}: {one_line(text)}"))
                note, contexts, invalid = parse_note(response, len(near))
                self.counts.update(invalid=invalid, evolved=len(contexts), links=len(note.links))
            note.links = {near[number].id for number in note.links}
            self.notes.append(note)  # before its memory, whose embedding reads it
            memory = self.bank.add(text, turn.speaker, turn.timestamp)
            for linked in note.links:
                self.notes[linked].links.add(memory.id)
            for number, context in contexts.items():
                old = near[number]
                self.notes[old.id].context = context
                self.bank.update(old.id, old.text, old.timestamp)  # the same, but embedded anew

    def described(self, memory: Memory) -> Memory:
        """The memory with what its note says of it."""
        note = self.notes[memory.id]
        about = [note.context, ", ".join(note.keywords), ", ".join(note.tags)]
        return replace(memory, text=f"{memory.text} ({'; '.join(filter(None, about))})")

    def retrieve(self, question: str) -> dict[str, list[Memory]]:
        found = [memory.id for memory in self.bank.search(question, self.k)]
        linked = dict.fromkeys(i for place in found for i in sorted(self.notes[place].links))
        chosen = {*found, *[i for i in linked if i not in found][: self.k]}  # of the best first
        memories = [self.bank[i] for i in sorted(chosen)]
        return self.headed(memories if self.compact else [self.described(m) for m in memories])


EDGE_INSTRUCTIONS = """\
You keep a graph of facts about the people of a long conversation; a fact joins two people, \
places, animals or things. You see facts that hold, each with its number, and what was said on a \
date. Write the new facts in it as JSON and nothing else, each with the date from which it holds, \
worked out from "yesterday" and the like, and the numbers of the facts that it ends. What stands \
there already is not new. Write [] if nothing is. Example:
[{"source": "Lena", "target": "Oslo", "fact": "Lena lives in Oslo", "valid_at": "7 May 2023", \
"ends": [1]}]"""


def parse_edges(response: str, n: int) -> tuple[list[tuple[str, set[str], str, list[int]]], int]:
    """New facts (text, nodes, date, which of n it ends), and how much was unusable."""
    found = first_json(response)
    edges, invalid = [], int(found is None)
    for entry in found if isinstance(found, list) else [found] if found else []:
        entry = entry if isinstance(entry, dict) else {}
        text, date, *nodes = (clean(entry.get(name))
                              for name in ("fact", "valid_at", "source", "target"))
        ended, wrong = numbers_in(entry.get("ends"), n)
        invalid += wrong if text else 1
        if text:
            edges.append((text, {node.lower() for node in nodes if node}, date, ended))
    return edges, invalid


@dataclass(eq=False)
class Zep(System):
    """Zep (arXiv 2501.13956): a graph of dated facts; one that ends is closed, never deleted.

    Kept: edges between named nodes, with the dates between which they hold; search by cosine, by
    words and along the graph, fused by reciprocal rank; answers see the dates. Left out: episodes,
    communities, rerankers, extraction and contradictions in two calls, and reading the dates: what
    is said later ends what was said before. Compact: the manager's UPDATE closes an edge and opens
    one, DELETE closes; nodes are the capitalised words.
    """

    answer_note = "\nA memory behind two dates held from the first until the second, no longer."
    nodes: dict[int, set[str]] = field(default_factory=dict, init=False)  # of every edge
    invalid_at: dict[int, str] = field(default_factory=dict, init=False)  # of closed edges

    def observing(self, turn: Turn) -> Work:
        [fact] = turn_facts(turn, "turns")
        ranked = self.bank.search(fact, len(self.bank) or 1, turn.speaker if self.compact else None)
        near = [edge for edge in ranked if edge.id not in self.invalid_at][:SIMILAR]
        if self.compact:
            response = yield from self.ask(manager_messages(fact, near))
            operations, invalid = parse_operations(response, len(near))
            self.counts.update(operation.event for operation in operations)
            edges = [(o.text, {w.lower() for w in re.findall(r"\w+", o.text) if w[0].isupper()}, "",
                      [] if o.number is None else [o.number]) for o in operations]
        else:
            response = yield from self.ask(instructed(
                EDGE_INSTRUCTIONS, "Facts:", *numbered(near),
                f"Said on {one_line(turn.timestamp)}: {one_line(fact)}"))
            edges, invalid = parse_edges(response, len(near))
        self.counts.update(invalid=invalid)
        for text, nodes, date, ended in edges:
            for number in ended:
                self.invalid_at.setdefault(near[number].id, date or turn.timestamp)
            if text:  # else it only closes others
                edge = self.bank.add(text, turn.speaker, date or turn.timestamp)
                self.nodes[edge.id] = nodes
        self.counts["closed"] = len(self.invalid_at)

    def along_graph(self, words: set[str]) -> list[Memory]:
        """The edges at the nodes that these words name, then those at their other ends."""
        reached = {node for nodes in self.nodes.values() for node in nodes
                   if words.issuperset(re.findall(r"\w+", node))}
        found: dict[int, Memory] = {}
        for _ in range(2):
            found.update((edge.id, edge) for edge in self.bank
                         if edge.id not in found and reached & self.nodes[edge.id])
            reached = reached.union(*(self.nodes[i] for i in found))
        return list(found.values())

    def ranked(self, question: str) -> list[Memory]:
        """All edges that any of the three searches finds, best first."""
        words = set(words_of(question))
        shared = Counter({m: len(words.intersection(words_of(memory_line(m)))) for m in self.bank})
        score: Counter[Memory] = Counter()
        for ranking in (self.bank.search(question, len(self.bank) or 1),
                        [edge for edge, count in shared.most_common() if count],
                        self.along_graph(set(re.findall(r"\w+", question.lower())))):
            for rank, edge in enumerate(ranking, start=1):
                score[edge] += 1 / (60 + rank)  # with 60, as usual, first ranks do not rule alone
        return [edge for edge, _ in score.most_common()]

    def retrieve(self, question: str) -> dict[str, list[Memory]]:
        best = self.ranked(question)
        return {name: [self.dated(edge) for edge in sorted(
            [edge for edge in best if edge.speaker == name][:PER_SPEAKER], key=lambda m: m.id)]
            for name in self.speakers}

    def dated(self, edge: Memory) -> Memory:
        """The edge behind all its dates."""
        end = self.invalid_at.get(edge.id)
        return replace(edge, timestamp=f"{edge.timestamp} to {end}") if end else edge


TOOL_INSTRUCTIONS = """\
You have a memory of a long conversation and two tools to use it. You see what is said, or a \
question, and your calls so far with their results. Keep what is worth remembering about people, \
and search before you write; for a question, search for all that helps to answer it. Write one \
call and nothing else; a memory's id is its number in a result:
{"tool": "search_memory", "query": "Lena's dogs"}
{"tool": "manage_memory", "action": "create", "content": "Lena has a dog named Ace"}
{"tool": "manage_memory", "action": "update", "id": 3, "content": "Lena has dogs named Ace and Bo"}
{"tool": "manage_memory", "action": "delete", "id": 3}
{"tool": "none"} when nothing is left to do"""
ACTIONS = {"create": "ADD", "update": "UPDATE", "delete": "DELETE"}


def parse_tool(response: str, n: int) -> Operation | None:
    """A call as an operation among n numbered memories; also "SEARCH"; None if unusable."""
    found = first_json(response)
    found = found if isinstance(found, dict) else {}
    tool, action, query, content = (clean(found.get(name))
                                    for name in ("tool", "action", "query", "content"))
    numbers, wrong = numbers_in(found.get("id"), n)
    if tool == "none":
        return Operation("NOOP")
    if tool == "search_memory" and query:
        return Operation("SEARCH", text=query)
    if (tool == "manage_memory" and action in ACTIONS and (content or action == "delete")
            and not wrong and len(numbers) == (action != "create")):  # what is new has no id yet
        return Operation(ACTIONS[action], *numbers or [None], content)
    return None


@dataclass(eq=False)
class LangMem(Mem0):
    """LangMem: the model decides by itself when to call manage_memory and search_memory.

    A library (langchain-ai/langmem) without a paper. Kept: the two tools, with errors for wrong
    ids; 10 results a search; the common answer prompt over all that was found. Left out: an agent
    for each speaker (here one), filters, extraction in the background; a question cannot write.
    Compact: the manager's call decides, as in Mem0, and one search with the question finds 10.
    """

    k: int = 10
    max_calls: int = 6  # for a turn or a question

    def observing(self, turn: Turn) -> Work:
        said = f"Said on {one_line(turn.timestamp)}: {one_line(f'{turn.speaker}: {turn.text}')}"
        yield from super().observing(turn) if self.compact else self.tools(said, turn)

    def answering(self, question: str) -> Work:
        if self.compact:
            found = self.bank.search(question, self.k)
        else:
            found = yield from self.tools(f"Question: {one_line(question)}")
        memories = sorted(set(found), key=lambda memory: memory.id)
        return (yield from super().answering(question, self.headed(memories)))

    def tools(self, given: str, turn: Turn | None = None) -> Work:
        """Calls of tools until the model ends them, or a limit; returns all that was found."""
        lines, seen = [given], []
        for left in range(self.max_calls, 0, -1):
            response = yield from self.ask(
                instructed(TOOL_INSTRUCTIONS, *lines, f"Calls left: {left}"))
            operation = parse_tool(response, len(seen))
            if operation and operation.event == "NOOP":
                return seen
            results, counts = ["error: nothing was done"], Counter(invalid=1)
            if operation and operation.event == "SEARCH":
                found = self.bank.search(operation.text, self.k)
                results, counts = numbered(found, len(seen)), Counter(SEARCH=1)
                seen += found
            elif operation and turn:
                counts = apply_operations(
                    self.bank, seen, [operation], turn.speaker, turn.timestamp)
                results = results if counts["invalid"] else ["done"]
            self.counts.update(counts)
            lines += [f"Call: {one_line(response)}", "Result:", *results]
        self.counts["tool loops cut"] += 1
        return seen


# Each is called as SYSTEMS[name](policy, embed, speakers, compact=...).
SYSTEMS: dict[str, Callable[..., System]] = {
    "full-context": FullContext, "locomo-rag": LocomoRAG, "locomo-rag-4": partial(LocomoRAG, k=4),
    "add-everything": AddEverything, "overwrite": Overwrite, "langmem": LangMem, "zep": Zep,
    "a-mem": AMem, "mem0": Mem0, "memory-r1": MemoryR1System}
