"""Interrupted and resumed: all that changes while a model learns, in one file, `resume.pt`.

A run that was killed and goes on with `--resume` must end where it would have ended otherwise, bit
for bit. Weights alone do not do that. The file holds

- the trained weights, and of the others nothing: they are those of the start model
- the optimizer's moments and step counts, and the schedule of the learning rate
- every random state: the sampler's, torch's and Python's, of each rank
- the number of steps done, from which the position in the data follows (the order of the questions
  is drawn from `--seed` alone)
- what the manager's frozen judge said so far: asked again in other batches it might round otherwise
- for the report: the rows of metrics.csv, scores, tokens and seconds so far, and how long
  metrics.csv and samples.jsonl were: what was written behind is cut off
- what the run was, to refuse another one: options, fingerprint of the start model, number of ranks

It is written beside the last one and takes its place only when it is whole and on the disk, so at
every moment one whole file is there. It needs room for two: 12 bytes a trained weight each.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shlex
import signal
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from tqdm import tqdm

from backend import devices
from trees import Episode

if TYPE_CHECKING:
    from training.run import Run

FILE = "resume.pt"
LOGS = ("metrics.csv", "samples.jsonl", "cases.jsonl")
BAD_STEPS = 3  # so many in a row without a finite gradient end the run
# What resume.pt holds: see `TrainingState._content`.
CONTENT = {"identity", "before", "rows", "scores", "n_tokens", "seconds", "sizes", "modules",
           "optimizer", "schedule", "ranks"}
FREE = ("model", "out", "resume", "save_every")  # options that may change on resuming


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or used; the message is one line."""


# ---- The file ------------------------------------------------------------------------------------


def fingerprint(model: torch.nn.Module) -> str:
    """Twelve letters that tell models apart: of every weight a thousand numbers."""
    found = hashlib.sha256()
    for name, parameter in model.named_parameters():
        values = parameter.detach().flatten()
        values = values[:: max(1, len(values) // 1000)].float().cpu()
        found.update(f"{name} {tuple(parameter.shape)}".encode() + values.numpy().tobytes())
    return found.hexdigest()[:12]


def identity(options: Any, algorithm: str, model: torch.nn.Module, n_tasks: int,
             ) -> dict[str, Any]:
    """What must be equal for a run to go on: by the names that a message can use."""
    kept = {f"--{name.replace('_', '-')}": value for name, value in vars(options).items()
            if name not in FREE}
    return {"algorithm": algorithm, **kept, "the start model": fingerprint(model),
            "tasks to learn from": n_tasks, "devices": devices.world_size()}


def read(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint in a run folder. Raises CheckpointError if there is none of such a run."""
    path = folder / FILE
    if not path.exists() and (folder / "summary.json").exists():
        raise CheckpointError(f"{folder} holds a finished run; to train its model further, start "
                              f"with --model {folder / 'checkpoint'} and another --out")
    if not path.exists():
        raise CheckpointError(f"{path}: there is nothing to resume; start without --resume "
                              "(--save-every writes checkpoints)")
    try:
        with zipfile.ZipFile(path) as file:  # which has a checksum of each part
            if broken := file.testzip():
                raise ValueError(f"{broken} in it is damaged")
        # Weights only: the file can hold data and no code. Mapped: read as it is needed.
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if absent := CONTENT - saved.keys():
            raise ValueError(f"it lacks {', '.join(sorted(absent))}")
        found = saved["identity"]
    except Exception as error:  # whatever a broken file makes the library raise
        raise CheckpointError(f"{path} cannot be read ({' '.join(str(error).split())[:120]}); "
                              "delete it and start without --resume") from error
    different = [f"{name} {found.get(name)} there, {wanted.get(name)} here"
                 for name in dict.fromkeys([*wanted, *found])
                 if found.get(name) != wanted.get(name)]
    if found.get("algorithm") != wanted.get("algorithm"):
        different = different[:1]  # which has other options, too: the algorithm says enough
    if different:
        raise CheckpointError(f"{path} is of another run: {'; '.join(different)}; give what it was "
                              "started with, or choose another --out")
    for name, size in saved["sizes"].items():
        if size > _size(folder / name):
            raise CheckpointError(f"{folder / name} lacks lines that {FILE} counts on; put it "
                                  "back, or start without either file")
    return saved


def write(path: Path, content: dict[str, Any]) -> None:
    """Put a checkpoint in the place of the last, whole or not at all; raises CheckpointError."""
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        if hasattr(os, "O_DIRECTORY"):  # the new name must be on the disk too
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise CheckpointError(f"cannot write {path} ({' '.join(str(error).split())[:120]})"
                              ) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# ---- The state -----------------------------------------------------------------------------------


class TrainingState:
    """What a training loop has to remember, and the loop's steps themselves.

    `rows` and `scores` are the logged rows and the validation scores by step. When the run is
    resumed, everything that was handed in is as it was after the checkpoint's last step.
    """

    def __init__(self, run: Run, modules: dict[str, torch.nn.Module],
                 optimizer: torch.optim.Optimizer, schedule: Any,
                 generator: torch.Generator | None = None):
        self.run, self.modules, self.optimizer = run, modules, optimizer
        self.schedule, self.generator = schedule, generator
        self.rows: list[dict[str, float]] = []
        self.scores: dict[int, float] = {}
        self.interrupted = False
        self.path = run.folder / FILE
        if run.saved is not None:
            self._restore(run.saved)
            run.saved = None
        self.progress = tqdm(total=run.options.steps, initial=len(self.rows), desc=run.algorithm,
                             ncols=100, disable=not devices.is_main())

    def steps(self) -> Iterator[int]:
        """The numbers of the steps still to do; after each, save or stop if it is time to.

        Ctrl-C finishes the step, saves and ends the program; a second one ends it at once.
        """
        before = signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            for step in range(len(self.rows) + 1, self.run.options.steps + 1):
                yield step
                self.progress.update()
                self._after(step)
        finally:
            signal.signal(signal.SIGINT, before)
            self.progress.close()

    def _after(self, step: int) -> None:
        options, last = self.run.options, step == self.run.options.steps
        skipped = [row["skipped"] for row in self.rows[-BAD_STEPS:]]
        if sum(skipped) == BAD_STEPS:
            kept = f"; {self.path} is as it was before them" if self.path.exists() else ""
            self._stop(f"steps {step - BAD_STEPS + 1} to {step}: the gradient is not finite, "
                       f"nothing was learned from them; lower --lr or raise --kl{kept}")
        stopping = any(devices.gather([self.interrupted]))
        # MEM1's other harnesses, still to be trained, may be interrupted too.
        due = last and (options.save_every or options.agent == "mem1") or (
            options.save_every and step % options.save_every == 0)
        if stopping or due and not skipped[-1]:
            self.save()
        if stopping:
            self.progress.close()
            if devices.is_main():
                print(f"interrupted after step {step} of {options.steps}; go on with: "
                      f"{command()}", file=sys.stderr)
            raise SystemExit(130)

    def _on_interrupt(self, *_: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        if devices.is_main():
            print("\nfinishing this step, then saving; Ctrl-C again stops at once", file=sys.stderr)

    def save(self) -> None:
        """Write resume.pt; stops the program with one line if that fails."""
        try:
            with devices.gathered(*self.modules.values()):
                content = self._content()  # all ranks: sharded tensors are put together
                if devices.is_main():
                    write(self.path, content)
            devices.gather([])  # no rank may go on, or end, before the file is whole
        except CheckpointError as error:
            kept = f"; the last whole one is kept: {command()}" if self.path.exists() else ""
            self._stop(f"step {len(self.rows)}: {error}{kept}")

    def _stop(self, message: str) -> NoReturn:
        self.progress.close()  # a line of its own
        devices.exit_with(message)

    def _content(self) -> dict[str, Any]:
        run = self.run
        for name in LOGS:  # what `sizes` counts must be on the disk as well
            if devices.is_main() and (run.folder / name).exists():
                with (run.folder / name).open("rb+") as file:
                    os.fsync(file.fileno())
        before = run.before and (run.before[0], [(e.reward, e.log) for e in run.before[1]])
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {number: {name: devices.whole(value) for name, value in state.items()}
                              for number, state in optimizer["state"].items()}
        return {
            "identity": run.identity, "before": before, "rows": self.rows, "scores": self.scores,
            "n_tokens": run.n_tokens, "seconds": time.time() - run.started,
            "sizes": {name: _size(run.folder / name) for name in LOGS},
            "modules": {name: trained(module) for name, module in self.modules.items()},
            "optimizer": optimizer, "schedule": self.schedule.state_dict(),
            "ranks": devices.gather([self._own()]),
        }

    def _own(self) -> dict[str, Any]:
        """What each rank has for itself."""
        return {
            "sampler": None if self.generator is None else self.generator.get_state(),
            "torch": torch.get_rng_state(), "python": random.getstate(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "judged": judged(self.run),
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        run, own = self.run, saved["ranks"][devices.rank()]
        self.rows, self.scores, run.n_tokens = saved["rows"], saved["scores"], saved["n_tokens"]
        run.started -= saved["seconds"]
        for name, module in self.modules.items():
            for key, value in trained(module).items():
                value.copy_(devices.piece(saved["modules"][name][key], value))
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state = {number: {name: devices.piece(value, parameters[number]) if value.ndim else value
                          for name, value in one.items()}
                 for number, one in saved["optimizer"]["state"].items()}
        self.optimizer.load_state_dict({**saved["optimizer"], "state": state})
        self.schedule.load_state_dict(saved["schedule"])
        if self.generator is not None:
            self.generator.set_state(own["sampler"])
        torch.set_rng_state(own["torch"])
        random.setstate(own["python"])
        if own["cuda"] is not None:
            torch.cuda.set_rng_state(own["cuda"])
        judge_again(run, own["judged"])
        if devices.is_main():
            for name, size in saved["sizes"].items():
                if (run.folder / name).exists():
                    os.truncate(run.folder / name, size)


def trained(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What training changes in a module, by name: weights with gradients, and buffers."""
    learned = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    return learned | dict(module.named_buffers())


def judged(run: Run) -> list[tuple[int, str, dict]]:
    """What the manager's frozen answer agent made of decisions: (task, response, outcome)."""
    number = {id(task): i for i, task in enumerate([*run.train, *run.validation, *run.test])}
    return [(number[id(task)], response, outcome)
            for (task, response), outcome in getattr(run.agent, "outcomes", {}).items()]


def judge_again(run: Run, found: list[tuple[int, str, dict]]) -> None:
    """Put back what `judged` returned."""
    tasks = [*run.train, *run.validation, *run.test]
    if found:
        run.agent.outcomes = {(tasks[i], response): outcome for i, response, outcome in found}


def scores_before(saved: dict[str, Any] | None) -> tuple[dict, list[Episode]] | None:
    """The start model's scores and episodes, as a checkpoint has them: without their tokens."""
    if saved is None or saved["before"] is None:
        return None
    scores, episodes = saved["before"]
    return scores, [Episode([], reward, log) for reward, log in episodes]


def command() -> str:
    """What to type to go on."""
    start = ["python"]
    if devices.world_size() > 1:
        start = ["torchrun", "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", "1")]
    again = [] if "--resume" in sys.argv else ["--resume"]
    return shlex.join([*start, *sys.argv, *again])
