#!/usr/bin/env bash
# What: trectools 0.0.50, TrecEval.get_reciprocal_rank with removeUnjudged=True.
#
# The docstring says of removeUnjudged: "set to True if you want to remove the unjudged documents
# before calculating this metric." get_ndcg has the same option and the same words. A search ranks
# four memories. The first three were never judged, and the fourth is relevant.
#
# Expected: without the option the reciprocal rank is 1/4, and with it 1, as the relevant memory is
# the first of those that are left. NDCG is 1 then too.
# Seen on 1 December 2026: the reciprocal rank is 1/4 with and without the option. The run without
# the unjudged memories is computed, and then the whole run is used. NDCG follows the option. The
# code of get_rprec has the same lines. No warning. Where few memories are judged, a system that
# finds others looks worse than it is, although the option is there to avoid this.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    pandas==3.0.3 numpy==2.4.6 scipy scikit-learn lxml bs4 sarge matplotlib \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    trectools==0.0.50 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
cd "$folder"
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import importlib.metadata
import math
import pathlib
import sys

from trectools import TrecEval, TrecQrel, TrecRun

N_UNJUDGED = 3
ranking = [f"unjudged{i}" for i in range(N_UNJUDGED)] + ["flute"]
pathlib.Path("run").write_text("".join(
    f"1 Q0 {memory} {rank} {10 - rank} search\n" for rank, memory in enumerate(ranking, 1)))
pathlib.Path("qrels").write_text("1 0 flute 1\n")
evaluation = TrecEval(TrecRun("run"), TrecQrel("qrels"))
seen = []
for remove in (False, True):
    rank = evaluation.get_reciprocal_rank(removeUnjudged=remove)
    ndcg = evaluation.get_ndcg(removeUnjudged=remove)
    position = 1 if remove else N_UNJUDGED + 1  # of the only relevant memory
    print(f"trectools {importlib.metadata.version('trectools')}, removeUnjudged={remove}: "
          f"reciprocal rank {rank:.2f}, expected {1 / position:.2f}; NDCG {ndcg:.2f}, expected "
          f"{1 / math.log2(position + 1):.2f}")
    seen.append((round(float(rank), 2), round(float(ndcg), 2)))
sys.exit(seen != [(0.25, 0.43), (0.25, 1.0)])
PYTHON
