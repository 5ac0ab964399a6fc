"""How the embedded model in tiny/ was made. Run it only to make it again.

    python -m making.manager        some 100 minutes on two cores

ends with its scores and "saved to runs/making-manager; copy its files into ... to put the model in
place". The result is a plain Qwen2 of a million parameters that is to the synthetic world what a 3B
instruct model is to LoCoMo. It *reads* well: given the right memories it answers. And it *decides*
like the agents that Memory-R1 starts from, so that reinforcement learning has something to teach:

- as a manager it overwrites (told of a second dog, it forgets the first), it duplicates (told of a
  new home, it stores it beside the old one) and it stores some of the small talk;
- as an answer agent it selects like a retriever, everything on the subject, stale or not, and
  answers with the first of it.

It does so by cloning a mixture: in every such case the better choice is shown too, with less weight
(BETTER), so that sampling finds it now and then. What only reading decides is shown without a
mixture: whether a memory is about the person of the fact, and which memory comes after the one just
selected. Everything comes from the training side of the world; held-out pairs of person and value
are never seen.

Its weights start from circuits set by hand (wiring.py); the training loop stands in lessons.py.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import world as w
from data import Dialogue, Fact, Message, Question, Turn
from making.lessons import (
    MICRO_BATCH_TOKENS,
    Lesson,
    begin,
    crossroads,
    evenly,
    make_parser,
    start_of,
    teach,
)
from making.wiring import build_model, build_tokenizer, suppress
from memory_bank import Embedder, Memory, MemoryBank, hashed_words
from memr1 import SIMILAR, ManagerAgent, answer_all
from metrics import squad_exact_match
from policy import Policy
from prompts import (
    Operation,
    answer_messages,
    format_answer,
    format_operation,
    manager_messages,
    parse_operations,
)
from training.options import EMBEDDED_MODEL, TINY
from training.run import launch
from training.tasks import answer_tasks, manager_tasks
from trees import Step, shared_prefix

# The share of the better of two choices where the model is to decide badly: whether to update or to
# add, and all else.
BETTER_EVENT, BETTER = 0.4, 0.3
# How much the tokens count that decide: an operation's event, the first of an answer, and those of
# an answer at which a copy could take the wrong turn. All others follow from these and count 1.
DECISION_WEIGHT = 10.0
ASKED_NOW = 0.5  # the share of the questions about several values that ask for those of now

# ---- Lessons: what is shown ----------------------------------------------------------------------


def texts_of(dialogues: Sequence[Dialogue]) -> list[str]:
    """Prompts and responses as the lessons have them, for the tokenizer."""
    texts = []
    for dialogue in dialogues:
        everything = [Memory(i, turn.facts[0], turn.speaker, turn.timestamp)
                      for i, turn in enumerate(dialogue.turns)]
        for question in [probe.question for probe in w.probes(dialogue.turns)]:
            for distill in (True, False):
                prompt = answer_messages(question.text, {"": everything[:1]}, distill)
                texts.append(prompt[1]["content"])
                texts.append(format_answer([question.answer], question.answer, distill))
        for memory, turn in zip(everything, dialogue.turns):
            texts.append(manager_messages(f"{turn.speaker}: {turn.text}", [memory])[1]["content"])
            texts += [format_operation(Operation(event, 0 if event != "ADD" else None, memory.text))
                      for event in ("ADD", "UPDATE")]
            texts += [format_operation(Operation("DELETE", 0)), format_operation(Operation("NOOP"))]
    return texts


def drill(rng: random.Random, n_people: int, n_relations: int, n_events: int,
          n_links: int) -> Dialogue:
    """A dense little dialogue: a few people share the same few relations, so names decide."""
    names = [name for pair in rng.sample(w.NAME_PAIRS, (n_people + 1) // 2) for name in pair]
    rng.shuffle(names)
    names = names[:n_people]
    relations = rng.sample(w.TELLABLE, n_relations)
    threads = []
    for name in names:
        threads += w.story(name, relations, n_events, False, rng)
        # Friends among the people told of, so that a question can take two steps, and others.
        others = rng.sample([other for other in names if other != name], min(1, n_people - 1))
        others += rng.sample([other for other in w.NAMES if other not in names], 3)
        for link, other in zip(rng.sample(w.LINKS, n_links), others):
            if other not in w.held_out_values(name, w.NAMES):
                threads.append([Fact(name, link, other, "add")])
    turns = []
    facts, dates = w.interleave(threads, rng), w.dates(rng)
    for place, fact in enumerate(facts):
        speaker = names[names.index(fact.subject) % 2]
        # Links are said by oneself only.
        sentence, memory = w.say(fact, fact.subject if fact.relation in w.LINKS else speaker, rng)
        date = dates[place * len(dates) // len(facts)]
        turns.append(Turn(f"D1:{place}", speaker, sentence, date, (memory,), fact))
    return Dialogue("drill", (names[0], names[1]), tuple(turns), ())


def as_retriever(probe: w.Probe, turns: Sequence[Turn],
                 selected: list[str]) -> list[tuple[list[str], str, float]]:
    """What to select and answer from a bank that kept every fact, and the share of each choice.

    Mostly all that is on the subject, or the first of it, and the first as the answer; less often
    all of it, and the right answer. `selected` are the right memories for the question, of which
    the last is about its key.
    """
    about = [turn for turn in turns if turn.fact and w.memory_key(turn.fact) == probe.about]
    if len(about) < 2:
        return [(selected, probe.question.answer, 1.0)]
    others = selected[:len(selected) - (probe.about in probe.needs)]
    everything = others + [turn.facts[0] for turn in about]
    state: w.State = {}
    w.advance(state, about[0])
    [first] = state[probe.about] or ["nothing"]
    if probe.kind == "inference":
        first = w.INFERENCES[probe.about[1]][1][first]
    return [(everything, probe.question.answer, BETTER), (everything, first, 0.75 * (1 - BETTER)),
            ([*others, about[0].facts[0]], first, 0.25 * (1 - BETTER))]


def unanswerable(turns: Sequence[Turn], rng: random.Random) -> w.Probe:
    """A question about somebody known that no memory answers: the model must notice."""
    facts = [turn.fact for turn in turns if turn.fact]
    linked = [fact for fact in facts if fact.relation in w.LINKS]
    known = {w.memory_key(fact) for fact in facts}
    through = rng.choice(linked) if linked and rng.random() < 0.3 else None
    subject = through.value if through else rng.choice(facts).subject
    relation = rng.choice([r for r in w.TELLABLE if (subject, r) not in known] or w.TELLABLE)
    called = f"{through.subject}'s {through.relation}" if through else subject
    text = w.RELATIONS[relation].question.format(s=called)
    needs = (w.memory_key(through),) if through else ()
    return w.Probe("unanswerable", Question(text, "nothing", 4, ()), (subject, relation), needs)


def answer_lesson(policy: Policy, dialogue: Dialogue, turns: Sequence[Turn], n_questions: int,
                  n_unanswerable: int, keep_all: bool, rng: random.Random) -> Lesson:
    """Several questions after one bank: the right memories, or every fact that was said.

    Where several values were said, half of the questions ask "now", and then the right answer is
    the only choice. So the model learns to tell which value came last, and not to do so unasked. No
    question that the agents are trained or tested on has the word.
    """
    right = w.oracle_memories(turns)
    entries = list(right.values())
    if keep_all:
        entries = [(turn.facts[0], turn.speaker, turn.timestamp) for turn in turns]
    memories = {speaker: [Memory(i, *entry) for i, entry in enumerate(entries)
                          if entry[1] == speaker] for speaker in dialogue.speakers}
    answerable = w.probes(turns)
    distill = rng.random() < 0.85
    chosen = rng.sample(answerable, min(n_questions, len(answerable)))
    for _ in range(n_unanswerable):
        probe = unanswerable(turns, rng)
        if all(probe.about != other.about for other in answerable):
            chosen.append(probe)
    lesson = Lesson([], [])
    for probe in chosen:
        selected = [right[key][0] for key in probe.needs]
        choices = [(selected, probe.question.answer, 1.0)]
        if keep_all:
            choices = as_retriever(probe, turns, selected)
        text = probe.question.text
        if len(choices) > 1 and rng.random() < ASKED_NOW:
            text = text.removesuffix("?") + " now?"
            choices = [(*choices[0][:2], 1.0)]
        messages = answer_messages(text, memories, distill)
        for selected, answer, share in choices:
            step = policy.lesson(messages, format_answer(selected, answer, distill))
            n_before = len(policy.tokenizer.encode(format_answer(selected, "", distill).rstrip()))
            lesson.steps.append(step)
            lesson.weights.append([share * weight
                                   for weight in answer_weights(policy, step, n_before)])
    return lesson


def answer_weights(policy: Policy, step: Step, n_before: int) -> list[float]:
    """The weight of each token of a response with `n_before` tokens before its answer.

    Where a line begins the model decides whether to select another memory. At a crossroads it
    decides which, and not to select one twice: a copy that does not know what it wrote already
    goes on as the first time.
    """
    begins = [policy.decode([token]).startswith("\n") for token in step.response_ids]
    return [DECISION_WEIGHT if forks or starts or place == n_before else 1.0
            for place, (forks, starts) in enumerate(zip(crossroads(step), begins))]


def shown_to_manager(bank: MemoryBank, turn: Turn,
                     old: str | None) -> tuple[list[Message], int | None]:
    """The manager's prompt for one turn, and the number of the memory `old` in it, if there."""
    fact = f"{turn.speaker}: {turn.text}"
    shown = bank.search(fact, SIMILAR, turn.speaker)
    number = next((i for i, memory in enumerate(shown) if memory.text == old), None)
    return manager_messages(fact, shown), number


def kinds_of(turns: Sequence[Turn]) -> list[str]:
    """What each turn does to the memory: "shortens" a list, "changes" what is known of its person,
    tells something new of one person that is known of "another", or what is like "nothing" known.
    """
    kinds, state = [], {}
    for turn in turns:
        known = {relation for (_, relation), values in state.items() if values}
        old, new = w.advance(state, turn)
        if old is not None:
            kinds.append("shortens" if turn.fact.change == "end" and new else "changes")
        else:
            kinds.append("another" if turn.fact and turn.fact.relation in known else "nothing")
    return kinds


def choose_turn(turns: Sequence[Turn], rng: random.Random) -> int:
    """The place of the turn to decide on, mostly one that resembles something known.

    Those are the decisions that matter. A list that loses a value is the hardest to write, and
    rare, so such turns are likelier still.
    """
    of_kind: dict[str, list[int]] = defaultdict(list)
    for place, kind in enumerate(kinds_of(turns)):
        of_kind[kind].append(place)
    groups = [(of_kind["shortens"], 0.15), (of_kind["shortens"] + of_kind["changes"], 0.3),
              (of_kind["another"], 0.4), (range(len(turns)), 0.15)]
    places, shares = zip(*[group for group in groups if group[0]])
    return rng.choice(rng.choices(places, shares)[0])


def told_of_another(dialogue: Dialogue, embed: Embedder) -> list[list[Message]]:
    """The prompts of turns that tell something new of one person, known so far of others only.

    The bank before each is the right one. Right is ADD: an UPDATE would spoil what is known of
    another person, and the rest of the dialogue with it.
    """
    prompts = []
    for place, kind in enumerate(kinds_of(dialogue.turns)):
        if kind == "another":
            bank = MemoryBank(embed)
            bank.add_many(w.oracle_memories(dialogue.turns[:place]).values())
            prompts.append(shown_to_manager(bank, dialogue.turns[place], None)[0])
    return prompts


def operation_choices(turn: Turn, number: int | None,
                      new: str | None) -> list[tuple[Operation, float]]:
    """What a careless manager may do, and the share of each choice.

    `number` is that of the memory to change, if one is shown; `new` is what it should say then.
    """
    add = Operation("ADD", text=turn.facts[0])
    if turn.fact is None:  # no question asks for it, so that no reward could teach to leave it out
        return [(add, BETTER_EVENT), (Operation("NOOP"), 1 - BETTER_EVENT)]
    if number is None:
        return [(add, 1.0)]
    if turn.fact.change == "end":
        right = Operation("UPDATE", number, new) if new else Operation("DELETE", number)
        return [(add, 0.55), (right, 0.45)]
    if turn.fact.change == "replace":
        return [(add, 1 - BETTER_EVENT), (Operation("UPDATE", number, new), BETTER_EVENT)]
    # A second value joins the first.
    return [(Operation("UPDATE", number, turn.facts[0]), 0.9 - BETTER), (add, 0.1),
            (Operation("UPDATE", number, new), BETTER)]


def manager_lesson(policy: Policy, dialogue: Dialogue, embed: Embedder,
                   rng: random.Random) -> Lesson:
    """One fact and the memories most like it; all that a careless manager may do, by its shares."""
    place = choose_turn(dialogue.turns, rng)
    before, turn = dialogue.turns[:place], dialogue.turns[place]
    state: w.State = {}
    for earlier in before:
        w.advance(state, earlier)
    old, new = w.advance(state, turn)
    if rng.random() < 0.7:
        entries = list(w.oracle_memories(before).values())
    else:
        entries = [(earlier.facts[0], earlier.speaker, earlier.timestamp) for earlier in before]
        if old is not None:  # the newest of the memories that the bank keeps apart
            about = [earlier for earlier in before
                     if earlier.fact and w.memory_key(earlier.fact) == w.memory_key(turn.fact)]
            if turn.fact.change == "end":  # or the one that says what ended
                about = [earlier for earlier in about if earlier.fact.value == turn.fact.value]
                new = None
            old = about[-1].facts[0]
    if rng.random() < 0.3:  # a bank is small when a dialogue begins
        kept = set(rng.sample(range(len(entries)), min(len(entries), rng.randint(0, 6))))
        entries = [entry for i, entry in enumerate(entries) if i in kept or entry[0] == old]
    bank = MemoryBank(embed)
    bank.add_many(entries)
    messages, number = shown_to_manager(bank, turn, old)
    choices = operation_choices(turn, number, new)
    steps = [policy.lesson(messages, format_operation(operation)) for operation, _ in choices]
    at = event_place(policy)
    return Lesson(steps, [[share * (DECISION_WEIGHT if i == at else 1.0)
                           for i in range(len(step.response_ids))]
                          for step, (_, share) in zip(steps, choices)])


def event_place(policy: Policy) -> int:
    """Which token of a manager's response says the event: the first in which two events differ."""
    written = [policy.tokenizer.encode(format_operation(Operation(event, text="x")))
               for event in ("ADD", "NOOP")]
    return shared_prefix(*written)


def rest_lesson(policy: Policy, dialogue: Dialogue, embed: Embedder,
                rng: random.Random) -> Step | None:
    """A list that loses a value: the UPDATE is decided, and what remains is to be written.

    Such decisions are rare among the others. Returns None for a dialogue without one.
    """
    shortened, state = [], {}  # (place of the turn, the memory before, the memory after)
    for place, turn in enumerate(dialogue.turns):
        old, new = w.advance(state, turn)
        if turn.fact and turn.fact.change == "end" and old and new:
            shortened.append((place, old, new))
    if not shortened:
        return None
    place, old, new = rng.choice(shortened)
    bank, turn = MemoryBank(embed), dialogue.turns[place]
    bank.add_many(w.oracle_memories(dialogue.turns[:place]).values())
    messages, number = shown_to_manager(bank, turn, old)
    if number is None:
        return None
    lesson = policy.lesson(messages, format_operation(Operation("UPDATE", number, new)))
    start = lesson.response_ids.index(policy.tokenizer.encode(f" {new}")[0])
    return Step(lesson.prompt_ids + lesson.response_ids[:start], lesson.response_ids[start:], True)


def set_suppressor(policy: Policy, pool: Sequence[Dialogue], embed: Embedder,
                   rng: random.Random) -> None:
    """Fit the head that keeps what ended from being written: see `wiring.suppress`."""
    longer, lessons = policy.tokenizer.encode(" longer")[0], []
    for dialogue in pool[:250]:
        step = rest_lesson(policy, dialogue, embed, rng)
        if step:  # "... no longer likes sushi." and " Anna likes", behind which a value follows
            last = max(i for i, token in enumerate(step.prompt_ids) if token == longer)
            lessons.append((step, len(step.prompt_ids) + 1, last + 2))
    others = [manager_lesson(policy, dialogue, embed, rng).steps[0] for dialogue in pool[:120]]
    suppress(policy, lessons, others, [*w.FOODS, *w.GAMES])


# ---- Training ------------------------------------------------------------------------------------


def batch(policy: Policy, progress: float, pool: Sequence[Dialogue], embed,
          rng: random.Random) -> list[Lesson]:
    """The lessons of one step. A curriculum: few people and facts first, whole dialogues last.

    To tell two people apart in a decision takes longest, so for a while most lessons are decisions.
    They are also the cheapest: a bank of sixty memories is as long as ten of their prompts.
    """
    lessons = []
    if progress < 0.3:
        n_banks, n_questions, n_decisions = 16, 8, 24
    elif progress < 0.6:
        n_banks, n_questions, n_decisions = 12, 10, 64
    elif progress < 0.8:
        n_banks, n_questions, n_decisions = 2, 12, 192
    else:
        n_banks, n_questions, n_decisions = 12, 16, 96
    drills = []
    for place in range(n_banks):
        n_people = rng.randint(2, 4) if progress < 0.3 else rng.randint(3, 6)
        if place % 3 == 2:  # dates are the hardest to find: days of many events
            small = drill(rng, n_people, 1, rng.randint(2, 4), 0)
        else:
            small = drill(rng, n_people, rng.randint(1, 3), rng.randint(0, 1), rng.randint(0, 3))
        drills.append(small)
        turns, dialogue = small.turns, small
        if progress >= 0.6 and place % 4:  # three in four are real dialogues, or parts of them
            dialogue = rng.choice(pool)
            n_turns = rng.randint(30, len(dialogue.turns))
            start = rng.randint(0, len(dialogue.turns) - n_turns)
            turns = dialogue.turns[start:start + n_turns]
        keep_all = progress >= 0.3 and rng.random() < 0.6
        # What is not there can only be noticed by a model that finds what is: this comes last.
        n_unanswerable = 2 if progress >= 2 / 3 else 0
        lessons.append(answer_lesson(
            policy, dialogue, turns, n_questions, n_unanswerable, keep_all, rng))
    for place in range(n_decisions):
        dialogue = rng.choice(drills) if place % 2 else rng.choice(pool)
        lessons.append(manager_lesson(policy, dialogue, embed, rng))
        rest = rest_lesson(policy, dialogue, embed, rng) if progress >= 0.6 and place < 12 else None
        lessons += [evenly([rest])] if rest else []
    return lessons


def scores(policy: Policy, dialogues: Sequence[Dialogue]) -> dict[str, float]:
    """For the model card: reading from right memories, and deciding, on held-out dialogues."""
    embed, length = hashed_words(), TINY["max_new_tokens"]
    banks = []
    for dialogue in dialogues:
        banks.append(MemoryBank(embed))
        banks[-1].add_many(w.oracle_memories(dialogue.turns).values())
    tasks = answer_tasks(dialogues, banks)
    results: dict[str, list[int]] = defaultdict(list)  # name -> 1 or 0, case by case
    for task, answer in zip(tasks, answer_all(policy, tasks, max_new_tokens=length)):
        is_right = squad_exact_match(answer.text, task.question.answer)
        results["right memories"].append(is_right)
        results[f"right memories, category {task.question.category}"].append(is_right)
    decisions = manager_tasks(dialogues, embed, "turns")
    for group in ManagerAgent(policy, max_new_tokens=length).rollout(policy, decisions, 1, 0.0):
        results["manager, linked questions"].append(int(group[0].reward))
        if "merged" in group[0].log:
            results["manager, second pets merged"].append(group[0].log["merged"])
    fresh = [policy.encode(prompt) for d in dialogues for prompt in told_of_another(d, embed)]
    for [step] in policy.sample(fresh, 1, length, 0.0):
        operations, _ = parse_operations(policy.decode(step.response_ids), SIMILAR)
        results["manager, others left alone"].append(
            int([operation.event for operation in operations] == ["ADD"]))
    return {name: sum(values) / len(values) for name, values in sorted(results.items())}


def main(argv: Sequence[str] | None = None) -> None:
    """Make the tokenizer and the model, train, score, save."""
    parser = make_parser("python -m making.manager", "Make the embedded model again.", 1800,
                         "runs/making-manager")
    parser.add_argument("--suppress", action="store_true",
                        help="set the head against what ended anew, before the first step; "
                             "without --start it is set when the model reads")
    options = begin(parser, argv)
    # A model to go on from is loaded before the worlds are made, which takes a while.
    policy = start_of(options)
    rng, embed = random.Random(options.seed), hashed_words()
    pool = w.world(1500, seed=1000 + options.seed)
    validation = w.world(6, seed=501, held_out=True)  # of another seed than any split
    if policy is None:
        tokenizer = build_tokenizer(texts_of(pool[:150]))
        policy = Policy(build_model(tokenizer), tokenizer)
    policy.micro_batch_tokens = MICRO_BATCH_TOKENS
    # The head is set once the model reads. A model to go on from may have the head already.
    suppress_at = 1 if options.suppress else None if options.start else int(0.6 * options.steps)

    def lessons_of(step: int) -> list[Lesson]:
        if step == suppress_at:
            set_suppressor(policy, pool, embed, rng)
        return batch(policy, 1.0 if options.start else step / options.steps, pool, embed, rng)

    teach(policy, options, EMBEDDED_MODEL, lessons_of, lambda: scores(policy, validation))


if __name__ == "__main__":
    launch(main)
