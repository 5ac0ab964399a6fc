"""Tests of assignments/ that take seconds: marks, blanks, leaks, handouts, patches.

    python -m pytest tests/test_assignments.py
    python -m pytest -m course                    # the slow ones, in test_course.py
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
ASSIGNMENTS = ROOT / "assignments"
import grade
import grade_one
import make
from grade import PROBLEMS
from make import CourseError, apply_patch, blank, functions, marked, transplant
from patches import PATCHES, Patch

import grpo
import ppo
from training.options import parse_options

# A problem whose handout says "do it like this one": what they share is no secret.
MODELS = {10: ("memr1.AnswerAgent.rollout", "memr1.build_banks"),
          12: ("sft.train", "ppo.Critic.values")}
# Lines that say nothing about a solution and are bound to stand elsewhere too.
IDIOMS = {"with torch.no_grad():", "except (ValueError, RecursionError):",
          "note, action, text = parsed",
          "counts: Counter[str] = Counter()", "ids, places, token_at = self._layout(rows)",
          "optimizer.zero_grad()", "max_new_tokens=self.max_new_tokens)"}


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """The student version."""
    out = tmp_path_factory.mktemp("course") / "student"
    make.make_student_version(out)
    return out


@cache
def places_of_problems() -> dict[int, list[str]]:
    """What `make.places` finds in all modules, parsed once."""
    return make.places()


@cache
def function_source(place: str) -> str:
    """The text of a function such as "sft.train"."""
    module, name = place.split(".", 1)
    source = (ROOT / f"{module}.py").read_text(encoding="utf-8")
    return ast.get_source_segment(source, dict(functions(source))[name])


# ---- marks and blanks ----------------------------------------------------------------------------

SOURCE = '''\
class Box:
    # Problem 2
    @property
    def size(self) -> int:  # of the box
        """Its size."""
        # a hint
        return self.many_things_in_it()

    def kept(self):
        return "kept"


# Problem 1
def long(first: int,
         second: int) -> int:
    # another hint
    if first > second:
        return first
    return second
    # the last word


def after():
    pass
'''


def test_blanking_by_hand():
    assert marked(SOURCE) == {"Box.size": 2, "long": 1}
    assert blank(SOURCE, [1]) == SOURCE[:SOURCE.index("    # another hint")] + (
        '    raise NotImplementedError("problem 1")\n\n\ndef after():\n    pass\n'), (
        "the body goes with the comments at its beginning and end; the rest stays as it is")
    found = blank(SOURCE, [1, 2])
    assert '"""Its size."""\n        raise NotImplementedError("problem 2")\n\n' in found
    assert "hint" not in found and "last word" not in found and "many_things" not in found
    assert blank(SOURCE, []) == SOURCE


def test_a_lost_mark_is_an_error():
    for source in ("# Problem 3\nx = 1\n", "# Problem 3\n\ndef f():\n    return 1\n"):
        with pytest.raises(CourseError, match="1 marks"):
            marked(source)


def test_functions_of_other_problems_are_put_back():
    theirs = blank(SOURCE, [1, 2]).replace("def after():\n    pass", "def after():\n    helped()")
    found = transplant(theirs, SOURCE, ["Box.size"])
    assert "many_things_in_it" in found and 'NotImplementedError("problem 1")' in found
    assert "helped()" in found, "what a student added elsewhere stays"
    assert "@property\n    @property" not in found


@pytest.mark.parametrize("odd", ["\x0c\n", "# a\u2028b\n", "# \x85 \x0b \x1c\n"])
def test_lines_are_counted_as_python_counts_them(odd):
    theirs = odd + SOURCE
    assert blank(theirs, [1, 2]) == odd + blank(SOURCE, [1, 2])
    assert transplant(blank(theirs, [1, 2]), SOURCE, ["Box.size"]) == odd + transplant(
        blank(SOURCE, [1, 2]), SOURCE, ["Box.size"]), "a form feed moves every cut by a line"
    assert transplant(blank(SOURCE, [1, 2]), theirs, ["Box.size"]) == transplant(
        blank(SOURCE, [1, 2]), SOURCE, ["Box.size"])


def test_a_submission_that_is_odd_is_built_all_the_same(tmp_path):
    """Saved with a mark before the first character; a folder that has the name of a module."""
    submission = tmp_path / "submission"
    (submission / "ppo.py").mkdir(parents=True)
    (submission / "ppo.py" / "notes.py").write_text("x = 1\n")
    for name in ("data", "helpers"):
        (submission / name).mkdir()
        (submission / name / "__init__.py").write_text("y = 1\n")
    reference = (ROOT / "grpo.py").read_text(encoding="utf-8")
    (submission / "grpo.py").write_text("\ufeff" + blank(reference, [5, 6]), encoding="utf-8")
    grade.build(grade.PROBLEMS[3], submission, tmp_path / "built")
    built = (tmp_path / "built" / "grpo.py").read_text(encoding="utf-8")
    assert "NotImplementedError" not in built, (
        "what another problem has not written yet must not cost this one")
    assert not (tmp_path / "built" / "ppo.py").is_dir()
    assert not (tmp_path / "built" / "data").exists(), "it stands before the course's data.py"
    assert (tmp_path / "built" / "helpers" / "__init__.py").exists()


def test_the_problems_and_their_places():
    spec = importlib.util.spec_from_file_location("adapters_file", ASSIGNMENTS / "adapters.py")
    adapters = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(adapters)
    found = places_of_problems()
    assert list(found) == [problem.number for problem in PROBLEMS] == list(range(1, 14))
    assert {problem: set(lines) for problem, lines in adapters.ADAPTERS.items()} == {
        problem: set(places) for problem, places in found.items()}, (
        "adapters.py has one line for every marked function")
    for lines in adapters.ADAPTERS.values():
        assert all(place == written for place, written in lines.items()), (
            "as handed out, adapters.py points to the project's own functions")


# ---- the student version -------------------------------------------------------------------------

def test_every_module_still_parses_and_every_body_is_gone(student):
    for problem, places in places_of_problems().items():
        for place in places:
            module, name = place.split(".", 1)
            source = (student / f"{module}.py").read_text(encoding="utf-8")
            node = dict(functions(source))[name]
            docstring = ast.get_docstring(dict(functions((ROOT / f"{module}.py").read_text(
                encoding="utf-8")))[name])
            assert ast.get_docstring(node) == docstring, f"{place} lost its docstring"
            statements = node.body[1 if docstring else 0:]
            assert [ast.unparse(s) for s in statements] == [
                f"raise NotImplementedError('problem {problem}')"], f"{place} keeps a body"


def test_nothing_of_the_solutions_is_left(student):
    texts = {str(path.relative_to(student)): path.read_text(encoding="utf-8", errors="replace")
             for path in student.rglob("*")
             if path.is_file() and path.suffix not in (".safetensors", ".png")}
    left = []
    for problem, places in places_of_problems().items():
        given = "\n".join(function_source(place) for place in MODELS.get(problem, ()))
        for place in places:
            module, name = place.split(".", 1)
            source = (ROOT / f"{module}.py").read_text(encoding="utf-8")
            first, last = make.body_lines(source, dict(functions(source))[name])
            for line in map(str.strip, source.splitlines()[first - 1:last]):
                if len(line) > 20 and line not in given and line not in IDIOMS:
                    left += [f"problem {problem}, {place}: {line!r} stands in {path}"
                             for path, text in texts.items() if line in text]
    assert not left, ("mark those functions too, with '# Problem N', or, if a line is harmless, "
                      "add it to IDIOMS:\n" + "\n".join(left))


def test_only_what_is_listed_is_copied(student):
    folders = {path.relative_to(student).parts[0] for path in student.rglob("*") if path.is_file()}
    assert not folders & {".git", "tests", "runs", ".ci"}, "history, oracles or runs were copied"
    names = {str(path.relative_to(student)) for path in student.rglob("*")}
    for kept in ("assignments/make.py", "assignments/grade.py", "assignments/key.md",
                 "assignments/bugs", "assignments/TEACHING.md"):
        assert kept not in names, f"{kept} is for teachers"
        assert (ROOT / kept).exists(), f"the test itself: {kept} has another name now"
    assert {"assignments/adapters.py", "assignments/README.md", "tiny/config.json"} <= names
    assert len([name for name in names if name.startswith("assignments/problems/")]) == 13
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.parametrize("arguments", [[], ["--bug", "3"]], ids=["student", "bug"])
def test_every_link_leads_to_a_file(arguments, tmp_path):
    out = tmp_path / "out"
    assert make.main([str(out), *arguments]) == 0
    for page in out.rglob("*.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (
                f"{page.relative_to(out)} links to {target}, which is not handed out: add it to "
                "PROJECT_FILES, or let mend_pages make words of the link")
    readme = (out / "README.md").read_text(encoding="utf-8")
    first_page = "BUG.md" if arguments else "assignments/README.md"
    note = readme.split("\n\n")[1]
    assert f"]({first_page})" in note and "`python -m pytest` runs" in note, (
        "the first lines of README.md must say where to begin and which tests there are")
    assert "](CONTRIBUTING.md)" in readme and "](CHANGELOG.md)" in readme, "whole pages were lost"


def test_the_packages_of_the_student_version_exist(student):
    settings = tomllib.loads((student / "pyproject.toml").read_text(encoding="utf-8"))
    missing = [name for name in settings["tool"]["setuptools"]["packages"]
               if not (student / name.replace(".", "/")).is_dir()]
    assert not missing, f"pip install -e . would fail there: pyproject.toml lists {missing}"


def test_some_problems_only(tmp_path):
    assert make.main([str(tmp_path / "some"), "--problem", "4", "--problem", "6"]) == 0
    text = (tmp_path / "some" / "grpo.py").read_text()
    assert sorted(set(re.findall(r'NotImplementedError\("problem (\d+)"\)', text))) == ["4", "6"]


def test_make_refuses_what_would_overwrite(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("work of a week")
    assert make.main([str(tmp_path / "full")]) == 2
    assert make.main([str(ROOT / "runs" / "student")]) == 2, "a copy of the project inside itself"
    said = capsys.readouterr().err
    assert said.count("\n") == 2 and "choose" in said and "Traceback" not in said
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"]
    assert make.main([str(tmp_path / "both"), "--bug", "3", "--problem", "4"]) == 2
    assert "take one" in capsys.readouterr().err, "an option that changes nothing"


# ---- handouts ------------------------------------------------------------------------------------

SECTIONS = ("## What", "## Why", "## Signature", "## Tips", "## Test", "## Written question")


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: f"{problem.number}")
def test_a_handout_says_what_the_grader_does(problem):
    [path] = (ASSIGNMENTS / "problems").glob(f"{problem.number:02}_*.md")
    text = path.read_text(encoding="utf-8")
    assert f"**Points** {problem.points} " in text, f"{path.name}: {problem.points} points"
    assert f"{problem.seconds} s, {problem.megabytes} MB" in text, (
        f"{path.name}: the limits are {problem.seconds} s and {problem.megabytes} MB")
    for section in SECTIONS:
        assert section in text, f"{path.name} has no section {section!r}"
    assert f"python -m pytest assignments/tests/{problem.tests}" in text
    assert "plot" in text.split("## Written question")[1].lower(), "the question asks for a plot"
    for place in places_of_problems()[problem.number]:
        name = place.split(".")[-1]
        assert f"`{name}`" in text or f"def {name}(" in text, f"{path.name} is silent on {place}"


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: f"{problem.number}")
def test_a_handout_has_the_signatures_of_the_code(problem):
    def without_space(text: str) -> str:
        return re.sub(r"\s|,(?=\s*\))", "", text)

    [path] = (ASSIGNMENTS / "problems").glob(f"{problem.number:02}_*.md")
    handout = without_space(path.read_text(encoding="utf-8"))
    for place in places_of_problems()[problem.number]:
        source = function_source(place)
        head = source[:re.search(r":( *#.*)?\n", source).start()]
        assert without_space(head) in handout, f"{path.name} lacks the signature of {place}: {head}"


@pytest.mark.parametrize("folder", ["problems", "bugs"])
def test_commands_of_the_handouts_are_understood(folder):
    classes = {"grpo": grpo.GRPOOptions, "ppo": ppo.PPOOptions}
    n_commands = 0
    for path in sorted((ASSIGNMENTS / folder).glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for name, arguments in re.findall(
                r"(?:^    |`)python\s(grpo|ppo)\.py([^`#]*?)(?:`|$)", text, re.M):
            parse_options(classes[name], "", arguments.split())  # ends the test if it is refused
            n_commands += 1
        for words in re.findall(r"`(--[\w-]+ [^`]+|--no-[^`]+)`", text):
            flag = words.split()[0].removeprefix("--").removeprefix("no-").replace("-", "_")
            options = next(c for c in classes.values() if flag in c.__dataclass_fields__)
            parse_options(options, "", words.split())
    assert n_commands >= (4 if folder == "problems" else 10), "where did the commands go?"


def test_written_questions_that_need_the_loop_say_so():
    """A student who cannot train yet must not meet NotImplementedError as an answer."""
    overview = (ASSIGNMENTS / "README.md").read_text(encoding="utf-8")
    training = []
    for path in sorted((ASSIGNMENTS / "problems").glob("*.md")):
        question = path.read_text(encoding="utf-8").split("## Written question")[1]
        if re.search(r"python\s+(grpo|ppo)\.py|[Tt]rain (twice|three)", question):
            training.append(int(path.name[:2]))
            assert training[-1] == 12 or "problem 12" in " ".join(question.split()), (
                f"{path.name}: its written question trains; say that it needs the loop")
    assert training == [5, 8, 10, 12, 13], f"{training}: the overview names others"
    assert "problems 5, 8, 10, 12 and 13" in overview


def test_the_tables_agree():
    """The overview and the teachers' table name every problem with its points."""
    for file in ("README.md", "TEACHING.md"):
        text = (ASSIGNMENTS / file).read_text(encoding="utf-8")
        rows = re.findall(r"^\| (\d+) \|.*?\| (\d+) \|", text, re.M)
        assert {int(n): int(points) for n, points in rows} == {
            problem.number: problem.points for problem in PROBLEMS}, f"{file}: other points"
    assert sum(problem.points for problem in PROBLEMS) == 100


# ---- planted bugs --------------------------------------------------------------------------------

@pytest.mark.parametrize("number", PATCHES)
def test_every_patch_applies_and_stays_python(number):
    patch = PATCHES[number]
    source = (ROOT / patch.file).read_text(encoding="utf-8")
    found = apply_patch(source, number, patch)
    ast.parse(found)
    changed = [line for line in found.splitlines() if line not in source.splitlines()]
    assert 1 <= len(changed) <= 6 and all(len(line) <= 100 for line in changed), (
        "a planted bug is a small mistake in a file that looks like the others")
    path, test = patch.caught_by.split("::")
    assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), f"there is no {test}"


def test_a_source_that_moved_is_an_error():
    patch = Patch("grpo.py", (("x = 1\n", "x = 2\n"),), "")
    assert apply_patch("a\nx = 1\n", 1, patch) == "a\nx = 2\n"
    for source in ("x = 3\n", "x = 1\nx = 1\n"):
        with pytest.raises(CourseError, match="bug 1: grpo.py holds"):
            apply_patch(source, 1, patch)


def test_ten_bugs_with_a_handout_and_a_key():
    key = (ASSIGNMENTS / "key.md").read_text(encoding="utf-8")
    assert list(PATCHES) == list(range(1, 11))
    for number, patch in PATCHES.items():
        handout = (ASSIGNMENTS / "bugs" / f"{number:02}.md").read_text(encoding="utf-8")
        assert f"## Bug {number}:" in key and patch.caught_by.split("::")[1] in key
        assert "python grpo.py" in handout or "python ppo.py" in handout, "what to run"
        for _, new in patch.changes:
            for line in map(str.strip, new.splitlines()):
                assert line not in handout, f"the handout of bug {number} gives it away"


def test_a_bug_version_tells_nothing(tmp_path):
    out = tmp_path / "bug"
    assert make.main([str(out), "--bug", "3"]) == 0
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert "BUG.md" in names and "tests/conftest.py" in names
    assert not [name for name in names if name.startswith(("assignments", ".git/"))
                or "tests/test_" in name or "key" in name]
    different = [path.name for path in out.glob("*.py")
                 if path.read_text() != (ROOT / path.name).read_text()]
    assert different == [PATCHES[3].file]


# ---- The grader's guard --------------------------------------------------------------------------


def test_comparisons_of_the_course_name_their_tolerances():
    """A default can be set by whoever runs in the process, and lies in another package's hands."""
    for path in (ASSIGNMENTS / "tests").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                wanted = {"approx": {"abs"}, "allclose": {"atol", "rtol"}}.get(node.func.attr)
                given = {keyword.arg for keyword in node.keywords}
                assert not wanted or wanted <= given, (
                    f"{path.name}, line {node.lineno}: {node.func.attr} without {wanted - given}")


@pytest.mark.course
@pytest.mark.parametrize("change", [
    lambda module: setattr(module, "TOLERANCE", 1e6),
    lambda module: setattr(module, "NAMES", ("a",)),
    lambda module: setattr(module.Compare, "DEFAULT", 1e6),
    lambda module: setattr(module, "compare", lambda a, b: True),
    lambda module: setattr(module.compare, "__defaults__", (1e6,)),
    lambda module: delattr(module, "TOLERANCE"),
], ids=["number", "tuple", "class", "function", "default", "deleted"])
def test_what_the_tests_rest_on_is_watched(change, monkeypatch):
    module = ModuleType("test_watched")
    exec("TOLERANCE, NAMES = 1e-6, ('a', 'b')\n"
         "class Compare: DEFAULT = 1e-6\n"
         "def compare(a, b, tolerance=1e-6): return abs(a - b) < tolerance\n", vars(module))
    module.Compare.__module__ = "test_watched"
    monkeypatch.setitem(sys.modules, "test_watched", module)
    before = grade_one.fingerprint()
    assert grade_one.same(before, grade_one.fingerprint())
    vars(module)["TOLERANCE"] = float("1e-6")  # another object of the same value
    assert grade_one.same(before, grade_one.fingerprint()), "an equal constant is no tampering"
    change(module)
    assert not grade_one.same(before, grade_one.fingerprint()), (
        "a constant decides as much as a function, and nobody saw that it was set")
