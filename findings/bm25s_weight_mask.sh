#!/usr/bin/env bash
# What: bm25s 0.3.16, BM25.retrieve with a weight_mask that hides the memories of another user.
#
# The docstring of retrieve says: "A weight mask to filter the documents. If provided, the scores
# for the masked documents will be set to 0 to avoid returning them in the results." An index has
# three memories of Ben and three of Anna. The mask is 1 for Anna's and 0 for Ben's.
#
# Expected: a search for two or three memories finds none of Ben's, as Anna has three.
# Seen on 30 November 2026: if fewer of Anna's memories than asked for have a word of the query,
# Ben's fill the list, with the score 0, before others of Anna's. Masked documents are not left
# out, they get the score that every document without the word has, and the order of equal ones is
# not set. Where one memory of Anna's matches, a list of two has one of Ben's, and where none does,
# all in the list can be Ben's. With return_as="documents" the scores are not there to tell. No
# warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    bm25s==0.3.16 numpy==2.4.6 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

import bm25s
import numpy

MEMORIES = ["Anna plays the flute", "Anna has a dog", "Anna drinks tea",
            "Ben takes insulin", "Ben lost his job", "Ben owes money"]
index = bm25s.BM25(corpus=MEMORIES)
index.index(bm25s.tokenize(MEMORIES, show_progress=False), show_progress=False)
mask = numpy.array([float(memory.startswith("Anna")) for memory in MEMORIES])
seen = []
for query, count in (("flute", 1), ("flute", 2), ("insulin", 1), ("insulin", 2), ("zebra", 3)):
    found = index.retrieve(bm25s.tokenize(query, show_progress=False), k=count, weight_mask=mask,
                           show_progress=False)
    texts = [str(text) for text in found.documents[0]]
    print(f"bm25s 0.3.16, {query!r} for Anna, {count} of her 3 memories:",
          ", ".join(f"{text} ({score:.2f})"
                    for text, score in zip(texts, found.scores[0], strict=True)))
    seen.append((len(texts), sum(text.startswith("Ben") for text in texts)))
sys.exit(seen != [(1, 0), (2, 1), (1, 1), (2, 2), (3, 3)])
PYTHON
