"""Tests of the house itself: which room may know which, and how long the loops may be.

    python -m pytest tests/test_house.py        (some ten seconds)

The rooms, left to right; a module imports only from its own room or from rooms further left:

    backend -> core -> benchmarks -> systems -> training -> comparisons
            -> sft, grpo, ppo, evaluate -> claims -> tools, making

The core is ten files at the root, in an order of their own: each imports only earlier ones.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ("memory_bank", "metrics", "data", "world", "trees", "policy", "prompts", "memr1",
        "environments", "mem1")
LOOPS = ("sft", "grpo", "ppo", "evaluate")
FOLDERS = ("backend", "benchmarks", "systems", "training", "comparisons", "claims", "tools",
           "making")
ROOMS = {"backend": 0, **dict.fromkeys(CORE, 1), "benchmarks": 2, "systems": 3, "training": 4,
         "comparisons": 5, **dict.fromkeys(LOOPS, 6), "claims": 7, "tools": 8, "making": 8}
# Read as text or ids, never as tensors: a student may study them without knowing torch.
NO_TENSORS = ("memory_bank", "metrics", "data", "world", "prompts", "environments",
              "benchmarks.shop", "comparisons.intervals")
# What is imported where it is used: packages that a user need not have, and parts of the standard
# library that Windows alone has, or lacks. Without the package tensorboard, torch's writer for it
# raises an ImportError.
OPTIONAL = {"gguf", "torch.utils.tensorboard", "wandb", "web_agent_site", "faiss", "trl", "peft",
            "cyllama", "datasets", "resource", "readline", "fcntl", "msvcrt"}


def module_paths() -> dict[str, Path]:
    """Dotted name -> file of every module of the project, tests and assignments aside."""
    paths = sorted(ROOT.glob("*.py"))
    for folder in FOLDERS:
        paths += sorted((ROOT / folder).rglob("*.py"))
    found = {}
    for path in paths:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = module_paths()


@cache
def tree_of(name: str) -> ast.Module:
    """A module's source, parsed."""
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imported_names(node: ast.AST) -> list[str]:
    """The modules that an import statement names; [] for any other node."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        # `from tools import chat` may name a module, `from tools.chat import parse` does not.
        return [f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES
                else str(node.module) for alias in node.names]
    return []


def top_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node that runs when a module is imported: no function, no `__main__` block."""
    queue: list[ast.AST] = list(tree.body)
    while queue:
        node = queue.pop()
        is_main = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        if not is_main and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
            queue += ast.iter_child_nodes(node)


@cache
def own_imports(name: str) -> set[str]:
    """The project's modules that a module imports when it is imported itself."""
    tree = tree_of(name)
    return {imported for node in top_level(tree) for imported in imported_names(node)
            if imported.split(".")[0] in ROOMS}


# ---- Rooms ---------------------------------------------------------------------------------------

def test_the_root_holds_what_a_student_reads():
    at_root = {path.stem for path in ROOT.glob("*.py")}
    assert at_root == {*CORE, *LOOPS}, (
        "the root is the reading list; everything else belongs into a folder whose name says why "
        f"a reader may skip it: {sorted(at_root ^ {*CORE, *LOOPS})}")


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_to_the_left(name):
    room = ROOMS[name.split(".")[0]]
    for imported in sorted(own_imports(name)):
        other = imported.split(".")[0]
        if other in CORE and name in CORE:
            assert CORE.index(other) < CORE.index(name), (
                f"{name} imports {imported}, which stands behind it in the reading order {CORE}")
        elif other in LOOPS:
            assert room > ROOMS[other], f"{name} imports {imported}, a command of its own room"
        else:
            assert ROOMS[other] <= room, (
                f"{name} imports {imported}, a room further right: move what it needs to the left, "
                "or hand it in as an argument")


def test_no_circle():
    known: dict[str, set[str]] = {name: own_imports(name) for name in MODULES}

    def reaches(start: str, goal: str, passed: set[str]) -> bool:
        return any(following == goal or following not in passed
                   and reaches(following, goal, passed | {following})
                   for following in known.get(start, ()))

    circles = [name for name in MODULES if reaches(name, name, {name})]
    assert not circles, f"these modules import each other in a circle: {circles}"


@pytest.mark.parametrize("name", MODULES)
def test_no_import_is_hidden(name):
    tree = tree_of(name)
    relative = [node.module for node in ast.walk(tree) if getattr(node, "level", 0)]
    assert not relative, f"{name} imports {relative} by a dot: write the room's name"
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for node in ast.walk(function):
            for imported in imported_names(node):
                assert {imported, imported.split(".")[0]} & OPTIONAL, (
                    f"{name}.{function.name} imports {imported}: no arrow may hide in a function; "
                    "only what a user need not have is imported where it is used")
    text = ast.unparse(tree)
    for hidden in ("import_module", "__import__", "TYPE_CHECKING", "spec_from_file_location"):
        assert hidden not in text, f"{name} uses {hidden}: an arrow that no picture shows"
    # The console command starts any module that is named, and imports none.
    assert ("runpy" in text) == (name == "tools.commands"), f"{name}: runpy hides an import"


def test_modules_without_tensors_do_not_load_torch():
    script = f"""
import importlib, sys
for name in {NO_TENSORS}:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (
        f"{done.stderr.strip().splitlines()[-1]} loads torch, though it is said to know no tensors")


# ---- What is in them -----------------------------------------------------------------------------

@pytest.mark.parametrize("name", MODULES)
def test_docstrings_and_their_examples(name):
    tree = tree_of(name)
    assert ast.get_docstring(tree), f"{name} does not say what it is for"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"
    if not name.endswith("__main__"):
        failed, _ = doctest.testmod(importlib.import_module(name))
        assert failed == 0, f"an example in a docstring of {name} is not what the code does"


@pytest.mark.parametrize("name, most", [("grpo", 40), ("ppo", 55)])
def test_a_loop_fits_a_screen(name, most):
    tree = tree_of(name)
    [loop] = [node for node in tree.body
              if isinstance(node, ast.FunctionDef) and node.name == "train"]
    n_lines = loop.end_lineno - loop.lineno + 1
    assert n_lines <= most, f"{name}.train has {n_lines} lines: it is what everybody came to read"
    plumbing = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom)
                and node.module == "backend.devices" for alias in node.names}
    inside = {node.id for node in ast.walk(loop) if isinstance(node, ast.Name)}
    assert plumbing & inside <= {"clip_gradients"}, (
        f"{name}.train speaks of devices: {sorted(plumbing & inside)}")
