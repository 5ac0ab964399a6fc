"""How the second embedded model, tiny/mem1/, was made: MEM1 starts from it.

    python tiny_mem1.py     some 90 minutes on one core; ends with its scores, "saved to ..."

It is wired like the first (tiny_model.py) and shown turns of two kinds of task (mem1.py): one to
sixteen questions over the world's training side, with a state and with all turns in context, and
purchases in the shop (shop.py) with a state. It reads, searches and counts well and decides badly:

- a state mostly keeps what was just found and forgets all before, and an answer behind the full
  context holds the last finding alone; in BETTER of the tasks both keep everything;
- in the shop it mostly searches for the category alone, opens what is listed first and buys it as
  it is; in BETTER of the turns it does what a careful buyer would.

What a turn looks like, its state first:

    <IS> Bo has a dog named Rex, 8 May 2023 | 1 Oslo 2 Rex</IS><query> 3. When did Al ski?</query>
    <IS> Al skied, 2 June 2023</IS><answer> 1 Oslo; 2 Rex; 3 2 June 2023</answer>
    <IS> not 119 183, at 417, right</IS><query> click[ red]</query>

A state quotes the line that answered the last query, then lists the answers so far. A question
that takes two steps is asked twice, the second time with the name that the first one found. A
buyer's state holds the products that will not do, the one it looks at, what its features told.

No prompt of a lesson is longer than CONTEXT: as any model, this one has a length that it knows.
Sixteen questions stay below it with a state, seven or so with everything in context.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections.abc import Sequence

import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

import world as w
from benchmarks.shop import CATEGORIES, SHOPPING, Goal, Store, goals
from data import Dialogue, Message
from environments import QUESTIONS, Search, questions_text, search_tasks
from making.wiring import build_model, build_tokenizer, learn, save
from mem1 import INSTRUCTIONS, NOTES, Mem1Agent, Mem1Turn, turn_messages
from memory_bank import Embedder, hashed_words
from policy import Policy, load_policy
from training.options import EMBEDDED_MEM1
from trees import Step

BETTER = 0.3  # how often the better of two choices is shown where the model is to decide badly
LONGEST = 16  # questions in a task
CONTEXT = 1536  # tokens in a lesson at most, prompt and response
VISITS = 1500  # goals to draw purchases from

# Prompts and responses, turn by turn, and the places of those that are shown.
Lessons = tuple[list[list[Message]], list[str], list[int]]

# ---- Questions -----------------------------------------------------------------------------------


def demonstrate(dialogue: Dialogue, embed: Embedder, kind: str, rng: random.Random,
                long: bool = False) -> Lessons:
    """One task, worked through by an oracle that may have a bad memory.

    `long` shows only how a state that holds everything goes on, where nothing is left to decide.
    """
    environment = Search()
    [task, *_] = search_tasks([dialogue], len(dialogue.questions), embed)
    entries = w.oracle_memories(dialogue.turns)
    known = [probe for probe in w.probes(dialogue.turns) if probe.question.answer != "nothing"]
    # Short tasks are learned first; the order of many questions, and long states, take longer.
    most = 4 if rng.random() < 0.4 and not long else LONGEST
    chosen = rng.sample(known, rng.randint(6 if long else 1, min(most, len(known))))
    text = questions_text([probe.question.text for probe in chosen])
    environment.reset(task)
    plan = []  # (query, the line that answers it, the answer or None for a first step)
    for number, probe in enumerate(chosen, 1):
        *first, last = [entries[key] for key in probe.needs]
        query = f"{number}. {probe.question.text}"
        for line, _, day in first:
            plan.append((query, f"{line}, {day}", None))
            query = f"{query} {line.split()[-1]}"
        plan.append((query, f"{last[0]}, {last[2]}", probe.question.answer))
    careful = long or rng.random() < BETTER
    turns_left = rng.randint(len(plan) + 1, 2 * len(plan) + 2)
    prompts, responses, past, held, note = [], [], [], [], ""
    for place in range(len(plan) + 1):
        remembered = past[-1:] if kind == "mem1" else past
        prompts.append(turn_messages(text, remembered, turns_left - place, kind,
                                     INSTRUCTIONS[kind] + QUESTIONS))
        if place:
            _, note, answer = plan[place - 1]
            held = [*(held if careful else []), *([] if answer is None else [answer])]
        if place == len(plan):
            listed = [f"{number} {one}" for number, one in enumerate(held, 1)]
            action = f"<answer> {'; '.join(listed if len(held) > 1 else held)}</answer>"
        else:
            if place and kind == "mem1":
                # Numbered, so that two equal answers are told apart; a semicolon is a token too.
                listed = " ".join(f"{number} {one}" for number, one in enumerate(held, 1))
                note = f"{note} | {listed}".strip()
            action = f"<query> {plan[place][0]}</query>"
            page = environment.step("query", plan[place][0])[0]
            past.append(Mem1Turn(note, plan[place][0], page))
        responses.append(f"<{NOTES[kind]}> {note}</{NOTES[kind]}>{action}")
    n_turns = len(prompts)
    if careful:
        first = 4 if long else 0
        shown = rng.sample(range(first, n_turns - 1), min(9, n_turns - 1 - first))
        return prompts, responses, [*shown, n_turns - 1]
    # Who forgets has the same turn over and over; in the third or fourth there is first something
    # to forget.
    return prompts, responses, [*range(min(4, n_turns - 1)), n_turns - 1]


# ---- Purchases -----------------------------------------------------------------------------------


class Buyer:
    """Knows what a careful and a careless buyer would do on any page."""

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self.hidden = set(goal.attributes) & set(CATEGORIES[goal.category][2].split())
        self.rejected: list[str] = []  # products that will not do
        self.looking_at, self.told = "", ""  # a product; what its features told: right or wrong

    def note(self) -> str:
        """The state."""
        seen = [f"at {self.looking_at}"] if self.looking_at else []
        rejected = [f"not {' '.join(self.rejected)}"] if self.rejected else []
        return ", ".join([*rejected, *seen, *filter(None, [self.told])])

    def read(self, query: str, page: str) -> tuple[str, str]:
        """Take in what a query returned; the careful and the careless next action."""
        goal, wanted = self.goal, {self.goal.category, *self.goal.attributes} - self.hidden
        if not query:
            return (f"search[ {' '.join([*goal.attributes, goal.category])}]",
                    f"search[ {goal.category}]")
        listed = re.findall(r"([0-9]{3}) ([a-z ]+) ([0-9]+) dollars", page)
        if listed:
            self.looking_at, self.told = "", ""
            left = [hit for hit in listed if hit[0] not in self.rejected] or listed
            fitting = [found for found, title, price in left if found not in self.rejected
                       and wanted <= set(title.split()) and int(price) < goal.price_limit]
            first, more = f"click[ {left[0][0]}]", "next" in page.split(" [SEP] ")
            return f"click[ {fitting[0]}]" if fitting else "click[next]" if more else first, first
        if found := re.fullmatch(r"click\[ ([0-9]{3})\]", query):
            self.looking_at = found[1]
        if "features:" in page:
            self.told = "right" if self.hidden <= set(page.split()) else "wrong"
            return "click[prev]", "click[prev]"
        price = int(re.search(r"price: ([0-9]+)", page)[1])
        options = {value for _, value in goal.options}
        if (price >= goal.price_limit or self.told == "wrong"
                or not wanted | options <= set(page.split())):
            return "click[prev]", "click[buy now]"
        if self.hidden and not self.told:
            return "click[features]", "click[buy now]"
        for name, value in goal.options:
            if f"chosen {value}" not in page:
                return f"click[ {value}]", "click[buy now]"
        return "click[buy now]", "click[buy now]"


def demonstrate_purchase(goal: Goal, rng: random.Random) -> Lessons:
    """One visit to the shop: a careful buyer's, who errs now and then, with careless advice."""
    store, buyer = Store(), Buyer(goal)
    text, query, page, past = store.reset(goal), "", "", []
    prompts, responses = [], []
    for turns_left in range(store.turns(goal), 0, -1):
        prompts.append(turn_messages(text, past, turns_left, "mem1",
                                     INSTRUCTIONS["mem1"] + SHOPPING, answers=False))
        careful, careless = buyer.read(query, page)
        written = {careless: buyer.note()}
        if careful == "click[prev]" != careless:
            buyer.rejected += [buyer.looking_at] * (buyer.looking_at not in buyer.rejected)
            buyer.looking_at, buyer.told = "", ""
        written[careful] = buyer.note()
        shown = careful if rng.random() < BETTER else careless
        responses.append(f"<IS> {written[shown]}</IS><query> {shown}</query>")
        # How to come back from a wrong product is only seen by who opened one.
        stray = careless != "click[buy now]" and rng.random() < 0.4
        query = careless if stray else careful
        page, _, done = store.step("query", query)
        if done:
            break
        past = [Mem1Turn(written[query], query, page)]
    return prompts, responses, rng.sample(range(len(prompts)), min(6, len(prompts)))


# ---- Training ------------------------------------------------------------------------------------


def tokenizer_for(dialogues: Sequence[Dialogue], visits: Sequence[Goal], embed: Embedder,
                  rng: random.Random) -> PreTrainedTokenizerFast:
    """Made from some lessons, with a token for each tag."""
    lessons = [demonstrate(dialogue, embed, kind, rng) for dialogue in dialogues for kind in NOTES]
    lessons += [demonstrate_purchase(goal, rng) for goal in visits]
    texts = [text for prompts, responses, _ in lessons
             for text in (*(prompt[-1]["content"] for prompt in prompts), *responses)]
    tokenizer = build_tokenizer(texts)
    tokenizer.add_tokens([AddedToken(f"<{slash}{tag}>", special=False, normalized=False)
                          for tag in (*NOTES.values(), "query", "answer", "info")
                          for slash in ("", "/")])
    return tokenizer


def batch(policy: Policy, pool: Sequence[Dialogue], visits: Sequence[Goal], embed: Embedder,
          rng: random.Random) -> list[list[Step]]:
    """The lessons of one training step: turns of fifteen tasks."""
    tasks = [demonstrate(rng.choice(pool), embed, kind, rng)
             for kind in ("mem1",) * 4 + ("full_context",) * 4]
    # Long states are the hardest to copy, and rare.
    tasks += [demonstrate(rng.choice(pool), embed, "mem1", rng, long=True) for _ in range(3)]
    tasks += [demonstrate_purchase(rng.choice(visits), rng) for _ in range(4)]
    groups = []
    for prompts, responses, shown in tasks:
        steps = []
        for place in sorted(shown):
            step = policy.lesson(prompts[place], responses[place])
            if len(step.prompt_ids) + len(step.response_ids) <= CONTEXT:
                steps.append(step)
        groups.append(steps)
    return [steps for steps in groups if steps]


def scores(policy: Policy, dialogues: Sequence[Dialogue], visits: Sequence[Goal],
           embed: Embedder) -> dict[str, float]:
    """For the model card, held out and greedy: the share of questions answered right, and the
    mean reward in the shop."""
    found = {}
    for harness in ("mem1", "full_context"):
        for n_objectives in (1, 2, 4):
            tasks = search_tasks(dialogues, n_objectives, embed)
            agent = Mem1Agent(harness=harness)
            right = [group[0].reward / n_objectives
                     for group in agent.rollout(policy, tasks, 1, temperature=0)]
            found[f"{harness} {n_objectives}"] = sum(right) / len(right)
    bought = Mem1Agent(Store).rollout(policy, visits, 1, temperature=0)
    found["shop"] = sum(group[0].reward for group in bought) / len(bought)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Make the tokenizer and the model, train, score, save."""
    parser = argparse.ArgumentParser(description="Make the embedded MEM1 model again.")
    parser.add_argument("--steps", type=int, default=1200, help="training steps (default: 1200)")
    parser.add_argument("--start", help="go on from this folder, with a fresh optimizer")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate (default: 2e-3)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and lessons (default: 0)")
    parser.add_argument("--out", default=str(EMBEDDED_MEM1),
                        help="folder for the model (default: tiny/mem1)")
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    rng, embed = random.Random(options.seed), hashed_words()
    pool = w.world(1500, seed=1000 + options.seed)
    visits = goals(VISITS, 1000 + options.seed)
    # Of other seeds than any split.
    validation, to_buy = w.world(4, seed=501, held_out=True), goals(60, 501, held_out=True)
    if options.start:
        policy = load_policy(options.start)
        policy.micro_batch_tokens = 12000
    else:
        tokenizer = tokenizer_for(pool[:150], visits[:300], embed, rng)
        policy = Policy(build_model(tokenizer, intermediate=96), tokenizer,
                        micro_batch_tokens=12000)
    model, tokenizer = policy.model, policy.tokenizer
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.95),
                                  weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(
        (done + 1) / 50, 1.0, 2 * (1 - done / options.steps)))
    start = time.time()
    for step in range(1, options.steps + 1):
        groups = batch(policy, pool, visits, embed, rng)
        loss = learn(policy, optimizer, groups)
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}  loss {loss:.3f}  {time.time() - start:.0f} s", flush=True)
        if step % 300 == 0 or step == options.steps:
            found = scores(policy, validation, to_buy, embed)
            print("  ".join(f"{name}: {value:.3f}" for name, value in found.items()), flush=True)
            save(policy, options.out)  # a long run may be cut short
    print(f"saved to {options.out}")


if __name__ == "__main__":
    main()
