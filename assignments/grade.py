"""Grade a submission: run the course's own tests on it, problem by problem.

    python assignments/grade.py FOLDER                 a table
    python assignments/grade.py FOLDER --json          the same, and all of it as the last line
    python assignments/grade.py FOLDER --problem 4     some problems only

FOLDER is a student version (make.py) that somebody worked in. About a minute and a half.

Every problem is graded by itself, in a fresh temporary folder: the course's own project, and of the
submission those modules in which the problem's functions stand, its adapters.py and whatever Python
files it has besides. Functions of other problems are the course's, so that one mistake costs once.
The tests are the course's too. Points are the share of a problem's tests that pass; a test with
several cases passes if all of them do, so that an answer that is always "nothing" earns little.

What this withstands, each tried in tests/test_course.py: code that hangs, crashes, exits early or
eats memory (it loses what its problem had left to earn, and no other problem); edited tests, a
conftest.py, sitecustomize.py or pytest.ini; pytest or torch patched from inside; results printed or
written to files. A test that did not report through its own channel, with the run's nonce, did not
pass.

Processes that a submission starts end with its problem: its process group everywhere, on Linux also
those in sessions of their own, unless they hide.

What it does not: it is no sandbox. The submission runs as you, in the process of the tests. It can
read and delete your files and use the network; and with enough effort (frames, the garbage
collector, ctypes) find the nonce and forge results. The memory limit holds per process and on Linux
only. Read what you grade, or run it in a container without a network.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from grade_one import CANARY, CANARY_SOURCE  # noqa: E402
from make import LEFT_OUT, MODULES, PYTEST_INI, ROOT, blank, copy, places, transplant  # noqa: E402


@dataclass(frozen=True)
class Problem:
    """One problem: what it is worth, and what its tests may use."""

    number: int
    name: str
    points: int
    seconds: int = 60  # from the moment that the libraries are loaded
    megabytes: int = 1024  # beyond what the libraries take

    @property
    def tests(self) -> str:
        """The file of its tests."""
        return next((HERE / "tests").glob(f"test_{self.number:02}_*.py")).name


PROBLEMS = (
    Problem(1, "memory bank", 10), Problem(2, "parsing", 8), Problem(3, "token log-probs", 8),
    Problem(4, "group advantages", 6), Problem(5, "the clip", 6), Problem(6, "reductions", 8),
    Problem(7, "KL estimators", 8), Problem(8, "GAE", 8), Problem(9, "the tree", 8),
    Problem(10, "the manager's episode", 8), Problem(11, "MEM1's turn", 8),
    Problem(12, "the loop", 8, seconds=120, megabytes=2048), Problem(13, "the span", 6),
)
STARTUP = 180  # seconds to load the libraries
LARGEST = 2**20  # bytes of a file that is taken over
NOT_TAKEN = {"conftest.py", "sitecustomize.py", "usercustomize.py"}


def readable(path: Path) -> bool:
    """An ordinary file of a sensible size: no link to somewhere else, no device."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            return False
        path.open("rb").close()
    except OSError:
        return False
    return True


def build(problem: Problem, submission: Path, out: Path) -> None:
    """The folder in which one problem is graded."""
    copy((*MODULES, "tiny"), out)
    shutil.rmtree(out / LEFT_OUT)
    functions = places()
    for path in sorted(ROOT.glob("*.py")):
        handed_in = submission / path.name
        names = {number: [place.split(".", 1)[1] for place in of_problem
                          if place.split(".")[0] == path.stem]
                 for number, of_problem in functions.items()}
        if not names[problem.number]:
            continue
        reference = path.read_text(encoding="utf-8")
        source = blank(reference, [problem.number])
        if readable(handed_in):
            # Notepad begins a file with a mark that Python skips, and ast does not.
            source = handed_in.read_text(encoding="utf-8-sig", errors="replace")
            others = [name for number in names if number != problem.number
                      for name in names[number]]
            try:
                source = transplant(source, reference, others)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                pass  # it will not load, and this problem's tests will say so
        (out / path.name).write_text(source, encoding="utf-8")
    # Files of their own, which adapters.py may name. A folder grpo/ would stand before grpo.py.
    for folder, folders, files in os.walk(submission):
        here = ROOT / Path(folder).relative_to(submission)
        folders[:] = [name for name in folders if name not in ("runs", "tests", "__pycache__")
                      and not name.startswith(".") and not (here / f"{name}.py").exists()]
        for name in files:
            source = Path(folder) / name
            target = out / source.relative_to(submission)
            # A folder may have the name of a file that is there.
            if (source.suffix == ".py" and name not in NOT_TAKEN and readable(source)
                    and not any(path.is_file() for path in (target, *target.parents))
                    and not target.exists() and not (ROOT / target.relative_to(out)).exists()):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
    copy(("assignments/tests", "assignments/adapters.py"), out)
    if readable(submission / "assignments" / "adapters.py"):
        shutil.copy(submission / "assignments" / "adapters.py", out / "assignments")
    (out / "assignments/tests" / CANARY).write_text(CANARY_SOURCE)
    (out / "assignments/tests/pytest.ini").write_text(PYTEST_INI.format("."))


def started_by(temporary: Path) -> list[int]:
    """The processes whose TMPDIR is this folder: what one problem started, in whatever session.

    Linux only; elsewhere there is no list of processes to read.
    """
    sought, found = f"TMPDIR={temporary}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if sought in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # somebody else's, or it has ended
            continue
    return found


def stop_all(process: subprocess.Popen, temporary: Path) -> None:
    """End the process, and what it started, also in sessions of their own."""
    if os.name == "posix":
        try:
            os.killpg(process.pid, signal.SIGKILL)  # a session of its own: start_new_session
        except (ProcessLookupError, PermissionError):
            pass
    process.kill()
    process.wait()
    for _ in range(10):  # again, because one may have started another meanwhile
        for number in started_by(temporary):
            try:
                os.kill(number, signal.SIGKILL)
            except OSError:
                pass


def run(problem: Problem, folder: Path, temporary: Path) -> tuple[list[dict], str, float]:
    """What the tests reported, a note on how it ended, and the seconds."""
    shutil.copy(HERE / "grade_one.py", temporary)
    nonce, reports, ready = secrets.token_hex(16), [], threading.Event()
    keep = ("PATH", "SYSTEMROOT", "LANG", "LD_LIBRARY_PATH")
    process = subprocess.Popen(
        # -I: no environment variable, working directory or user folder adds to what is imported.
        [sys.executable, "-I", str(temporary / "grade_one.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder,
        start_new_session=True,
        env={**{name: os.environ[name] for name in keep if name in os.environ},
             "HOME": str(temporary), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1",
             "CUDA_VISIBLE_DEVICES": "", "COURSE_PROBLEM": str(problem.number)})

    def read() -> None:
        for line in iter(lambda: process.stdout.readline(2**16), b""):
            said, _, message = line.partition(b" ")
            if secrets.compare_digest(said, nonce.encode()):
                reports.append(json.loads(message))
                ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    tests = folder / "assignments" / "tests"
    task = {"nonce": nonce, "tests": str(tests), "file": problem.tests,
            "megabytes": problem.megabytes}
    process.stdin.write(json.dumps(task).encode() + b"\n")
    process.stdin.close()
    start = time.monotonic()
    while process.poll() is None and time.monotonic() - start < STARTUP and not ready.is_set():
        time.sleep(0.02)
    start = time.monotonic()
    while process.poll() is None and time.monotonic() - start < problem.seconds:
        time.sleep(0.02)
    seconds = time.monotonic() - start
    late = process.poll() is None
    stop_all(process, temporary)
    reader.join(5)
    note = ""
    if late:
        note = f"stopped at the time limit of {problem.seconds} s"
    elif not any("end" in report for report in reports):
        note = f"ended early (exit code {process.returncode})"
    return reports, note, seconds


def name_of(test: str) -> str:
    """What is counted: a test with all its cases, but those of grpo.py and of ppo.py apart."""
    name, _, cases = test.split("::")[1].partition("[")
    modules = {"grpo", "ppo"} & set(cases.rstrip("]").split("-"))
    return " ".join([name, *modules])


def grade(problem: Problem, submission: Path) -> dict:
    """The points of one problem and how they came about."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary).resolve() / "project"
        folder.mkdir()
        try:
            build(problem, submission, folder)
        except (OSError, ValueError) as error:  # whatever was handed in, the others get points
            reports, note, seconds = [], f"cannot be read: {error}", 0.0
        else:
            reports, note, seconds = run(problem, folder, Path(temporary).resolve())
    tests = next((report["tests"] for report in reports if "tests" in report), [])
    results = [report for report in reports if "test" in report]
    outcomes = {}
    for report, canary in zip(results, [*results[1:], {}]):
        if not report["canary"]:
            # The test that must fail stands right behind it; if it did not, nothing counts.
            honest = canary.get("canary") and canary["outcome"] == "failed"
            outcomes[report["test"]] = report["outcome"] if honest else "tampered"
    groups: dict[str, bool] = {}  # name of a test -> whether all its cases passed
    for test in tests:
        groups[name_of(test)] = groups.get(name_of(test), True) and outcomes.get(test) == "passed"
    passed = sum(groups.values())
    if "tampered" in outcomes.values() and not note:
        note = "the test machinery was tampered with"
    failed = [name for name, good in groups.items() if not good]
    if failed and not note:
        note = "failed: " + ", ".join(failed)
    return {"problem": problem.number, "name": problem.name,
            "points": round(problem.points * passed / max(len(groups), 1), 1),
            "max_points": problem.points, "passed": passed, "tests": len(groups),
            "seconds": round(seconds, 1), "time_limit": problem.seconds,
            "memory_limit_mb": problem.megabytes, "note": note}


def main(argv: Sequence[str] | None = None) -> int:
    """Grade and print; returns the exit code."""
    parser = argparse.ArgumentParser(description="Grade a submission.", allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"error: {message}; --help lists all options\n")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="what a student handed in")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--problem", type=int, action="append", metavar="N",
                        choices=[problem.number for problem in PROBLEMS],
                        help="grade this problem only; may be given several times")
    options = parser.parse_args(argv)
    modules = {place.split(".")[0] for found in places().values() for place in found}
    if not any((options.folder / f"{module}.py").is_file() for module in modules):
        print(f"error: {options.folder} holds none of the modules to be graded (grpo.py, ...): "
              "give the folder of a student version", file=sys.stderr)
        return 2
    results = []
    print(f"{'':3} {'problem':22} {'points':>10} {'tests':>8} {'time':>7}  note")
    for problem in PROBLEMS:
        if options.problem and problem.number not in options.problem:
            continue
        r = grade(problem, options.folder.resolve())
        results.append(r)
        print(f"{r['problem']:2}. {r['name']:22} {r['points']:5g} / {r['max_points']:2} "
              f"{r['passed']:3} / {r['tests']:2} {r['seconds']:5.1f} s  {r['note'][:160]}",
              flush=True)
    summary = {"points": round(sum(r["points"] for r in results), 1),
               "max_points": sum(r["max_points"] for r in results), "problems": results}
    print(f"    {'together':22} {summary['points']:5g} / {summary['max_points']}")
    if options.json:
        print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
