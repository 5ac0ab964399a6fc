#!/usr/bin/env bash
# What: inspect-ai 0.3.285, the scorer match(numeric=True) on numbers of six digits and more.
#
# The docstring says of numeric: currency signs, thousands separators and formatting marks "are
# stripped before numbers are normalized and compared". It names no tolerance.
#
# Expected: "123,461" is wrong where the target is 123456, as "42" is where it is 41.
# Seen on 29 November 2026: "123,461" is correct. Both numbers are written with five digits before
# they are compared, as 1.2346e+05. So a date as a number, 20230512, counts as correct for 20230508,
# and so does a sum that is off by 40 dollars. No warning. The answer in the log reads "1.2346e+05".
# match() without numeric, and exact(), tell these numbers apart.
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
from inspect_ai.scorer import Target, exact, match
from inspect_ai.solver import TaskState


def score(scorer, answer, target):
    output = ModelOutput.from_content("mockllm/model", answer)
    state = TaskState("mockllm/model", 1, 1, "", [], output=output)
    return asyncio.run(scorer(state, Target(target)))


seen = []
for answer, target in (
        ("42", "41"), ("12346", "12345"), ("She paid $123,461.", "123456"),
        ("20230512", "20230508"), ("$1,234,600", "1234560")):
    numeric = score(match(numeric=True), answer, target)
    others = [score(scorer, answer, target).value for scorer in (match(), exact())]
    print(f"inspect-ai {version('inspect-ai')}: {answer!r} for {target!r} is {numeric.value} by "
          f"match(numeric=True), which read {numeric.answer!r}, and {others} by match(), exact()")
    seen.append((numeric.value, *others))
sys.exit(seen != [("I", "I", "I")] * 2 + [("C", "I", "I")] * 3)
PYTHON
