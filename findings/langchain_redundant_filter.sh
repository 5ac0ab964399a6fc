#!/usr/bin/env bash
# What: langchain-community 0.4.2, EmbeddingsRedundantFilter after a search that finds a fact twice.
#
# The docstring says: "Filter that drops redundant documents by comparing their embeddings." A
# comment in its code says: "Default to dropping the second document of any highly similar pair." A
# retriever returns its documents from the best to the worst. A search finds "Anna has a cat" first,
# then two other memories, and last "Anna owned a cat once", which is close to the first one.
#
# Expected: the last memory is dropped, and the best one stays the first.
# Seen on 1 December 2026: the best one is dropped, and the worse of the pair stays, at the end. So
# it is wherever the two stand: of each pair the one that was found later is kept. The lower
# triangle of the similarities is read, so the "second" one of a pair is the one that comes first.
# A limit after the filter then drops the fact altogether. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    langchain-community==0.4.2 langchain-classic==1.0.8 numpy==2.4.6 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import importlib.metadata
import itertools
import sys

import numpy
from langchain_community.document_transformers import EmbeddingsRedundantFilter
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

VECTORS = {"Anna has a cat": [1.0, 0.1, 0.0], "Anna owned a cat once": [1.0, 0.2, 0.0],
           "Anna plays the flute": [0.5, 1.0, 0.0], "It rains": [0.0, 0.1, 1.0]}
PAIR = ("Anna has a cat", "Anna owned a cat once")


class Table(Embeddings):
    """Looks embeddings up in the table above."""

    def embed_documents(self, texts):
        return [VECTORS[text] for text in texts]

    def embed_query(self, text):
        return VECTORS[text]


def cosine(a, b):
    a, b = numpy.array(VECTORS[a]), numpy.array(VECTORS[b])
    return float(a @ b / numpy.linalg.norm(a) / numpy.linalg.norm(b))


# Only the two memories of the pair are above the filter's threshold of 0.95.
assert [pair for pair in itertools.combinations(VECTORS, 2) if cosine(*pair) > 0.95] == [PAIR]
version = importlib.metadata.version("langchain-community")
memory_filter = EmbeddingsRedundantFilter(embeddings=Table())
dropped_first = []
for order in itertools.permutations(VECTORS):
    found = [Document(page_content=text) for text in order]
    kept = [document.page_content for document in memory_filter.transform_documents(found)]
    dropped = [text for text in order if text not in kept]
    dropped_first.append(dropped == [min(PAIR, key=order.index)])
    if order == (PAIR[0], "Anna plays the flute", "It rains", PAIR[1]):
        print(f"langchain-community {version}, found: {', '.join(order)}; kept: {', '.join(kept)}")
        example = kept
print(f"langchain-community {version}, {len(dropped_first)} orders: the better one of the pair is "
      f"dropped in {sum(dropped_first)}")
sys.exit((example, all(dropped_first))
         != (["Anna plays the flute", "It rains", "Anna owned a cat once"], True))
PYTHON
