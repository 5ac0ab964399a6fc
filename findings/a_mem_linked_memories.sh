#!/usr/bin/env bash
# What: a-mem 0.2.6, search_agentic and the memories that a found memory is linked to.
#
# A-MEM links a new memory to older ones (Xu et al. 2025). The docstring of search_agentic says:
# "Search for memories using ChromaDB retrieval with linked neighbors". Its tool tells the model
# that it "returns semantically similar memories PLUS their linked neighbors". A bank holds six
# memories. "Ben sold his flute" is linked to "Anna pays the rent". Four more are about flutes.
#
# Expected: a search for Ben's flute with k=5, the default, finds the linked memory too.
# Seen on 30 November 2026: it finds the five about flutes, as a plain search does. Linked memories
# are added behind the k that the search found, and then the list is cut to k again. A search finds
# k memories as soon as the bank has as many. So links change nothing, except in a bank of at most
# k memories, where the search finds all without them. No warning. A thread of 2025 reports that
# the code before it used no links: https://github.com/agiresearch/A-mem/issues/3
#
# Its embedder, its model and their libraries are left out here.
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps a-mem==0.2.6 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    chromadb==1.5.9 rank-bm25==0.2.2 scikit-learn==1.9.1 nltk==3.10.4 \
    requests==2.34.2 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
export HOME="$folder"
cd "$folder"
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np

WORDS = "anna pays the rent ben sold his flute buys a cleaned tunes has dog".split()


class CountWords:
    def __init__(self, *args, **kwargs):
        pass

    def encode(self, texts, **kwargs):
        counts = [[text.lower().split().count(word) for word in WORDS] for text in texts]
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


for name, values in (("sentence_transformers", {"SentenceTransformer": CountWords}),
                     ("transformers", {"AutoModel": None, "AutoTokenizer": None}),
                     ("litellm", {"completion": None})):
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(values)

from agentic_memory.memory_system import AgenticMemorySystem

reply = {"should_evolve": False}
memory = AgenticMemorySystem(llm_backend="sglang", storage_path="bank")
memory.llm_controller = SimpleNamespace(
    llm=SimpleNamespace(get_completion=lambda *args, **kwargs: json.dumps(reply)))


def add(text):
    return memory.add_note(text, keywords=["life"], context=text, tags=["life"])


rent = add("Anna pays the rent")
reply.update(should_evolve=True, actions=["strengthen"], suggested_connections=[rent],
             tags_to_update=["life"])
sold = add("Ben sold his flute")
reply.update(should_evolve=False)
for text in ("Ben buys a flute", "Ben cleaned his flute", "Ben tunes his flute", "Ben has a flute"):
    add(text)
print(f"a-mem 0.2.6, {memory.retriever.count()} memories, the one about the sale is linked to the "
      f"rent: {memory.read(sold).links == [rent]}")
seen = {}
for k in (1, 5, 6):
    plain = [result["context"] for result in memory.search("Ben sold his flute", k=k)]
    found = [result["context"] for result in memory.search_agentic("Ben sold his flute", k=k)]
    seen[k] = (found == plain, "Anna pays the rent" in plain, "Anna pays the rent" in found)
    print(f"k={k}: search_agentic finds {found}, search the same: {found == plain}")
sys.exit(memory.read(sold).links != [rent] or seen != {
    1: (True, False, False), 5: (True, False, False), 6: (True, True, True)})
PYTHON
