"""Talk to Memory-R1: state facts, ask questions, and see every operation on the memory.

    python memr1.py                                         a chat: state facts, ask questions
    python memr1.py --model runs/grpo-manager/checkpoint    the same with the trained manager
    python memr1.py --bank anna.json                        the memories stay for the next chat
    python memr1.py --model smollm2 --data chat.txt         one's own conversation is read first

The chat stands beside the module, because a reader of the method need not pass through prompts and
colors.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Sequence
from datetime import MAXYEAR, date, timedelta
from pathlib import Path

from backend.devices import exit_with
from backend.files import LOCK, lock, release_locks
from backend.loading import PolicyError
from benchmarks.others import load
from benchmarks.own import written
from data import DataError, Dialogue, Turn
from memory_bank import Embedder, Memory, MemoryBank
from memr1 import MemoryR1, Observation
from prompts import one_line, parse_operations
from tools.terminal import (
    QUESTION_MARKS,
    add_embedder,
    mark_unknown,
    paint,
    parse,
    prepare_terminal,
    printable,
    refuse_command,
    typed_lines,
)
from training.kept import KeptPolicy
from training.options import EMBEDDED_MODEL, is_embedded, preset_of, usual_facts
from training.run import embedder_or_stop, load_or_stop, say_other_start, stop_without_facts
from training.timeline import bank_changes
from world import MONTHS, NAMES, RELATIONS, TELLABLE, named_world

NAME = "Emma"  # not Anna, whose second dog a trained manager is likeliest to miss
FIRST_DAY = date(2023, 5, 8)  # of the years that the embedded model has seen
HELP = """\
State facts about yourself or others, one a line: the manager decides what becomes of it. A line
that ends in "?" (or ？ or ؟) is a question for the answer agent.
/bank shows the memories, /help this text, /quit or the end of input leaves. Ctrl-C stops a model
that is writing."""
GREETING = """\
The embedded model reads only the language of the synthetic world (world.py): where people live,
what they work as, drive, like and play, and which dogs and cats they have. It changes memories even
when it understands nothing, so words that it never read are marked. Four lines of its language:"""
EMBEDDED_HELP = """\
To the embedded model each fact is said a day after the last. It calls people by their names, and
reads sentences such as:"""


def talk(system: MemoryR1, in_the_world: bool = True, path: Path | None = None) -> None:
    """Hand lines from `input` to a system, until /quit or the end of input.

    The first of the system's speakers is the one who types. Its bank is saved at `path` after every
    change. `in_the_world` is for the embedded model and what was trained from it: the greeting says
    what they can read, words that they cannot are marked, and the days are those that they know.
    """
    name, n_facts = system.speakers[0], 0
    first_day = days_after(system.bank) if in_the_world else None
    print("Memory-R1: state facts, ask questions. /help shows how, /quit leaves.")
    if in_the_world:
        lives, dogs = RELATIONS["lives"], RELATIONS["dogs"]
        print(GREETING, lives.said[0].format(v="Oslo"), dogs.said[1].format(v="Rex"),
              dogs.said[1].format(v="Milo"), dogs.question.format(s=name), sep="\n  ")
        mark_unknown(system.manager, name, f"--name takes one such as {', '.join(NAMES[::7])}")
    for line in typed_lines(f"{name}> "):
        if line == "/help":
            print(HELP)
            if in_the_world:
                forms = [RELATIONS[relation] for relation in TELLABLE]
                print(EMBEDDED_HELP, *(form.said[0].format(v=form.values[0]) for form in forms),
                      *(form.question.format(s=name) for form in forms), sep="\n  ")
        elif line == "/bank":
            show_bank(system.bank, list(system.bank))
        elif line.startswith("/"):
            refuse_command(line)
        elif line:
            before = list(system.bank)
            if in_the_world:
                mark_unknown(system.manager, line)
            try:
                if line.endswith(QUESTION_MARKS):
                    show_answer(system, line, "" if first_day else written(date.today()))
                else:
                    n_facts += 1
                    day = written(date.today() if first_day is None
                                  else first_day + timedelta(days=n_facts - 1))
                    tell(system, Turn(f"D1:{n_facts}", name, line, day))
            except KeyboardInterrupt:
                is_same = list(system.bank) == before
                print("\n  Stopped; the memory is as it was." if is_same else
                      "\n  Stopped; what is shown above has become of the memory.")
            except PolicyError as error:  # a line too long for the model
                print(f"  {error}")
            if path and list(system.bank) != before:
                save_or_say(system.bank, path)


def days_after(bank: MemoryBank) -> date:
    """The day after the last that a bank of the embedded model names, or `FIRST_DAY`."""
    days = [FIRST_DAY]
    for memory in bank:
        match = re.fullmatch(rf"([0-9]{{1,2}}) ({'|'.join(MONTHS)}) ([0-9]{{4}})", memory.timestamp)
        with contextlib.suppress(ValueError):  # 31 June: somebody has edited the file
            if match:
                day = date(int(match[3]), MONTHS.index(match[2]) + 1, int(match[1]))
                if day.year < MAXYEAR:  # else a chat would have no days left
                    days.append(day + timedelta(days=1))
    return max(days)


def open_bank(path: Path, embed: Embedder) -> MemoryBank:
    """The bank of an earlier chat, or a new one in a new file; no other chat may have it open.

    Stops the program with one line if the file is no bank, and leaves it as it is.
    """
    try:
        lock(path.with_name(f".{path.name}{LOCK}"))
        bank = MemoryBank.load(path, embed) if path.exists() else MemoryBank(embed)
        bank.save(path)  # before anything is typed, because the file might not be writable
    except BlockingIOError as error:
        exit_with(f"--bank {printable(str(path))} is in use by {printable(str(error))}; end that "
                  "chat, or take another file")
    except OSError as error:
        exit_with(f"--bank {printable(str(path))}: cannot be read and written "
                  f"({error.strerror or error}); name a file in a folder of yours")
    except ValueError as error:
        exit_with(printable(str(error)))
    print(f"{printable(str(path))}: {len(bank)} memories of earlier chats")
    return bank


def save_or_say(bank: MemoryBank, path: Path) -> None:
    """Save the bank; a full disk ends no chat, because the next change is saved with this one."""
    try:
        bank.save(path)
    except OSError as error:
        print(paint(f"  Not saved in {path}: {error.strerror}", "invalid"))


def conversation_of(data: str, name: str | None) -> Dialogue:
    """The conversation that `--data` and `--conversation` name; stops the program without one."""
    if named_world(data):
        exit_with(f"--data {data}: is a synthetic world of many dialogues; a chat reads files and "
                  "benchmarks")
    try:
        dialogues = load(data)
    except DataError as error:
        exit_with(printable(str(error)))
    if not isinstance(dialogues[0], Dialogue):
        exit_with(f"--data {printable(data)}: questions over passages; a chat reads conversations")
    by_name = {dialogue.name: dialogue for dialogue in dialogues}
    if name is None and len(dialogues) == 1:
        return dialogues[0]
    if name not in by_name:
        exit_with(printable(f"--data {data}: a chat reads one conversation; name it with "
                            f"--conversation, one of {', '.join(list(by_name)[:20])}"))
    return by_name[name]


def read_conversation(system: MemoryR1, turns: Sequence[Turn], n_read: int, path: Path | None,
                      ) -> None:
    """Let the manager read all turns behind the first `n_read`; show how the bank grows.

    The bank is saved at `path` after every turn that changed it. Ctrl-C ends the reading, and what
    was read stays.
    """
    try:
        for turn in turns[n_read:]:
            before = list(system.bank)
            print(paint(f"{turn.turn_id} {turn.speaker}, {turn.timestamp}: {turn.text}", "strong"))
            try:
                tell(system, turn, whole=False)
            except PolicyError as error:  # a turn too long for the model
                print(f"  {error}")
            finally:
                if path and list(system.bank) != before:
                    save_or_say(system.bank, path)
            n_read += 1
    except KeyboardInterrupt:
        print(f"\nStopped; what was read stays. Another time --skip {n_read} goes on behind it.")
    print(f"{n_read} of {len(turns)} turns read: {len(system.bank)} memories\n")


def tell(system: MemoryR1, turn: Turn, whole: bool = True) -> None:
    """Let the manager read a turn; print its operations and the bank, `whole` or what changed."""
    before, n_unusable = list(system.bank), system.counts["unusable facts"]
    observations = system.observe(turn)
    if system.counts["unusable facts"] > n_unusable:
        print(paint("  invalid:  the response that should list facts is not all JSON", "invalid"))
    elif not observations:
        print(paint("  no fact", "NOOP"))
    for observation in observations:
        show_operations(observation)
        show_bank(system.bank, before, whole)
        before = list(system.bank)


def show_answer(system: MemoryR1, question: str, asked: str) -> None:
    """Print what the answer agent selected, and its answer."""
    answer = system.answer(question, asked)
    selected = [line.strip().removeprefix("- ") for line in answer.selected.splitlines()]
    print("  selected:", printable(" | ".join(selected) or "nothing"))
    print("  answer:  ", paint(answer.text, "strong") if answer.text else
          f"none, in the response {answer.response!r}")


def show_operations(observation: Observation) -> None:
    """Print what the manager wrote, with memories instead of their numbers."""
    memories = observation.memories
    for operation in parse_operations(observation.response, len(memories))[0]:
        old = "" if operation.number is None else memories[operation.number].text
        print(f"  {paint(f'{operation.event:8}', operation.event)}",
              printable(" -> ".join(filter(None, (old, operation.text)))))
    n_invalid = observation.counts["invalid"]
    if n_invalid:
        print(paint(f"  invalid:  {n_invalid}, in the response {observation.response!r}",
                    "invalid"))


MARKS = {"": " ", "ADD": "+", "UPDATE": "~", "DELETE": "-"}


def show_bank(bank: MemoryBank, before: Sequence[Memory], whole: bool = True) -> None:
    """Print every memory behind its date; + is new, ~ was changed and - is gone since `before`.

    Not `whole`: print only what changed.
    """
    print(f"  {len(bank)} in the bank:" if whole else f"  {len(bank)} in the bank")
    for event, old, new in bank_changes(before, bank):
        if not whole and not event:
            continue
        memory = new or old
        line = printable(f"  {MARKS[event]} {memory.timestamp}: {memory.text}")
        print(paint(line, event) if event else line)


def talk_parser() -> argparse.ArgumentParser:
    """The options of `python memr1.py`."""
    parser = argparse.ArgumentParser(prog="memr1.py", description="Talk to Memory-R1.",
                                     allow_abbrev=False)
    parser.add_argument("--model", metavar="FOLDER", default=EMBEDDED_MODEL,
                        help="Hugging Face folder or hub name, a .gguf file, or smollm2 "
                             "(default: tiny/)")
    add_embedder(parser)
    parser.add_argument("--bank", metavar="FILE", help="keep the memories in this file, and begin "
                        "with those that it holds (default: they end with the chat)")
    parser.add_argument("--data", metavar="FILE", help="read this conversation into the memories "
                        "first: docs/own-data.md lists the forms")
    parser.add_argument("--conversation", metavar="NAME", help="which one, if --data has several")
    parser.add_argument("--skip", metavar="N", type=int, default=0,
                        help="turns of --data that an earlier chat has read (default: 0)")
    parser.add_argument("--facts", choices=("turns", "observations", "llm"),
                        help="of a turn of --data: as said, the data's observations, or those that "
                        "the model extracts (default: observations if there are some, else llm; "
                        "with tiny/ turns)")
    parser.add_argument("--max-new-tokens", metavar="N", type=int, help="longest response, 48 to "
                        "512; default: 48, or 512 if not tiny/")
    parser.add_argument("--name", help=f"who you are in the chat (default: {NAME}, or the "
                        "first speaker of --data)")
    return parser


def talk_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options as they were typed, the length filled in; stops the program on a bad one."""
    parser = talk_parser()
    options = parse(parser, argv)
    if options.data is None and (options.conversation or options.skip or options.facts):
        parser.error("--conversation, --skip and --facts are read only with --data; leave them out")
    if options.skip < 0:
        parser.error(f"--skip {options.skip}: must be at least 0")
    if options.max_new_tokens is None:
        options.max_new_tokens = preset_of(options, options.model)["max_new_tokens"]
    if options.max_new_tokens < 1:
        parser.error(f"--max-new-tokens {options.max_new_tokens}: must be at least 1")
    if options.bank is not None and (not Path(options.bank).name or Path(options.bank).is_dir()):
        parser.error(f"--bank {options.bank}: must be a file")
    return options


def name_of(options: argparse.Namespace, dialogue: Dialogue | None) -> str:
    """Who is speaking, on one line and without what a terminal would take for a command."""
    name = options.name
    if name is None:
        name = dialogue.speakers[0] if dialogue else NAME
    name = printable(one_line(name.encode(errors="replace").decode()))
    if not name:
        exit_with(f"--name is blank: give a name, such as {NAME}")
    return name


def talk_main(argv: Sequence[str] | None = None) -> None:
    """`python memr1.py`: read the options, load the model and chat."""
    options = talk_options(argv)
    dialogue, facts = None, ""
    if options.data:
        dialogue = conversation_of(options.data, options.conversation)
        facts = options.facts or usual_facts(options, options.data, options.model)
        stop_without_facts(options.data, facts, [dialogue])
        if options.skip > len(dialogue.turns):
            exit_with(f"--skip {options.skip}: the conversation has {len(dialogue.turns)} turns")
    name = name_of(options, dialogue)
    path = None if options.bank is None else Path(options.bank)
    embed = embedder_or_stop(options.embedder)
    prepare_terminal()
    bank = MemoryBank(embed) if path is None else open_bank(path, embed)
    policy = load_or_stop(options.model)
    say_other_start(policy, options.model, "manager")
    # Others who have talked to this bank are asked about too.
    speakers = list(dict.fromkeys([name, *(dialogue.speakers if dialogue else ()),
                                   *(memory.speaker for memory in bank)]))
    system = MemoryR1(policy, policy, embed, speakers, max_new_tokens=options.max_new_tokens)
    system.bank = bank
    if dialogue:
        if is_embedded(options.model):
            print("The embedded model knows only the words of the synthetic world; a real "
                  "conversation needs a real model (--model).")
        # Responses are kept on disk, so that what Ctrl-C has ended is soon read again.
        reader = MemoryR1(KeptPolicy(policy), policy, embed, speakers, facts,
                          max_new_tokens=options.max_new_tokens)
        reader.bank = bank
        read_conversation(reader, dialogue.turns, options.skip, path)
    talk(system, is_embedded(options.model), path)
    release_locks()
