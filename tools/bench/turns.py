"""Contenders that take turns, each in a process of its own.

    here                                      in the contender's process
    Contender("ours", command, request)  ->   Turns().request
    contender.turn()                     <-   turns.report(seconds)     its warm-up
    contender.turn()                     ->   a line: go on
                                         <-   turns.report(seconds)

While one works the others wait for a line, so each has the machine to itself. A contender that is
killed for memory takes nobody with it. This module needs the standard library only, because a peer
may run in an environment of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
OUT_OF_MEMORY = ("DefaultCPUAllocator", "MemoryError", "bad_alloc", "out of memory",
                 "Cannot allocate memory", "failed to allocate")


class Died(Exception):
    """A contender ended before its turn did; the message is one line."""


# ---- Here ----------------------------------------------------------------------------------------


class Contender:
    """A process that does the same work once every turn."""

    def __init__(self, name: str, command: Sequence[str], request: dict[str, Any],
                 memory_bytes: int | None = None):
        self.name, self.memory_bytes = name, memory_bytes
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            text=True)
        self.line = json.dumps({**request, "memory_bytes": memory_bytes})

    def turn(self) -> dict[str, Any]:
        """Wait until the work is done once more; returns what the process reports.

        The first turn is the warm-up. Raises Died.
        """
        with suppress(BrokenPipeError):  # its end is noticed below
            self.process.stdin.write(self.line + "\n")
            self.process.stdin.flush()
        self.line = ""
        report = self.process.stdout.readline()
        if not report:
            code = self.process.wait()
            self.errors.seek(0)
            raise Died(why_it_died(code, self.errors.read(), self.memory_bytes))
        return json.loads(report)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


class Command:
    """A contender that starts a program anew for each turn, and reads what the program left."""

    def __init__(self, name: str, command: Sequence[str], folder: Path,
                 read: Callable[[str], dict[str, Any]]):
        self.name, self.command, self.folder, self.read = name, command, folder, read

    def turn(self) -> dict[str, Any]:
        """Run the program to its end. Raises Died."""
        done = subprocess.run(self.command, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise Died(why_it_died(done.returncode, done.stderr, None))
        return self.read(done.stdout)

    def close(self) -> None:
        """Nothing is left running."""


def why_it_died(code: int, errors: str, memory_bytes: int | None) -> str:
    """One line on a process that ended with this code and these errors."""
    last = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "")
    if code == -getattr(signal, "SIGKILL", 9):
        # By the system, and not always for its own appetite: others may have eaten the memory.
        return "killed for memory by the system (signal 9): the machine had none left"
    if any(text in errors[-4000:] for text in OUT_OF_MEMORY):
        limit = f" (limit {memory_bytes / 2**30:.1f} GiB)" if memory_bytes else ""
        return f"killed for memory{limit}"
    return f"ended with code {code}: {last[:150]}"


# ---- In the contender's process ------------------------------------------------------------------


class Turns:
    """What a contender was asked for, and how it reports."""

    def __init__(self):
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print must not be taken for a report
        self.request = json.loads(sys.stdin.readline())
        limit_memory(self.request["memory_bytes"])

    def report(self, seconds: dict[str, float], peak_memory_bytes: int | None = None,
               **facts: Any) -> bool:
        """Tell the seconds of each phase, and wait; returns whether another turn is wanted."""
        report = {"seconds": seconds, **facts,
                  "peak_memory_bytes": peak_memory_bytes or resident_bytes("VmHWM")}
        print(json.dumps(report), file=self.answers, flush=True)
        return bool(sys.stdin.readline())


def limit_memory(n_bytes: int | None) -> None:
    """Let this process have so much memory; None: whatever the machine gives.

    If the machine has no more, Linux then ends this process before any other.
    """
    if n_bytes is None:
        return
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with suppress(ImportError):  # Windows
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, n_bytes))


def resident_bytes(field: str) -> int | None:
    """Bytes of this process's memory as Linux tells: VmRSS is now, VmHWM the most so far.

    Not by `getrusage`, whose peak is never below that of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))
