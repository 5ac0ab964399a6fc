"""What Memory-R1's two agents learn on: from dialogues to tasks.

    dialogue ──facts_of──> facts ──add_everything, or a manager──> bank ──> AnswerTask
    dialogue ──facts_of──> facts ──bank before one of them──────────────> ManagerTask
    dialogue ──facts_of──> facts ──some in a row (`--span`)─────────────> SpanTask

All kinds of task read the facts of a dialogue with the same function as evaluation does
(`memr1.facts_of`). An agent that learned from facts that it never meets again would be tested on
another task than it was trained for.

Where this differs from the paper
1. A training example of the manager is one decision: a bank, a fact and a question. The fact is
   from the last turn of the question's evidence that states one. The paper links a question to
   every turn of its evidence, but before the last of them nobody can answer.
2. In training nearly each question also pays for a second decision, a *guard* (`guard_place`; none
   if the speaker states nothing after it). The guard's turn resembles the question's turn and says
   something else, so the question's memory must survive it. Without guards a manager learns to
   overwrite whatever is similar, because no question asks for the memory that it overwrote.
3. The bank before the turn is the right one where the data knows it (the synthetic world).
   Elsewhere it holds every earlier fact. The paper lets GPT-4o-mini build the bank from the last 24
   or 50 turns (its text and its Algorithm 1 disagree).
4. Spans (`--span`) need neither guards nor a given bank. The bank before a span is the manager's
   own. Where fewer than PAID questions are decided inside a span, earlier ones pay too.
5. Without `--manager` an answer agent learns on banks that keep every fact, with it on the banks
   that this manager makes (Algorithm 2).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

from data import Dialogue, Question
from memory_bank import Embedder, MemoryBank
from memr1 import (
    PER_SPEAKER,
    AnswerTask,
    ManagerTask,
    Reading,
    Sources,
    SpanTask,
    Statement,
    facts_of,
)
from policy import Policy
from world import oracle_memories, second_pet

PAID = 4  # questions that pay for a span, at most

# ---- The answer agent ----------------------------------------------------------------------------


def add_everything(dialogues: Sequence[Dialogue], embed: Embedder, facts_from: str,
                   policy: Policy | None = None, max_new_tokens: int = 0) -> Reading:
    """The banks of a manager that adds every fact and never looks back; as `memr1.build_banks`.

    Such a bank still holds that Anna lives in Oslo when she has moved to Rome. So its answer agent
    has to learn which of two memories is out of date.
    """
    banks, sources, n_facts = [], [], 0
    for dialogue in dialogues:
        bank, of_bank = MemoryBank(embed), Sources()
        facts = facts_of(dialogue.turns, facts_from, policy, max_new_tokens)
        memories = iter(bank.add_many(fact for of_turn in facts for fact in of_turn))
        for turn, of_turn in zip(dialogue.turns, facts):
            of_bank.update({next(memories).id: {turn.turn_id} for _ in of_turn})
        banks.append(bank)
        sources.append(of_bank)
        n_facts += len(bank)
    return Reading(banks, sources, Counter(facts=n_facts, ADD=n_facts))


def answer_tasks(dialogues: Sequence[Dialogue], banks: Sequence[MemoryBank],
                 per_speaker: int = PER_SPEAKER) -> list[AnswerTask]:
    """Every question, over the bank of its dialogue."""
    return [AnswerTask(bank, question, dialogue.speakers, per_speaker)
            for dialogue, bank in zip(dialogues, banks) for question in dialogue.questions]


# ---- The manager ---------------------------------------------------------------------------------


def manager_tasks(dialogues: Sequence[Dialogue], embed: Embedder, facts_from: str,
                  policy: Policy | None = None, max_new_tokens: int = 0, guards: bool = False,
                  ) -> list[ManagerTask]:
    """The decisions that each question pays for: see "differs", 1 to 3.

    A turn with two facts has two decisions, because in evaluation the manager reads them one by
    one. A question is left out if no turn of its evidence states a fact. `facts_from` is the source
    that `facts_of` takes, with the `policy` and the tokens for "llm". `guards` are for training.
    """
    tasks = []
    draw = random.Random(0)
    for dialogue in dialogues:
        facts = facts_of(dialogue.turns, facts_from, policy, max_new_tokens)
        decisions = paid_decisions(dialogue, facts, embed, draw if guards else None)
        banks = banks_before(dialogue, facts, {place for place, _ in decisions}, embed)
        for place, question in decisions:
            merged = second_pet(dialogue.turns[:place], dialogue.turns[place])
            tasks += [ManagerTask(bank, fact, question, dialogue.speakers, merged)
                      for bank, fact in zip(banks[place], facts[place])]
    return tasks


def paid_decisions(dialogue: Dialogue, facts: Sequence[Sequence[Statement]], embed: Embedder,
                   draw: random.Random | None) -> list[tuple[int, Question]]:
    """The place of each turn that a question pays for, with that question.

    `facts` are those of each turn. Guards are drawn from `draw`; None is no guards.
    """
    decisions = []
    for question in dialogue.questions:
        place = deciding_place(dialogue, question, facts)
        if place is not None:
            decisions.append((place, question))
            guard = guard_place(dialogue, place, facts, embed, draw) if draw else None
            if guard is not None:
                decisions.append((guard, question))
    return decisions


def deciding_place(dialogue: Dialogue, question: Question,
                   facts: Sequence[Sequence[Statement]]) -> int | None:
    """The place of the last turn of a question's evidence that states a fact; None without one.

    `facts` are those of each turn. Only after that turn can the question be answered at all.
    """
    return max((place for place, turn in enumerate(dialogue.turns)
                if turn.turn_id in question.evidence and facts[place]), default=None)


def banks_before(dialogue: Dialogue, facts: Sequence[Sequence[Statement]], places: set[int],
                 embed: Embedder) -> dict[int, list[MemoryBank]]:
    """The memory before each fact of the turns at these places, right where the data knows it.

    Elsewhere it holds the facts of all earlier turns, and the other facts of the turn itself.
    """
    if any(turn.fact for turn in dialogue.turns):  # the synthetic world: one fact a turn
        banks = {}
        for place in places:
            right = MemoryBank(embed)
            right.add_many(oracle_memories(dialogue.turns[:place]).values())
            banks[place] = [right] * len(facts[place])
        return banks
    banks, bank, n_read = {}, MemoryBank(embed), 0
    for place in sorted(places):
        bank.add_many(fact for of_turn in facts[n_read:place] for fact in of_turn)
        n_read = place
        banks[place] = []
        for number in range(len(facts[place])):
            # LoCoMo's 1,500 questions need as many banks of hundreds of memories. A copy shares the
            # vectors of the bank that it was made from, so that they fit into memory.
            banks[place].append(bank.copy())
            # The question waits for the whole turn, so none of its facts may be missing.
            banks[place][-1].add_many([*facts[place][:number], *facts[place][number + 1:]])
    return banks


def guard_place(dialogue: Dialogue, place: int, facts: Sequence[Sequence[Statement]],
                embed: Embedder, draw: random.Random) -> int | None:
    """The place of a later turn that endangers the memory of the turn at `place`, drawn at random.

    Example: Anna says "I play the flute" and, weeks later, "I play the drums". Of all that she had
    said by then, the flute is most similar to the drums. A manager that overwrites the most
    similar memory loses the flute at the later turn. So that turn guards the question about flutes.

    If no later turn of the speaker is so dangerous, one of the five most similar is drawn. Turns
    that state no fact are no danger, because a manager never reads them. None if the speaker
    states nothing more.
    """
    turn, bank = dialogue.turns[place], MemoryBank(embed)
    places = [other for other, of_turn in enumerate(facts)
              if of_turn and dialogue.turns[other].speaker == turn.speaker]
    dangerous = []
    for other in places:
        text = dialogue.turns[other].text
        # The bank holds what the speaker said before `other`: memory i is the turn at places[i].
        # The turn at `other` is dangerous if, of those, it resembles the turn at `place` most.
        if other > place and places[bank.search(text, 1)[0].id] == place:
            dangerous.append(other)
        bank.add(text, turn.speaker, "")
    if not dangerous:
        by_similarity = [places[memory.id] for memory in bank.search(turn.text, len(places))]
        dangerous = [other for other in by_similarity if other > place][:5]
    return draw.choice(dangerous) if dangerous else None


def span_tasks(dialogues: Sequence[Dialogue], embed: Embedder, facts_from: str, length: int,
               policy: Policy | None = None, max_new_tokens: int = 0) -> list[SpanTask]:
    """One span of `length` facts for each question, which holds all facts of its deciding turn.

    Where in the span that turn stands is drawn once, with a fixed seed. A dialogue with fewer facts
    is one span; of a turn with more facts than `length` the last ones are in it. A question is left
    out if no turn of its evidence states a fact. `facts_from` is the source that `facts_of` takes,
    with the `policy` and the tokens for "llm".
    """
    draw, tasks = random.Random(0), []
    for dialogue in dialogues:
        of_turns = facts_of(dialogue.turns, facts_from, policy, max_new_tokens)
        facts = tuple(fact for of_turn in of_turns for fact in of_turn)
        n_facts = min(length, len(facts))
        n_until = list(accumulate(map(len, of_turns)))  # facts up to each turn, its own included
        decided = {}  # number of a question -> the places of the facts that decide it
        for number, question in enumerate(dialogue.questions):
            turn = deciding_place(dialogue, question, of_turns)
            if turn is not None:
                decided[number] = range(n_until[turn] - len(of_turns[turn]), n_until[turn])
        for number, places in decided.items():
            earliest = max(0, places[-1] + 1 - n_facts)
            latest = max(earliest, min(places[0], len(facts) - n_facts))
            start = draw.randint(earliest, latest)
            stop = start + n_facts
            paid = [number, *other_questions(decided, number, start, stop, draw)]
            tasks.append(SpanTask(facts, start, stop, tuple(dialogue.questions[n] for n in paid),
                                  dialogue.speakers, embed))
    return tasks


def other_questions(decided: Mapping[int, range], number: int, start: int, stop: int,
                    draw: random.Random) -> list[int]:
    """Numbers of at most PAID - 1 questions without `number` that a span's end can answer.

    First come those decided inside the span, then those decided earlier, each in random order: what
    the earlier ones ask for had to survive. `decided` holds the places of each question's facts.
    """
    others = [other for other, places in decided.items() if places[-1] < stop and other != number]
    draw.shuffle(others)
    return sorted(others, key=lambda other: decided[other][-1] < start)[:PAID - 1]
