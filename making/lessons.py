"""Teaching by imitation: the command line and the training loop of both makers.

A lesson is a prompt with a response to imitate (`Policy.lesson`), or with several, each of which is
to be as likely as its weight says. What is shown stands in manager.py and mem1.py; how a model
learns from it stands here and is the same for both.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from backend.devices import exit_with, print_anything
from backend.loading import PolicyError, add_old_rope, save_tokenizer
from making.wiring import WEIGHTS
from policy import Policy, load_policy
from training.options import refusal
from trees import Step

MICRO_BATCH_TOKENS = 12000


class Lesson(NamedTuple):
    """Steps that begin alike, and how much each of their response tokens counts.

    Two responses to one prompt, of weights 0.6 and 0.4 wherever they differ, teach a model to write
    the first six times in ten. To show both each time is the mean of drawing one of them, without
    the noise of the draw.
    """

    steps: list[Step]
    weights: list[list[float]]  # a list for each step


def evenly(steps: Sequence[Step]) -> Lesson:
    """A lesson in which all tokens count alike."""
    return Lesson(list(steps), [[1.0] * len(step.response_ids) for step in steps])


def crossroads(step: Step) -> list[bool]:
    """Response token by response token: could a copy take the wrong turn there?

    So it is where the three tokens before stand elsewhere too, in the prompt or in the response,
    with another token behind them. "10. What cats does Julia" goes on with "'s friend", and an
    earlier question with "have"; of two memories "Julian has a dog named" goes on in two ways. The
    heads that copy compare just three tokens (wiring.py), so this is where they slip. In MEM1's
    lessons one token in six is of this kind.
    """
    ids = step.prompt_ids + step.response_ids
    triples = list(zip(ids, ids[1:], ids[2:]))
    behind: dict[tuple[int, int, int], set[int]] = defaultdict(set)
    for triple, following in zip(triples, ids[3:]):
        behind[triple].add(following)
    first = len(step.prompt_ids) - 3  # of the triples before a response token
    return [len(behind[triple]) > 1 for triple in triples[first:-1]]


def make_parser(command: str, description: str, n_steps: int, out: str) -> argparse.ArgumentParser:
    """The options that both commands share; an error in them is one line, exit code 2."""
    print_anything()
    parser = argparse.ArgumentParser(prog=command, description=description, allow_abbrev=False)
    parser.error = lambda message: exit_with(f"{message}; --help lists all options")
    parser.add_argument("--steps", type=int, default=n_steps, metavar="INT",
                        help=f"training steps (default: {n_steps})")
    parser.add_argument("--start", metavar="FOLDER", help="go on from the model of this folder, "
                        "with a fresh optimizer and the last lessons")
    parser.add_argument("--lr", type=float, default=2e-3, metavar="FLOAT",
                        help="learning rate (default: 2e-3)")
    parser.add_argument("--seed", type=int, default=0, metavar="INT",
                        help="of weights and lessons (default: 0)")
    parser.add_argument("--out", type=Path, default=Path(out), metavar="FOLDER",
                        help=f"a new folder for the model (default: {out})")
    return parser


def begin(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options, make the folder, seed torch; returns the options.

    Stops the program with one line if a number is out of its range, or as `make_folder` does.
    """
    options = parser.parse_args(argv)
    for name, low, high in (("steps", 1, None), ("lr", 1e-12, 1), ("seed", 0, 2**32 - 1)):
        limits = {"choices": (), "low": low, "high": high}
        if reason := refusal(name, getattr(options, name), limits):
            parser.error(reason)
    make_folder(options.out)
    torch.manual_seed(options.seed)
    return options


def start_of(options: argparse.Namespace) -> Policy | None:
    """The model of `--start`, to learn on in float32; None without the option.

    Stops the program with one line if there is no such model.
    """
    if not options.start:
        return None
    try:
        # Not `load_or_stop`: it loads models to be read, in bfloat16 where that is faster.
        return load_policy(options.start, precision="float32")
    except PolicyError as error:
        exit_with(str(error))


def make_folder(folder: Path) -> None:
    """Make the folder for a model; stop the program with one line if it holds files already.

    A model is saved before it has learned everything, so no older model may stand in its place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = not any(folder.iterdir())
    except OSError as error:
        exit_with(f"--out {folder}: no folder can be made there ({error.strerror}); choose another")
    if not is_empty:
        exit_with(f"--out {folder}: the folder holds files, which a new model would replace; "
                  "choose another folder, or empty this one")


def learn(policy: Policy, optimizer: torch.optim.Optimizer, lessons: Sequence[Lesson]) -> float:
    """Take one step of imitation on some lessons; returns the loss, a weighted mean over tokens."""
    weights = torch.tensor([weight for lesson in lessons for of_step in lesson.weights
                            for weight in of_step])  # (N,)
    log_probs = policy.token_log_probs([lesson.steps for lesson in lessons])  # (N,)
    loss = -(weights * log_probs).sum() / weights.sum()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def save(policy: Policy, folder: Path) -> None:
    """Write the model as it is now; training goes on with the one in memory."""
    copy.deepcopy(policy.model).to(WEIGHTS).save_pretrained(folder)
    add_old_rope(folder)
    save_tokenizer(policy.tokenizer, folder)
    # The same file without its line breaks is half as large.
    policy.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def teach(policy: Policy, options: argparse.Namespace, embedded: Path,
          lessons_of: Callable[[int], list[Lesson]],
          scores_of: Callable[[], dict[str, float]]) -> None:
    """Train on the lessons of each step, from 1; score and save every 100 steps and at the end.

    `embedded` is the folder in which the project looks for the model. The last line names it,
    because nothing is replaced there.
    """
    model = policy.model
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, "
          f"{len(policy.tokenizer)} tokens")
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.95),
                                  weight_decay=0.01)
    # A warm-up of 50 steps; over the second half the learning rate falls to 0.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n_done: min(
        (n_done + 1) / 50, 1.0, 2 * (1 - n_done / options.steps)))
    start = time.time()
    for step in range(1, options.steps + 1):
        loss = learn(policy, optimizer, lessons_of(step))
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}  loss {loss:.3f}  {time.time() - start:.0f} s", flush=True)
        if step % 100 == 0 or step == options.steps:
            print("  ".join(f"{name} {value:.3f}" for name, value in scores_of().items()),
                  flush=True)
            save(policy, options.out)  # a long run may be cut short
    print(f"saved to {options.out}; copy its files into {embedded} to put the model in place")
