#!/usr/bin/env bash
# What: torchmetrics 1.9.0, chrf_score of answers of fewer than six letters.
#
# The documentation says: "This implementation follows the implementations from" chrF's author and
# sacrebleu. chrF is a mean over n-grams of one to six letters, and lies between 0 and 1.
#
# Expected: 1 for an answer equal to the gold answer, as sacrebleu 2.6.0 gives it (it prints 100).
# Seen on 29 November 2026: 0.625 for "Oslo" and "Oslo", and 0.375 for "No" and "No". The n-grams
# that a text is too short for count as missed. sacrebleu leaves them out of the mean. So a corpus
# of short answers can never reach 1, and "Oslo" for "Oslo" scores less than a long answer that is
# wrong in one word (0.786).
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 torchmetrics==1.9.0 sacrebleu==2.6.0 numpy==2.4.6 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

import torchmetrics
from sacrebleu.metrics import CHRF
from torchmetrics.functional.text import chrf_score

GOLD, WRONG = "She works there as a nurse", "She works here as a nurse"
seen = []
for answer, gold in (("No", "No"), ("Oslo", "Oslo"), (GOLD, GOLD), (WRONG, GOLD)):
    ours = chrf_score([answer], [[gold]]).item()
    theirs = CHRF(word_order=2).corpus_score([answer], [[gold]]).score / 100
    print(f"torchmetrics {torchmetrics.__version__}: {ours:.3f} for {answer!r}, gold {gold!r}; "
          f"sacrebleu {theirs:.3f}")
    seen.append((round(ours, 3), round(theirs, 3)))
sys.exit(seen != [(0.375, 1), (0.625, 1), (1, 1), (0.786, 0.786)])
PYTHON
