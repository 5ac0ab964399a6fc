#!/usr/bin/env bash
# What: langchain-classic 1.0.8, the evaluators "cot_qa" and "labeled_criteria", which turn a judge
# model's reply into the score 1 or 0.
#
# The prompt of "cot_qa" asks for "GRADE: CORRECT or INCORRECT here", that of "labeled_criteria" for
# a "Y" or "N" on a line of its own. Small judges often answer in a sentence instead. A reply
# without a verdict, such as "The answer is wrong.", has the score None, so one can count it.
#
# Expected: 0 or None for "GRADE: not correct" and "The student answer is not correct.", as for "The
# answer is wrong by one day" in "labeled_criteria".
# Seen on 30 November 2026: 1. Of a reply without "grade: correct" or "grade: incorrect" the first
# and the last word count, so "not correct" and "partially correct" are correct. "labeled_criteria"
# reads a "y" or "n" at the end of the reply, even as the last letter of a word: "day", "city" and
# "fully" mean Y, though the reply says N at its start. "You asked for a city. N." means Y too. So a
# wrong answer is rewarded. No warning. Issue 31870 of langchain is about judges that write Y below
# a reasoning for N, not about this.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check langchain-classic==1.0.8 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys
from importlib.metadata import version

from langchain_classic.evaluation import CotQAEvalChain, LabeledCriteriaEvalChain
from langchain_core.language_models import FakeListLLM

# The last item is the score that the reply means.
REPLIES = [
    ("cot_qa", "EXPLANATION: The context says Oslo.\nGRADE: INCORRECT", 0),
    ("cot_qa", "EXPLANATION: The context says Oslo.\nGRADE: not correct", 0),
    ("cot_qa", "The student answer is not correct.", 0),
    ("cot_qa", "The student answer is only partially correct.", 0),
    ("cot_qa", "The answer is wrong.", 0),
    ("labeled_criteria", "The reference says Oslo.\n\nN\n\nN", 0),
    ("labeled_criteria", "The answer is wrong by one day", 0),
    ("labeled_criteria", "N\n\nThe submission does not match the reference fully", 0),
    ("labeled_criteria", "You asked for a city. Rome is the wrong one.\n\nN.", 0),
    ("labeled_criteria", "The answer is wrong.", 0),
]
seen = []
for name, reply, meant in REPLIES:
    llm = FakeListLLM(responses=[reply])
    evaluator = CotQAEvalChain.from_llm(llm) if name == "cot_qa" else (
        LabeledCriteriaEvalChain.from_llm(llm, criteria="correctness"))
    score = evaluator.evaluate_strings(
        input="Where does Anna live?", prediction="Rome", reference="Oslo")["score"]
    print(f"langchain-classic {version('langchain-classic')}, {name}: {reply!r} means {meant} and "
          f"gets {score}")
    seen.append(score)
sys.exit(seen != [0, 1, 1, 1, None, 0, 1, 1, 1, None])
PYTHON
