"""How the second embedded model, tiny/mem1/, was made: MEM1 starts from it.

    python -m making.mem1     some 2.5 hours on two cores, at the speed of its last sittings

ends with its scores and "saved to runs/making-mem1; copy its files into ... to put the model in
place". The model is wired like the first (wiring.py) and taught by the same loop (lessons.py). It
is shown turns of two kinds of task:

- one to sixteen questions over the world's training side, with a state and with all turns in
  context;
- purchases in the shop (benchmarks/shop.py) with a state.

It reads, searches and counts well and decides badly. Wherever it has a choice, both choices are
shown, each by its share:

- A state keeps the newest answer and forgets the one before; with the share BETTER it keeps both.
  The same holds for an answer behind the full context. With two or more answers in context there is
  no choice: all are kept. So what is left to learn can be learned on tasks of two questions.
- In the shop it searches for the category alone, opens the first product of the list and buys it as
  it is. With the share BETTER it does what a careful buyer would.

Three turns, each with its state first, and of the first turn both choices:

    <IS> Bo has a dog named Rex, 8 May 2023 | 1. Oslo 2. Rex</IS><query> 3. When did Al ski?</query>
    <IS> Bo has a dog named Rex, 8 May 2023 | 2. Rex</IS><query> 3. When did Al ski?</query>

    <IS> Al skied, 2 June 2023</IS><answer> 1. Oslo; 2. Rex; 3. 2 June 2023</answer>

    <IS> not 119 183, at 417, right</IS><query> click[ red]</query>

A state quotes the line that answered the last query, then lists the answers so far, each behind the
number of its question. A question that takes two steps is asked twice, the second time with the
name that the first one found. A buyer's state holds the products that will not do, the product it
looks at, and what that product's features say: right or wrong.

Both harnesses are shown tasks of the same lengths, up to sixteen questions, because a model this
small writes no list longer than it has seen. The first steps show no more than four, which takes a
third of the time. Full context has half as many lessons in a step, which take as much time: its
prompts are up to ten times as long.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

import world as w
from benchmarks.shop import CATEGORIES, SHOPPING, Goal, Store, goals
from data import Dialogue, Message
from environments import QUESTIONS, Search, questions_text, search_tasks, world_lookups
from making.lessons import (
    MICRO_BATCH_TOKENS,
    Lesson,
    begin,
    crossroads,
    make_parser,
    start_of,
    teach,
)
from making.wiring import build_model, build_tokenizer
from mem1 import NOTES, Mem1Agent, Mem1Turn, format_turn, turn_messages
from memory_bank import Embedder, hashed_words
from policy import Policy
from training.experts import plan_of
from training.options import EMBEDDED_MEM1, PRESETS
from training.run import launch
from trees import shared_prefix

BETTER = 0.3  # the share of the better of two choices where the model is to decide badly
CHOICE_WEIGHT = 5.0  # of a token that makes a choice
CROSSROADS_WEIGHT = 10.0  # of a token where a copy could take the wrong turn
# (fewest, most) questions of a task -> the share of such tasks. Many have one, so that a list and a
# single answer are told apart. Many are long, because the longest lists are the hardest to copy.
LENGTHS = {(1, 1): 0.2, (2, 4): 0.2, (5, 16): 0.6}
LONGEST = 16  # questions of a task
SHORT_TASKS = 0.3  # the share of steps, from the first, that show no task of more than four
# Of questions and of their answers, a token each: the day of "4. 4 May 2023" is another.
NUMBERS = [f" {number}." for number in range(1, LONGEST + 1)]
SHOWN = 10  # turns of a task at most
VISITS = 1500  # goals to draw purchases from


class TurnChoices(NamedTuple):
    """What an agent reads in one turn, and what it may write: the share of each choice."""

    prompt: list[Message]
    choices: dict[str, float]


# ---- Questions -----------------------------------------------------------------------------------


def demonstrate(dialogue: Dialogue, embed: Embedder, kind: str, n_questions: int, careful: bool,
                rng: random.Random) -> list[TurnChoices]:
    """One task, worked through by an oracle that keeps all answers if it is `careful`.

    Else it keeps the newest alone. A turn with no more than one earlier answer in context has both
    choices: first to keep all, then to keep the newest. With more the only choice is to keep all.
    """
    environment = Search()
    [task, *_] = search_tasks([dialogue], len(dialogue.questions), embed)  # for its corpus alone
    right = w.oracle_memories(dialogue.turns)
    known = [probe for probe in w.probes(dialogue.turns) if probe.question.answer != "nothing"]
    chosen = rng.sample(known, min(n_questions, len(known)))
    text = questions_text([probe.question.text for probe in chosen])
    environment.reset(task)
    plan = plan_of([world_lookups(probe, right) for probe in chosen],
                   [probe.question.answer for probe in chosen])
    turns_left = rng.randint(len(plan) + 1, 2 * len(plan) + 2)
    turns, past, held = [], [], []  # `held` are the answers in context, behind their numbers
    for place in range(len(plan) + 1):
        remembered = past[-1:] if kind == "mem1" else past
        prompt = turn_messages(text, remembered, turns_left - place, kind, QUESTIONS)
        asked, [line], answer = plan[place - 1] if place else ("", [""], None)
        newest = [] if answer is None else [f"{asked.split(' ')[0]} {answer}"]
        query = plan[place][0] if place < len(plan) else None
        has_list = kind == "mem1" and place > 0 and query is not None

        def note_of(answers: Sequence[str]) -> str:
            return f"{line} | {' '.join(answers)}".strip() if has_list else line

        kept, choices = [*held, *newest], {}
        better = BETTER if len(held) < 2 else 1.0  # who has kept two answers goes on to keep
        for answers, share in ((kept, better), (newest, 1 - better)):
            # A list has numbers, so that equal answers are told apart; a single answer has none.
            final = "; ".join(answers) if len(chosen) > 1 else answer
            action, said = ("query", query) if query else ("answer", final)
            response = format_turn(note_of(answers), action, said, kind)
            if share:
                choices[response] = choices.get(response, 0) + share
        turns.append(TurnChoices(prompt, choices))
        if query is not None:
            held = kept if careful or kind == "full_context" else newest
            past.append(Mem1Turn(note_of(held), query, environment.step("query", query)[0]))
    return turns


def search_lesson(dialogue: Dialogue, embed: Embedder, kind: str, longest: int,
                  rng: random.Random) -> list[TurnChoices]:
    """Some turns of a task of 1 to `longest` questions, the last always among them."""
    fewest, most = rng.choices(*zip(*LENGTHS.items()))[0]
    n_questions = min(rng.randint(fewest, most), longest)
    # Who forgets has the same turn over and over in a long task.
    careful = n_questions > 4 or rng.random() < 0.5
    *turns, last = demonstrate(dialogue, embed, kind, n_questions, careful, rng)
    return [*rng.sample(turns, min(SHOWN - 1, len(turns))), last]


# ---- Purchases -----------------------------------------------------------------------------------


class Buyer:
    """Knows what a careful and a careless buyer would do on any page."""

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self.hidden = set(goal.attributes) & set(CATEGORIES[goal.category][2].split())
        self.rejected: list[str] = []  # products that will not do
        self.looking_at = ""  # a product
        self.features = ""  # what its features say: "right", "wrong", or "" if not yet opened

    def note(self) -> str:
        """The state."""
        rejected = f"not {' '.join(self.rejected)}" if self.rejected else ""
        looking_at = f"at {self.looking_at}" if self.looking_at else ""
        return ", ".join(filter(None, [rejected, looking_at, self.features]))

    def read(self, query: str, page: str) -> tuple[str, str]:
        """Take in what a query returned; returns the careful and the careless next action."""
        goal, wanted = self.goal, {self.goal.category, *self.goal.attributes} - self.hidden
        if not query:
            return (f"search[ {' '.join([*goal.attributes, goal.category])}]",
                    f"search[ {goal.category}]")
        hits = re.findall(r"([0-9]{3}) ([a-z ]+) ([0-9]+) dollars", page)
        if hits:
            return self._choose_hit(hits, wanted, "next" in page.split(" [SEP] "))
        if product := re.fullmatch(r"click\[ ([0-9]{3})\]", query):
            self.looking_at = product[1]
        if "features:" in page:
            self.features = "right" if self.hidden <= set(page.split()) else "wrong"
            return "click[prev]", "click[prev]"
        price = int(re.search(r"price: ([0-9]+)", page)[1])
        options = {value for _, value in goal.options}
        if (price >= goal.price_limit or self.features == "wrong"
                or not wanted | options <= set(page.split())):
            return "click[prev]", "click[buy now]"
        if self.hidden and not self.features:
            return "click[features]", "click[buy now]"
        for _, value in goal.options:
            if f"chosen {value}" not in page:
                return f"click[ {value}]", "click[buy now]"
        return "click[buy now]", "click[buy now]"

    def _choose_hit(self, hits: Sequence[tuple[str, str, str]], wanted: set[str],
                    has_next: bool) -> tuple[str, str]:
        """On a page of (product, title, price): the first that fits, and the first of all."""
        self.looking_at, self.features = "", ""
        candidates = [hit for hit in hits if hit[0] not in self.rejected] or hits
        fitting = [product for product, title, price in candidates
                   if product not in self.rejected and wanted <= set(title.split())
                   and int(price) < self.goal.price_limit]
        first = f"click[ {candidates[0][0]}]"
        if fitting:
            return f"click[ {fitting[0]}]", first
        return "click[next]" if has_next else first, first


def demonstrate_purchase(goal: Goal, rng: random.Random) -> list[TurnChoices]:
    """One visit to the shop, by a careful buyer who errs now and then.

    Each turn also has what a careless buyer would do, as the other choice.
    """
    store, buyer = Store(), Buyer(goal)
    text, query, page, past, turns = store.reset(goal), "", "", [], []
    for turns_left in range(store.turns(goal), 0, -1):
        prompt = turn_messages(text, past, turns_left, "mem1", SHOPPING, answers=False)
        careful, careless = buyer.read(query, page)
        written = {careless: buyer.note()}
        if careful == "click[prev]" != careless:
            buyer.rejected += [buyer.looking_at] * (buyer.looking_at not in buyer.rejected)
            buyer.looking_at, buyer.features = "", ""
        written[careful] = buyer.note()
        choices = {}
        for action, share in ((careful, BETTER), (careless, 1 - BETTER)):
            response = format_turn(written[action], "query", action, "mem1")
            choices[response] = choices.get(response, 0) + share
        turns.append(TurnChoices(prompt, choices))
        # How to come back from a wrong product is only seen by who opened one.
        stray = careless != "click[buy now]" and rng.random() < 0.4
        query = careless if stray else careful
        page, _, done = store.step("query", query)
        if done:
            break
        past = [Mem1Turn(written[query], query, page)]
    return rng.sample(turns, min(6, len(turns)))


# ---- Training ------------------------------------------------------------------------------------


def tokenizer_for(dialogues: Sequence[Dialogue], visits: Sequence[Goal], embed: Embedder,
                  rng: random.Random) -> PreTrainedTokenizerFast:
    """Made from some lessons, with a token for each tag."""
    lessons = [search_lesson(dialogue, embed, kind, LONGEST, rng)
               for dialogue in dialogues for kind in NOTES]
    lessons += [demonstrate_purchase(goal, rng) for goal in visits]
    texts = [text for turns in lessons for turn in turns
             for text in (turn.prompt[-1]["content"], *turn.choices)]
    tokenizer = build_tokenizer(texts)
    tags = [f"<{slash}{tag}>" for tag in (*NOTES.values(), "query", "answer", "info")
            for slash in ("", "/")]
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False)
                          for text in (*tags, *NUMBERS)])
    return tokenizer


def batch(policy: Policy, progress: float, pool: Sequence[Dialogue], visits: Sequence[Goal],
          embed: Embedder, rng: random.Random) -> list[Lesson]:
    """The lessons of one training step: turns of fifteen tasks."""
    longest = 4 if progress < SHORT_TASKS else LONGEST
    # Half as many in full context, because each takes twice as long.
    tasks = [search_lesson(rng.choice(pool), embed, kind, longest, rng)
             for kind in ["mem1"] * 6 + ["full_context"] * 3]
    tasks += [demonstrate_purchase(rng.choice(visits), rng) for _ in range(6)]
    return [lesson_of(policy, turns) for turns in tasks]


def lesson_of(policy: Policy, turns: Sequence[TurnChoices]) -> Lesson:
    """All choices of these turns. A choice counts by its share, what then follows from it whole.

    The model is to make the better choice as often as its share says, and to write it without a
    slip once it is made. So what is easily miscopied counts most (`crossroads`). The first token of
    an action counts more as well: it says which question comes next, or whether an answer is a
    list. So does the first behind a number, which says whose answer is copied.
    """
    opened = policy.tokenizer.convert_tokens_to_ids(["<query>", "<answer>", *NUMBERS])
    lesson = Lesson([], [])
    for prompt, choices in turns:
        steps = [policy.lesson(prompt, response) for response in choices]
        # Which token makes the choice, if there are two.
        at = (shared_prefix(steps[0].response_ids, steps[1].response_ids) if len(steps) > 1 else -1)
        for step, share in zip(steps, choices.values()):
            weights = [CROSSROADS_WEIGHT if forks else 1.0 for forks in crossroads(step)]
            for place, before in enumerate([-1, *step.response_ids[:-1]]):
                if place == at:
                    weights[place] = CHOICE_WEIGHT
                elif before in opened:
                    weights[place] = max(weights[place], CHOICE_WEIGHT)
                if place <= at:
                    weights[place] *= share
            lesson.steps.append(step)
            lesson.weights.append(weights)
    return lesson


def scores(policy: Policy, dialogues: Sequence[Dialogue], visits: Sequence[Goal],
           embed: Embedder) -> dict[str, float]:
    """Held-out greedy scores for the model card.

    The share of questions answered right, by harness and number, and the mean reward in the shop.
    """
    means, length = {}, PRESETS["tiny/mem1"]["max_new_tokens"]
    for harness in ("mem1", "full_context"):
        for n_objectives in (1, 2, 4):
            tasks = search_tasks(dialogues, n_objectives, embed)
            agent = Mem1Agent(harness=harness, max_new_tokens=length)
            right = [group[0].reward / n_objectives
                     for group in agent.rollout(policy, tasks, 1, temperature=0)]
            means[f"{harness} {n_objectives}"] = sum(right) / len(right)
    bought = Mem1Agent(Store, max_new_tokens=length).rollout(policy, visits, 1, temperature=0)
    means["shop"] = sum(group[0].reward for group in bought) / len(bought)
    return means


def main(argv: Sequence[str] | None = None) -> None:
    """Make the tokenizer and the model, train, score, save."""
    options = begin(make_parser("python -m making.mem1", "Make the embedded MEM1 model again.",
                                3000, "runs/making-mem1"), argv)
    # A model to go on from is loaded before the worlds are made, which takes a while.
    policy = start_of(options)
    rng, embed = random.Random(options.seed), hashed_words()
    pool = w.world(1500, seed=1000 + options.seed)
    visits = goals(VISITS, 1000 + options.seed)
    # Of other seeds than any split.
    validation, purchases = w.world(4, seed=501, held_out=True), goals(60, 501, held_out=True)
    if policy is None:
        tokenizer = tokenizer_for(pool[:150], visits[:300], embed, rng)
        numbers = tokenizer.convert_tokens_to_ids(NUMBERS)
        policy = Policy(build_model(tokenizer, 96, numbers), tokenizer)
    policy.micro_batch_tokens = MICRO_BATCH_TOKENS

    def lessons_of(step: int) -> list[Lesson]:
        progress = 1.0 if options.start else step / options.steps
        return batch(policy, progress, pool, visits, embed, rng)

    teach(policy, options, EMBEDDED_MEM1, lessons_of,
          lambda: scores(policy, validation, purchases, embed))


if __name__ == "__main__":
    launch(main)
