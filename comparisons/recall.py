"""How much of a question's evidence is found at all? No language model is needed to know.

    every turn ──> kept ──> question ──> what is retrieved ──> share of the evidence turns in it

Whatever is not shown to the answer agent it cannot use, so this is what every system's score is
bounded by. Two tables: the search alone, over all turns or all facts, and what each system of
baselines.py and memory_systems.py shows with its own way of storing and searching.

A system whose memory is managed by a model keeps everything here, as if its model answered ADD to
each fact: this measures retrieval, not decisions. Mem0, the two rules and Memory-R1 then show the
same memories. Tokens are words and punctuation marks, since no model's tokenizer is at hand.

    python evaluate.py --recall --data locomo       both tables, about a minute
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

from tqdm import tqdm

from comparisons.graphs_and_tools import AMem, LangMem, Zep
from comparisons.rules_and_mem0 import FullContext, LocomoRAG, Mem0, System
from data import Dialogue, Turn
from memory_bank import MemoryBank, hashed_words, memory_line
from memr1 import PER_SPEAKER, candidates

CHUNKS_SHOWN = (1, 2, 4, 8)  # of LoCoMo's RAG; the paper shows one


def share(evidence: Sequence[str], found: Iterable[str]) -> float | None:
    """The share of the evidence turns among those found; None if a question names no evidence.

    >>> share(["D1:3", "D2:7"], {"D1:3", "D1:4"})
    0.5
    """
    return len(set(evidence).intersection(found)) / len(evidence) if evidence else None


def mean(values: Iterable[float | None]) -> float:
    """The mean of those that are not None, 0 if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / max(len(known), 1)


# ---- Search alone --------------------------------------------------------------------------------


def search_recall(dialogues: Sequence[Dialogue]) -> dict[str, dict[str, float]]:
    """Mean share of the evidence that search finds in a bank of all turns, or of all facts."""
    recall: dict[str, dict[str, float]] = {}
    embed = hashed_words()
    for name in ("raw turns", "facts"):
        found: dict[str, list[float | None]] = {"10": [], "60": [], f"{PER_SPEAKER} a speaker": []}
        for dialogue in tqdm(dialogues, desc=name, ncols=100):
            stored = [(text, turn) for turn in dialogue.turns
                      for text in ([turn.text] if name == "raw turns" else turn.facts)]
            bank = MemoryBank(embed)
            added = bank.add_many((text, turn.speaker, turn.timestamp) for text, turn in stored)
            turn_of = {memory.id: turn.turn_id for memory, (_, turn) in zip(added, stored)}
            for question in dialogue.questions:
                best = bank.search(question.text, 60)
                shown = candidates(bank, question.text, dialogue.speakers).values()
                for shares, memories in zip(
                        found.values(), (best[:10], best, [m for theirs in shown for m in theirs])):
                    shares.append(share(question.evidence, {turn_of[m.id] for m in memories}))
        recall[name] = {k: mean(shares) for k, shares in found.items()}
    return recall


# ---- What each system shows ----------------------------------------------------------------------


def tokens_of(text: str) -> list[str]:
    """Words and punctuation marks, in place of a model's tokens."""
    return re.findall(r"\w+|[^\w\s]", text)


# What a system asks of a model besides answers: to count tokens.
NO_MODEL = SimpleNamespace(
    encode=lambda messages: tokens_of("\n".join(message["content"] for message in messages)),
    tokenizer=SimpleNamespace(encode=lambda text, add_special_tokens: tokens_of(text)))

# `compact` makes the systems ask the manager for a decision, which is ADD here.
SHOWN: dict[str, Callable[..., System]] = {
    "full-context": FullContext,
    **{f"locomo-rag, k = {k}": partial(LocomoRAG, k=k, chunk_tokens=500) for k in CHUNKS_SHOWN},
    "a-mem": AMem, "langmem": LangMem, "zep": Zep, "mem0, memory-r1, rules": Mem0}


def keep(system: System, turn: Turn, fact: str) -> None:
    """Let the system read one fact of a turn, with a model that answers ADD to everything."""
    work = system.observing(replace(turn, text=fact, facts=(fact,)))
    response = None  # starts the generator
    try:
        while True:
            work.send(response)
            response = json.dumps([{"event": "ADD", "text": fact}])
    except StopIteration:
        pass


def shown_by(name: str, dialogue: Dialogue, facts: Callable[[Turn], Iterable[str]],
             ) -> list[tuple[set[str], int]]:
    """For each question: the ids of the turns that a system shows something of, and its tokens."""
    system = SHOWN[name](NO_MODEL, hashed_words(), dialogue.speakers, compact=True)
    turn_of: dict[int, str] = {}
    for turn in dialogue.turns:
        for fact in facts(turn):
            keep(system, turn, fact)
            # Lines of a chunk have no ids of their own; they are known by being the same objects.
            new = ([line for chunk in system.chunks[-2:] for line in chunk]
                   if isinstance(system, LocomoRAG) else [system.bank[len(system.bank) - 1]])
            for memory in new:
                turn_of.setdefault(_key(system, memory), turn.turn_id)
    found = []
    for question in dialogue.questions:
        memories = (system.bank.search(question.text, system.k) if isinstance(system, LangMem)
                    else [m for theirs in system.retrieve(question.text).values() for m in theirs])
        found.append(({turn_of[_key(system, m)] for m in memories},
                      sum(len(tokens_of(memory_line(m))) for m in memories)))
    return found


def _key(system: System, memory: object) -> int:
    return id(memory) if isinstance(system, LocomoRAG) else memory.id


def systems_recall(dialogues: Sequence[Dialogue]) -> dict[str, dict[str, float]]:
    """Per system: share of the evidence shown, and tokens shown, over raw turns and over facts."""
    recall: dict[str, dict[str, float]] = {}
    for name in tqdm(SHOWN, desc="systems", ncols=100):
        recall[name] = {}
        for stored, facts in (("raw turns", lambda turn: [turn.text]),
                              ("facts", lambda turn: turn.facts)):
            shares, sizes = [], []
            for dialogue in dialogues:
                for question, (turns, size) in zip(
                        dialogue.questions, shown_by(name, dialogue, facts)):
                    shares.append(share(question.evidence, turns))
                    sizes.append(size)
            recall[name][stored] = mean(shares)
            recall[name][f"tokens, {stored}"] = mean(sizes)
    return recall


def recall_table(recall: dict[str, dict[str, float]], head: str) -> str:
    """Evidence recall as text."""
    columns = next(iter(recall.values()))
    lines = [f"{head:<26}" + "".join(f"{column:>18}" for column in columns)]
    lines += [f"{name:<26}" + "".join(f"{value:>18,.0f}" if value > 1 else f"{value:>18.3f}"
                                      for value in row.values())
              for name, row in recall.items()]
    return "\n".join(lines)
