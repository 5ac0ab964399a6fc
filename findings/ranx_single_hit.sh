#!/usr/bin/env bash
# What: ranx 0.3.21, fuse of a keyword search and a vector search, where one word names one memory.
#
# fuse combines the rankings of several searches. The scores of each are first scaled with
# norm="min-max", the default: the worst becomes 0 and the best 1. Then "wsum" adds them up.
#
# Expected: the only memory that the keyword search finds comes first, if the weights are 0.9 for
# words and 0.1 for vectors, and the vector search finds it too. So it does if the keyword search
# finds a second memory with a lower score.
# Seen on 29 November 2026: it comes third, behind two that only the vector search finds. An only
# hit is the best and the worst at once, and gets 0, as if it were not found. So a word that stands
# in one memory alone helps nothing. The same holds for hits with equal scores. With norm="max" or
# "rank" the memory comes first or second. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ranx==0.3.21 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export NUMBA_CACHE_DIR="$folder/numba"
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys
from importlib.metadata import version

from ranx import Run, fuse

QUERY = "Who plays the flute?"
vectors = {"Anna lives in Oslo": 0.62, "Ben has a dog": 0.6, "Cleo plays flute": 0.59,
           "Dan likes tea": 0.4}
seen = []
for words in ({"Cleo plays flute": 3.2}, {"Cleo plays flute": 3.2, "Dan likes tea": 0.1},
              {"Cleo plays flute": 3.2, "Ben has a dog": 3.2}):
    for norm in ("min-max", "max", "rank"):
        runs = [Run({QUERY: dict(scores)}) for scores in (words, vectors)]
        fused = fuse(runs, norm=norm, method="wsum", params={"weights": [0.9, 0.1]}).run[QUERY]
        order = sorted(fused, key=fused.get, reverse=True)
        print(f"ranx {version('ranx')}, words find {words}, norm {norm}:",
              ", ".join(f"{memory} {fused[memory]:.3f}" for memory in order))
        seen.append(order.index("Cleo plays flute") + 1)
sys.exit(seen != [3, 1, 1, 1, 1, 1, 3, 2, 1])
PYTHON
