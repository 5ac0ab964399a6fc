#!/usr/bin/env bash
# What: langgraph 1.2.24, InMemoryStore with an index, a memory that is put again under its key.
#
# The docstring of put says: "Store or update an item in the store." Of index it says: "False:
# Disable indexing for this item", and of such an item that it "won't have a vector representation".
#
# Expected: after an update the item is found by its new content, and after one with index=False by
# no content: its score is None.
# Seen: a vector that the update does not write anew stays. A list of two facts that becomes a list
# of one is still found by both old facts, with score 1. So is an item that is updated with
# index=False. What comes back is the new content, which does not have the fact. `delete` before
# `put` removes the vectors.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    langgraph==1.2.24 numpy==2.4.6 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

from langgraph.store.memory import InMemoryStore

WORDS = ("Oslo", "flute", "Bergen")


def embed(texts):
    """A vector has a number for each word, and one that is never 0."""
    return [[float(word in text) for word in WORDS] + [1e-6] for text in texts]


def search(store, query):
    [item] = store.search(("anna",), query=query)
    score = None if item.score is None else round(item.score, 3)
    print(f"langgraph {version('langgraph')}: '{query}' finds {item.value} with score {score}")
    return score


old, new = ["Anna lives in Oslo", "Anna plays flute"], ["Anna lives in Bergen"]
scores = []
for deleted_first in (False, True):
    store = InMemoryStore(index={"dims": 4, "embed": embed, "fields": ["facts[*]"]})
    store.put(("anna",), "0", {"facts": old})
    if deleted_first:
        store.delete(("anna",), "0")
    store.put(("anna",), "0", {"facts": new})
    scores += [search(store, query) for query in ("Oslo", "flute", "Bergen")]

store = InMemoryStore(index={"dims": 4, "embed": embed, "fields": ["text"]})
store.put(("anna",), "0", {"text": old[0]})
store.put(("anna",), "0", {"text": new[0]}, index=False)
scores.append(search(store, "Oslo"))
sys.exit(scores != [1, 1, 1, 0, 0, 1, 1])
PYTHON
