"""What `--data` gives to train, to validate and to test on. Every command splits here.

    --data                        train               validation        test
    world, world-part, world-long 8 dialogues (152)   5 dialogues (81)  27 dialogues (513)
    world-29, world-part-29, ...  the same of another world, the one of this seed
    locomo                        conv-26             conv-30           all the others
    a file of LoCoMo's form       1st conversation    2nd conversation  all the others
    hotpotqa, or a file of its    first 60 %          next 10 %         last 30 %
      form, 2Wiki's or MuSiQue's
    msc, longmemeval, or a file   -                   -                 everything
    a conversation of one's own   -                   -                 everything
    (--env shop)                  1,000 goals         81 goals          250 goals

The numbers in brackets are questions. The three parts share no dialogue, question or goal.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.others import load
from benchmarks.own import with_questions
from benchmarks.shop import Goal, goals
from data import DataError, Dialogue, OpenQuestion, is_locomo, split_locomo
from world import named_world, training_world, world_splits

LOCOMO_FIRST = ("conv-26", "conv-30")  # trains with 152 questions, validates with 81
# To train, to validate and to test on. With 152 to train on, an agent kept clicking options that a
# new product lacks (docs/notes.md).
SHOP_GOALS = (1000, 81, 250)
Part = list[Dialogue] | list[OpenQuestion]


def splits(data: str, train_questions: int | None = None) -> tuple[Part, Part, Part]:
    """(train, validation, test): dialogues, or HotpotQA's questions.

    The world makes as many training dialogues as `train_questions` needs; 152 questions fill
    eight. Raises DataError if a file has fewer questions, or has nothing to train on.
    """
    train, validation, test = _all_parts(data)
    if (world := named_world(data)) and train_questions:
        train = training_world(-(-train_questions // len(train[0].questions)), *world)
    if not train:
        if isinstance(test[0], OpenQuestion) or is_locomo(test):
            reason = ("it has fewer than three conversations or different questions, and to learn "
                      "takes one to train, one to validate and one to test on (docs/own-data.md)")
        else:
            reason = "it is a benchmark beside LoCoMo"
        raise DataError(f"{data}: all of it is to test on (evaluate.py), because {reason}; learn "
                        "from world or locomo")
    if isinstance(train[0], Dialogue) and not any(d.questions for d in train):
        raise DataError(f"{data}: there is nothing to learn from, because nobody asks about "
                        f"{reprlib.repr(train[0].name)}, its first conversation; write questions "
                        "into its 'qa' (docs/own-data.md)")
    if train_questions:
        train = _first_questions(train, train_questions, data)
    return train, validation, test


def shop_splits() -> tuple[list[Goal], list[Goal], list[Goal]]:
    """(train, validation, test): purchases in the shop; training has products of its own."""
    n_train, n_validation, n_test = SHOP_GOALS
    train, test = goals(n_train, 0), goals(n_test, 2, held_out=True)
    # Twice as many as needed, because two seeds may draw the same purchase.
    drawn = goals(2 * n_validation, 1, held_out=True)
    instructions = {goal.instruction for goal in test}
    validation = [goal for goal in drawn if goal.instruction not in instructions]
    return train, validation[:n_validation], test


def held_out(data: str, questions_file: str | None = None) -> Part:
    """The test part: what no training run has learned from. Raises DataError for bad data.

    A file of questions may ask about all conversations of `data`, because no training reads such a
    file. Those to learn from and to validate on are then asked its questions only, not their own.
    """
    if questions_file is None:
        return _all_parts(data)[2]
    if named_world(data):
        raise DataError(f"--questions-file {questions_file}: is for a conversation of one's own, "
                        f"and {data} asks its own questions; name the conversation with --data")
    train, validation, test = _all_parts(data)
    if isinstance(test[0], OpenQuestion):
        raise DataError(f"--questions-file {questions_file}: is for conversations, and {data} "
                        "holds questions of its own; leave it out")
    known = [replace(dialogue, questions=()) for dialogue in (*train, *validation)]
    return with_questions([*known, *test], questions_file)


def _all_parts(data: str) -> tuple[Part, Part, Part]:
    """The three parts; the first two are empty where the data is there to test on only."""
    if world := named_world(data):
        return world_splits(*world)
    loaded = load(data)
    if isinstance(loaded[0], OpenQuestion):
        first, second = len(loaded) * 6 // 10, len(loaded) * 7 // 10
        test = loaded[second:]
        # A question that a file holds twice, under two names, must not stand on both sides.
        validation = _unasked(loaded[first:second], test)
        return _unasked(loaded[:first], [*validation, *test]), validation, test
    if is_locomo(loaded) and len(loaded) >= 3:
        return split_locomo(_named_first(loaded))
    return [], [], loaded


def _unasked(questions: list[OpenQuestion], others: list[OpenQuestion]) -> list[OpenQuestion]:
    """The questions that others do not ask in the same words."""
    asked = {question.text for question in others}
    return [question for question in questions if question.text not in asked]


def _named_first(dialogues: list[Dialogue]) -> list[Dialogue]:
    """LoCoMo's training and validation conversations first, if the file has both of them.

    The order of a copy of the file must not decide what is tested. Another file, with names of its
    own, stays in its order.
    """
    by_name = {dialogue.name: dialogue for dialogue in dialogues}
    if not by_name.keys() >= set(LOCOMO_FIRST):
        return dialogues
    first = [by_name[name] for name in LOCOMO_FIRST]
    return [*first, *(dialogue for dialogue in dialogues if dialogue not in first)]


def _first_questions(train: Part, count: int, data: str) -> Part:
    """The training part as far as its first `count` questions; DataError if it has fewer."""
    shorter, n_missing = [], count
    for source in train:
        if not n_missing:
            break
        if isinstance(source, Dialogue):
            source = replace(source, questions=source.questions[:n_missing])
        shorter.append(source)
        n_missing -= len(source.questions) if isinstance(source, Dialogue) else 1
    if n_missing:
        raise DataError(f"{data}: --train-questions {count}, but there are {count - n_missing}")
    return shorter


# ---- A quick look --------------------------------------------------------------------------------


def shorten(dialogues: Sequence[Dialogue], limit: int | None, turns: int | None) -> list[Dialogue]:
    """The dialogues as far as they are read, with the questions that are asked.

    `limit` is the number of questions in all, `turns` the number of turns of each dialogue. With
    `turns`, a question is asked only if its evidence was read: nobody could know the answer of the
    others. A dialogue without a question to ask is not read.
    """
    shorter: list[Dialogue] = []
    n_questions = 0
    for dialogue in dialogues:
        questions = dialogue.questions
        if turns is not None:
            turns_read = {turn.turn_id for turn in dialogue.turns[:turns]}
            questions = tuple(question for question in questions if question.evidence
                              and turns_read.issuperset(question.evidence))
        if limit is not None:
            questions = questions[: limit - n_questions]
        if questions:
            shorter.append(replace(dialogue, turns=dialogue.turns[:turns], questions=questions))
        n_questions += len(questions)
    return shorter


def dialogues_to_test(data: str, limit: int | None, turns: int | None,
                      questions_file: str | None = None) -> tuple[list[Dialogue], str]:
    """The test dialogues after `shorten`, and a line that says how much of the test they are.

    Raises DataError for bad data, for questions without a dialogue, and if no question remains.
    """
    test = held_out(data, questions_file)
    if isinstance(test[0], OpenQuestion):
        raise DataError(f"--data {data}: questions without a dialogue; they are for --agent mem1")
    if not any(dialogue.questions for dialogue in test):
        raise DataError(f"{data}: holds no question to test on; give evaluate.py a file of them "
                        "(--questions-file, docs/own-data.md), or ask in a chat (memr1.py --data)")
    dialogues = shorten(test, limit, turns)
    if not dialogues:
        raise DataError(f"{data}: no question left to ask; raise or leave out --turns")
    n_questions, n_all = (sum(len(d.questions) for d in part) for part in (dialogues, test))
    scope = f"{n_questions:,} questions on {len(dialogues)} of {len(test)} dialogues"
    if n_questions < n_all or turns:
        scope = f"a quick look, not the full test: the first {scope}, of {n_all:,} questions"
    return dialogues, scope
