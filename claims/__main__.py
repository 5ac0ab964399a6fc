"""Every claim of the two papers, in miniature: `python -m claims`.

    a claim ──> the runs it needs ──> grpo.py, ppo.py, sft.py ──> evaluate.py ──> holds, or does not

Nothing is trained or scored here. A claim (lines.py) names commands of this repository, three seeds
of each; what is not yet in runs/claims/ is run (runner.py). Then their records are compared on the
same questions. lines.py also says when a claim holds, and where it differs from the papers'. A
line is decided for itself and together with all others, by wider intervals.

    python -m claims            all of them, with the usual budgets
    python -m claims --quick    with smaller ones
    python -m claims 5          the fifth claim alone

It ends with "claims: H hold, D do not, U are not shown; all at once A hold, B do not;
runs/claims/claims.csv". A command that was run before is not run again: delete its folder, or all
of runs/claims/, to begin anew.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from backend.devices import exit_with, print_anything
from claims import runner
from claims.lines import CONFIDENCE, QUICK, USUAL, Line, every_line, joint_confidence
from training.folders import lock_or_stop
from training.run import launch

VERDICTS = {True: "holds", False: "does not hold", None: "not shown"}


def chosen_lines(numbers: str, quick: bool) -> list[Line]:
    """The lines of these claims: "all", or "1,5". Stops the program on an unknown number."""
    lines = every_line(QUICK if quick else USUAL)
    known = sorted({str(line.number) for line in lines})
    chosen = known if numbers == "all" else [number.strip() for number in numbers.split(",")]
    for number in chosen:
        if number not in known:
            exit_with(f"{numbers}: must be all, or some of {','.join(known)}")
    return [line for line in lines if str(line.number) in chosen]


def measured_row(line: Line, quick: bool) -> dict[str, str]:
    """A row of the table; the line's commands have been run."""
    numbers, holds = line.measure(CONFIDENCE)
    _, holds_with_others = line.measure(joint_confidence())
    return {"claim": f"{line.number}. {line.claim}", "paper": line.paper, "here": numbers,
            "verdict": VERDICTS[holds], "all at once": VERDICTS[holds_with_others],
            "command": f"python -m claims {line.number}" + " --quick" * quick}


def write_table(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Write the rows as CSV, and print them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    print()
    for row in ({name: name for name in rows[0]}, *rows):
        print("  ".join(row[name].ljust(widths[name]) for name in row).rstrip())


def check(numbers: str, quick: bool = False) -> list[dict[str, str]]:
    """Run, compare, print and write the table; returns its rows. `numbers`: "all", or "1,5"."""
    lines = chosen_lines(numbers, quick)
    try:
        runner.FOLDER.mkdir(parents=True, exist_ok=True)
        lock_or_stop(runner.FOLDER)
    except OSError as error:
        exit_with(f"cannot write to {runner.FOLDER} ({error.strerror}); it must be a folder")
    runner.run_missing(job for line in lines for job in line.jobs)
    rows = [measured_row(line, quick) for line in lines]
    parts = [] if numbers == "all" else [number.strip() for number in numbers.split(",")]
    name = "-".join(["claims", *parts, *["quick"] * quick]) + ".csv"
    write_table(rows, runner.FOLDER / name)
    alone, at_once = (Counter(row[column] for row in rows) for column in ("verdict", "all at once"))
    print(f"\nclaims: {alone['holds']} hold, {alone['does not hold']} do not, "
          f"{alone['not shown']} are not shown; all at once {at_once['holds']} hold, "
          f"{at_once['does not hold']} do not; {runner.FOLDER / name}")
    return rows


def main(argv: Sequence[str] | None = None) -> list[dict[str, str]]:
    """Check all claims, or those named; returns the rows of the table."""
    print_anything()
    parser = argparse.ArgumentParser(prog="python -m claims", description="Check the papers' "
                                     "claims: train what is not yet in runs/claims/, and compare.",
                                     allow_abbrev=False)
    parser.error = lambda message: exit_with(f"{message}; --help lists all options")
    parser.add_argument("claims", nargs="?", default="all", metavar="NUMBERS",
                        help="some of them, as in 1,7 (default: all)")
    parser.add_argument("--quick", action="store_true", help="train for fewer steps, on fewer "
                        "questions a step; score MEM1 on fewer tasks")
    options = parser.parse_args(argv)
    return check(options.claims, options.quick)


if __name__ == "__main__":
    launch(main)
