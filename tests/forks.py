"""Run pytest in many folders, and load torch once: every folder gets a fork of this process.

Standard input: JSON, a list of [folder, pytest arguments]. Standard output: JSON, for each the
outcomes by test, {"tests/x.py::test": ["failed", "why"]}. For test_course.py; not on Windows.
"""

from __future__ import annotations

import json
import os
import sys


class Outcomes:
    """A pytest plugin that keeps the outcome of every test."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome != "passed":
            why = report.longrepr[2] if report.skipped else str(report.longrepr or "")[-2000:]
            self.found[report.nodeid] = (report.outcome, why)

    def pytest_collectreport(self, report) -> None:
        if report.failed:
            self.found[report.nodeid or "collection"] = ("error", str(report.longrepr)[-2000:])


def run(folder: str, arguments: list[str]) -> dict:
    """The outcomes in one folder; everything happens in a fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        import pytest
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.chdir(folder)
        sys.path.insert(0, folder)
        outcomes = Outcomes()
        pytest.main(["-q", "-p", "no:cacheprovider", *arguments], plugins=[outcomes])
        with os.fdopen(writing, "w") as file:
            json.dump(outcomes.found, file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        found = file.read()
    os.waitpid(child, 0)
    return json.loads(found or '{"process": ["error", "it died"]}')


if __name__ == "__main__":
    import hypothesis  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import numpy  # noqa: F401
    import torch
    import transformers
    import transformers.models.llama.modeling_llama  # noqa: F401
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401
    torch.set_num_threads(1)
    # Loaded when first asked for, which would be once in every fork.
    transformers.AutoModelForCausalLM, transformers.PreTrainedTokenizerFast  # noqa: B018
    sys.dont_write_bytecode = True
    json.dump([run(folder, arguments) for folder, arguments in json.load(sys.stdin)], sys.stdout)
