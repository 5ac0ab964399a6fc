#!/usr/bin/env bash
# What: rank-bm25 0.2.2, BM25Okapi on a handful of memories.
#
# BM25 gives a text a score for each word of the query that it holds. Memory agents search banks
# that are small at first.
#
# Expected: a memory that holds a word of the query comes before one that holds none.
# Seen on 29 November 2026: a word that stands in exactly half of the memories counts nothing. So in
# a bank of two no word counts, and get_top_n returns the memory stored last. In a bank of four
# whose words are mostly shared, the three memories that hold the word score below 0, and the one
# without it comes first. A word of n among N memories weighs log((N - n + 0.5) / (n + 0.5)). A
# negative weight is replaced by a quarter of the mean over all words, which is negative here too.
# BM25Plus ranks the three banks as expected.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    rank-bm25==0.2.2 numpy==2.4.6 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

from rank_bm25 import BM25Okapi, BM25Plus

THREE = ["anna lives in oslo", "ben is a nurse", "cleo plays flute"]
SHARED = ["anna likes tea", "anna likes oslo", "anna visits oslo", "anna likes tea oslo"]
seen = []
for memories, query in ((THREE, "oslo"), (THREE[:2], "oslo"), (SHARED, "oslo")):
    words = [memory.split() for memory in memories]
    for cls in (BM25Okapi, BM25Plus):
        bm25 = cls(words)
        [best] = bm25.get_top_n([query], memories, 1)
        scores = bm25.get_scores([query]).round(2).tolist()
        print(f"rank-bm25 {version('rank-bm25')}, {cls.__name__}, {query!r} in {memories}: "
              f"{scores}, best {best!r}")
        seen.append(query in best)
sys.exit(seen != [True, True, False, True, False, True])
PYTHON
