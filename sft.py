"""Memory-SFT: the same two agents, taught to imitate instead of paid for what works.

    for each step:
        1. show     P prompts with the response that an expert would write
        2. push     up the log-probability of every token of these responses
        3. log      and, now and then, look at unseen questions

This is behaviour cloning. Memory-R1 (arXiv 2508.19828, section 4.2) calls it Memory-SFT, and beats
it by reinforcement. Imitation sees the same 152 training questions, for as many steps, with the
same start model, and is scored by the same code. Unlike reinforcement it needs an expert:

    the synthetic world        the oracle, which knows what each turn means
    other data, answer agent   the memories of the evidence turns, and the gold answer
    other data, manager        only a file of trajectories

Where this differs from the paper
1. The paper's expert is GPT-5. `--trajectories FILE` reads what such a model wrote: JSON lines with
   {"messages": [{"role": ..., "content": ...}, ...]}, the last of them the response to learn.
2. As in grpo.py each question also brings a guard, a turn that must leave the question's memory
   alone (training/tasks.py, "differs", 2).
3. The oracle never errs, and GPT-5 does. `--expert-errors 0.2` makes one operation in five wrong,
   in the ways of an untrained manager (`wrong_operation`).

    python sft.py                   the Memory Manager, about a minute
    python sft.py --expert-errors 0.2       the same, from an expert that errs
    python sft.py --agent answer    the Answer Agent, about a minute
    python sft.py --agent answer --model smollm2        on LoCoMo, from its evidence

It ends with "sft manager: held-out exact match A -> B in S s, M GiB; run folder ...".
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

import world as w
from backend.devices import clip_gradients, exit_with
from backend.lora import learned
from benchmarks.splits import splits
from data import Dialogue, Message
from memory_bank import Embedder, MemoryBank
from memr1 import SIMILAR, AnswerTask, Reading, facts_of, manager_prompt, timelines
from policy import Policy
from prompts import Operation, format_answer, format_operation
from training.options import Options, option, parse_options, resolve
from training.results import evaluate_after, evaluate_before, finish
from training.run import Run, launch, prepare, with_bar
from training.state import TokenMetrics, TrainingState, warm_up_then_decay
from training.tasks import guard_place

Lesson = tuple[list[Message], str]  # a prompt, and the response to it


@dataclass
class SFTOptions(Options):
    """Options of sft.py."""

    trajectories: str | None = option(None, "JSON lines of prompts and responses to imitate; "
                                            "default: those of the world's oracle")
    expert_errors: float = option(0.0, "manager: share of the oracle's operations that are made "
                                       "wrong, 0 to 1", low=0, high=1)


# ---- What is imitated ----------------------------------------------------------------------------


# The prompts are those of memr1.py, which training by reward and evaluation read: fitted to the
# model's positions, with the same room for a response. The expert sees no more than its pupil.
def expert_operation(policy: Policy, dialogue: Dialogue, place: int, embed: Embedder,
                     facts_from: str, max_new_tokens: int,
                     slip: random.Random | None = None) -> Lesson:
    """What the manager reads at one turn, and the operation that makes the memory right.

    With `slip` it is a wrong operation, drawn from there.
    """
    before, turn = dialogue.turns[:place], dialogue.turns[place]
    bank, state = MemoryBank(embed), {}
    bank.add_many(w.oracle_memories(before).values())
    [[fact]] = facts_of([turn], facts_from)  # in the world each turn states one
    prompt = manager_prompt(policy, fact.text, bank.search(fact.text, SIMILAR, turn.speaker),
                            max_new_tokens)
    for earlier in before:
        w.advance(state, earlier)
    old_text, new_text = w.advance(state, turn)  # of the memory that the turn changes
    number = next((n for n, memory in enumerate(prompt.parts) if memory.text == old_text), None)
    if new_text is None:
        operation = Operation("NOOP" if number is None else "DELETE", number)
    else:
        operation = Operation("ADD" if number is None else "UPDATE", number, new_text)
    if slip is not None:
        operation = wrong_operation(operation, turn.facts[0], len(prompt.parts), slip)
    return prompt.messages, format_operation(operation)


def wrong_operation(right: Operation, fact: str, n_shown: int, draw: random.Random) -> Operation:
    """Another operation than the right one: it duplicates (ADD), forgets (NOOP) or overwrites.

    An UPDATE overwrites the memory that the right operation names, or else any that is shown, with
    the new fact alone. So a manager forgets the first dog in Memory-R1, section 1.
    """
    wrong = [Operation("ADD", text=fact), Operation("NOOP")]
    if n_shown:
        number = draw.randrange(n_shown) if right.number is None else right.number
        wrong.append(Operation("UPDATE", number, fact))
    return draw.choice([operation for operation in wrong if operation != right])


def manager_lessons(policy: Policy, dialogues: Iterable[Dialogue], embed: Embedder,
                    facts_from: str, max_new_tokens: int, errors: float = 0.0) -> list[Lesson]:
    """The decisions of `tasks.manager_tasks`, guards included, as the oracle takes them.

    A share of `errors` is decided wrong, drawn with a fixed seed.
    """
    lessons, draw, slips = [], random.Random(0), random.Random(1)
    for dialogue in dialogues:
        facts = facts_of(dialogue.turns, facts_from)
        place_of = {turn.turn_id: place for place, turn in enumerate(dialogue.turns)}
        for question in dialogue.questions:
            last = max(place_of[turn_id] for turn_id in question.evidence)
            guard = guard_place(dialogue, last, facts, embed, draw)
            lessons += [expert_operation(policy, dialogue, place, embed, facts_from,
                                         max_new_tokens, slips if slips.random() < errors else None)
                        for place in (last, guard) if place is not None]
    return lessons


def answer_lessons(policy: Policy, tasks: Sequence[AnswerTask], dialogues: Sequence[Dialogue],
                   distill: bool, max_new_tokens: int) -> list[Lesson]:
    """The tasks of these dialogues of the world, over banks that kept every fact.

    The expert selects what still holds. Questions are left out of which a needed memory is not
    shown, because they would teach to guess.
    """
    lessons, remaining = [], iter(tasks)
    for dialogue in dialogues:
        state: w.State = {}
        latest: dict[tuple[w.Key, str], str] = {}  # (key, value) -> the last memory that says so
        for turn in dialogue.turns:
            w.advance(state, turn)
            if turn.fact:
                latest[w.memory_key(turn.fact), turn.fact.value] = turn.facts[0]
        probes = {probe.question.text: probe for probe in w.probes(dialogue.turns)}
        for question, task in zip(dialogue.questions, remaining):
            # A key without a state is an event, whose value is its name.
            selected = [latest[key, value] for key in probes[question.text].needs
                        for value in state.get(key, key[1:])]
            prompt = task.prompt(policy, distill, max_new_tokens)
            if {memory.text for memory in prompt.parts}.issuperset(selected):
                lessons.append((prompt.messages,
                                format_answer(selected, question.answer, distill)))
    return lessons


def evidence_lessons(policy: Policy, tasks: Sequence[AnswerTask], reading: Reading, distill: bool,
                     max_new_tokens: int) -> list[Lesson]:
    """The tasks over the banks of a reading; the expert selects the evidence that is shown.

    Questions of whose evidence nothing is shown are left out, because they would teach to guess.
    """
    lessons = []
    sources_of = {id(bank): sources for bank, sources in zip(reading.banks, reading.sources)}
    for task in tasks:
        prompt, sources = task.prompt(policy, distill, max_new_tokens), sources_of[id(task.bank)]
        shown = timelines(prompt.parts, task.speakers).values()  # in the order of the prompt
        selected = [memory.text for of_speaker in shown for memory in of_speaker
                    if sources[memory.id] & set(task.question.evidence)]
        if selected:
            lessons.append((prompt.messages,
                            format_answer(selected, task.question.answer, distill)))
    return lessons


def read_trajectories(path: str) -> list[Lesson]:
    """The lessons of a file of chats; stops the program with one line if it is broken."""
    lessons = []
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        exit_with(f"cannot read {path} ({error}); --trajectories wants a file of JSON lines")
    for number, line in enumerate(lines, start=1):
        try:
            messages = json.loads(line)["messages"]
            chat = [{"role": str(m["role"]), "content": str(m["content"])} for m in messages]
        except (ValueError, KeyError, TypeError):
            exit_with(f'{path}, line {number}: not {{"messages": [{{"role", "content"}}, ...]}}')
        if len(chat) < 2 or chat[-1]["role"] != "assistant" or not chat[-1]["content"].strip():
            exit_with(f"{path}, line {number}: the last message must be the assistant's, after "
                      "another")
        lessons.append((chat[:-1], chat[-1]["content"]))
    if not lessons:
        exit_with(f"{path}: holds no trajectory")
    return lessons


def check_expert(options: SFTOptions) -> None:
    """Stop the program with one line where nobody can say what would be right.

    At once, because the start model is scored before the first lesson, which may take long.
    """
    if options.trajectories:
        read_trajectories(options.trajectories)
    elif options.agent == "manager" and not w.named_world(options.data):
        exit_with(f"--data {options.data}: only the synthetic world has an oracle that manages a "
                  "memory; give --trajectories, or learn from --data world first")
    elif options.agent == "manager" and options.facts == "llm":
        exit_with("--facts llm: the oracle manages what a turn means, not what a model notes; "
                  "take --facts turns, or give --trajectories")


def lessons_of(run: Run) -> list[Lesson]:
    """What a run imitates: a file, the world's oracle, or the data's own evidence and answers."""
    options = run.options
    if options.trajectories:
        return read_trajectories(options.trajectories)
    dialogues = splits(options.data, options.train_questions)[0]
    length = options.max_new_tokens
    if options.agent == "manager":
        return manager_lessons(run.policy, with_bar(dialogues, "lessons"), run.embed,
                               options.facts, length, options.expert_errors)
    # The oracle knows what holds in the end. A manager's memories have words of their own, so there
    # the evidence decides.
    if w.named_world(options.data) and options.facts == "observations" and not options.manager:
        lessons = answer_lessons(run.policy, run.train, dialogues, options.distill, length)
    else:
        lessons = evidence_lessons(run.policy, run.train, run.train_banks, options.distill, length)
    if len(lessons) < len(run.train):
        print(f"{len(run.train) - len(lessons)} of {len(run.train)} questions to imitate are left "
              "out: what they need is not among the memories that are shown")
    if not lessons:
        exit_with(f"{options.data}: no question to imitate is left, because none of the memories "
                  "that are shown is evidence; raise --memories, or take another --manager or "
                  "--facts")
    return lessons


# ---- The loop ------------------------------------------------------------------------------------


def train(run: Run) -> tuple[list[dict[str, float]], dict[int, float]]:
    """Train; returns the rows of metrics.csv, and the validation scores by step."""
    options, policy = run.options, run.policy
    lessons = [policy.lesson(*lesson) for lesson in lessons_of(run)]
    optimizer = torch.optim.AdamW(
        learned(policy.model), lr=options.lr, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = warm_up_then_decay(optimizer, options.steps)
    state = TrainingState(run, {"policy": policy.model}, optimizer, schedule)
    for batch in state.steps(lessons):
        packed_rows = policy.rows([[lesson] for lesson in batch])
        metrics = TokenMetrics(sum(len(lesson.response_ids) for lesson in batch))
        optimizer.zero_grad()
        for micro_batch in policy.micro_batches(packed_rows):
            log_probs, _ = policy.score(micro_batch, 1.0)  # (m,)
            # The mean over the tokens of the whole batch, however it is cut up.
            (-log_probs.sum() / metrics.n_tokens).backward()
            metrics.add(0, loss=-log_probs)
        grad_norm = clip_gradients(policy.model.parameters(), options.max_grad_norm)
        if math.isfinite(grad_norm):
            optimizer.step()
        else:  # a loss that is not finite: keep the weights
            metrics.skipped = 1
        state.log(metrics, grad_norm)
    return state.history, state.scores


def main(argv: Sequence[str] | None = None) -> dict:
    """Train one agent and report; returns what summary.json holds."""
    options = parse_options(SFTOptions, "Teach a memory agent by imitation.", argv)
    if options.agent == "mem1":
        exit_with("--agent mem1: the paper compares imitation with Memory-R1's two agents only")
    if options.trajectories and options.train_questions:
        exit_with("--train-questions: is read only without --trajectories; leave it out")
    if options.expert_errors and (options.trajectories or options.agent != "manager"):
        exit_with("--expert-errors: is read only with --agent manager and without --trajectories; "
                  "leave it out")
    check_expert(resolve(options, "sft"))
    run = prepare(options, "sft")
    before = evaluate_before(run)
    history, scores = train(run)
    return finish(run, before, evaluate_after(run), history, scores)


if __name__ == "__main__":
    launch(main)
