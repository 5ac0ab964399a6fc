"""Make what students get: the project without the solutions, or with one planted bug.

    python assignments/make.py OUT            the marked functions are to be written
    python assignments/make.py OUT --problem 4 --problem 5    only these, the rest is written
    python assignments/make.py OUT --bug 3    everything is written, and one thing is wrong

A comment `# Problem 4` above a `def` marks a function of problem 4. In the student version its
signature and docstring stay and its body becomes `raise NotImplementedError("problem 4")`.

What is copied is listed below (`STUDENT_FILES`, `BUG_FILES`), so nothing new slips in. The
project's own tests/ stay behind: they hold slow versions of the same functions to compare with, and
would tell where a bug is planted. So do tools/bench/, which holds a training step for timing, the
keys, grade.py, this file and the history in .git. A link to any of them becomes plain words.

OUT must not exist or be an empty folder. Exit code 2 and one line if something is in the way.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "bugs"))
from patches import PATCHES, Patch  # noqa: E402

MODULES = ("*.py", "backend", "benchmarks", "systems", "training", "comparisons", "claims", "tools",
           "making")
PROJECT_FILES = (*MODULES, "docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE",
                 "requirements.txt", "pyproject.toml", ".gitignore", "tiny")
STUDENT_FILES = (*PROJECT_FILES, "assignments/README.md", "assignments/adapters.py",
                 "assignments/problems", "assignments/tests")
# A training step of its own, for timing: a solution of problem 12.
LEFT_OUT = "tools/bench"
STUDENT_NOTE = """\
> This is the student version: begin with [assignments/README.md](assignments/README.md).
> `python -m pytest` runs the tests of the problems. The project's own tests, tools/bench and all
> that is for teachers are left out, so that what is said of them does not hold here.
"""
BUG_NOTE = """\
> One thing is wrong in this copy of the project, and [BUG.md](BUG.md) says what to do.
> `python -m pytest` runs the test that you write. The course and the project's own tests are left
> out, so that what is said of them does not hold here.
"""
BUG_FILES = (*PROJECT_FILES, "tests/conftest.py", "tests/canned.py")
PYTEST_INI = "[pytest]\ntestpaths = {}\n"
MARK = re.compile(r"\s*# Problem (\d+)")
LINK = re.compile(r"\[([^]]+)\]\((?!https?:|#)([^)#]+)[^)]*\)")


class CourseError(ValueError):
    """Something that stands in the way; the message is one line that says what to do."""


# ---- Marked functions: text in, text out ---------------------------------------------------------


def lines_of(source: str) -> list[str]:
    """The lines as Python counts them: `splitlines` also cuts at form feeds and the like."""
    return re.split("\r\n|\r|\n", source)


def functions(source: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Qualified names and nodes of a module's functions and of its classes' methods."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for child in node.body:
                if isinstance(child, ast.FunctionDef):
                    yield f"{node.name}.{child.name}", child


def first_line(node: ast.FunctionDef) -> int:
    """The number of its first line, decorators included, from 1."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def marked(source: str) -> dict[str, int]:
    """Qualified name -> number of its problem. CourseError if a mark stands above no function."""
    lines = lines_of(source)
    problem_of = {}
    for name, node in functions(source):
        mark = MARK.fullmatch(lines[first_line(node) - 2]) if first_line(node) > 1 else None
        if mark:
            problem_of[name] = int(mark[1])
    n_marks = sum(MARK.fullmatch(line) is not None for line in lines)
    if n_marks != len(problem_of):
        raise CourseError(f"{n_marks} marks '# Problem N', but right below one stand only "
                          f"{sorted(problem_of)}: a mark belongs on the line above a def or its "
                          "decorator")
    return problem_of


def body_lines(source: str, node: ast.FunctionDef) -> tuple[int, int]:
    """Numbers of the first and the last line of a body, from 1; a docstring is none of it."""
    lines = lines_of(source)
    if ast.get_docstring(node) is not None:
        first = node.body[0].end_lineno + 1
    else:
        parts = [node.returns, *node.args.args, *node.args.kwonlyargs]
        first = max([node.lineno, *(part.end_lineno for part in parts if part)])
        while not lines[first - 1].rstrip().endswith(":"):
            first += 1
        first += 1
    last = node.end_lineno
    # Comments behind the last statement belong to the body as long as they are indented like it.
    while last < len(lines) and re.match(rf"\s{{{node.col_offset + 1},}}#", lines[last]):
        last += 1
    return first, last


def blank(source: str, problems: Collection[int]) -> str:
    """The source with the bodies of these problems' functions replaced."""
    lines, marks = lines_of(source), marked(source)
    for name, node in reversed(list(functions(source))):  # from below: numbers above stay right
        if marks.get(name) in problems:
            first, last = body_lines(source, node)
            indent = " " * (node.col_offset + 4)
            lines[first - 1:last] = [
                f'{indent}raise NotImplementedError("problem {marks[name]}")']
    return "\n".join(lines).rstrip("\n") + "\n"


def transplant(source: str, donor: str, names: Collection[str]) -> str:
    """The source with these functions as they stand in another version of the module."""
    lines, others = lines_of(source), dict(functions(donor))
    for name, node in reversed(list(functions(source))):
        if name in names and name in others:
            other = others[name]
            lines[first_line(node) - 1:node.end_lineno] = (
                lines_of(donor)[first_line(other) - 1:other.end_lineno])
    return "\n".join(lines).rstrip("\n") + "\n"


def places(root: Path = ROOT) -> dict[int, list[str]]:
    """Problem -> its functions, as "grpo.group_advantages" or "memory_bank.MemoryBank.search"."""
    by_problem: dict[int, list[str]] = {}
    for path in sorted(root.glob("*.py")):
        for name, problem in marked(path.read_text(encoding="utf-8")).items():
            by_problem.setdefault(problem, []).append(f"{path.stem}.{name}")
    return dict(sorted(by_problem.items()))


def apply_patch(source: str, number: int, patch: Patch) -> str:
    """The source with a bug in it. CourseError if the lines it replaces are not there once."""
    for old, new in patch.changes:
        if source.count(old) != 1:
            raise CourseError(
                f"bug {number}: {patch.file} holds {source.count(old)} times what the bug replaces "
                f"({old.strip().splitlines()[0]!r}): the source has moved; mend bugs/patches.py")
        source = source.replace(old, new)
    return source


# ---- Folders -------------------------------------------------------------------------------------


def copy(patterns: Sequence[str], out: Path, root: Path = ROOT) -> None:
    """Copy files and folders that exist; never a cache."""
    for pattern in patterns:
        for source in sorted(root.glob(pattern)):
            target = out / source.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            else:
                shutil.copy(source, target)


def mend_pages(out: Path, note: str) -> None:
    """Put a note under the title of README.md; make words of links to files that were left out."""
    for page in out.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        text = LINK.sub(
            lambda link: link[0] if (page.parent / link[2]).exists() else link[1], text)
        if page == out / "README.md":
            title, rest = text.split("\n", 1)
            text = f"{title}\n\n{note}{rest}"
        page.write_text(text, encoding="utf-8")


def make_student_version(out: Path, problems: Collection[int] | None = None) -> None:
    """The project with the functions of all problems, or of some, still to be written."""
    problems = problems or places()
    copy(STUDENT_FILES, out)
    shutil.rmtree(out / LEFT_OUT)
    packages = (out / "pyproject.toml").read_text(encoding="utf-8")
    (out / "pyproject.toml").write_text(
        packages.replace(f'    "{LEFT_OUT.replace("/", ".")}",\n', ""), encoding="utf-8")
    for path in out.glob("*.py"):
        path.write_text(blank(path.read_text(encoding="utf-8"), problems), encoding="utf-8")
    (out / "pytest.ini").write_text(PYTEST_INI.format("assignments/tests"), encoding="utf-8")
    mend_pages(out, STUDENT_NOTE)


def make_bug(out: Path, number: int) -> None:
    """The whole project with one planted bug and its handout."""
    patch = PATCHES[number]
    source = (ROOT / patch.file).read_text(encoding="utf-8")
    patched = apply_patch(source, number, patch)  # before anything is written
    copy(BUG_FILES, out)
    (out / patch.file).write_text(patched, encoding="utf-8")
    shutil.copy(HERE / "bugs" / f"{number:02}.md", out / "BUG.md")
    (out / "pytest.ini").write_text(PYTEST_INI.format("tests"), encoding="utf-8")
    mend_pages(out, BUG_NOTE)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the folder; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the student version.", allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"error: {message}; --help lists all options\n")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    parser.add_argument("--bug", type=int, metavar="N", choices=PATCHES,
                        help=f"plant a bug instead, 1 to {len(PATCHES)}")
    parser.add_argument("--problem", type=int, action="append", metavar="N", choices=places(),
                        help="leave only this problem to be written; may be given several times")
    options = parser.parse_args(argv)
    problems = sorted(set(options.problem or places()))
    try:
        if options.bug and options.problem:
            raise CourseError("--bug and --problem: a bug is planted in the whole project; "
                              "take one of the two")
        if options.out.resolve().is_relative_to(ROOT):
            raise CourseError(f"{options.out} is inside the project: choose a folder outside")
        if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
            raise CourseError(f"{options.out} exists and is not an empty folder: choose another")
        options.out.mkdir(parents=True, exist_ok=True)
        if options.bug:
            make_bug(options.out, options.bug)
        else:
            make_student_version(options.out, problems)
    except (CourseError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.bug:
        print(f"bug {options.bug} is planted in {options.out}; hand out the folder with its BUG.md")
    else:
        print(f"student version in {options.out}: {len(problems)} problems; "
              "python -m pytest there runs their tests")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
