#!/usr/bin/env bash
# What: dspy 3.4.1, dspy.retrievers.Embeddings with a corpus of 20000 passages.
#
# The docstring says: "For large corpora, a FAISS index is built for fast approximate candidate
# retrieval, followed by exact re-ranking." Large is 20000 passages by default. Here they lie in
# groups of unequal size, as the topics of a long memory bank do. The last passage, the newest
# memory, belongs to a small group, and the query is near to this group.
#
# Expected: for k=100, a hundred different passages, perhaps not quite the nearest ones. The exact
# search of the same class finds a hundred different ones.
# Seen on 30 November 2026: three different passages, and the last one 98 times, 97 of these with
# the index -1 in place of 19999. The FAISS index looks at a part of the passages only. If it finds
# fewer than the ten times k candidates asked for, FAISS fills up with -1. dspy takes each -1 for
# the last passage of the corpus, and ranks all the copies. For queries far from the last passage
# the copies rank low, and nothing is seen. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    dspy==3.4.1 faiss-cpu==1.15.1 numpy==2.4.6 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

import numpy as np
from dspy.retrievers import Embeddings

SIZE, GROUPS, K = 20_000, 200, 100
random = np.random.default_rng(0)
share = 1 / np.arange(1, GROUPS + 1)
group = random.choice(GROUPS, SIZE, p=share / share.sum())
group[-1] = 150
centers = random.normal(size=(GROUPS, 32))
vectors = (centers[group] + random.normal(size=(SIZE, 32)) / 2).astype("float32")
corpus = [f"memory {number}" for number in range(SIZE)]


def embed(texts):
    return vectors if len(texts) == SIZE else centers[[150] * len(texts)].astype("float32")


seen = []
for name, options in (("exact", {"brute_force_threshold": SIZE + 1}), ("default", {})):
    found = Embeddings(corpus, embed, k=K, **options)("Which one?")
    copies = found.passages.count(corpus[-1])
    print(f"dspy 3.4.1, {name} search, k={K}: {len(set(found.passages))} different passages, the "
          f"last one {copies} times, index -1 {found.indices.count(-1)} times")
    seen.append((len(set(found.passages)), copies))
sys.exit(not (seen[0][0] == K and seen[0][1] <= 1 and seen[1][1] > K // 2))
PYTHON
