"""What a training loop holds while it learns, and the loop's steps themselves.

    state.steps()                   the questions of each step that is still to do
        ...                         sample, compare, push: in grpo.py, ppo.py and sft.py
        state.log(metrics, ...)     one line of metrics.csv; now and then a validation

Between two steps everything can be saved to resume.pt (training/checkpoints.py) and put back from
there. Each of many devices gets its share of the questions. What the devices count is added up in
this file, so that a loop speaks of one device only.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from backend import devices
from memr1 import ManagerAgent
from training.checkpoints import FILE, CheckpointError, file_size, resume_command, write
from training.results import CHECKPOINT, describe, save, save_dialogue, validate
from training.run import Run
from trees import Episode

LOGS = ("metrics.csv", "samples.jsonl", "cases.jsonl", "dialogue.jsonl")
BAD_STEPS = 3  # steps without a finite gradient, in a row, that end the run
SAMPLES_EVERY, VALIDATE_EVERY = 10, 8  # steps
# Column of metrics.csv -> the share of the tokens whose ratio is off by no more.
RATIO_ERRORS = {"ratio_error_median": 0.5, "ratio_error_p99": 0.99, "ratio_error": 1.0}

Scheduler = torch.optim.lr_scheduler.LambdaLR


def warm_up_then_decay(optimizer: torch.optim.Optimizer, n_steps: int) -> Scheduler:
    """The learning rate rises over four steps, under a line that falls from all of it to a tenth.

    So the rate peaks where the two meet: in a run of 20 steps at 0.865 of `--lr`, in the fourth.
    Adam's first steps have the full length whatever the gradient, so they are made short. Later the
    rate falls, because at a constant rate the reward drifts down again after its peak.
    """
    return Scheduler(optimizer, lambda step: min(
        (step + 1) / 4, 1 - 0.9 * step / max(n_steps, 1)))


def reading_steps(n_steps: int) -> set[int]:
    """The validations at which a manager also reads a whole dialogue: the ends, two between.

    Only two, because a reading takes seconds with the embedded model, and minutes with a real one.
    """
    between = range(VALIDATE_EVERY, n_steps, VALIDATE_EVERY)
    nearest = [min(between, key=lambda step: abs(step - n_steps * share))
               for share in (1 / 3, 2 / 3) if between]
    return {0, n_steps, *nearest}


class TokenMetrics:
    """Metrics of one step: means over its tokens, and how `ratio_error` is spread over them.

    They describe the policy before its first update, so they are taken in the first epoch. Only
    `clip_fraction` is taken in the last epoch, because nothing can be clipped before an update.
    `skipped` is 1 if an update was left out, else 0.

    A mean would hide what `ratio_error` is for: rounding in bfloat16 moves few tokens, and those
    far. So its column is the worst token, and two more are the median and the 99th percentile.
    """

    def __init__(self, n_tokens: int, epochs: int = 1):
        self.n_tokens = sum(devices.gather([n_tokens]))  # of all devices
        self.last_epoch = epochs - 1
        self.sums = Counter()
        self.ratio_errors: list[Tensor] = []  # (m,) of each micro-batch
        self.skipped = 0

    def add(self, epoch: int, **values: Tensor) -> None:
        """Count the tokens of one micro-batch, (m,) of each metric."""
        for name, tokens in values.items():
            self.sums[name] += 0.0  # the column exists even if the step ends before its epoch
            if epoch != (self.last_epoch if name == "clip_fraction" else 0):
                continue
            if name == "ratio_error":
                self.ratio_errors.append(tokens)
            else:
                self.sums[name] += tokens.sum().item() / self.n_tokens

    def columns(self) -> dict[str, float]:
        """The step's columns of metrics.csv, over the tokens of all devices."""
        columns = dict(devices.add_up(Counter(self.sums, skipped=self.skipped)))
        if self.ratio_errors:
            errors = devices.all_of(torch.cat(self.ratio_errors)).sort().values  # (N,)
            for name, share in RATIO_ERRORS.items():
                columns[name] = errors[int(share * (len(errors) - 1))].item()
        return columns


class TrainingState:
    """What a training loop has to remember.

    `history` holds the rows of metrics.csv, `scores` the validation scores by step. In a resumed
    run modules, optimizer and schedule are put back to where the checkpoint left them.
    """

    def __init__(self, run: Run, modules: dict[str, torch.nn.Module],
                 optimizer: torch.optim.Optimizer, schedule: Scheduler):
        self.run, self.modules, self.optimizer, self.schedule = run, modules, optimizer, schedule
        # Two devices must not draw the same samples.
        self.generator = torch.Generator(run.policy.device).manual_seed(
            devices.own_seed(run.options.seed))
        self.history: list[dict[str, float]] = []
        self.scores: dict[int, float] = {}
        self.interrupted = False
        self.path = run.folder / FILE
        if run.saved is not None:
            self._restore(run.saved)
            run.saved = None
        self.progress = tqdm(total=run.options.steps, initial=len(self.history),
                             desc=run.algorithm, ncols=100, disable=not devices.is_main())

    def steps(self, items: Sequence | None = None) -> Iterator[list]:
        """This device's tasks, or other items to learn from, of every step that is still to do.

        The start model is validated first, unless the run is resumed. After each step the run is
        saved if that is due, after the last one the trained model. Ctrl-C lets the step finish,
        saves and ends the program; a second Ctrl-C ends it at once. SIGTERM does the same, because
        clusters send it when the time is up.
        """
        if not self.scores and not self.history:
            self._validate(0)
        # torchrun also sends SIGTERM to end the others when one rank has died (backend/devices.py).
        signals = [signal.SIGINT] if devices.world_size() > 1 else [signal.SIGINT, signal.SIGTERM]
        earlier = {number: signal.signal(number, self._on_interrupt) for number in signals}
        batches = islice(self.run.batches(items), len(self.history), None)
        try:
            for step in range(len(self.history) + 1, self.run.options.steps + 1):
                self.started = time.time()
                yield devices.spread(next(batches))
                self.progress.update()
                self._save_or_stop(step)
            self._save_model()
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)
            self.progress.close()

    def log(self, metrics: TokenMetrics, grad_norm: float,
            groups: Sequence[Sequence[Episode]] = (), **columns: float) -> None:
        """One step is done: a row of metrics.csv, samples as text, and a validation when due.

        `groups` are the episodes that were sampled; `columns` are further columns, the same on all
        devices.
        """
        run, step = self.run, len(self.history) + 1
        sums = metrics.columns()
        episodes = devices.gather(list(groups))
        seconds = time.time() - self.started
        self.history.append({
            "step": step, **(describe(episodes) if episodes else {}), **sums,
            "grad_norm": grad_norm, **columns, "lr": self.schedule.get_last_lr()[0],
            "seconds": seconds})
        self.schedule.step()
        run.n_tokens += metrics.n_tokens
        sizes = self._log_sizes()
        try:
            run.log_step(self.history[-1])
            if step % SAMPLES_EVERY == 0 or step == 1:
                run.log_samples(step, episodes)
            if step % VALIDATE_EVERY == 0 or step == run.options.steps:
                self._validate(step)
        except OSError as error:
            if devices.world_size() > 1:  # the others are already waiting for the next step
                raise
            for name, size in sizes.items():  # cut off the half of a line; the step is in resume.pt
                if (run.folder / name).exists():
                    os.truncate(run.folder / name, size)
            self._rescue(f"cannot write to {run.folder} ({error.strerror})")
        shown = {name: f"{self.history[-1][name]:.3f}" for name in ("reward", "kl", "loss")
                 if name in self.history[-1]}
        self.progress.set_postfix(**shown, tok_s=f"{metrics.n_tokens / seconds:.0f}")

    def _validate(self, step: int) -> None:
        """Score the agent as it is now; at some steps a manager also reads the dialogue."""
        run = self.run
        if run.validation:  # a small file may leave none, and no score is not a score of 0
            self.scores[step] = validate(run, step)
        reads = run.options.agent == "manager" and run.test_dialogues and not run.options.limit
        if reads and step in reading_steps(run.options.steps):
            save_dialogue(run, step)

    # ---- Saved and put back ----------------------------------------------------------------------

    def _save_or_stop(self, step: int) -> None:
        """What is due after a step."""
        options, is_last = self.run.options, step == self.run.options.steps
        skips = [row["skipped"] for row in self.history[-BAD_STEPS:]]  # 1 or 0
        if sum(skips) == BAD_STEPS:
            older = f"; {self.path} is as it was before them" if self.path.exists() else ""
            self._stop(f"steps {step - BAD_STEPS + 1} to {step}: a gradient was not finite in "
                       f"each of them; lower --lr or raise --kl{older}")
        # With --compare MEM1's other harnesses are trained next, and may be interrupted too.
        is_due = is_last and (options.save_every or options.compare) or (
            options.save_every and step % options.save_every == 0)
        self._leave_if_interrupted()
        # Not after a skipped step, so that the file stays as it was before bad steps.
        if is_due and not skips[-1]:
            self.save()

    def _leave_if_interrupted(self) -> None:
        """Save and end the program if Ctrl-C or SIGTERM has come to any device."""
        if not any(devices.gather([self.interrupted])):
            return
        self.save()
        self.progress.close()
        if devices.is_main():
            print(f"interrupted after step {len(self.history)} of {self.run.options.steps}; go on "
                  f"with: {resume_command()}", file=sys.stderr)
        raise SystemExit(130)

    def _save_model(self) -> None:
        """Write the trained model; if that fails, resume.pt, and say how to go on."""
        folder, reason = self.run.folder / CHECKPOINT, ""
        try:
            save(self.run.policy, folder)
        except Exception as error:  # on a full disk OSError, or the library's SafetensorError
            reason = f"cannot write {folder} ({' '.join(str(error).split())[:120]})"
        reason = "".join(devices.gather([reason]))  # all ranks stop, or none
        if reason:
            self._rescue(reason)
        self._leave_if_interrupted()

    def _rescue(self, reason: str) -> NoReturn:
        """Try to keep the training in resume.pt, and end the program: what to do, in one line."""
        self.save(reason)
        self._stop(f"step {len(self.history)}: {reason}, but {self.path} holds all that was "
                   f"learned; make room, then go on with: {resume_command()}")

    def _on_interrupt(self, *_: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        if devices.is_main():
            print("\nfinishing this step, then saving; Ctrl-C again stops at once", file=sys.stderr)

    def save(self, reason: str = "") -> None:
        """Write resume.pt; stops the program with one line if that fails.

        `reason` is what had gone wrong before.
        """
        try:
            with devices.gathered(*self.modules.values()):
                content = self._content()  # all ranks: sharded tensors are put together
                if devices.is_main():
                    write(self.path, content)
            devices.gather([])  # no rank may go on, or end, before the file is whole
        except CheckpointError as error:
            message = f"step {len(self.history)}: {reason + ', and ' if reason else ''}{error}"
            if self.path.exists():
                message += f"; the last whole one is kept: {resume_command()}"
            else:
                message += "; nothing is kept of this run: make room, and start it again"
            self._stop(message)

    def _stop(self, message: str) -> NoReturn:
        self.progress.close()  # a line of its own
        devices.exit_with(message)

    def _content(self) -> dict[str, Any]:
        """What resume.pt holds: `CONTENT` in training/checkpoints.py."""
        run = self.run
        for name in LOGS:  # the lines that `sizes` counts must be on the disk as well
            if devices.is_main() and (run.folder / name).exists():
                with (run.folder / name).open("rb+") as file:
                    os.fsync(file.fileno())
        before = run.before and (run.before[0], [(e.reward, e.log) for e in run.before[1]])
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {
            number: {name: devices.whole(value) for name, value in moments.items()}
            for number, moments in optimizer["state"].items()}
        return {
            "identity": run.identity, "before": before, "rows": self.history,
            "scores": self.scores, "n_tokens": run.n_tokens, "seconds": time.time() - run.started,
            "sizes": self._log_sizes(),
            "modules": {name: trained(module) for name, module in self.modules.items()},
            "optimizer": optimizer, "schedule": self.schedule.state_dict(),
            "ranks": devices.gather([self._of_this_rank()]),
        }

    def _log_sizes(self) -> dict[str, int]:
        return {name: file_size(self.run.folder / name) for name in LOGS}

    def _of_this_rank(self) -> dict[str, Any]:
        """What differs from rank to rank."""
        return {
            "sampler": self.generator.get_state(),
            "torch": torch.get_rng_state(), "python": random.getstate(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "outcomes": numbered_outcomes(self.run),
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        run, of_this_rank = self.run, saved["ranks"][devices.rank()]
        self.history, self.scores, run.n_tokens = saved["rows"], saved["scores"], saved["n_tokens"]
        run.started -= saved["seconds"]
        for name, module in self.modules.items():
            for key, value in trained(module).items():
                value.copy_(devices.piece(saved["modules"][name][key], value))
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        # Copies, because a file that is still mapped cannot be replaced on Windows.
        state = {number: {name: (devices.piece(value, parameters[number]) if value.ndim
                                 else value).clone() for name, value in moments.items()}
                 for number, moments in saved["optimizer"]["state"].items()}
        self.optimizer.load_state_dict({**saved["optimizer"], "state": state})
        self.schedule.load_state_dict(saved["schedule"])
        self.generator.set_state(of_this_rank["sampler"])
        torch.set_rng_state(of_this_rank["torch"])
        random.setstate(of_this_rank["python"])
        if of_this_rank["cuda"] is not None:
            torch.cuda.set_rng_state(of_this_rank["cuda"])
        restore_outcomes(run, of_this_rank["outcomes"])
        if devices.is_main():
            for name, size in saved["sizes"].items():
                if (run.folder / name).exists():
                    os.truncate(run.folder / name, size)


def trained(module: torch.nn.Module) -> dict[str, Tensor]:
    """What training changes in a module, by name: weights with gradients, and buffers."""
    weights = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    return weights | dict(module.named_buffers())


def numbered_outcomes(run: Run) -> list[tuple[int, int, str, dict]]:
    """What the manager's frozen answer agent said after each decision.

    Each is (task, memories that were dropped from its prompt, response, outcome). A task stands as
    its number among all tasks of the run.
    """
    if not isinstance(run.agent, ManagerAgent):
        return []
    number = {task: i for i, task in enumerate([*run.train, *run.validation, *run.test])}
    return [(number[replace(task, n_dropped=0)], task.n_dropped, response, outcome)
            for (task, response), outcome in run.agent.outcomes.items()]


def restore_outcomes(run: Run, outcomes: list[tuple[int, int, str, dict]]) -> None:
    """Put back what `numbered_outcomes` returned."""
    tasks = [*run.train, *run.validation, *run.test]
    if outcomes:
        run.agent.outcomes = {(replace(tasks[number], n_dropped=n_dropped), response): outcome
                              for number, n_dropped, response, outcome in outcomes}
