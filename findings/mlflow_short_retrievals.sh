#!/usr/bin/env bash
# What: mlflow-skinny 3.17.2, mlflow.metrics.ndcg_at_k of a search that finds fewer than k memories.
#
# The docstring says that the score "is calculated using sklearn.metrics.ndcg_score", with edge
# cases for empty lists and duplicates. NDCG@5 divides by the best that a list of 5 can have. A
# question needs five memories. An agent chooses itself how many memories it keeps.
#
# Expected: to keep one right memory of five scores 0.34, and to keep all five scores 1.
# Seen on 30 November 2026: both score 1. So do two, three and four of them. The divisor is the best
# that a list of the kept length can have. One more memory, if it is a wrong one, lowers 1 to 0.61.
# So an agent that is chosen or rewarded by it learns to keep one memory. No warning but that the
# function is deprecated. recall_at_k is right, and precision_at_k is as documented. Issue 24541 of
# mlflow reported it on 20 July 2026, and is open.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    mlflow-skinny==3.17.2 scikit-learn==1.9.1 pandas==3.1.1 numpy==2.4.6 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys
from math import log2

import mlflow
import pandas as pd
from mlflow.metrics import ndcg_at_k, recall_at_k

GOLD = ["a", "b", "c", "d", "e"]
METRICS = [ndcg_at_k(5), recall_at_k(5)]


def ndcg(kept):
    return sum((memory in GOLD) / log2(i + 2) for i, memory in enumerate(kept)) / sum(
        1 / log2(i + 2) for i in range(5))


seen, expected = [], []
for kept in (["a"], ["a", "b"], ["a", "b", "c", "d"], GOLD, ["a", "x"], ["a", "x", "y", "z", "w"]):
    scores = [metric.eval_fn(pd.Series([kept]), pd.Series([GOLD])).scores[0] for metric in METRICS]
    seen.append(round(float(scores[0]), 2))
    expected.append(round(ndcg(kept), 2))
    print(f"mlflow {mlflow.__version__}: kept {' '.join(kept)}, of {' '.join(GOLD)}: ndcg_at_5 "
          f"{seen[-1]}, by its formula {expected[-1]}, recall_at_5 {scores[1]}")
sys.exit(seen != [1, 1, 1, 1, 0.61, 0.34] or expected != [0.34, 0.55, 0.87, 1, 0.34, 0.34])
PYTHON
