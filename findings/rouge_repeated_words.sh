#!/usr/bin/env bash
# What: rouge 1.0.1, ROUGE-1 and ROUGE-L of an answer that repeats a word.
#
# ROUGE counts words: a word of the answer matches at most as often as the gold answer has it (Lin
# 2004, "the maximum number of n-grams co-occurring"). So an answer that says the right word four
# times has a precision of 1/4. The README of rouge says that its results may differ slightly from
# those of the official script. Where words count as rewards, a policy finds such a difference.
#
# Expected: a precision of 0.25, as rouge-score 0.1.2 gives it.
# Seen on 30 November 2026: precision, recall and F are 1 for "Oslo Oslo Oslo Oslo" beside "Oslo",
# and also for a sentence that says each right word four times. rouge takes the *set* of n-grams of
# each text (its argument `exclusive`, True unless told otherwise), also for ROUGE-L. With
# exclusive=False it gives 0.25. Nothing in the README says so. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rouge==1.0.1 rouge-score==0.1.2 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

from rouge import Rouge
from rouge_score.rouge_scorer import RougeScorer

NAMES = {"rouge-1": "rouge1", "rouge-l": "rougeL"}
seen = []
for answer, gold in (("Oslo Oslo Oslo Oslo", "Oslo"),
                     ("Anna Anna Anna Anna lives lives lives lives", "Anna lives")):
    official = RougeScorer(list(NAMES.values())).score(gold, answer)
    for name, other in NAMES.items():
        precisions = [Rouge([name], exclusive=exclusive).get_scores(answer, gold)[0][name]["p"]
                      for exclusive in (True, False)]
        seen.append([*precisions, official[other].precision])
        print(f"{name} precision of {answer!r} beside {gold!r}: rouge 1.0.1 {precisions[0]:g}, "
              f"with exclusive=False {precisions[1]:g}, rouge-score {seen[-1][2]:g}")
sys.exit(seen != [[1, 0.25, 0.25]] * 4)
PYTHON
