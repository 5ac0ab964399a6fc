"""Watch MEM1 work: a task turn by turn, once in constant context, once with everything kept.

    python mem1.py                                          held-out tasks of the world
    python mem1.py --objectives 8 --model runs/grpo-mem1/checkpoint
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from backend.loading import PolicyError
from environments import SearchTask, search_tasks
from mem1 import STOP, Mem1Agent, parse_turn
from metrics import split_answers
from policy import Policy
from tools.terminal import (
    add_embedder,
    mark_unknown,
    paint,
    parse,
    prepare_terminal,
    printable,
    refuse_command,
    typed_lines,
)
from training.options import EMBEDDED_MEM1, is_embedded, preset_of
from training.run import embedder_or_stop, load_or_stop, say_other_start
from world import world_splits

MEM1_HELP = """\
Enter works through the next task, a number through the task of that number.
Questions with semicolons between them are asked of the same corpus as the last task. The embedded
model understands questions as the tasks ask them; words that it never read are marked.
/corpus shows what can be found, /help this text, /quit or the end of input leaves. Ctrl-C stops a
model that is writing."""
TOKENS_A_MARK = 20  # of the bars


def work(policy: Policy, agent: Mem1Agent, task: SearchTask, n_gold: int) -> int:
    """Work through one task and print every turn as it is made; returns the peak of tokens.

    The first `n_gold` answers of the task are known; with none, nothing is said of what is right.
    """
    trajectory = agent.begin(task)
    print()
    print(paint(f"== {agent.harness} ==", "strong"))
    print(printable(trajectory.text))
    peak, remembered = 0, set()
    while not trajectory.done:
        prompt = agent.prompt(policy, trajectory).ids
        for place in sorted(remembered - set(trajectory.remembered)):
            print(paint(f"         turn {place + 1} is dropped", "quiet"))
        remembered = {*trajectory.remembered, len(trajectory.past)}
        [[step]] = policy.sample([prompt], 1, agent.max_new_tokens, 0, stop_texts=STOP)
        response = policy.decode(step.response_ids)
        trajectory.advance(step, response, agent.kind)
        n_tokens = len(step.prompt_ids) + len(step.response_ids)
        peak = max(peak, n_tokens)
        print(f"turn {len(trajectory.steps):2}, {n_tokens:5} tokens in context "
              + paint("#" * min(n_tokens // TOKENS_A_MARK, 60), "quiet"))
        show_turn(response, agent.kind, trajectory.turns[-1]["info"])
    if n_gold:
        all_right = trajectory.reward == n_gold
        print("gold:  ", printable("; ".join(task.answers)))
        print(paint(f"right: {trajectory.reward:.0f} of {n_gold}",
                    "right" if all_right else "wrong"))
    return peak


def show_turn(response: str, kind: str, info: str) -> None:
    """Print the note and the action of a turn, and what came back; or that it was unusable."""
    parsed = parse_turn(response, kind)
    if parsed is None:
        print(paint(f"  invalid {response}", "invalid"))
        return
    note, action, text = parsed
    print(f"  {'state' if kind == 'mem1' else 'note':7}", printable(note))
    print(f"  {action:7}", paint(text, "strong"))
    for line in info.splitlines():
        print(paint(f"    {line}", "quiet"))


def compare(policy: Policy, agents: Sequence[Mem1Agent], task: SearchTask, n_gold: int) -> None:
    """Work through one task twice, with a state and with everything kept; Ctrl-C stops it."""
    try:
        with_state, with_all = (work(policy, agent, task, n_gold) for agent in agents)
        print(f"\nMost tokens in context: {with_state} with a state, {with_all} with everything "
              "kept.")
    except KeyboardInterrupt:
        print("\n  Stopped.")
    except PolicyError as error:  # what was found is too long for the model
        print(f"  {error}")


def watch(policy: Policy, agents: Sequence[Mem1Agent], tasks: Sequence[SearchTask],
          first: int, in_the_world: bool = True) -> None:
    """Work through task `first`, and then through what `input` asks for, until the end of input.

    `in_the_world` is for the embedded model: words that it cannot read are marked.
    """
    place, task = first, tasks[first]
    print(f"MEM1: {len(tasks)} held-out tasks; Enter for the next, /help for more, /quit leaves.")
    compare(policy, agents, task, len(task.questions))
    for line in typed_lines("mem1> "):
        if line == "/help":
            print(MEM1_HELP)
        elif line == "/corpus":
            print(*(f"  {printable(memory.text)}" for memory in task.corpus), sep="\n")
        elif line.startswith("/"):
            refuse_command(line)
        elif not line or line.isdecimal():
            number = int(line) if line else (place + 1) % len(tasks)
            if number >= len(tasks):
                print(f"  There is no task {number}: 0 to {len(tasks) - 1}.")
                continue
            place, task = number, tasks[number]
            compare(policy, agents, task, len(task.questions))
        elif questions := tuple(filter(None, split_answers(line))):  # at the same semicolons
            if in_the_world:
                mark_unknown(policy, " ".join(questions))
            n = len(questions)  # nobody knows their answers
            task = SearchTask(questions, ("",) * n, (0,) * n, task.passages, task.embed)
            compare(policy, agents, task, n_gold=0)


def watch_main(argv: Sequence[str] | None = None) -> None:
    """`python mem1.py`: held-out tasks of the world, in constant context and with everything."""
    parser = argparse.ArgumentParser(prog="mem1.py", description="Watch MEM1 work.",
                                     allow_abbrev=False)
    parser.add_argument("--model", metavar="FOLDER", default=EMBEDDED_MEM1,
                        help="Hugging Face folder or hub name, a .gguf file, or smollm2 "
                             "(default: tiny/mem1/)")
    add_embedder(parser)
    parser.add_argument("--objectives", type=int, default=4,
                        help="questions in a task, 1 to 16 (default: 4)")
    parser.add_argument("--task", type=int, default=0, help="the first task, from 0 (default: 0)")
    options = parse(parser, argv)
    if options.objectives < 1:
        parser.error(f"--objectives {options.objectives}: must be at least 1")
    embed = embedder_or_stop(options.embedder)
    tasks = search_tasks(world_splits()[2], options.objectives, embed)
    if not 0 <= options.task < len(tasks):
        parser.error(f"--task {options.task}: there are {len(tasks)} tasks of "
                     f"{options.objectives} questions")
    policy = load_or_stop(options.model)
    say_other_start(policy, options.model, "mem1")
    prepare_terminal()
    length = preset_of(argparse.Namespace(agent="mem1"), options.model)["max_new_tokens"]
    agents = [Mem1Agent(harness=harness, max_new_tokens=length)
              for harness in ("mem1", "full_context")]
    watch(policy, agents, tasks, options.task, is_embedded(options.model))
