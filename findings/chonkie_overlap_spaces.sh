#!/usr/bin/env bash
# What: chonkie 1.7.0, OverlapRefinery with mode="recursive".
#
# It adds to each chunk of a text a piece of the chunk before it ("prefix") or after it ("suffix").
# The docstring of the recursive overlap says: "Takes a larger window of text from the chunk end,
# tokenizes it, and selects exactly context_size tokens worth of text." Retrieval then finds a chunk
# by words that stand just outside of it.
#
# Expected: the context is a part of the neighbour as it stands there, like "with her dog Tiger. ".
# With mode="token" it is.
# Seen on 30 November 2026: "withherdogTiger." If no sentence and no clause fits into the context,
# the neighbour is cut at its spaces, and the words are put together without them. So a keyword
# search for "dog" does not find the chunk, and a tokenizer makes other tokens of the words. The
# same holds for "suffix" and "justified", and for the default size of 0.25. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check chonkie==1.7.0 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from chonkie import OverlapRefinery, SentenceChunker

TEXT = ("Anna moved from Oslo to Bergen in the spring with her dog Tiger. "
        "Ben plays the flute in a small band every Friday night after work. ")
seen = []
for mode in ("token", "recursive"):
    for method in ("prefix", "suffix"):
        chunks = SentenceChunker(tokenizer="character", chunk_size=70, chunk_overlap=0)(TEXT)
        refine = OverlapRefinery(tokenizer="character", context_size=20, mode=mode, method=method)
        chunk = refine(chunks)[1 if method == "prefix" else 0]
        seen.append((chunk.context, chunk.context in TEXT))
        print(f"chonkie 1.7.0, mode={mode!r}, method={method!r}, context_size=20: the context is "
              f"{chunk.context!r}, a part of the text: {chunk.context in TEXT}")
sys.exit(seen != [("with her dog Tiger. ", True), ("Ben plays the flute ", True),
                  ("withherdogTiger.", False), ("Benplaysthefluteina", False)])
PYTHON
