#!/usr/bin/env bash
# What: ragas 0.4.3, BleuScore of answers of one word, and of two sentences.
#
# The docstring says: "Calculate BLEU score between reference and response texts", from 0 to 1.
#
# Expected: 1 for equal texts, and less than 1 for a second sentence that is wrong.
# Seen: 0 for equal texts of one word. 1 for two sentences of which only the first is equal. The
# texts are cut at ". ", and sacrebleu is handed a list of references for each sentence where it
# wants a list of sentences for each reference. It compares the first sentence of the response with
# all sentences of the reference, and reads no other sentence. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    ragas==0.4.3 langchain-community==0.3.31 sacrebleu==2.6.0 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
export RAGAS_DO_NOT_TRACK=true
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import asyncio
import sys

import ragas
from ragas.metrics.collections import BleuScore

GOLD = "Anna lives in Oslo with her cat. She works there as a nurse."
seen = []
for gold, answer in (
        ("Oslo", "Oslo"), (GOLD, GOLD),
        (GOLD, "Anna lives in Oslo with her cat. She sells boats in Bergen, or so I heard."),
        (GOLD, "She sells boats in Bergen, or so I heard. Anna lives in Oslo with her cat.")):
    score = asyncio.run(BleuScore().ascore(reference=gold, response=answer)).value
    print(f"ragas {ragas.__version__}: {score:.3f} for {answer!r}, gold {gold!r}")
    seen.append(round(score, 1))
sys.exit(seen[:3] != [0, 1, 1] or seen[3] > 0.2)
PYTHON
