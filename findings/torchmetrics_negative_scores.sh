#!/usr/bin/env bash
# What: torchmetrics 1.9.0, retrieval metrics of scores that are not above 0.
#
# The documentation of RetrievalMRR says of preds: "A float tensor of shape (N, ...)". Cosines,
# inner products, log-probs and negative distances of memories are often below 0.
#
# Expected: a metric of ranks does not change if the same number is subtracted from every score.
# Seen on 29 November 2026: with all scores below 0, MRR, MAP, precision and recall are 0. Yet the
# right memory has rank 1, and the hit rate at 1 is 1. With the second right memory alone below 0,
# MAP rises to 1, because that memory counts as not there. The code takes a score that is not
# above 0 for "not found" (its pull request 3104 says so of 0). nDCG and the hit rate do not. No
# warning. Only the docstrings of the functions behind the classes ask for "estimated
# probabilities".
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys
import warnings

import torch
import torchmetrics
from torchmetrics import retrieval

is_right = torch.tensor([True, False, True])
METRICS = {
    "MRR": retrieval.RetrievalMRR(), "MAP": retrieval.RetrievalMAP(),
    "precision@1": retrieval.RetrievalPrecision(top_k=1),
    "recall@1": retrieval.RetrievalRecall(top_k=1),
    "hit rate@1": retrieval.RetrievalHitRate(top_k=1),
    "nDCG": retrieval.RetrievalNormalizedDCG()}
seen = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for scores in ([0.9, 0.5, 0.1], [0.6, 0.2, -0.2], [-0.1, -0.5, -0.9]):
        values = {
            name: round(metric(torch.tensor(scores), is_right, torch.zeros(3).long()).item(), 2)
            for name, metric in METRICS.items()}
        print(f"torchmetrics {torchmetrics.__version__}, scores {scores}: {values}")
        seen.append(list(values.values()))
sys.exit(seen != [[1, 0.83, 1, 0.5, 1, 0.92], [1, 1, 1, 0.5, 1, 0.92], [0, 0, 0, 0, 1, 0.92]]
         or bool(caught))
PYTHON
