#!/usr/bin/env bash
# What: MemoryOS (MemOS) 2.0.33, the keyword search of its tree memory after a memory is added.
#
# EnhancedBM25.search gets the memories to search in, and a name for them. The tree memory passes
# the user's name. The class says: "Enhanced BM25 with Spacy tokenization and TF-IDF reranking".
#
# Expected: the memory with the word of the query, among the memories that the call is given.
# Seen on 29 November 2026: the first call for a name builds the index. All later calls use it,
# whatever memories they are given. A memory that was added since is never found. If one was
# deleted, or added in front, the positions of the old index mean other memories: "flute" finds
# "Cleo has a dog" or "Anna lives in Oslo". The tree memory searches long-term memory and the user's
# own memory under one name, so the two share an index. No warning. clear_cache() before a search
# helps.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    MemoryOS==2.0.33 rank-bm25==0.2.2 cachetools==8.0.2 scikit-learn==1.9.1 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
export HOME="$folder"
cd "$folder"
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import contextlib
import io
import sys
from importlib.metadata import version

with contextlib.redirect_stdout(io.StringIO()):  # its log
    from memos.memories.textual.tree_text_memory.retrieve.bm25_util import EnhancedBM25

    search = EnhancedBM25()

bank = ["Anna lives in Oslo", "Ben plays flute", "Cleo has a dog", "Dan likes tea"]


def find(query, memories):
    nodes = [{"metadata": {"key": memory, "tags": []}} for memory in memories]
    with contextlib.redirect_stdout(io.StringIO()):
        [node] = search.search(query, nodes, corpus_name="anna", top_k=1)
    return node["metadata"]["key"]


cases = (("flute", bank), ("boat", [*bank, "Eva owns a boat"]), ("flute", bank[1:]),
         ("flute", ["Finn paints", *bank]))
first = [find(*case) for case in cases]
cleared = []
for case in cases:
    search.clear_cache()
    cleared.append(find(*case))
for (query, memories), one, other in zip(cases, first, cleared, strict=True):
    print(f"MemoryOS {version('MemoryOS')}: {query!r} in {memories} finds {one!r}, after "
          f"clear_cache() {other!r}")
sys.exit((first, cleared) != (
    ["Ben plays flute", "Cleo has a dog", "Cleo has a dog", "Anna lives in Oslo"],
    ["Ben plays flute", "Eva owns a boat", "Ben plays flute", "Ben plays flute"]))
PYTHON
