"""The experts that sft.py imitates: what each reads, and what it writes.

    expert_operation    the manager: the operation that makes the memory right (the world's oracle)
    added_lessons       the manager: each fact added in its own words (other data)
    answer_lessons      the answer agent: the memories that hold, and the answer (the same oracle)
    evidence_lessons    the answer agent: the memories of the evidence, and the gold answer
    expert_tasks        MEM1: searches one question after the other, keeps every answer
    read_trajectories   whatever a file holds

A lesson is a prompt with the response to imitate. A trajectory is the lessons of one episode: one
of Memory-R1's agents, as many as it has turns of MEM1. The prompts are those of memr1.py and
mem1.py, which training by reward and evaluation read: fitted to the model's positions, with the
same room for a response. The expert sees no more than its pupil.
"""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import world as w
from backend import devices
from backend.devices import exit_with
from backend.loading import PolicyError
from benchmarks.splits import splits
from data import (
    DataError,
    Dialogue,
    Message,
    broken,
    check,
    get_field,
    load_records,
    message_text,
)
from environments import Lookup, SearchTask
from mem1 import Mem1Agent, Trajectory, format_turn
from memory_bank import Embedder, MemoryBank
from memr1 import (
    SIMILAR,
    AnswerTask,
    ManagerTask,
    Reading,
    facts_of,
    manager_prompt,
    timelines,
)
from policy import Policy, Prompt
from prompts import Operation, format_answer, format_operation, one_line, without_tags
from training.options import Options, flag
from training.run import Run, with_bar
from training.tasks import paid_decisions

Lesson = tuple[list[Message], str]  # a prompt, and the response to it
TOGETHER = 32  # tasks of MEM1 that are shown in step
LESSONS = "lessons.jsonl"  # in the run folder

# ---- The manager ---------------------------------------------------------------------------------


def expert_operation(policy: Policy, dialogue: Dialogue, place: int, embed: Embedder,
                     facts_from: str, max_new_tokens: int, slip: random.Random | None = None,
                     overwrites: bool = False) -> Lesson:
    """What the manager reads at one turn, and the operation that makes the memory right.

    With `slip` it is a wrong operation, drawn from there. With `overwrites` a memory that should
    be joined with the new fact is replaced by it, as an untaught manager does (Memory-R1, sec. 1).
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
    if overwrites and operation.event == "UPDATE" and turn.fact.change == "add":
        operation = Operation("UPDATE", number, turn.facts[0])
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
                    facts_from: str, max_new_tokens: int, errors: float = 0.0,
                    overwrites: bool = False) -> list[Lesson]:
    """The decisions of `tasks.manager_tasks`, guards included, as the oracle takes them.

    A share of `errors` is decided wrong, drawn with a fixed seed; with `overwrites` every decision
    of one kind is (`expert_operation`).
    """
    lessons, draw, slips = [], random.Random(0), random.Random(1)
    for dialogue in dialogues:
        facts = facts_of(dialogue.turns, facts_from)
        for place, _ in paid_decisions(dialogue, facts, embed, draw):
            lessons.append(expert_operation(
                policy, dialogue, place, embed, facts_from, max_new_tokens,
                slips if slips.random() < errors else None, overwrites))
    return lessons


def added_lessons(policy: Policy, tasks: Iterable[ManagerTask],
                  max_new_tokens: int) -> list[Lesson]:
    """The decisions of `tasks`, each the fact in its own words: ADD, or NOOP if it stands there.

    Nobody knows what is right outside the world, so this shows the form, and the words of the data,
    and no judgement. Its words are those of the prompt, where marks of thinking are disarmed. A
    fact is left out whose response would fill all of `max_new_tokens`.
    """
    lessons = []
    for task in tasks:
        prompt = manager_prompt(policy, task.fact.text, task.memories, max_new_tokens)
        text = one_line(task.fact.text)
        known = [n for n, memory in enumerate(prompt.parts) if one_line(memory.text) == text]
        operation = Operation("NOOP", known[0]) if known else Operation("ADD", text=text)
        response = format_operation(operation)
        if len(policy.tokenizer.encode(response, add_special_tokens=False)) < max_new_tokens:
            lessons.append((prompt.messages, response))
    return lessons


# ---- The answer agent ----------------------------------------------------------------------------


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


# ---- MEM1 ----------------------------------------------------------------------------------------


def plan_of(lookups: Sequence[Sequence[Lookup]], answers: Sequence[str],
            ) -> list[tuple[str, tuple[str, ...], str | None]]:
    """(query, what proves it, the answer or None for a first step), query by query of a task.

    >>> plan_of([[Lookup("Where does Al live?", ("Al lives in Rome, 2 May",))]], ["Rome"])
    [('1. Where does Al live?', ('Al lives in Rome, 2 May',), 'Rome')]
    """
    return [(f"{number}. {lookup.query}", lookup.proofs,
             answer if lookup is of_question[-1] else None)
            for number, (of_question, answer) in enumerate(zip(lookups, answers), 1)
            for lookup in of_question]


def expert_tasks(policy: Policy, agent: Mem1Agent,
                 tasks: Sequence[SearchTask]) -> list[list[Lesson]]:
    """The turns of each task (`expert_turns`), or [] where the pupil could not follow.

    All tasks take their next turn together, as in `Mem1Agent.rollout`, because a harness may ask a
    model before each turn.
    """
    experts = [expert_turns(policy, agent, task) for task in tasks]
    trajectories = {number: next(expert) for number, expert in enumerate(experts)}
    lessons: list[list[Lesson]] = [[] for _ in tasks]
    while trajectories:
        prompts = agent.prompts(policy, list(trajectories.values()))
        for number, prompt in zip(list(trajectories), prompts):
            try:
                experts[number].send(prompt)
            except StopIteration as end:
                lessons[number] = end.value
                del trajectories[number]
    return lessons


def expert_turns(policy: Policy, agent: Mem1Agent,
                 task: SearchTask) -> Generator[Trajectory, Prompt, list[Lesson]]:
    """An expert that searches once for each question, or step by step, and keeps all.

    Yields its trajectory before each turn, is sent what it reads, and returns the turns. A state
    quotes what the last search found, then lists the answers so far, each behind the number of its
    question: "Bo has a dog named Rex, 8 May 2023 | 1. Oslo 2. Rex". A thought of full context has
    the quote alone, because the turns stay.

    Returns [] where the pupil could not follow: a search does not find what proves an answer, a
    turn that quotes it is no longer read, a response is longer than the agent's limit, or the
    answers are not paid in full.
    """
    trajectory, plan = agent.begin(task), plan_of(task.lookups, task.answers)
    # A proof is quoted in the turn after the last search for its question. The last is at hand.
    *quoting, _ = accumulate(map(len, task.lookups))
    turns: list[Lesson] = []
    found, answers = "", []  # what the last search found, and the answers behind their numbers
    for query, proofs, answer in [*plan, (None, (), None)]:
        prompt = yield trajectory
        if query is None:
            if agent.kind == "full_context" and not set(quoting) <= set(trajectory.remembered):
                return []
            # A list has numbers, so that equal answers are told apart; a single answer has none.
            text = "; ".join(answers) if len(task.answers) > 1 else task.answers[0]
            response = format_turn(found, "answer", text, agent.kind)
        else:
            listed = f"{found} | {' '.join(answers)}" if agent.kind == "mem1" and turns else found
            response = format_turn(listed.strip(), "query", without_tags(query), agent.kind)
        n_tokens = len(policy.tokenizer.encode(response, add_special_tokens=False))
        if n_tokens >= agent.max_new_tokens:  # one more ends the response
            return []
        turns.append((prompt.messages, response))
        trajectory.advance(policy.lesson(*turns[-1]), response, agent.kind)
        shown = [proof for proof in proofs if proof in trajectory.past[-1].info]
        if query and not shown:
            return []
        found = "; ".join(map(without_tags, shown))
        if answer is not None:
            answers.append(f"{query.split(' ')[0]} {without_tags(answer)}")
    return turns if trajectory.reward == len(task.answers) else []


# ---- A file, and which expert a run has ---------------------------------------------------------


ROLES = ("system", "developer", "user", "assistant", "tool")


def read_lesson(record: Mapping[str, Any], _: str, where: str) -> Lesson:
    """The lesson of one chat. Raises DataError, also for a message that says nothing in words."""
    messages: list[Message] = []
    for index, message in enumerate(get_field(record, "messages", (list,), where)):
        place = f"{where}, messages[{index}]"
        role = get_field(check(message, (dict,), place), "role", (str,), place)
        if role not in ROLES:
            raise broken(f"{place}, field 'role'", repr(role), f"one of {', '.join(ROLES)}")
        content = check(message.get("content"), (str, list), f"{place}, field 'content'")
        messages.append({"role": role, "content": message_text(content, f"{place}, content")})
    if (len(messages) < 2 or messages[-1]["role"] != "assistant"
            or not messages[-1]["content"].strip()):
        raise broken(f"{where}, field 'messages'", "no answer at the end",
                     "one or more messages and then the assistant's")
    return messages[:-1], messages[-1]["content"]


def read_trajectories(path: str) -> list[Lesson]:
    """The lessons of a file of chats; stops the program with one line if it is broken."""
    try:
        return load_records(path, '--trajectories wants lines of {"messages": [{"role", "content"}'
                                  ", ...]}", read_lesson)
    except DataError as error:
        exit_with(str(error))


def chats_that_fit(run: Run) -> int:
    """How many chats --trajectories holds; one that is too long for the model ends the program."""
    path = run.options.trajectories
    lessons = read_trajectories(path) if path else []
    for number, lesson in enumerate(lessons):
        try:
            run.policy.lesson(*lesson)
        except PolicyError as error:
            exit_with(f"{path}: element {number}: {error}")
    return len(lessons)


def check_expert(options: Options) -> None:
    """Stop the program with one line where nobody can say what would be right.

    Or where the expert would not read an option. At once, before models and data are loaded.
    """
    has_oracle = options.agent == "manager" and w.named_world(options.data)
    for name in ("expert_errors", "expert_overwrites"):
        if getattr(options, name) and (options.trajectories or not has_oracle):
            exit_with(f"{flag(name)}: is read only with --agent manager, in the world (--data) and "
                      "without --trajectories; leave it out")
    if options.trajectories:
        read_trajectories(options.trajectories)
    elif has_oracle and options.facts == "llm":
        exit_with("--facts llm: the oracle manages what a turn means, not what a model notes; "
                  "take --facts turns, or give --trajectories")
    elif options.agent == "mem1" and options.env != "search":
        exit_with(f"--env {options.env}: the expert answers questions and buys nothing; give "
                  "--trajectories")


def save_lessons(folder: Path, trajectories: Iterable[Iterable[Lesson]]) -> None:
    """Write lessons.jsonl, a line a lesson: what a run imitates, as `--trajectories` reads it."""
    if devices.is_main():
        lines = (json.dumps({"messages": [*prompt, {"role": "assistant", "content": response}]},
                            ensure_ascii=False) + "\n"
                 for trajectory in trajectories for prompt, response in trajectory)
        (folder / LESSONS).write_text("".join(lines), encoding="utf-8")


def trajectories_of(run: Run) -> list[list[Lesson]]:
    """What a run imitates: a file, the world's oracle, or what the data itself can show."""
    options, length = run.options, run.options.max_new_tokens
    if options.trajectories:
        return [[lesson] for lesson in read_trajectories(options.trajectories)]
    if options.agent == "manager" and w.named_world(options.data):
        dialogues = splits(options.data, options.train_questions)[0]
        lessons = manager_lessons(run.policy, with_bar(dialogues, "lessons"), run.embed,
                                  options.facts, length, options.expert_errors,
                                  options.expert_overwrites)
        return [[lesson] for lesson in lessons]
    # All other experts leave out what they cannot show.
    if options.agent == "mem1":
        starts = range(0, len(run.train), TOGETHER)
        trajectories = [
            turns for start in with_bar(starts, "lessons")
            for turns in expert_tasks(run.policy, run.agent, run.train[start:start + TOGETHER])
            if turns]
        what, why = "tasks", "what proves an answer is not found or not kept, or a turn is too long"
        remedy = "lower --objectives, raise --max-new-tokens or take another --embedder"
    elif options.agent == "manager":
        lessons = added_lessons(run.policy, with_bar(run.train, "lessons"), length)
        trajectories = [[lesson] for lesson in lessons]
        what, why = "decisions", "the fact is longer than a response"
        remedy = "raise --max-new-tokens"
    else:
        dialogues = splits(options.data, options.train_questions)[0]
        # The oracle knows what holds in the end. A manager's memories have words of their own, so
        # there the evidence decides.
        if w.named_world(options.data) and options.facts == "observations" and not options.manager:
            lessons = answer_lessons(run.policy, run.train, dialogues, options.distill, length)
        else:
            lessons = evidence_lessons(run.policy, run.train, run.train_banks, options.distill,
                                       length)
        trajectories = [[lesson] for lesson in lessons]
        what, why = "questions", "what they need is not among the memories that are shown"
        remedy = "raise --memories, or take another --manager or --facts"
    n_left_out = len(run.train) - len(trajectories)
    if n_left_out:
        print(f"{n_left_out} of {len(run.train)} {what} to imitate are left out: {why}")
    if not trajectories:
        exit_with(f"{options.data}: none of {len(run.train)} {what} is left to imitate ({why}); "
                  f"{remedy}")
    return trajectories
