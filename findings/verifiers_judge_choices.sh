#!/usr/bin/env bash
# What: verifiers 0.4.0, ReferenceJudge, which turns a judge model's reply into the reward 1 or 0.
#
# ReferenceJudgeConfig says of choices: "The (positive, negative) verdict labels — e.g. `["A",
# "B"]` for graders that verdict with letters", and that "a verdict matching neither raises". The
# prompt asks for the label only. Judge models often add a reason.
#
# Expected: "B. It names a different city." is a B, so the reward is 0, or an error.
# Seen on 30 November 2026: the reward is 1. If no word such as "verdict:" stands before a label,
# the last one in the reply counts, in capitals or not. That fits replies that reason first. But
# the article "a" is the label A, so a reason with an "a" in it makes a wrong answer right. With
# the default labels, "Yes. There is no difference in meaning." gets 0. With correct and incorrect,
# "Incorrect. The correct answer is Oslo." gets 1. No error and no warning. Replies of the label
# alone are read rightly.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check verifiers==0.4.0 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

from verifiers.v1.judge import JudgeResponse
from verifiers.v1.judges import ReferenceJudge, ReferenceJudgeConfig

# The positive label comes first. The last number is the reward that the reply means.
CASES = [(("A", "B"), "B", 0),
         (("A", "B"), "B. It names a different city.", 0),
         (("yes", "no"), "yes", 1),
         (("yes", "no"), "Yes. There is no difference in meaning.", 1),
         (("correct", "incorrect"), "incorrect", 0),
         (("correct", "incorrect"), "Incorrect. The correct answer is Oslo.", 0)]
wrong = []
for choices, reply, meant in CASES:
    judge = ReferenceJudge(ReferenceJudgeConfig(choices=choices))
    reward = judge.parse(JudgeResponse(text=reply))
    wrong.append(reward == 1 - meant)
    print(f"verifiers 0.4.0, {choices}: {reply!r} gets {reward}, it means {meant}")
sys.exit(wrong != [False, True] * 3)
PYTHON
