"""One dialogue read by a manager from an empty bank, written down turn by turn.

    runs/NAME/dialogue.json    {"name", "speakers", "before": reading, "after": reading}

A reading is what `report.py` draws as a timeline: each fact, what it did to the bank, and what that
did to the answers. A question is asked three times, each time of the same frozen answer agent: just
before and just after the last turn of its evidence, and when the dialogue is over. So a memory that
is right at first and overwritten later can be told from one that was never right.
"""

from __future__ import annotations

from collections.abc import Iterator

from data import Dialogue, Question
from memory_bank import Embedder, MemoryBank
from memr1 import AnswerTask, answer_all, observe_all, turn_facts
from metrics import squad_exact_match
from policy import Policy

LONGEST = 60  # turns: all of a dialogue of the world, the first sessions of one of LoCoMo


def changes(before: MemoryBank, after: MemoryBank) -> Iterator[dict[str, str]]:
    """What happened to a bank, entry by entry: {"event", "before", "after"}; nothing for a NOOP."""
    old, new = ({memory.id: memory for memory in bank} for bank in (before, after))
    for number in dict.fromkeys([*old, *new]):
        was, now = old.get(number), new.get(number)
        if was != now:
            event = "ADD" if was is None else "DELETE" if now is None else "UPDATE"
            yield {"event": event, "before": was.text if was else "",
                   "after": now.text if now else ""}


def reading(manager: Policy, answerer: Policy, dialogue: Dialogue, embed: Embedder,
            facts: str = "turns", distill: bool = True) -> dict:
    """{"turns": [...], "bank": [...]} of the first `LONGEST` turns and what they can answer.

    A turn is {"date", "speaker", "facts", "size", "questions"}: a fact {"fact", "response",
    "invalid", "changes"}, the size that of the bank, a question {"question", "gold"} with the
    answers {"answer", "right"} as "before", "after" and "end".
    """
    turns = dialogue.turns[:LONGEST]
    places = {turn.turn_id: place for place, turn in enumerate(turns)}
    asked: dict[int, list[Question]] = {}  # place of the turn -> the questions it decides
    for question in dialogue.questions:
        if question.evidence and places.keys() >= set(question.evidence):
            asked.setdefault(max(places[t] for t in question.evidence), []).append(question)
    bank, rows = MemoryBank(embed), []
    answers: list[tuple[dict, str, AnswerTask]] = []  # where it goes, as what, and what is asked
    for place, turn in enumerate(turns):
        before_turn, seen = bank.copy(), []
        for fact in turn_facts(turn, facts, manager):
            before_fact = bank.copy()
            [done] = observe_all(manager, [bank], [(fact, turn.speaker, turn.timestamp)])
            seen.append({"fact": fact, "response": done.response,
                         "invalid": done.counts["invalid"],
                         "changes": list(changes(before_fact, bank))})
        rows.append({"date": turn.timestamp, "speaker": turn.speaker, "facts": seen,
                     "size": len(bank), "questions": []})
        after_turn = bank.copy()
        for question in asked.get(place, []):
            row = {"question": question.text, "gold": question.answer}
            rows[-1]["questions"].append(row)
            # `bank` goes on changing: these answers are given when the dialogue is over.
            answers += [(row, when, AnswerTask(held, question, dialogue.speakers)) for when, held
                        in (("before", before_turn), ("after", after_turn), ("end", bank))]
    for (row, when, task), answer in zip(answers, answer_all(
            answerer, [task for _, _, task in answers], distill)):
        right = squad_exact_match(answer.text, task.question.answer) == 1
        row[when] = {"answer": answer.text, "right": right}
    return {"turns": rows, "bank": [f"{memory.timestamp}: {memory.text}" for memory in bank]}
