"""The tests of one problem, in a process of their own. Started by grade.py, not by hand.

One line of JSON comes in, then results go out, a line each and each with the nonce of this run,
through a copy of standard output that is made before any of the submission's code is loaded;
standard output itself leads nowhere from then on. Behind every test stands one that must fail: a
test counts as passed only if that one failed, and if no function or constant of the test machinery
was replaced meanwhile. So much for accidents and simple tricks; grade.py says what it is not.
"""

from __future__ import annotations

import json
import os
import sys
from types import ModuleType

CANARY = "test_99_must_fail.py"
CANARY_SOURCE = """\
import pytest


@pytest.mark.parametrize("number", range(500))
def test_must_fail(number):
    assert number < 0
"""
# Modules whose functions, classes and constants must stay what they were: whole packages, then
# single ones.
PACKAGES = ("pytest", "_pytest", "pluggy", "conftest", "course_helpers")
MODULES = ("builtins", "math", "json", "torch", "torch._tensor", "numpy", "os")


def limit_memory(megabytes: int) -> None:
    """Allow so much beyond what the libraries took already, where the system has such limits."""
    try:
        import resource
        with open("/proc/self/statm") as file:  # Linux; elsewhere there is no limit
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        limit = used + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        pass


CONSTANTS = (bool, int, float, complex, str, bytes, tuple, frozenset)


def contents(space: dict) -> dict:
    """Name -> the functions, classes and constants of a module or class; functions with their code.

    Constants count, because a default tolerance decides as much as a function does.
    """
    return {name: (value, getattr(value, "__code__", None), getattr(value, "__defaults__", None))
            for name, value in list(space.items())
            if callable(value) or type(value) in CONSTANTS}


def unchanged(old: object, new: object) -> bool:
    """Whether a value is still the same object, or a constant that is equal."""
    return new is old or type(new) is type(old) in CONSTANTS and new == old


def fingerprint() -> dict:
    """What the watched modules consist of now."""
    found = {}
    for name, module in list(sys.modules.items()):
        watched = name.split(".")[0] in PACKAGES or name in MODULES or name.startswith("test_")
        if watched and isinstance(module, ModuleType):
            found[name] = contents(vars(module))
            for key, value in list(vars(module).items()):
                if isinstance(value, type) and value.__module__ == name:
                    found[name, key] = contents(vars(value))
    return found


def same(before: dict, now: dict) -> bool:
    """Whether nothing was replaced. Modules may get new functions (lazy ones), classes may not."""
    for place, old in before.items():
        new = now.get(place, {})
        if isinstance(place, tuple) and set(new) != set(old):
            return False
        for name, (value, *parts) in old.items():
            value_now, *parts_now = new.get(name, (None, None, None))
            if not unchanged(value, value_now) or any(
                    one is not other for one, other in zip(parts, parts_now)):
                return False
    return True


class Reporter:
    """A pytest plugin that puts a test that must fail behind each test, and sends every result."""

    def __init__(self, send) -> None:
        self.send, self.before = send, {}

    def pytest_collection_modifyitems(self, items) -> None:
        tests = [item for item in items if CANARY not in item.nodeid]
        canaries = [item for item in items if CANARY in item.nodeid]
        items[:] = [item for pair in zip(tests, canaries) for item in pair]

    def pytest_collection_finish(self, session) -> None:
        self.before = fingerprint()
        self.send({"tests": [item.nodeid for item in session.items if CANARY not in item.nodeid]})

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome != "passed":
            outcome = report.outcome if not hasattr(report, "wasxfail") else "failed"
            if CANARY not in report.nodeid and not same(self.before, fingerprint()):
                outcome = "tampered"
            self.send({"test": report.nodeid, "canary": CANARY in report.nodeid,
                       "outcome": outcome})


def main() -> None:
    """Read what to do, shut the doors, load the libraries, run the tests."""
    task = json.loads(sys.stdin.readline())
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)

    def send(message: dict, nonce: str = task.pop("nonce")) -> None:
        channel.write(f"{nonce} {json.dumps(message)}\n")
        channel.flush()

    sys.dont_write_bytecode = True
    import numpy  # noqa: F401  all libraries before the submission could put its own in their place
    import pytest
    import torch
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401
    torch.set_num_threads(1)
    limit_memory(task["megabytes"])
    folder = task["tests"]
    pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", folder, "-c", f"{folder}/pytest.ini",
                 f"{folder}/{task['file']}", f"{folder}/{CANARY}"], plugins=[Reporter(send)])
    send({"end": True})
    os._exit(0)  # what the submission left to do at exit is of no interest


if __name__ == "__main__":
    main()
