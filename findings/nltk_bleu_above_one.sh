#!/usr/bin/env bash
# What: nltk 3.10.4, sentence_bleu with SmoothingFunction's method5 and method7.
#
# BLEU lies between 0 and 1. Smoothing gives a score to short texts without a match of four words.
# The docstring of method5 says that it averages neighbouring "gram matched counts".
#
# Expected: at most 1, and less than 1 for a wrong answer.
# Seen on 29 November 2026: with the weights of BLEU-1, the gold answer itself gets 1.33. One with a
# wrong city gets 1.13. With the weights of BLEU-4, the gold answer gets 1.12. The code averages the
# precisions, not the counts, and starts from the precision of single words plus 1. method1, which
# Mem0's evaluation uses, gives 1 and 0.86. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nltk==3.10.4 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import nltk
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

GOLD = "anna lives in oslo with her cat"
WRONG = "anna lives in bergen with her cat"
BLEU1, BLEU4 = (1, 0, 0, 0), (0.25,) * 4
seen = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for method in ("method1", "method5", "method7"):
        smoothing = getattr(SmoothingFunction(), method)
        scores = [
            round(float(sentence_bleu([GOLD.split()], answer.split(), weights, smoothing)), 2)
            for weights in (BLEU1, BLEU4) for answer in (GOLD, WRONG)]
        print(f"nltk {nltk.__version__}, {method}: BLEU-1 {scores[0]} for the gold answer, "
              f"{scores[1]} for a wrong one; BLEU-4 {scores[2]} and {scores[3]}")
        seen.append(scores)
sys.exit(seen != [[1, 0.86, 1, 0.27], [1.33, 1.13, 1.12, 0.44], [1.33, 1.13, 1.12, 0.47]]
         or bool(caught))
PYTHON
