"""The terminal, as both demos use it: what is typed, what is printed, and colors.

Colors are used only where the output is a terminal with colors and NO_COLOR is not set. What is
typed, what data say and what a model writes may hold anything. All of it is printed without control
characters, because a terminal would obey them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import string
import sys
from collections.abc import Iterator, Sequence

from backend.devices import exit_with
from benchmarks.encoders import EMBEDDER_HELP
from policy import Policy

LONGEST_LINE = 500  # characters
# Latin's, the full-width one of East Asia, Arabic's and Greek's, which looks like a semicolon.
QUESTION_MARKS = ("?", "\uff1f", "\u061f", "\u037e")
COLORS = {"ADD": "32", "UPDATE": "33", "DELETE": "31", "NOOP": "2", "invalid": "1;31",
          "right": "32", "wrong": "31", "strong": "1", "quiet": "2"}


def has_colors() -> bool:
    """Whether the output is a terminal with colors, and nobody asked for none."""
    return (sys.stdout.isatty() and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
            and (os.name != "nt" or "WT_SESSION" in os.environ))  # old Windows consoles print codes


def printable(text: str) -> str:
    """Text on one line without control characters.

    >>> printable("Rex\\x1b[2J\\tand Milo")
    'Rex\ufffd[2J and Milo'
    """
    return "".join(" " if letter.isspace() else letter if letter.isprintable() else "\ufffd"
                   for letter in text)


def paint(text: str, color: str) -> str:
    """Printable text, in one of `COLORS` where there are colors."""
    return f"\x1b[{COLORS[color]}m{printable(text)}\x1b[0m" if has_colors() else printable(text)


def prepare_terminal() -> None:
    """Prepare `input`: arrow keys, history, and no traceback on bytes that are no text."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):  # not on Windows, whose console has its own keys
            import readline  # noqa: F401  `input` uses the module once it is loaded
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(errors="replace")


def typed_lines(prompt: str) -> Iterator[str]:
    """Yield what is typed, line by line, until /quit, the end of input or Ctrl-C."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while (line := input(prompt).strip()) != "/quit":
            if len(line) > LONGEST_LINE:
                print(f"  Nothing was read: {len(line)} characters; at most {LONGEST_LINE} a line.")
            else:
                yield line
    print("\nGood-bye.")


def refuse_command(command: str) -> None:
    """Print that there is no such command: none takes words behind it, so all of the line is it."""
    print(f"  There is no command {printable(command[:60])}; /help lists them.")


def unknown_words(policy: Policy, line: str) -> list[str]:
    """The words of a line that the tokenizer cuts to pieces, each once.

    The embedded models' tokenizers hold every word that their models learned as one token, with
    the space before it. So a word in pieces is one that the model never read.
    """
    words = [word.strip(string.punctuation + "".join(QUESTION_MARKS)).removesuffix("'s")
             for word in line.split()]
    return [word for word in filter(None, dict.fromkeys(words))
            if len(policy.tokenizer.encode(f" {word}", add_special_tokens=False)) > 1]


def mark_unknown(policy: Policy, line: str, remedy: str = "what follows is a guess") -> None:
    """Print which words of a line an embedded model never read, if there are any."""
    if words := unknown_words(policy, line):
        print(paint(f"  ! unknown to the embedded model: {', '.join(words)}; {remedy}", "invalid"))


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options; a mistake in them ends the program with one line, exit code 2."""
    parser.error = lambda message: exit_with(f"{printable(message)}; --help lists all options")
    return parser.parse_args(argv)


def add_embedder(parser: argparse.ArgumentParser) -> None:
    """Tell the parser of `--embedder`, which both demos have."""
    parser.add_argument("--embedder", metavar="NAME", default="hashed",
                        help=f"{EMBEDDER_HELP} (default: hashed)")
