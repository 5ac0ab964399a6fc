"""How the second embedded model, tiny/mem1/, was made: MEM1 starts from it.

    python tiny_mem1.py     took 85 minutes on one busy core; ends with its scores, "saved to ..."

It is wired like the first (tiny_model.py) and shown the turns of tasks (mem1.py) of one to four
questions over the world's training side, in both forms: with a state, and with all turns in
context. It reads, searches and counts well and remembers badly: where a state should join what was
just found to what was known, it mostly keeps the new alone (and the old too in BETTER of the
cases); likewise an answer behind the full context mostly holds the last finding alone.

What a turn looks like, its state first:

    <IS> Anna has a dog named Rex, 8 May 2023 | Oslo; Rex</IS><query> Who is Carl's boss?</query>

The state quotes the line that answered the last query, then lists the answers so far. A question
that takes two steps is asked twice, the second time with the name that the first one found.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

import world as w
from data import Dialogue
from embedders import Embedder, hashed_words
from mem1 import (INSTRUCTIONS, NOTES, QUESTIONS, Mem1Agent, Search, Turn, search_tasks,
                  turn_messages)
from policy import Policy
from run import EMBEDDED_MEM1
from tiny_model import WEIGHTS, build_model, build_tokenizer, learn, lesson
from trees import Step

BETTER = 0.3  # how often a state, or an answer, holds all that was found
LONGEST = 4  # questions in a lesson


def demonstrate(dialogue: Dialogue, embed: Embedder, kind: str,
                rng: random.Random) -> tuple[list[list[dict]], list[str]]:
    """The prompts and responses of one task, worked through by an oracle with a bad memory."""
    environment = Search()
    [task, *_] = search_tasks([dialogue], len(dialogue.questions), embed)
    probes = {probe.question: probe for probe in w.probes(dialogue.turns)}
    entries = w.oracle_memories(dialogue.turns)
    known = [probe for probe in probes.values() if probe.question.answer != "nothing"]
    chosen = rng.sample(known, rng.randint(1, LONGEST))
    text = "Questions: " + "; ".join(probe.question.text for probe in chosen)
    environment.reset(task)
    plan = []  # (query, the line that answers it, the answer or None for a first step)
    for probe in chosen:
        *first, last = [entries[key] for key in probe.needs]
        query = probe.question.text
        for line, _, day in first:
            plan.append((query, f"{line}, {day}", None))
            query = f"{query} {line.split()[-1]}"
        plan.append((query, f"{last[0]}, {last[2]}", probe.question.answer))
    prompts, responses, past, held, note = [], [], [], [], ""
    turns_left = rng.randint(len(plan) + 1, 2 * len(plan) + 2)
    tag = NOTES[kind]
    for place in range(len(plan) + 1):
        remembered = past[-1:] if kind == "mem1" else past
        prompts.append(turn_messages(text, remembered, turns_left - place, kind,
                                     INSTRUCTIONS[kind] + QUESTIONS))
        if place:
            _, line, answer = plan[place - 1]
            if answer is not None:
                forgets = kind == "mem1" and held and rng.random() > BETTER
                held = [answer] if forgets else [*held, answer]
            note = " ".join([line, "|", "; ".join(held)]).strip() if kind == "mem1" else line
        if place == len(plan):
            told = held
            if kind != "mem1" and rng.random() > BETTER:
                told = held[-1:]
            responses.append(f"<{tag}> {note}</{tag}><answer> {'; '.join(told)}</answer>")
        else:
            query = plan[place][0]
            responses.append(f"<{tag}> {note}</{tag}><query> {query}</query>")
            past.append(Turn(note, query, environment.step("query", query)[0]))
    return prompts, responses


def tokenizer_for(dialogues: Sequence[Dialogue], embed: Embedder,
                  rng: random.Random) -> PreTrainedTokenizerFast:
    """Made from some lessons, with a token for each tag."""
    texts = []
    for dialogue in dialogues:
        for kind in NOTES:
            prompts, responses = demonstrate(dialogue, embed, kind, rng)
            texts += [prompt[-1]["content"] for prompt in prompts] + responses
    tokenizer = build_tokenizer(texts)
    tokenizer.add_tokens([AddedToken(f"<{slash}{tag}>", special=False, normalized=False)
                          for tag in (*NOTES.values(), "query", "answer", "info")
                          for slash in ("", "/")])
    return tokenizer


def batch(policy: Policy, n_tasks: int, pool: Sequence[Dialogue], embed: Embedder,
          rng: random.Random) -> list[list[Step]]:
    """The lessons of one training step: all turns of some tasks, half in each form."""
    groups = []
    for place in range(n_tasks):
        prompts, responses = demonstrate(
            rng.choice(pool), embed, ("mem1", "full_context")[place % 2], rng)
        groups.append([lesson(policy, policy.encode(prompt), response)
                       for prompt, response in zip(prompts, responses)])
    return groups


def scores(policy: Policy, dialogues: Sequence[Dialogue], embed: Embedder) -> dict[str, float]:
    """For the model card: the share of questions answered right, greedy, on held-out dialogues."""
    found = {}
    for harness in ("mem1", "full_context"):
        for n_objectives in (1, 2, 4):
            tasks = search_tasks(dialogues, n_objectives, embed)
            agent = Mem1Agent(harness=harness)
            right = [group[0].reward / n_objectives
                     for group in agent.rollout(policy, tasks, 1, temperature=0)]
            found[f"{harness} {n_objectives}"] = sum(right) / len(right)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Make the tokenizer and the model, train, score, save."""
    parser = argparse.ArgumentParser(description="Make the embedded MEM1 model again.")
    parser.add_argument("--steps", type=int, default=1200, help="training steps (default: 1200)")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate (default: 2e-3)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and lessons (default: 0)")
    parser.add_argument("--out", default=str(EMBEDDED_MEM1),
                        help="folder for the model (default: tiny/mem1)")
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    rng, embed = random.Random(options.seed), hashed_words()
    pool = w.world(1500, seed=1000 + options.seed)
    validation = w.world(4, seed=501, held_out=True)  # of another seed than any split
    tokenizer = tokenizer_for(pool[:150], embed, rng)
    model = build_model(len(tokenizer), tokenizer.eos_token_id, intermediate=112)
    policy = Policy(model, tokenizer, micro_batch_tokens=12000)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.95),
                                  weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(
        (done + 1) / 50, 1.0, 2 * (1 - done / options.steps)))
    start = time.time()
    for step in range(1, options.steps + 1):
        groups = batch(policy, 16, pool, embed, rng)
        loss = learn(policy, optimizer, groups)
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}  loss {loss:.3f}  {time.time() - start:.0f} s", flush=True)
        if step % 300 == 0 or step == options.steps:
            found = scores(policy, validation, embed)
            print("  ".join(f"{name}: {value:.3f}" for name, value in found.items()), flush=True)
            model.save_pretrained(options.out)  # a long run may be cut short
            tokenizer.save_pretrained(options.out)
    model.to(getattr(torch, WEIGHTS)).save_pretrained(options.out)
    print(f"saved to {options.out}")


if __name__ == "__main__":
    main()
