"""Memories that a model organises: A-Mem's linked notes, Zep's dated graph, LangMem's tool calls.

These three systems are larger than those of rules_and_mem0.py. What that file says of prompts, of
`compact` and of a model's output holds for them too. `SYSTEMS` lists the systems of both files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from data import Message, Turn
from memory_bank import STOP_WORDS, Memory, memory_line, words_of
from memr1 import SIMILAR, apply_operations, facts_of
from metrics import spaced
from prompts import (
    Operation,
    json_entries,
    manager_messages,
    one_line,
    parse_operations,
    question_line,
    split_thinking,
    storable,
)
from systems.rules_and_mem0 import (
    AddEverything,
    FullContext,
    LocomoRAG,
    Mem0,
    Overwrite,
    System,
    Work,
)

# ---- What they share -----------------------------------------------------------------------------


def instructed(instructions: str, *lines: str) -> list[Message]:
    """A prompt in the form of prompts.py: the system message instructs, the user's holds data."""
    return [{"role": "system", "content": instructions},
            {"role": "user", "content": "\n".join(lines)}]


def numbered(memories: Sequence[Memory], first: int = 0) -> list[str]:
    """Memories behind their numbers and dates, where they have one, one a line."""
    lines = [": ".join(filter(None, map(one_line, (m.timestamp, m.text)))) for m in memories]
    return [f"- {number}: {line}" for number, line in enumerate(lines, first)] or ["- none"]


def said_on(date: str) -> str:
    """What stands before something said; the date is "" where nobody wrote one down."""
    return f"Said on {one_line(date)}" if date else "Said"


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
    entries, n_unread = json_entries(response)
    parsed, *more = entries or [None]
    if not isinstance(parsed, dict):
        return Note(), {}, 1
    keywords, tags = (
        [text for text in map(storable, parsed[name]) if text]
        if isinstance(parsed.get(name), list) else [] for name in ("keywords", "tags"))
    links, invalid = numbers_in(parsed.get("links"), n)
    invalid += n_unread + len(more)  # one note is asked for
    new_contexts, contexts = parsed.get("contexts"), {}
    for name, context in new_contexts.items() if isinstance(new_contexts, dict) else ():
        numbers, _ = numbers_in(name, n)
        invalid += not (numbers and storable(context))
        contexts.update((number, storable(context)) for number in numbers if storable(context))
    return Note(storable(parsed.get("context")), keywords, tags, set(links)), contexts, invalid


@dataclass(eq=False)
class AMem(System):
    """A-Mem (arXiv 2502.12110): notes that describe themselves, link up and evolve.

    Kept: a note a turn, never rewritten or deleted; context, keywords and tags, embedded with it;
    links among the 5 nearest and new contexts for them; the `k` best notes are shown, and as many
    that they link to. Left out: description and evolution in two calls, new tags for neighbours,
    keywords for the question; links lead both ways. Compact: keywords are the words, the two
    nearest notes are linked, and there is no context that could evolve.

    There are two codes of the authors (read in November 2026, not run). In the paper's own
    (WujiangXu/A-mem, commit 17ce6b6) new contexts reach the neighbours, as here. In the library
    (agiresearch/A-mem, 60c9bc2) `update_neighbor` takes places among the results for places among
    all notes. So it writes the new contexts to the first notes ever stored.
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
                    f"{said_on(turn.timestamp)}: {one_line(text)}"))
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

    def nearest(self, text: str) -> list[int]:
        """Ids of the `k` notes most similar to a text, then of as many that they link to."""
        best_ids = [memory.id for memory in self.bank.search(text, self.k)]
        # Links of the best note first; a dict, because it keeps this order and each id once.
        linked_ids = dict.fromkeys(i for best in best_ids for i in sorted(self.notes[best].links))
        return best_ids + [i for i in linked_ids if i not in best_ids][: self.k]

    def retrieve(self, question: str) -> dict[str, list[Memory]]:
        memories = [self.bank[i] for i in sorted(self.nearest(question))]
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
    entries, invalid = json_entries(response)
    edges = []
    for entry in entries:
        entry = entry if isinstance(entry, dict) else {}
        text, date, *nodes = (storable(entry.get(name))
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

    The package of today (graphiti-core 0.31.2, November 2026) also reads the dates. It closes a
    contradicted fact only if both facts have dates and the closed one is strictly older. So two
    contradictory facts of one day both stay open there. Here the later one closes the earlier
    (tests/test_baselines.py runs both).
    """

    answer_note = "\nA memory behind two dates held from the first until the second, no longer."
    nodes: dict[int, set[str]] = field(default_factory=dict, init=False)  # of every edge
    invalid_at: dict[int, str] = field(default_factory=dict, init=False)  # of closed edges

    def observing(self, turn: Turn) -> Work:
        [[(fact, *_)]] = facts_of([turn], "turns")
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
                f"{said_on(turn.timestamp)}: {one_line(fact)}"))
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
        nodes = {node for nodes_of_edge in self.nodes.values() for node in nodes_of_edge
                 if words.issuperset(re.findall(r"\w+", spaced(node)))}
        edges: dict[int, Memory] = {}
        for _ in range(2):
            edges.update((edge.id, edge) for edge in self.bank
                         if edge.id not in edges and nodes & self.nodes[edge.id])
            nodes = nodes.union(*(self.nodes[i] for i in edges))
        return list(edges.values())

    def ranked(self, question: str) -> list[Memory]:
        """All edges that any of the three searches finds, best first."""
        words = set(words_of(question))
        shared = Counter({m: len(words.intersection(words_of(memory_line(m)))) for m in self.bank})
        score: Counter[Memory] = Counter()
        for ranking in (self.bank.search(question, len(self.bank) or 1),
                        [edge for edge, count in shared.most_common() if count],
                        self.along_graph(set(re.findall(r"\w+", spaced(question).lower())))):
            for rank, edge in enumerate(ranking, start=1):
                score[edge] += 1 / (60 + rank)  # with 60, as usual, first ranks do not rule alone
        return [edge for edge, _ in score.most_common()]

    def retrieve(self, question: str) -> dict[str, list[Memory]]:
        best = self.ranked(question)
        return {name: [self.dated(edge) for edge in sorted(
            [edge for edge in best if edge.speaker == name][:self.per_speaker], key=lambda m: m.id)]
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


def parse_tool(response: str, n: int) -> tuple[Operation | None, int]:
    """(the first call as an operation among n numbered memories, how many pieces are surplus).

    The operation may also be "SEARCH". It is None, with nothing surplus, if the first call is
    unusable. Later calls are surplus, because they were written without the result of the first.
    """
    entries, n_unread = json_entries(response)
    call, *more = entries or [None]
    operation = _call(call if isinstance(call, dict) else {}, n)
    return operation, n_unread + len(more) if operation else 0


def _call(call: dict, n: int) -> Operation | None:
    """A call as an operation among n numbered memories, or None if it is unusable."""
    tool, action, query, content = (storable(call.get(name))
                                    for name in ("tool", "action", "query", "content"))
    numbers, wrong = numbers_in(call.get("id"), n)
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

    The package of today (langmem 0.0.30, November 2026) has the same two tools, and the same calls
    store the same memories (tests/test_baselines.py runs both). Its manager in the background makes
    at most `query_limit // 4` searches. Below a limit of 4 it therefore searches nothing, and its
    model reads no memory that it could update (findings/langmem_query_limit.sh).
    """

    k: int = 10
    max_calls: int = 6  # for a turn or a question

    def observing(self, turn: Turn) -> Work:
        said = f"{said_on(turn.timestamp)}: {one_line(f'{turn.speaker}: {turn.text}')}"
        yield from super().observing(turn) if self.compact else self.tools(said, turn)

    def answering(self, question: str, asked: str = "",
                  memories: dict[str, list[Memory]] | None = None) -> Work:
        if memories is None:
            if self.compact:
                results = self.bank.search(question, self.k)
            else:
                results = yield from self.tools(question_line(question, asked))
            memories = self.headed(sorted(set(results), key=lambda memory: memory.id))
        return (yield from super().answering(question, asked, memories))

    def tools(self, given: str, turn: Turn | None = None) -> Work:
        """Calls of tools until the model ends them, or a limit; returns all results' memories."""
        lines = [given]
        memories: list[Memory] = []  # of all results; a memory's place here is its number
        for n_left in range(self.max_calls, 0, -1):
            response = yield from self.ask(
                instructed(TOOL_INSTRUCTIONS, *lines, f"Calls left: {n_left}"))
            operation, n_surplus = parse_tool(response, len(memories))
            self.counts.update(invalid=n_surplus)
            if operation and operation.event == "NOOP":
                return memories
            results, counts = ["error: nothing was done"], Counter(invalid=1)
            if operation and operation.event == "SEARCH":
                matches = self.bank.search(operation.text, self.k)
                results, counts = numbered(matches, len(memories)), Counter(SEARCH=1)
                memories += matches
            elif operation and turn:
                counts = apply_operations(
                    self.bank, memories, [operation], turn.speaker, turn.timestamp)
                results = results if counts["invalid"] else ["done"]
            self.counts.update(counts)
            lines += [f"Call: {one_line(split_thinking(response)[1])}", "Result:", *results]
        self.counts["tool loops cut"] += 1
        return memories


# Each is called as SYSTEMS[name](policy, embed, speakers, compact=...).
SYSTEMS: dict[str, Callable[..., System]] = {
    "full-context": FullContext, "locomo-rag": LocomoRAG, "locomo-rag-4": partial(LocomoRAG, k=4),
    "add-everything": AddEverything, "overwrite": Overwrite, "langmem": LangMem, "zep": Zep,
    "a-mem": AMem, "mem0": Mem0, "memory-r1": Mem0}
