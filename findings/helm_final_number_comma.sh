#!/usr/bin/env bash
# What: crfm-helm 0.5.16 (HELM), the metric final_number_exact_match, with a comma after the number.
#
# The docstring says: "Returns 1 iff the final number in gold and pred match." Its example is a gold
# answer "The answer is 15." and the answer "The answer is 15 eggs.". HELM scores GSM8K with it.
#
# Expected: 1 for each answer whose final number is 15, whatever words and commas follow it.
# Seen on 1 December 2026: 0 if a comma that touches no digit comes after the number, as in "15
# eggs, I think." A comma alone counts as a number, the final one. It becomes an empty text, and
# the score is 0. Without the comma, or with one right after the number, it is 1. No warning. So a
# right answer with a remark counts as wrong, and as a reward the metric teaches not to remark.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    nltk==3.10.4 rouge-score==0.1.2 numpy==2.4.6 datasets==5.2.0 colorlog pyyaml pyhocon tqdm \
    zstandard filelock retrying sqlitedict dacite mako cattrs \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    crfm-helm==0.5.16 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export NLTK_DATA="$folder/nltk"
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import contextlib
import importlib.metadata
import io
import re
import sys

with contextlib.redirect_stdout(io.StringIO()):  # NLTK's download of data that is not needed here
    from helm.benchmark.metrics.evaluate_reference_metrics import final_number_exact_match

GOLD = "The answer is 15."
ANSWERS = ("The answer is 15 eggs.", "The answer is 15 eggs, I think.", "15 eggs, as she sold two.",
           "The answer is 15, I think.", "In all, she has 15 eggs.", "15 eggs, so 15.",
           "The answer is 16 eggs.")
seen = []
for answer in ANSWERS:
    score = final_number_exact_match(GOLD, answer)
    expected = int(re.findall(r"\d+", answer)[-1] == "15")
    print(f"crfm-helm {importlib.metadata.version('crfm-helm')}, gold {GOLD!r}, answer {answer!r}: "
          f"{score}, expected {expected}")
    seen.append((score, expected))
sys.exit(seen != [(1, 1), (0, 1), (0, 1), (1, 1), (1, 1), (1, 1), (0, 0)])
PYTHON
