"""What the synthetic world knows about a manager's memory: what is right, and what went wrong.

    dialogue, banks ──mistakes_of──> mistakes a turn ──charge──> the wrong answers that each cost
    dialogues, banks ──over_turns──> size, share of right memories after each turn

The world alone knows what is true after a turn (`world.advance`). Other data has no such oracle, so
nothing here is said of it.

A memory *says* a fact if it holds the words of the fact, because a manager may choose its own
order of words. A mistake is one of six, and each is a change of one turn:

    added        a memory more, though the turn needed none or its memory was there already
    overwritten  a memory about something else, which still held, made room for the new fact
    merged       one memory now says two facts that belong into two
    lost         a fact that still holds was deleted, or dropped when its own memory was updated
    missed       the new fact stands in no memory
    outdated     what no longer holds stands in the bank
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from data import Fact, Question, Turn
from world import Key, State, advance, memory_key, oracle_memories, probes, sentence

KINDS = {"added": "added without need", "overwritten": "overwritten though unrelated",
         "merged": "merged though unrelated", "lost": "lost", "missed": "never stored",
         "outdated": "kept though outdated"}
Known = tuple[str, str, str]  # (subject, relation, value) of something that holds
Texts = Mapping[int, str]  # a bank: memory id -> text

# ---- What holds, and what a memory says ----------------------------------------------------------


@dataclass(frozen=True)
class Mistake:
    """One wrong change; `key` says which memory it is about, None for small talk."""

    kind: str  # of KINDS
    key: Key | None
    text: str  # for the reader: the fact, or the memory that should not be there
    known: Known | None = None  # the fact, where the kind is about a single one
    memory_id: int | None = None  # the memory, where the kind is about a memory


def known_after(turns: Iterable[Turn]) -> list[set[Known]]:
    """Everything that holds after each turn."""
    state: State = {}
    events: set[Known] = set()  # they never end, and `advance` does not keep them
    history = []
    for turn in turns:
        advance(state, turn)
        if turn.fact and turn.fact.relation == "event":
            events.add((turn.fact.subject, "event", turn.fact.value))
        history.append(events | {(*key, value) for key, values in state.items()
                                 for value in values})
    return history


def key_of(known: Known) -> Key:
    """Which memory a fact belongs into."""
    return memory_key(Fact(*known, "add"))  # how it came to hold makes no difference


def says(text: str, known: Known) -> bool:
    """Whether a memory says this fact: subject, relation and value, in any order.

    >>> says("Anna has cats named Rex and Tom", ("Anna", "cats", "Tom"))
    True
    >>> says("Anna no longer likes chili", ("Anna", "likes", "chili"))
    False
    """
    subject, relation, value = known
    words = re.findall(r"\w+", text)
    stem = "" if relation == "event" else relation.removesuffix("s")  # "dogs" also says "dog"
    return ("no longer" not in text and subject in words and value in words
            and any(word.startswith(stem) for word in words))


def sayers(bank: Texts, known: Known) -> set[int]:
    """The ids of the memories that say this fact."""
    return {memory_id for memory_id, text in bank.items() if says(text, known)}


# ---- Mistakes ------------------------------------------------------------------------------------


def mistakes_of(turns: Sequence[Turn], banks: Sequence[Texts]) -> list[list[Mistake]]:
    """The mistakes of each turn; `banks` are the memories after each, and begin empty."""
    mistakes, before, known_before, ended = [], {}, set(), set()
    for turn, after, known in zip(turns, banks, known_after(turns)):
        ended = (ended | known_before) - known
        mistakes.append(_mistakes_at(turn, before, after, known_before, known, ended))
        before, known_before = after, known
    return mistakes


def _mistakes_at(turn: Turn, before: Texts, after: Texts, known_before: set[Known],
                 known: set[Known], ended: set[Known]) -> list[Mistake]:
    """The mistakes of one turn; `ended` is all that once held and does not hold any more."""
    told = (turn.fact.subject, turn.fact.relation, turn.fact.value) if turn.fact else None
    key = key_of(told) if told else None
    changed = {n: text for n, text in after.items() if before.get(n) != text}
    return [*_added(told, key, before, changed, known_before, known),
            *_merged(before, changed, known_before, known),
            *_gone(key, before, after, known_before & known),
            *([Mistake("missed", key, sentence(*told[:2], [told[2]]), told)]
              if told in known and not sayers(after, told) else []),
            *_outdated(key, before, after, changed, known_before, ended)]


def _added(told: Known | None, key: Key | None, before: Texts, changed: Texts,
           known_before: set[Known], known: set[Known]) -> list[Mistake]:
    """New memories that the turn did not need."""
    has_memory = any(key_of(one) == key and sayers(before, one) for one in known_before)
    needed = told in known and not has_memory  # the first of them, if there are several
    new = [n for n in changed if n not in before]
    return [Mistake("added", key, changed[n], memory_id=n) for n in new[1 if needed else 0:]]


def _keys_said(text: str, known: Iterable[Known]) -> set[Key]:
    return {key_of(one) for one in known if says(text, one)}


def _merged(before: Texts, changed: Texts, known_before: set[Known], known: set[Known],
            ) -> list[Mistake]:
    """Memories that say what belongs into more memories than before."""
    mistakes = []
    for n, text in changed.items():
        keys = _keys_said(text, known)
        old_keys = _keys_said(before.get(n, ""), known_before)
        if len(keys) > max(len(old_keys), 1):
            # The key of what was there: a question about it now meets two facts in one memory.
            mistakes += [Mistake("merged", key, text, memory_id=n)
                         for key in sorted(old_keys & keys or keys)[:1]]
    return mistakes


def _gone(key: Key | None, before: Texts, after: Texts, lasting: set[Known]) -> list[Mistake]:
    """What still holds and is said no more: overwritten by another fact, or lost."""
    mistakes = []
    for known in sorted(lasting):
        said_by = sayers(before, known)
        if said_by and not sayers(after, known):
            overwritten = key_of(known) != key and any(n in after for n in said_by)
            mistakes.append(Mistake("overwritten" if overwritten else "lost", key_of(known),
                                    sentence(*known[:2], [known[2]]), known))
    return mistakes


def _outdated(key: Key | None, before: Texts, after: Texts, changed: Texts,
              known_before: set[Known], ended: set[Known]) -> list[Mistake]:
    """What ended with this turn and still stands, or ended earlier and was written again."""
    adds = any(n not in before for n in changed)
    return [Mistake("outdated", key_of(known), sentence(*known[:2], [known[2]]), known)
            for known in sorted(ended) if sayers(after, known)
            and (known in known_before or not sayers(before, known))
            # A new memory beside the old one is one mistake, and "added" names it already.
            and not (adds and key_of(known) == key)]


def charge(mistakes: Sequence[Sequence[Mistake]], turns: Sequence[Turn], bank: Texts,
           wrong: Iterable[Question]) -> list[list[list[Question]]]:
    """The wrong answers that each mistake cost: questions, in the order of `mistakes`.

    `bank` is the last one, and `wrong` are the questions that it answers wrongly. Each is charged
    to the last mistake about a memory that it needs, if the mistake was not mended since. So no
    answer counts twice, and one that no mistake explains counts nowhere.
    """
    known = known_after(turns)[-1]
    costs: list[list[list[Question]]] = [[[] for _ in of_turn] for of_turn in mistakes]
    standing = [(mistake, cost) for of_turn, of_costs in zip(mistakes, costs)
                for mistake, cost in zip(of_turn, of_costs) if _stands(mistake, bank, known)]
    needs = {probe.question.text: {probe.about, *probe.needs} for probe in probes(turns)}
    for question in wrong:
        blamed = [cost for mistake, cost in standing if mistake.key in needs[question.text]]
        if blamed:
            blamed[-1].append(question)
    return costs


def _stands(mistake: Mistake, bank: Texts, known: set[Known]) -> bool:
    """Whether nothing has mended a mistake by the end."""
    if mistake.kind == "added":
        return mistake.memory_id in bank
    if mistake.kind == "merged":
        return len(_keys_said(bank.get(mistake.memory_id, ""), known)) > 1
    if mistake.kind == "outdated":
        return mistake.known not in known and bool(sayers(bank, mistake.known))
    return mistake.known in known and not sayers(bank, mistake.known)


# ---- A bank over the turns -----------------------------------------------------------------------


def over_turns(dialogues: Sequence[Sequence[Turn]],
               histories: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, list[float]]:
    """After each turn, means over the dialogues that are so long.

    `histories`: turn id -> the texts of the bank after it, for each dialogue. The columns are
    "size", "right size" (how many memories there should be), "held" (share of the right memories
    that stand in the bank) and "right" (share of the bank's memories that are right). A memory is
    right if it is the oracle's, word for word. Both shares are 1 where there is nothing to share.
    """
    rows: list[list[tuple[float, float, float, float]]] = []
    for turns, history in zip(dialogues, histories):
        bank: Sequence[str] = ()
        for place, turn in enumerate(turns):
            bank = history.get(turn.turn_id, bank)  # a turn without a fact changes nothing
            right = {text for text, _, _ in oracle_memories(turns[:place + 1]).values()}
            n_held = len(right.intersection(bank))
            n_right = sum(text in right for text in bank)
            if place == len(rows):
                rows.append([])
            rows[place].append((len(bank), len(right), n_held / len(right) if right else 1.0,
                                n_right / len(bank) if bank else 1.0))
    names = ("size", "right size", "held", "right")
    return {name: [sum(row[i] for row in of_turn) / len(of_turn) for of_turn in rows]
            for i, name in enumerate(names)}
