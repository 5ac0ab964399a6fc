#!/usr/bin/env bash
# What: autoevals 0.4.1, ExactMatch of objects whose keys come in another order.
#
# The docstring of its module says: "Object comparison (automatically normalized)". Its example
# compares {"name": "John", "age": 30} with '{"age": 30, "name": "John"}', with the comments
# "Different order but same content" and "1.0 for equivalent JSON".
#
# Expected: 1 in that example, and for two equal objects in whatever order their keys were written.
# Seen on 1 December 2026: 0 in the example itself, and 0 for equal Python dicts. Both sides are
# turned to text in the order of their keys, and the texts are compared. Only in the same order it
# is 1. No warning. A model writes the arguments of a tool call in any order, so right calls count
# as wrong. JSONDiff, of the same package, says 1.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    autoevals==0.4.1 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import importlib.metadata
import json
import sys

from autoevals import ExactMatch, JSONDiff

PAIRS = (({"name": "John", "age": 30}, '{"age": 30, "name": "John"}'),  # the docstring's example
         ({"name": "John", "age": 30}, '{"name": "John", "age": 30}'),
         ({"op": "ADD", "text": "tea"}, {"text": "tea", "op": "ADD"}),
         ({"op": "ADD", "text": "tea"}, {"op": "ADD", "text": "tea"}),
         ({"op": "ADD", "text": "tea"}, {"op": "ADD", "text": "dog"}))
seen = []
for output, expected in PAIRS:
    exact = ExactMatch().eval(output=output, expected=expected).score
    difference = JSONDiff().eval(output=output, expected=expected).score
    gold = json.loads(expected) if isinstance(expected, str) else expected
    print(f"autoevals {importlib.metadata.version('autoevals')}, {output} and {expected!r}: "
          f"ExactMatch {exact}, JSONDiff {difference:.2f}, equal as JSON: {output == gold}")
    seen.append((exact, difference == 1, output == gold))
sys.exit(seen != [(0, True, True), (1, True, True), (0, True, True), (1, True, True),
                  (0, False, False)])
PYTHON
