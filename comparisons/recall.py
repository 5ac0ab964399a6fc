"""How much of a question's evidence is found at all? No language model is needed to know.

    every turn ──> stored ──> question ──> what is retrieved ──> share of the evidence turns in it

The answer agent cannot use what it is not shown. So the share bounds every system's score. There
are two tables: the search alone, over all turns or all facts, and what each system of
rules_and_mem0.py and graphs_and_tools.py shows with its own way of storing and searching.

Where this differs from the papers
1. A system whose memory is managed by a model stores everything here, as if its model answered ADD
   to each fact. The tables measure retrieval and not decisions, so Mem0, the two rules and
   Memory-R1 show the same memories.
2. Tokens are words and punctuation marks, because no model's tokenizer is loaded.

    python -m comparisons.recall                      on the synthetic world, a few seconds
    python -m comparisons.recall --data locomo        both tables, some two minutes

`python evaluate.py --recall --data locomo` is the same command.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

from tqdm import tqdm

from backend.devices import exit_with
from benchmarks.encoders import EMBEDDER_HELP, embedder_of
from benchmarks.splits import dialogues_to_test
from data import DataError, Dialogue, Turn
from memory_bank import Embedder, Memory, MemoryBank, memory_line
from memr1 import PER_SPEAKER, candidates
from systems.graphs_and_tools import AMem, LangMem, Zep
from systems.rules_and_mem0 import FullContext, LocomoRAG, Mem0, System
from training.options import option, parse_options
from training.run import embedder_or_stop, launch

EmbedderFor = Callable[[Sequence[str]], Embedder]  # of the lines that a bank will hold
RAG_CHUNKS = (1, 2, 4, 8)  # shown by LoCoMo's RAG; the paper shows one


@dataclass
class RecallOptions:
    """Options of `python -m comparisons.recall`."""

    data: str = option("world", "world, world-long, locomo or longmemeval, downloaded once, or a "
                                "file whose questions name their evidence")
    embedder: str = option("hashed", EMBEDDER_HELP)
    corpus: bool = option(False, "hashed and joined: weigh words by how rare they are in the whole "
                                 "conversation, which no agent knows while it reads")
    limit: int | None = option(None, "only the first so many questions, 10 to 100, and only their "
                                     "dialogues: a quick look")
    turns: int | None = option(None, "store only the first so many turns of a dialogue, 20 to 600, "
                                     "and ask only what they hold the evidence for")


def share(evidence: Sequence[str], turn_ids: Iterable[str]) -> float | None:
    """The share of the evidence turns among these turns; None if a question names no evidence.

    >>> share(["D1:3", "D2:7"], {"D1:3", "D1:4"})
    0.5
    """
    return len(set(evidence).intersection(turn_ids)) / len(evidence) if evidence else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def share_text(value: float | None) -> str:
    """A share as tables have it: "-" where there was nothing to find or to miss."""
    return "-" if value is None else f"{value:.3f}"


# ---- Search alone --------------------------------------------------------------------------------


def lines_of(texts: Iterable[tuple[str, Turn]]) -> list[str]:
    """What a bank embeds of these texts, each with the turn that it comes from."""
    return [memory_line(replace(turn, text=text)) for text, turn in texts]


def search_recall(dialogues: Sequence[Dialogue], embedder_for: EmbedderFor,
                  ) -> dict[str, dict[str, float | None]]:
    """Mean share of the evidence that search finds in a bank of all turns, or of all facts."""
    recall: dict[str, dict[str, float | None]] = {}
    for name in ("raw turns", "facts"):
        shares: dict[str, list[float | None]] = {"10": [], "60": [], f"{PER_SPEAKER} a speaker": []}
        for dialogue in tqdm(dialogues, desc=name, ncols=100):
            texts = [(text, turn) for turn in dialogue.turns
                     for text in ([turn.text] if name == "raw turns" else turn.facts)]
            bank = MemoryBank(embedder_for(lines_of(texts)))
            stored = bank.add_many((text, turn.speaker, turn.timestamp) for text, turn in texts)
            turn_of = {memory.id: turn.turn_id for memory, (_, turn) in zip(stored, texts)}
            for question in dialogue.questions:
                best = bank.search(question.text, 60)
                of_speakers = candidates(bank, question.text, dialogue.speakers).values()
                retrieved = best[:10], best, sum(of_speakers, [])
                for column, memories in zip(shares.values(), retrieved):
                    found = {turn_of[memory.id] for memory in memories}
                    # Where the data states no fact, nothing is stored that a search could miss.
                    column.append(share(question.evidence, found) if texts else None)
        recall[name] = {column: mean(values) for column, values in shares.items()}
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
MEASURED: dict[str, Callable[..., System]] = {
    "full-context": FullContext,
    **{f"locomo-rag, k = {k}": partial(LocomoRAG, k=k, chunk_tokens=500) for k in RAG_CHUNKS},
    "a-mem": AMem, "langmem": LangMem, "zep": Zep, "mem0, memory-r1, rules": Mem0}


def store(system: System, turn: Turn, fact: str) -> None:
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
             embedder_for: EmbedderFor) -> list[tuple[set[str], int]]:
    """For each question: the ids of the turns that a system shows something of, and its tokens."""
    lines = lines_of((fact, turn) for turn in dialogue.turns for fact in facts(turn))
    system = MEASURED[name](NO_MODEL, embedder_for(lines), dialogue.speakers, compact=True,
                            max_new_tokens=1)  # nothing is written
    has_chunks = isinstance(system, LocomoRAG)
    turn_of: dict[int, str] = {}
    for turn in dialogue.turns:
        for fact in facts(turn):
            # A fact adds lines to the last chunk, and to new ones behind it; elsewhere one memory.
            last = max(len(system.chunks) - 1, 0) if has_chunks else 0
            store(system, turn, fact)
            newest = ([line for chunk in system.chunks[last:] for line in chunk]
                      if has_chunks else [system.bank[len(system.bank) - 1]])
            for memory in newest:
                turn_of.setdefault(_key(system, memory), turn.turn_id)
    turns_and_tokens = []
    for question in dialogue.questions:
        # LangMem finds its memories while it answers, so it has no `retrieve` of its own.
        memories = (system.bank.search(question.text, system.k) if isinstance(system, LangMem)
                    else sum(system.retrieve(question.text).values(), []))
        turns_and_tokens.append(({turn_of[_key(system, memory)] for memory in memories},
                                 sum(len(tokens_of(memory_line(memory))) for memory in memories)))
    return turns_and_tokens


def _key(system: System, memory: Memory) -> int:
    """What tells a memory from others. Lines of a chunk have no ids, but stay the same objects."""
    return id(memory) if isinstance(system, LocomoRAG) else memory.id


def systems_recall(dialogues: Sequence[Dialogue], embedder_for: EmbedderFor,
                   ) -> dict[str, dict[str, float | None]]:
    """Per system: share of the evidence shown, and tokens shown, over raw turns and over facts."""
    recall: dict[str, dict[str, float | None]] = {}
    for name in tqdm(MEASURED, desc="systems", ncols=100):
        recall[name] = {}
        for stored, facts in (("raw turns", lambda turn: [turn.text]),
                              ("facts", lambda turn: turn.facts)):
            shares, sizes = [], []
            for dialogue in dialogues:
                holds_any = any(facts(turn) for turn in dialogue.turns)
                for question, (turn_ids, n_tokens) in zip(
                        dialogue.questions, shown_by(name, dialogue, facts, embedder_for)):
                    shares.append(share(question.evidence, turn_ids) if holds_any else None)
                    sizes.append(n_tokens)
            recall[name][stored] = mean(shares)
            recall[name][f"tokens, {stored}"] = mean(sizes)
    return recall


def recall_table(recall: dict[str, dict[str, float | None]], head: str) -> str:
    """Evidence recall as text."""
    columns = next(iter(recall.values()))
    lines = [f"{head:<26}" + "".join(f"{column:>18}" for column in columns)]
    for name, row in recall.items():
        # Shares are at most 1; what is larger is a number of tokens.
        cells = (f"{value:>18,.0f}" if (value or 0) > 1 else f"{share_text(value):>18}"
                 for value in row.values())
        lines.append(f"{name:<26}" + "".join(cells))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure and print both tables; returns what they hold."""
    options = parse_options(RecallOptions, "Measure how much of the questions' evidence search and "
                            "each memory system find, without a language model.", argv)
    try:
        dialogues, scope = dialogues_to_test(options.data, options.limit, options.turns)
    except DataError as error:
        exit_with(str(error))
    if not any(question.evidence for dialogue in dialogues for question in dialogue.questions):
        exit_with(f"{options.data}: no question names its evidence, so nothing says what is to be "
                  "found")
    if options.corpus and options.embedder not in ("hashed", "joined"):
        exit_with(f"--corpus: --embedder {options.embedder} weighs no words; leave it out")
    embedder_or_stop(options.embedder)  # an encoder that is missing is missed before the work

    def embedder_for(lines: Sequence[str]) -> Embedder:
        return embedder_of(options.embedder, lines if options.corpus else None)

    recall, of_systems = (measure(dialogues, embedder_for)
                          for measure in (search_recall, systems_recall))
    print(f"\n{options.data}: {scope}\n{recall_table(recall, 'evidence among the best')}\n\n"
          f"{recall_table(of_systems, 'evidence shown by')}")
    return {**recall, "systems": of_systems}


if __name__ == "__main__":
    launch(main)
