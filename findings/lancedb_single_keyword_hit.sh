#!/usr/bin/env bash
# What: lancedb 0.40.0, hybrid search with a LinearCombinationReranker, a word that one memory has.
#
# The docstring says that the reranker uses "a linear combination of the scores from the vector and
# FTS search", and of weight: "The weight to give to the vector score. Must be between 0 and 1." Of
# four memories one has the word of the query. By vector it is the second nearest.
#
# Expected: with a weight of 0.3, and even more with 0, this memory comes first: the full-text
# search (FTS), which has the larger weight, found no other one.
# Seen on 30 November 2026: it stays second, as without the word. With a weight of 0 all four have
# a relevance of 0. Before they are combined, the FTS scores are moved to between 0 and 1: the least
# score found becomes 0, and so do a single one and equal ones. That is also what a memory gets that
# was not found. If a second memory has the word and a lower FTS score, the first one gets 1 and
# comes first. The default RRFReranker puts it first in any case. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    lancedb==0.40.0 pyarrow==26.0.1 numpy==2.4.6 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys
import tempfile

import lancedb
from lancedb.index import FTS
from lancedb.rerankers import LinearCombinationReranker, RRFReranker

MEMORIES = {"Anna lives in Oslo": [1.0, 0.0], "Ben plays the flute": [0.9, 0.3],
            "Cleo has a house": [0.6, 0.6], "Dora likes tea": [0.0, 1.0]}
OTHERS = {"one with the word": {}, "two, one lower": {"Emil sold a drum and a flute": [-1.0, 0.0]},
          "two equal ones": {"Fay plays the flute": [-1.0, 0.0]}}


def search(memories, reranker):
    """Search for the word flute, and for vectors near to the one of Anna."""
    with tempfile.TemporaryDirectory() as folder:
        table = lancedb.connect(folder).create_table(
            "memories", [{"text": text, "vector": vector} for text, vector in memories.items()])
        table.create_index("text", config=FTS())
        query = table.search(query_type="hybrid").vector([1.0, 0.0]).text("flute")
        return [(row["text"].split()[0], round(row["_relevance_score"], 3))
                for row in query.rerank(reranker).limit(4).to_list()]


seen = []
for name, other in OTHERS.items():
    for weight in (0.3, 0.0, None):
        reranker = RRFReranker() if weight is None else LinearCombinationReranker(weight=weight)
        found = search(MEMORIES | other, reranker)
        print(f"lancedb 0.40.0, {name}, {'RRF' if weight is None else f'weight {weight}'}:",
              ", ".join(f"{text} {score}" for text, score in found))
        seen.append((found[0][0], dict(found)["Ben"]))
low, rrf = [("Anna", 0.285), ("Anna", 0.0)], ("Ben", 0.033)
sys.exit(seen != [*low, rrf, ("Ben", 0.985), ("Ben", 1.0), rrf, *low, rrf])
PYTHON
