"""Tests of what is written: commands, files, links, tests and pitfalls that exist; lines that fit.

    python -m pytest tests/test_docs.py        (some ten seconds)
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from functools import lru_cache

import pytest
from test_house import MODULES, ROOT

import evaluate
import grpo
import ppo
import sft
from claims import __main__ as claims
from comparisons import answerers, compare, recall
from making import manager, mem1
from tools import chat, commands, report, watch
from tools.bench import __main__ as bench
from training import pictures
from training.options import parse_options

MAINS = {"grpo": grpo.main, "ppo": ppo.main, "sft": sft.main, "evaluate": evaluate.main,
         "comparisons.answerers": answerers.main, "comparisons.compare": compare.main,
         "comparisons.recall": recall.main,
         "memr1": chat.talk_main, "mem1": watch.watch_main, "claims": claims.main,
         "tools.report": report.main, "tools.bench": bench.main, "training.pictures": pictures.main,
         "making.manager": manager.main, "making.mem1": mem1.main}
OPTIONS = {"grpo": grpo.GRPOOptions, "ppo": ppo.PPOOptions, "sft": sft.SFTOptions,
           "evaluate": evaluate.EvaluateOptions, "comparisons.compare": compare.CompareOptions,
           "comparisons.answerers": answerers.AnswerersOptions,
           "comparisons.recall": recall.RecallOptions}
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "tiny/README.md", *(ROOT / "docs").glob("*.md"),
                *(ROOT / "assignments").glob("*.md")])


def written() -> dict[str, str]:
    """Every text that tells somebody to type something: pages, and docstrings of modules."""
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
    for name, path in MODULES.items():
        texts[name] = path.read_text(encoding="utf-8").split('"""')[1]
    return texts


def documented_commands() -> list[tuple[str, str]]:
    """(where, command) of every line that starts one of this project's modules."""
    found = []
    for where, text in written().items():
        for line in re.sub(r" \\\n +", " ", text).splitlines():  # a \ joins two lines
            for part in [*line.strip().strip("`").split("&&"), *re.findall("`([^`]+)`", line)]:
                # What stands behind a # or two spaces explains the command.
                command = re.split(r" {2,}|#|`", part.strip())[0].strip()
                command = re.sub(r"^torchrun --nproc-per-node \d+ ", "python ", command)
                if re.match(r"python (\w+\.py|-m (?!pytest|pip|venv)[\w.]+)", command):
                    found.append((where, command))
    return found


@lru_cache
def help_of(name: str) -> str:
    """What `--help` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        MAINS[name](["--help"])
    return out.getvalue()


def test_documented_commands_exist():
    found = documented_commands()
    assert len(found) >= 40, f"only {len(found)}: where did the commands of the docstrings go?"
    for where, command in found:
        words = shlex.split(command)
        name, arguments = words[1].removesuffix(".py"), words[2:]
        if words[1] == "-m":
            name, arguments = words[2], words[3:]
        if name.startswith("assignments/"):
            continue
        assert name in MAINS, f"{where}: {command!r} starts something that does not exist"
        for argument in arguments:
            if argument.startswith("-"):
                assert re.search(rf"(?<!\S){re.escape(argument)}\b", help_of(name)), (
                    f"{where}: {command!r} uses {argument}, which its --help does not know")
            elif argument.isidentifier() and argument.isupper() and len(argument) > 1:
                pytest.fail(f"{where}: {command!r} holds the placeholder {argument}")
        if name == "evaluate" and "--systems" in arguments:  # hands its arguments over
            name = "comparisons.compare"
        if name == "evaluate" and "--recall" in arguments:
            name = "comparisons.recall"
            arguments.remove("--recall")
        if name in OPTIONS and "..." not in arguments:
            parse_options(OPTIONS[name], "", arguments)  # refuses what the script refuses


def test_every_command_is_documented_and_in_the_console_command():
    named = {module for module, _ in commands.COMMANDS.values()}
    assert named == set(MAINS), "tools/commands.py and this test list other commands"
    everything = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    for name in MAINS:
        typed = f"python {name}.py" if "." not in name and (ROOT / f"{name}.py").exists() else (
            f"python -m {name}")
        assert typed in everything, f"no page tells of `{typed}`"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_links_of_a_page_exist(path):
    text = path.read_text(encoding="utf-8")
    for name in set(re.findall(r"`([\w/]+\.(?:py|md|html|ipynb))`", text)):
        folders = (ROOT, path.parent, ROOT / "tests", ROOT / "assignments")
        # A changelog names files as they were called when an entry was written.
        assert path.name == "CHANGELOG.md" or any((folder / name).exists() for folder in folders), (
            f"{path.name} speaks of {name}, which does not exist")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (path.parent / target).exists(), f"{path.name} links to {target}, which is not there"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_of_a_page_fit(path):
    text = path.read_text(encoding="utf-8")
    lines = re.sub(r"\]\([^)]+\)", "]", text).splitlines()  # where a link leads is not read
    too_long = [number for number, line in enumerate(lines, 1) if len(line) > 100]
    assert not too_long, f"{path.name}: lines {too_long} have more than 100 columns"
    assert path != ROOT / "README.md" or len(lines) <= 250, (
        f"README.md has {len(lines)} lines: what a newcomer can do without belongs to docs/")


def test_the_scores_of_the_first_command_are_the_same_everywhere():
    readme, results = ((ROOT / name).read_text() for name in ("README.md", "docs/results.md"))
    last_line = re.search(r"^grpo manager: held-out exact match ([\d.]+) -> ([\d.]+) in \d+ s, "
                          r"[\d.]+ GiB; run folder runs/grpo-manager$", readme, re.MULTILINE)
    assert last_line, "README.md does not quote the last line of `python grpo.py` as it is printed"
    before, after = last_line.groups()
    for text, row in ((readme, f"held-out exact match {before} -> {after} ... |"),
                      (readme, f"| manager, GRPO | {before} | {after} /"),
                      (results, f"| all questions | {before} | {after} /")):
        assert row in text, f"{row!r}: another score than in the quoted last line"


def test_the_reading_list_says_how_long_each_file_is():
    rows = re.findall(r"^\| [\d, ]+ \| `(\w+\.py)` \| (\d+) \|",
                      (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for name, _ in rows} == {path.name for path in ROOT.glob("*.py")}
    for name, lines in rows:
        n_lines = len((ROOT / name).read_text(encoding="utf-8").splitlines())
        assert abs(int(lines) - n_lines) <= 0.1 * n_lines, (
            f"README.md says {lines} lines of {name}, which has {n_lines}")


def test_every_page_can_be_reached():
    linked = set()
    for page in (ROOT / "README.md", ROOT / "docs" / "commands.md"):
        targets = re.findall(r"\]\(([^)#:]+)", page.read_text(encoding="utf-8"))
        linked |= {(page.parent / target).resolve() for target in targets}
    lost = [path.name for path in (ROOT / "docs").glob("*.md") if path not in linked]
    assert not lost, f"nobody finds {lost}: link them from README.md or docs/commands.md"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_that_a_page_names_exist(path):
    named = re.findall(r"((?:assignments/)?tests/\w+\.py)::(\w+)", path.read_text(encoding="utf-8"))
    missing = [f"{file}::{name}" for file, name in named if not (ROOT / file).exists()
               or f"\ndef {name}(" not in (ROOT / file).read_text(encoding="utf-8")]
    assert not missing, f"{path.name} relies on tests that are not there: {missing}"


def test_every_pitfall_that_is_named_is_explained():
    page = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
    explained = re.findall(r"^### (\d+)\. ", page, re.MULTILINE)
    assert explained == [str(number) for number in range(1, 43)], "one entry each, in their order"
    for entry in re.split(r"^### ", page, flags=re.MULTILINE)[1:]:
        for part in ("**Notice:**", "**Here:**", "**Caught by**"):
            assert entry.count(part) == 1, f"pitfall {entry.splitlines()[0]} lacks its {part}"
    course = ROOT / "assignments"
    texts = [*MODULES.values(), *PAGES, *(ROOT / "tests").glob("*.py"), *course.rglob("*.py"),
             *course.rglob("*.md")]
    for path in texts:
        # The key to the planted bugs names pitfalls by their rows.
        for numbers in re.findall(r"(?:[Pp]itfalls? |\*\*Row\*\* )(\d+(?:(?:, | and )\d+)*)",
                                  path.read_text(encoding="utf-8")):
            unknown = set(re.findall(r"\d+", numbers)) - set(explained)
            assert not unknown, f"{path.name} speaks of pitfall {unknown}, which no page explains"
