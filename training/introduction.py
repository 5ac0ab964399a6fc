"""The first screen of a training run: what learns, from what, what pays, how long, options."""

from __future__ import annotations

import dataclasses
from typing import Any

from training.options import flag
from world import named_world

LEARNERS = {
    "manager": "the Memory Manager, which changes a bank of memories at each new fact",
    "answer": "the Answer Agent, which selects from a bank of memories and answers",
    "mem1": "MEM1, which works through several questions with one state as its memory",
}
UNITS = {"manager": "decisions", "answer": "questions", "mem1": "tasks"}
WIDTH = 48  # of a column


def given_options(options: Any) -> list[str]:
    """The names of the options that differ from what nobody types."""
    return [f.name for f in dataclasses.fields(options)
            if getattr(options, f.name) != f.default]


def what_pays(options: Any, algorithm: str) -> str:
    """What the agent is rewarded for, in words."""
    if algorithm == "sft":
        if options.agent == "manager" and not (options.trajectories or named_world(options.data)):
            return "none: it imitates an expert that adds every fact in its own words"
        return "none: it imitates an expert's responses"
    if options.agent == "mem1":
        return ("the number of questions that are answered exactly right" if options.env == "search"
                else "how well the purchase fits its goal, 0 to 1")
    score = {"exact_match": "1 if {} exactly right, else 0",
             "f1": "the F1 of the answer: {} as right as that",
             "judge": "1 if {} right to the judge {judge}, else 0"}[options.reward]
    if options.agent == "answer":
        return score.format("its answer is", judge=options.judge)
    frozen = f"a frozen answer agent ({options.answerer or 'the start model'})"
    if getattr(options, "span", 1) > 1:
        kind = {"exact_match": "share exactly right", "f1": "mean F1",
                "judge": f"share right to the judge {options.judge}"}[options.reward]
        return f"the {kind}, of several answers of {frozen}"
    return score.format(f"the answer of {frozen} is then", judge=options.judge)


def typed(name: str, value: Any) -> str:
    """An option with its value, as one would type it.

    >>> typed("max_new_tokens", 48), typed("distill", False), typed("lr", 3e-4)
    ('--max-new-tokens 48', '--no-distill', '--lr 0.0003')
    """
    if isinstance(value, bool):
        return flag(name if value else f"no_{name}")
    return f"{flag(name)} {value:g}" if isinstance(value, float) else f"{flag(name)} {value}"


def option_columns(options: Any, given: list[str]) -> list[str]:
    """The options in two columns, row by row: those given first, with a star.

    Left out are those that this agent does not read, and what is off by default.
    """
    readers = {f.name: f.metadata["agents"] for f in dataclasses.fields(options)}
    names = sorted(readers, key=lambda name: name not in given)  # stable: else in order
    cells = [f"{'*' if name in given else ' '} {typed(name, getattr(options, name))}"
             for name in names if name in given or (
                 getattr(options, name) is not None and getattr(options, name) is not False
                 and (not readers[name] or options.agent in readers[name]))]
    return ["".join(cell.ljust(WIDTH) for cell in cells[place:place + 2]).rstrip()
            for place in range(0, len(cells), 2)]


def first_screen(options: Any, given: list[str], algorithm: str, counts: tuple[int, int, int],
                 n_weights: int, n_learned: int) -> str:
    """The screen as text. `counts` are the tasks to train, validate and test on.

    `n_weights` are all weights of the model, and `n_learned` those that training changes.
    """
    unit, (n_train, n_validation, n_test) = UNITS[options.agent], counts
    span = getattr(options, "span", 1)
    episodes = f"spans of {span} decisions" if span > 1 else unit
    source = f"{n_train:,} {episodes} ({options.data}); {n_validation:,} others"
    if getattr(options, "trajectories", None):
        episodes = "chats"
        source = f"the chats of {options.trajectories}; of {options.data} {n_validation:,}"
    samples = f", {options.group_size} samples of each" if hasattr(options, "group_size") else ""
    return "\n".join([
        f"{algorithm} trains {LEARNERS[options.agent]}.",
        f"  from     {source} validate, {n_test:,} test",
        f"  reward   {what_pays(options, algorithm)}",
        f"  model    {options.model}: {n_weights:,} weights, {n_learned:,} of them learn",
        f"  length   {options.steps} steps of {options.questions} {episodes}{samples}; the bar "
        "shows the time left",
        f"  folder   {options.out}",
        "Options, those that were given first (*); --help explains them:",
        *option_columns(options, given)])
