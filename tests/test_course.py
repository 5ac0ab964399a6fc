"""The slow tests of assignments/: every problem blanked, every bug planted, hostile submissions.

    python -m pytest -m course        (about six minutes of one core)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
import grade
import make
from grade import PROBLEMS
from patches import PATCHES

pytestmark = pytest.mark.course
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork (not on Windows)")


def run_forks(jobs: list[tuple[Path, list[str]]]) -> list[dict]:
    """Outcomes of pytest in each folder, see forks.py."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "forks.py")], env=environment, check=True,
        input=json.dumps([(str(folder), arguments) for folder, arguments in jobs]),
        stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def problem_of(test: str) -> int:
    return int(test.split("test_")[1][:2])


# ---- the ladder ----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def variants(tmp_path_factory) -> dict[int, dict]:
    """Outcomes of the public tests with one problem blanked, with none (0) and with all (-1)."""
    folder, jobs = tmp_path_factory.mktemp("variants"), {}
    for number in (0, -1, *make.places()):
        jobs[number] = folder / str(number)
        make.make_student_version(jobs[number], None if number == -1 else [number])
    return dict(zip(jobs, run_forks([(path, []) for path in jobs.values()])))


@needs_fork
def test_the_reference_solutions_pass_everything(variants):
    bad = {test: found for test, found in variants[0].items() if found[0] != "passed"}
    assert not bad, f"with nothing blanked: {bad}"
    assert {problem_of(test) for test in variants[0]} == set(range(1, 14))


@needs_fork
@pytest.mark.parametrize("number", range(1, 14))
def test_a_blanked_problem_fails_its_own_tests_and_no_other(variants, number):
    found = variants[number]
    assert set(found) == set(variants[0]), "some tests did not run at all"
    for test, (outcome, why) in found.items():
        if problem_of(test) == number:
            assert outcome == "failed" and f"problem {number} is not written" in why, (
                f"{test} does not fail when problem {number} is not written, but {outcome}: {why}")
        else:
            waits = (outcome, why) == ("skipped", f"needs problem {number}")
            assert outcome == "passed" or waits, (
                f"problem {number} is blanked and {test} {outcome}: {why}")


@needs_fork
def test_whoever_begins_at_the_bottom_needs_nothing_from_above(variants):
    for test, (outcome, why) in variants[-1].items():
        assert outcome in ("failed", "skipped"), f"{test} passes and nothing is written"
        if outcome == "skipped":
            assert int(why.removeprefix("needs problem ")) != problem_of(test)
    for number in range(1, 14):
        for test, (outcome, why) in variants[number].items():
            if outcome == "skipped" and problem_of(test) < number:
                assert (problem_of(test), number) == (3, 9), (
                    f"{test} needs problem {number}, which comes later")


# ---- planted bugs --------------------------------------------------------------------------------

@needs_fork
def test_every_planted_bug_is_caught(tmp_path):
    jobs = []
    for number, patch in PATCHES.items():
        folder = tmp_path / str(number)
        make.make_bug(folder, number)
        shutil.rmtree(folder / "tests")
        shutil.copytree(ROOT / "tests", folder / "tests",
                        ignore=shutil.ignore_patterns("__pycache__"))
        jobs.append((folder, ["-x", patch.caught_by]))
    for (number, patch), found in zip(PATCHES.items(), run_forks(jobs)):
        outcomes = [outcome for outcome, _ in found.values()]
        assert "failed" in outcomes and set(outcomes) <= {"failed", "passed"}, (
            f"bug {number} is not caught by {patch.caught_by}: {found}")


# ---- grading -------------------------------------------------------------------------------------

@pytest.fixture
def submission(tmp_path) -> Path:
    """A submission in which everything is right: the project itself."""
    out = tmp_path / "submission"
    make.make_student_version(out, [0])
    return out


def graded(number: int, folder: Path, **limits) -> dict:
    """One problem of a submission, graded in-process by the same function as the command's."""
    return grade.grade(replace(PROBLEMS[number - 1], **limits), folder)


def edit(folder: Path, file: str, before: str = "", after: str = "", body: str = "",
         name: str = "") -> None:
    """Put text before or after a module, or replace the body of one of its functions."""
    path = folder / file
    source = path.read_text()
    if name:
        node, lines = dict(make.functions(source))[name], source.splitlines()
        first, last = make.body_lines(source, node)
        lines[first - 1:last] = [" " * (node.col_offset + 4) + line for line in body.splitlines()]
        source = "\n".join(lines) + "\n"
    # Behind the docstring and the __future__ import, which must come first.
    head, future, rest = source.partition("from __future__ import annotations\n")
    path.write_text(head + future + before + rest + after)


def test_the_command_grades_and_ends_with_json(submission):
    edit(submission, "grpo.py", name="token_weights",
         body="return torch.full((int(lengths.sum()),), 1 / max(int(lengths.sum()), 1))")
    done = subprocess.run(
        [sys.executable, str(ROOT / "assignments" / "grade.py"), str(submission), "--json",
         "--problem", "6"], stdout=subprocess.PIPE, text=True)
    summary = json.loads(done.stdout.splitlines()[-1])
    [found] = summary["problems"]
    assert done.returncode == 0 and summary["max_points"] == found["max_points"] == 8
    assert summary["points"] == found["points"] == 0 and found["tests"] == 4, (
        f"every weight 1 / N whatever the reduction: no test passes in all its cases: {found}")
    assert "test_the_bias_of_each" in found["note"] and found["seconds"] < found["time_limit"]


def test_no_submission(tmp_path, capsys):
    assert grade.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_hanging_costs_the_problem_and_the_limit_holds(submission):
    edit(submission, "grpo.py", name="clipped_loss", body="while True: pass")
    found = graded(5, submission, seconds=4)
    assert found["points"] == 0 and "time limit" in found["note"] and found["seconds"] < 8, found
    assert graded(4, submission)["points"] == 6, "problem 4 stands in the same module and is right"


def test_eating_memory_costs_the_problem(submission):
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory limits need Linux")
    edit(submission, "prompts.py", name="parse_answer",
         body='eaten = []\nwhile True: eaten.append(" " * 2**26)')
    found = graded(2, submission, megabytes=256, seconds=30)
    assert 0 < found["points"] < 8 and "test_answers" in found["note"], (
        f"the tests of the other functions of the problem still count: {found}")


EXITS = {
    "os._exit": "import os; os._exit(0)",
    "sys.exit": "import sys; sys.exit(0)",
    "pytest.exit": "import pytest; pytest.exit('all done', returncode=0)",
}


@pytest.mark.parametrize("way", EXITS)
def test_leaving_early_earns_nothing(submission, way):
    edit(submission, "grpo.py", name="group_advantages", body=EXITS[way])
    found = graded(4, submission)
    assert found["points"] == 0 and found["tests"] == 5 and found["note"], found


STARTS = """
import subprocess, sys
from pathlib import Path
for number, alone in enumerate((False, True)):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                             start_new_session=alone)
    Path({folder!r}, f"{{number}}").write_text(str(child.pid))
"""


def test_what_a_submission_starts_ends_with_its_problem(submission, tmp_path):
    if not Path("/proc/self/environ").exists():
        pytest.skip("the list of processes is Linux's")
    (tmp_path / "pids").mkdir()
    edit(submission, "grpo.py", name="group_advantages", body="return rewards",
         after=STARTS.format(folder=str(tmp_path / "pids")))
    graded(4, submission)
    pids = [int(path.read_text()) for path in (tmp_path / "pids").iterdir()]
    assert len(pids) == 2, "the test itself: nothing was started"

    def runs(pid: int) -> bool:  # what was killed may wait as a zombie for its parent
        stat = Path(f"/proc/{pid}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"

    end = time.monotonic() + 10
    while any(map(runs, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(runs, pids)), "a process outlives the grading"


CHEATS = {
    # Everything a test could ask is true.
    "a value equal to all": '''
class Yes:
    shape, ndim = (1, 4), 2
    def __getattr__(self, name): return lambda *a, **k: Yes()
    def __eq__(self, other): return True
    def __lt__(self, other): return True
    def __getitem__(self, key): return Yes()
    def __iter__(self): return iter([Yes()])
def group_advantages(rewards, normalise=True): return Yes()
''',
    "pytest and torch patched": '''
import pytest, torch, _pytest.reports
class Same:
    def __init__(self, *a, **k): pass
    def __eq__(self, other): return True
pytest.approx = Same
class Nothing:
    def __enter__(self): return self
    def __exit__(self, *a): return True
pytest.raises = lambda *a, **k: Nothing()
_pytest.reports.TestReport.outcome = property(lambda self: "passed", lambda self, value: None)
torch.allclose = lambda *a, **k: True
''',
    "a plugin that turns failures round": '''
import gc
from _pytest.config import Config
class Evil:
    def pytest_runtest_logreport(self, report): report.outcome = "passed"
    def pytest_pyfunc_call(self, pyfuncitem): return True
for thing in gc.get_objects():
    if isinstance(thing, Config): thing.pluginmanager.register(Evil(), "evil")
''',
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_cheating_earns_nothing(submission, cheat):
    edit(submission, "grpo.py", name="group_advantages", body="return rewards",
         after=CHEATS[cheat])
    found = graded(4, submission)
    assert found["points"] == 0 and found["tests"] == 5, f"{cheat} was worth points: {found}"
    assert cheat == "a value equal to all" or "tampered" in found["note"], found


FAKES = """
import json, os, sys
fake = json.dumps({"points": 100, "max_points": 100, "test": "x", "outcome": "passed", "end": 1})
for number in range(64):
    try: os.write(number, ("0" * 32 + " " + fake + "\\n" + fake + "\\n").encode())
    except OSError: pass
for name in ("result.json", "report.json", "../result.json"): open(name, "w").write(fake)
print(fake); print(fake, file=sys.__stdout__)
"""


def test_edited_tests_configuration_and_results_count_for_nothing(submission):
    edit(submission, "grpo.py", name="group_advantages", body="return 3", after=FAKES)
    for path in (submission / "assignments" / "tests").glob("test_*.py"):
        path.write_text("def test_nothing():\n    pass\n")
    evil = ("import os\nprint('problem 4: all pass')\nos._exit(0)\n"
            "def pytest_collection_modifyitems(items): items.clear()\n")
    for name in ("conftest.py", "sitecustomize.py", "usercustomize.py", "assignments/conftest.py",
                 "assignments/tests/conftest.py", "assignments/tests/course_helpers.py",
                 "pytest.py"):
        (submission / name).write_text(evil)
    (submission / "pytest.ini").write_text("[pytest]\naddopts = --collect-only\n")
    found = graded(4, submission)
    assert found["points"] == 0 and found["tests"] == 5 and "test_by_hand" in found["note"], (
        f"the course's own tests must run and fail: {found}")


def test_work_in_files_of_ones_own(submission):
    """Adapters: the project's function stays blank, and another module has the work."""
    source = (submission / "grpo.py").read_text()
    (submission / "grpo.py").write_text(make.blank(source, [4]))
    (submission / "mine").mkdir()
    (submission / "mine" / "advantages.py").write_text(
        "import torch\n\n\n" + make.ast.get_source_segment(
            source, dict(make.functions(source))["group_advantages"]).replace("Tensor", "object"))
    adapters = submission / "assignments" / "adapters.py"
    place = '"grpo.group_advantages": '
    adapters.write_text(adapters.read_text().replace(
        place + '"grpo.group_advantages"', place + '"mine.advantages.group_advantages"'))
    assert graded(4, submission)["points"] == 6
    # Locally the loop uses it too.
    [found] = run_forks([(submission, ["assignments/tests/test_12_loop.py", "-k",
                                       "gradient_of_a_fresh_batch"])])
    assert [outcome for outcome, _ in found.values()] == ["passed"], found


def test_a_module_that_does_not_load_costs_its_own_problems(submission):
    (submission / "mem1.py").write_text("def broken(:\n")
    assert graded(11, submission)["points"] == 0
    assert graded(8, submission)["points"] == PROBLEMS[7].points, (
        "ppo.py imports mem1.py by way of run.py")
