"""One dialogue read by a manager from an empty bank, written down turn by turn.

    runs/NAME/dialogue.jsonl    a reading a line, each of the same dialogue, at four steps at most

A reading is what `python -m tools.report` draws as a timeline: each fact, what the fact did to the
bank, and what the new bank answers. The same frozen answer agent answers each question twice: just
after the last turn of its evidence, and at the end of the dialogue. So a memory that is right at
first and overwritten later can be told from one that was never right.

In the synthetic world a reading also names the mistakes and the answers that they cost
(training/oracle.py). No other data says what the right memory is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from data import Dialogue, Question, Turn
from memory_bank import Embedder, Memory, MemoryBank
from memr1 import AnswerTask, Progress, Statement, answer_all, facts_of, observe_all, without_bar
from metrics import squad_exact_match
from policy import Policy
from training.oracle import charge, mistakes_of

LONGEST = 60  # turns: all of a dialogue of the world, the first sessions of one of LoCoMo


def bank_changes(before: Iterable[Memory], after: Iterable[Memory],
                 ) -> list[tuple[str, Memory | None, Memory | None]]:
    """(event, old, new) of every memory of two states of a bank, in the order of their ids.

    The event is "ADD" (no old memory), "UPDATE", "DELETE" (no new memory), or "" for a memory that
    stayed as it was.
    """
    old, new = ({memory.id: memory for memory in memories} for memories in (before, after))
    changes = []
    for memory_id in sorted({*old, *new}):
        pair = old.get(memory_id), new.get(memory_id)
        event = ("ADD" if pair[0] is None else "DELETE" if pair[1] is None else
                 "" if pair[0] == pair[1] else "UPDATE")
        changes.append((event, *pair))
    return changes


def deciding_questions(dialogue: Dialogue) -> dict[int, list[Question]]:
    """Place of a turn -> the questions whose evidence ends with it, in the first `LONGEST` turns.

    A question without evidence, or with evidence in a later turn, belongs to no turn.
    """
    places = {turn.turn_id: place for place, turn in enumerate(dialogue.turns[:LONGEST])}
    by_place: dict[int, list[Question]] = {}
    for question in dialogue.questions:
        if question.evidence and places.keys() >= set(question.evidence):
            last = max(places[turn_id] for turn_id in question.evidence)
            by_place.setdefault(last, []).append(question)
    return by_place


def read_turn(manager: Policy, bank: MemoryBank, turn: Turn, facts: Sequence[Statement],
              max_new_tokens: int) -> dict:
    """The row of a turn, so far without questions; its facts change the bank."""
    fact_rows = []
    for fact in facts:
        before = list(bank)
        [observation] = observe_all(manager, [bank], [fact], max_new_tokens=max_new_tokens)
        fact_rows.append({
            "fact": fact.text, "response": observation.response,
            "invalid": observation.counts["invalid"],
            "changes": [{"event": event, "before": old.text if old else "",
                         "after": new.text if new else ""}
                        for event, old, new in bank_changes(before, bank) if event]})
    return {"date": turn.timestamp, "speaker": turn.speaker, "facts": fact_rows,
            "size": len(bank), "questions": [], "mistakes": None}


def add_mistakes(rows: Sequence[dict], turns: Sequence[Turn], banks: Sequence[dict[int, str]],
                 wrong: Sequence[Question]) -> None:
    """Write into the row of each turn which mistakes it made, and which answers each one cost.

    `banks` holds the texts by id after each turn, `wrong` the questions that were answered wrong in
    the end.
    """
    mistakes = mistakes_of(turns, banks)
    for row, of_turn, costs in zip(rows, mistakes, charge(mistakes, turns, banks[-1], wrong)):
        row["mistakes"] = [{"kind": mistake.kind, "text": mistake.text,
                            "cost": [question.text for question in cost]}
                           for mistake, cost in zip(of_turn, costs)]


def reading(manager: Policy, answerer: Policy, dialogue: Dialogue, embed: Embedder,
            facts: str, distill: bool, per_speaker: int, max_new_tokens: int,
            progress: Progress = without_bar, extractor: Policy | None = None) -> dict:
    """{"turns": [...], "bank": [...]} of the first `LONGEST` turns and what they can answer.

    A turn is {"date", "speaker", "facts", "size", "questions", "mistakes"}: a fact {"fact",
    "response", "invalid", "changes"}, the size that of the bank, a question {"question", "gold"}
    with the answers {"answer", "right"} as "after" and "end". A mistake is {"kind", "text",
    "cost"}, the cost as questions; "mistakes" is None where the data does not know the right
    memory.
    """
    questions_at = deciding_questions(dialogue)
    bank, rows, banks = MemoryBank(embed), [], []
    # (row of the question, "after" or "end", what the answer agent reads)
    pending: list[tuple[dict, str, AnswerTask]] = []
    turns = dialogue.turns[:LONGEST]
    facts_of_turns = facts_of(turns, facts, extractor or manager, max_new_tokens, progress)
    for place in progress(range(len(turns)), "timeline"):
        rows.append(read_turn(manager, bank, turns[place], facts_of_turns[place], max_new_tokens))
        banks.append({memory.id: memory.text for memory in bank})
        after_turn = bank.copy()
        for question in questions_at.get(place, []):
            row = {"question": question.text, "gold": question.answer}
            rows[-1]["questions"].append(row)
            # `bank` still changes: the questions are asked when the dialogue is over, and in one
            # batch.
            pending += [
                (row, when, AnswerTask(state, question, dialogue.speakers, per_speaker))
                for when, state in (("after", after_turn), ("end", bank))]
    answers = answer_all(answerer, [task for _, _, task in pending], distill,
                         max_new_tokens=max_new_tokens)
    for (row, when, task), answer in zip(pending, answers):
        row[when] = {"answer": answer.text,
                     "right": squad_exact_match(answer.text, task.question.answer) == 1}
    if any(turn.fact for turn in turns):  # the synthetic world
        add_mistakes(rows, turns, banks, [task.question for row, when, task in pending
                                          if when == "end" and not row[when]["right"]])
    return {"turns": rows, "bank": [f"{memory.timestamp}: {memory.text}" for memory in bank]}
