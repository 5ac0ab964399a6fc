#!/usr/bin/env bash
# What: inspect-ai 0.3.285, the scorer f1() on a number that follows a line break.
#
# F1 as in SQuAD counts the words that answer and target share, whatever white space stands between
# them. The code of f1() calls compute_f1 "the SQuAD F1 metric".
#
# Expected: "Answer:\n42" scores for the target 42 what "Answer: 42" scores, 0.67.
# Seen on 29 November 2026: "Answer: 42" scores 0.67, "Answer:\n42" scores 0. The text is cut at
# spaces and hyphens, not at line breaks. Each piece that is a number as a whole becomes a float,
# "42.0". A number beside a line break is in a piece with another word, and stays "42". So the two
# never match. A year in a list of lines fares the same: the target itself scores 0.5 when its line
# break is a space. No warning. Words without digits are not affected.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check inspect-ai==0.3.285 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import asyncio
import sys
from importlib.metadata import version

from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Target, f1
from inspect_ai.solver import TaskState

seen = []
for answer, target in (
        ("Answer: Oslo", "Oslo"), ("Answer:\nOslo", "Oslo"), ("Answer: 42", "42"),
        ("Answer:\n42", "42"), ("It was in\n2023", "2023"), ("May 2023", "May\n2023")):
    output = ModelOutput.from_content("mockllm/model", answer)
    state = TaskState("mockllm/model", 1, 1, "", [], output=output)
    value = asyncio.run(f1()(state, Target(target))).value
    print(f"inspect-ai {version('inspect-ai')}: F1 of {answer!r} for {target!r} is {value}")
    seen.append(value)
sys.exit(seen != [0.67, 0.67, 0.67, 0, 0, 0.5])
PYTHON
