"""Both agents live in the terminal: talk to Memory-R1, and watch MEM1 work.

    python memr1.py                                         a chat: state facts, ask questions
    python memr1.py --model runs/grpo-manager/checkpoint    the same with the trained manager
    python mem1.py                                          tasks turn by turn, in constant context
                                                            and with everything kept

It stands beside the two modules, not in them: nothing here is part of a method, and a reader of the
methods need not pass through prompts and colors.

Colors only where the output is a terminal that has them and NO_COLOR is not set. What was typed,
what data say and what a model writes may hold anything: it is printed without control characters,
which a terminal would obey.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import date, timedelta

from backend.devices import exit_with
from data import Turn
from environments import Search, SearchTask, search_tasks
from mem1 import STOP, Mem1Agent, Trajectory, parse_turn
from memory_bank import Memory, MemoryBank, hashed_words
from memr1 import MemoryR1, Observation
from policy import Policy
from prompts import one_line, parse_operations
from training.options import EMBEDDED_MEM1, EMBEDDED_MODEL
from training.run import load_or_stop
from world import MONTHS, RELATIONS, world_splits

LONGEST_LINE = 500  # characters

# ---- The terminal --------------------------------------------------------------------------------

COLORS = {"ADD": "32", "UPDATE": "33", "DELETE": "31", "NOOP": "2", "invalid": "1;31",
          "right": "32", "wrong": "31", "strong": "1", "quiet": "2"}


def has_colors() -> bool:
    """Whether the output is a terminal with colors, and nobody asked for none."""
    return (sys.stdout.isatty() and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
            and (os.name != "nt" or "WT_SESSION" in os.environ))  # old Windows consoles print codes


def printable(text: str) -> str:
    """Text on one line without control characters.

    >>> printable("Rex\\x1b[2J\\tand Milo")
    'Rex\ufffd[2J and Milo'
    """
    return "".join(" " if letter.isspace() else letter if letter.isprintable() else "\ufffd"
                   for letter in text)


def paint(text: str, color: str) -> str:
    """Printable text, in one of `COLORS` where there are colors."""
    return f"\x1b[{COLORS[color]}m{printable(text)}\x1b[0m" if has_colors() else printable(text)


def prepare_terminal() -> None:
    """Arrow keys and history where there are such, and no traceback on bytes that are no text."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):  # not on Windows, whose console has its own
            import readline  # noqa: F401  `input` uses it once it is there
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(errors="replace")


def typed_lines(prompt: str) -> Iterator[str]:
    """What is typed, line by line, until /quit, the end of input or Ctrl-C."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while (line := input(prompt).strip()) != "/quit":
            if len(line) > LONGEST_LINE:
                print(f"  Nothing was read: {len(line)} characters; at most {LONGEST_LINE} a line.")
            else:
                yield line
    print("\nGood-bye.")


def unknown(command: str) -> None:
    """Say so."""
    print(f"  There is no command {printable(command.split()[0])}; /help lists them.")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; what is wrong with them is one line, exit code 2."""
    parser.error = lambda message: exit_with(f"{printable(message)}; --help lists all options")
    return parser.parse_args(argv)


# ---- Memory-R1 -----------------------------------------------------------------------------------

FIRST_DAY = date(2023, 5, 8)  # of the years that the embedded model has seen
HELP = """\
State facts about yourself or others, one a line, each a day after the last: the manager decides
what becomes of it. A line that ends in "?" is a question for the answer agent.
/bank shows the memories, /help this text, /quit or the end of input leaves. Ctrl-C stops a model
that is writing.
The embedded model understands only the language of the synthetic world (world.py), in which people
are called by their names. Four lines of it:"""


def talk(system: MemoryR1) -> None:
    """Lines from `input` go to a system with one speaker, until /quit or the end of input."""
    name, n_facts = system.speakers[0], 0
    lives, dogs = RELATIONS["lives"], RELATIONS["dogs"]
    examples = [lives.said[0].format(v="Oslo"), dogs.said[1].format(v="Rex"),
                dogs.said[1].format(v="Milo"), dogs.question.format(s=name)]
    print("Memory-R1: state facts, ask questions. /help shows how, /quit leaves.")
    for line in typed_lines(f"{name}> "):
        if line == "/help":
            print(HELP, *examples, sep="\n  ")
        elif line == "/bank":
            show_bank(system.bank, list(system.bank))
        elif line.startswith("/"):
            unknown(line)
        elif line:
            try:
                if line.endswith("?"):
                    show_answer(system, line)
                else:
                    n_facts += 1
                    day = FIRST_DAY + timedelta(days=n_facts - 1)
                    today = f"{day.day} {MONTHS[day.month - 1]} {day.year}"
                    before = list(system.bank)
                    for seen in system.observe(Turn(f"D1:{n_facts}", name, line, today)):
                        show_operations(seen)
                        show_bank(system.bank, before)
                        before = list(system.bank)
            except KeyboardInterrupt:
                print("\n  Stopped; the memory is as it was.")


def show_answer(system: MemoryR1, question: str) -> None:
    """Print what the answer agent selected, and its answer."""
    answer = system.answer(question)
    selected = [line.strip().removeprefix("- ") for line in answer.selected.splitlines()]
    print("  selected:", printable(" | ".join(selected) or "nothing"))
    print("  answer:  ", paint(answer.text, "strong") if answer.text else
          f"none, in the response {answer.response!r}")


def show_operations(seen: Observation) -> None:
    """Print what the manager wrote, with memories instead of their numbers."""
    for operation in parse_operations(seen.response, len(seen.shown))[0]:
        old = "" if operation.number is None else seen.shown[operation.number].text
        print(f"  {paint(f'{operation.event:8}', operation.event)}",
              printable(" -> ".join(filter(None, (old, operation.text)))))
    if seen.counts["invalid"]:
        print(paint(f"  invalid:  {seen.counts['invalid']}, in the response {seen.response!r}",
                    "invalid"))


def show_bank(bank: MemoryBank, before: Sequence[Memory]) -> None:
    """Print every memory behind its date; + is new, ~ was changed and - is gone since `before`."""
    old, new = ({memory.id: memory for memory in memories} for memories in (before, bank))
    print(f"  {len(bank)} in the bank:")
    for number in sorted({*old, *new}):
        was, now = old.get(number), new.get(number)
        mark, color = ((" ", "") if was == now else ("+", "ADD") if was is None else
                       ("-", "DELETE") if now is None else ("~", "UPDATE"))
        memory = now or was
        line = printable(f"  {mark} {memory.timestamp}: {memory.text}")
        print(paint(line, color) if color else line)


def talk_main(argv: Sequence[str] | None = None) -> None:
    """`python memr1.py`: read the options, load the model and chat."""
    parser = argparse.ArgumentParser(prog="memr1.py", description="Talk to Memory-R1.",
                                     allow_abbrev=False)
    parser.add_argument("--model", metavar="FOLDER", default=EMBEDDED_MODEL,
                        help="Hugging Face folder or hub name (default: tiny/)")
    parser.add_argument("--name", default="Anna", help="who you are in the chat (default: Anna)")
    options = parse(parser, argv)
    name = printable(one_line(options.name.encode(errors="replace").decode()))
    if not name:
        parser.error("--name is blank: give a name, such as Anna")
    policy = load_or_stop(options.model)
    prepare_terminal()
    talk(MemoryR1(policy, policy, hashed_words(), [name]))


# ---- MEM1 ----------------------------------------------------------------------------------------

MEM1_HELP = """\
Enter works through the next task, a number through the task of that number.
Questions with semicolons between them are asked of the same corpus as the last task; the embedded
model understands questions as the tasks ask them.
/corpus shows what can be found, /help this text, /quit or the end of input leaves. Ctrl-C stops a
model that is writing."""
TOKENS_A_MARK = 20  # of the bars


def work(policy: Policy, task: SearchTask, harness: str, n_gold: int) -> int:
    """Work through one task and print every turn as it is made; returns the peak of tokens.

    The first `n_gold` answers of the task are known; with none, nothing is said of what is right.
    """
    agent, environment = Mem1Agent(harness=harness), Search()
    trajectory = Trajectory(environment, environment.reset(task), environment.turns(task))
    print()
    print(paint(f"== {harness} ==", "strong"))
    print(printable(trajectory.text))
    peak = forgotten = 0
    while not trajectory.done:
        prompt = agent.prompt(policy, trajectory)
        for number in range(forgotten, len(trajectory.past) - trajectory.kept):
            print(paint(f"         turn {number + 1} is dropped", "quiet"))
            forgotten = number + 1
        [[step]] = policy.sample([prompt], 1, agent.max_new_tokens, 0, stop_texts=STOP)
        response = policy.decode(step.response_ids)
        trajectory.advance(step, response, agent.kind)
        size = len(step.prompt_ids) + len(step.response_ids)
        peak = max(peak, size)
        print(f"turn {len(trajectory.steps):2}, {size:5} tokens in context "
              + paint("#" * min(size // TOKENS_A_MARK, 60), "quiet"))
        parsed = parse_turn(response, agent.kind)
        if parsed is None:
            print(paint(f"  invalid {response}", "invalid"))
            continue
        note, action, text = parsed
        print(f"  {'state' if agent.kind == 'mem1' else 'note':7}", printable(note))
        print(f"  {action:7}", paint(text, "strong"))
        for line in trajectory.turns[-1]["info"].splitlines():
            print(paint(f"    {line}", "quiet"))
    if n_gold:
        right = trajectory.reward == n_gold
        print("gold:  ", printable("; ".join(task.answers)))
        print(paint(f"right: {trajectory.reward:.0f} of {n_gold}", "right" if right else "wrong"))
    return peak


def watch(policy: Policy, tasks: Sequence[SearchTask], first: int) -> None:
    """Work through task `first`, and then through what `input` asks for, until the end of input."""
    place, task, n_gold = first, tasks[first], len(tasks[first].questions)

    def both() -> None:
        try:
            peaks = [work(policy, task, harness, n_gold) for harness in ("mem1", "full_context")]
            print(f"\nMost tokens in context: {peaks[0]} with a state, {peaks[1]} with everything "
                  "kept.")
        except KeyboardInterrupt:
            print("\n  Stopped.")

    print(f"MEM1: {len(tasks)} held-out tasks; Enter for the next, /help for more, /quit leaves.")
    both()
    for line in typed_lines("mem1> "):
        if line == "/help":
            print(MEM1_HELP)
        elif line == "/corpus":
            print(*(f"  {printable(memory.text)}" for memory in task.corpus), sep="\n")
        elif line.startswith("/"):
            unknown(line)
        elif not line or line.isdecimal():
            number = int(line) if line else (place + 1) % len(tasks)
            if number >= len(tasks):
                print(f"  There is no task {number}: 0 to {len(tasks) - 1}.")
                continue
            place, task, n_gold = number, tasks[number], len(tasks[number].questions)
            both()
        else:
            asked = tuple(part.strip() for part in line.split(";") if part.strip())
            if asked:
                unanswered = ("",) * len(asked)
                task, n_gold = SearchTask(asked, unanswered, (0,) * len(asked), task.corpus), 0
                both()


def watch_main(argv: Sequence[str] | None = None) -> None:
    """`python mem1.py`: held-out tasks of the world, in constant context and with everything."""
    parser = argparse.ArgumentParser(prog="mem1.py", description="Watch MEM1 work.",
                                     allow_abbrev=False)
    parser.add_argument("--model", metavar="FOLDER", default=EMBEDDED_MEM1,
                        help="Hugging Face folder or hub name (default: tiny/mem1/)")
    parser.add_argument("--objectives", type=int, default=4,
                        help="questions in a task, 1 to 16 (default: 4)")
    parser.add_argument("--task", type=int, default=0, help="the first task, from 0 (default: 0)")
    options = parse(parser, argv)
    if options.objectives < 1:
        parser.error(f"--objectives {options.objectives}: must be at least 1")
    tasks = search_tasks(world_splits()[2], options.objectives, hashed_words())
    if not 0 <= options.task < len(tasks):
        parser.error(f"--task {options.task}: there are {len(tasks)} tasks of "
                     f"{options.objectives} questions")
    policy = load_or_stop(options.model)
    prepare_terminal()
    watch(policy, tasks, options.task)
