"""Commands of this repository that are run once, side by side, and remembered.

    job ──> done already? ──> no: its own `main`, in one of two workers ──> folder, receipt.txt

lines.py says which jobs there are. A job is a command line and the folder that it fills. A receipt
in the folder says for which command the results stand, and for which checkpoints that it read. A
finished job is not run again, unless a job that it depends on was run again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

import evaluate
import grpo
import ppo
import sft
from backend.devices import exit_with
from training.checkpoints import FILE as RESUME_FILE

FOLDER = Path("runs") / "claims"
MAINS = {"grpo.py": grpo.main, "ppo.py": ppo.main, "sft.py": sft.main, "evaluate.py": evaluate.main}
AT_ONCE = 2  # commands that run side by side, each with its share of the cores


@dataclass(frozen=True)
class Job:
    """One command of this repository, and the folder it fills."""

    name: str
    command: tuple[str, ...]
    needs: tuple[Job, ...] = ()  # whose checkpoints it reads

    @property
    def folder(self) -> Path:
        """Where its results are."""
        return FOLDER / self.name

    @property
    def log(self) -> Path:
        """What it prints; beside the folder, because a command wants a folder to itself."""
        return FOLDER / f"{self.name}.log"

    @property
    def checkpoint(self) -> str:
        """The model it leaves."""
        return str(self.folder / "checkpoint")

    @property
    def line(self) -> str:
        """What one types to run it."""
        return " ".join(("python", *self.command, "--out", str(self.folder)))

    @property
    def depth(self) -> int:
        """How many jobs have to be done before it, one after the other."""
        return max((job.depth + 1 for job in self.needs), default=0)

    def chain(self) -> Iterator[Job]:
        """All jobs that it needs, and those that they need, and itself."""
        for job in self.needs:
            yield from job.chain()
        yield self

    def receipt(self) -> str:
        """What its results stand for: the command, and when what it needs was made."""
        made = [str((job.folder / "summary.json").stat().st_mtime_ns) for job in self.needs]
        return "\n".join((self.line, *made)) + "\n"

    def done(self) -> bool:
        """Whether the results in the folder are those of this command."""
        path = self.folder / "receipt.txt"
        return (all(job.done() for job in self.needs) and path.exists()
                and path.read_text() == self.receipt())


def missing(jobs: Iterable[Job]) -> list[Job]:
    """The jobs that have to be run, with what they need, none before what it needs.

    Long ones come first, so that no core waits for one at the end: MEM1 trains three models.
    """
    undone = {one.name: one for job in jobs for one in job.chain() if not one.done()}
    return sorted(undone.values(), key=lambda job: (
        job.depth, "mem1" not in job.name, "ppo" not in job.name, "answer" not in job.name))


def prepare_worker() -> None:
    """In a new worker: an end without a word on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_command(command: Sequence[str], log: Path) -> int:
    """In a worker: what `python COMMAND` does, its output in `log`; returns the exit code.

    Starting Python and torch anew for each of a hundred commands would take ten minutes.
    """
    with log.open("w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            MAINS[command[0]](command[1:])
        except SystemExit as ended:  # `devices.exit_with` has printed why
            return ended.code
        except Exception:
            traceback.print_exc()
            return 1
    return 0


def run_job(job: Job, workers: Executor) -> None:
    """Run one command; its output goes to `job.log`. Raises ChildProcessError if it fails."""
    job.folder.mkdir(parents=True, exist_ok=True)
    command = (*job.command, "--out", str(job.folder))
    if (job.folder / RESUME_FILE).exists():  # it was interrupted, and begins no second time
        command += ("--resume",)
    try:
        code = workers.submit(run_command, command, job.log).result()
    except BrokenExecutor:
        code = "its process killed"
    if code:
        raise ChildProcessError(f"{job.line} ended with {code}; {job.log} says why")
    (job.folder / "receipt.txt").write_text(job.receipt())


def end_workers(*_: Any) -> NoReturn:
    """On SIGTERM: the workers end too. Ctrl-C reaches them by itself, and once is enough."""
    for worker in multiprocessing.active_children():
        worker.terminate()  # a training then saves its step, as after Ctrl-C
    raise KeyboardInterrupt


def run_missing(jobs: Iterable[Job]) -> None:
    """Run what is not there yet. Stops the program with one line if a command fails."""
    # Workers inherit it; torch and numpy read it once, when they are loaded.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // AT_ONCE))
    # "spawn" is what every platform has; after a fork torch's threads would be missing.
    workers = ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("spawn"), prepare_worker)
    undone = missing(jobs)
    begun: dict[str, Future] = {}
    earlier = signal.signal(signal.SIGTERM, end_workers)
    with (ThreadPoolExecutor(AT_ONCE) as pool,
          tqdm(total=len(undone), desc="commands", disable=not undone, ncols=100) as progress):
        def run_one(job: Job) -> None:
            for needed in job.needs:  # it was begun earlier, and may still be running
                if needed.name in begun:
                    begun[needed.name].result()
            progress.write(job.line)
            run_job(job, workers)
            progress.update()
        try:
            for job in undone:
                begun[job.name] = pool.submit(run_one, job)
            for one in begun.values():
                one.result()
        except (ChildProcessError, OSError) as error:
            pool.shutdown(cancel_futures=True)
            exit_with(str(error))
        except KeyboardInterrupt:  # the workers got it too, and end
            pool.shutdown(wait=False, cancel_futures=True)
            exit_with("interrupted: the same command goes on with what is missing")
        finally:
            signal.signal(signal.SIGTERM, earlier)
    workers.shutdown()
