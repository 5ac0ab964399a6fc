#!/usr/bin/env bash
# What: a-mem 0.2.6, search_by_time in a bank of more than a hundred memories.
#
# A-MEM links and evolves memories (Xu et al. 2025). The docstring of search_by_time says: "Search
# memories within a time range", and that the list is "sorted by recency" if there is no query. Its
# k is "Maximum number of results", 10 by default. A bank holds one memory of each day since
# 1 January 2023, 120 in all.
#
# Expected: the memories of the range, the newest first, and not more than k.
# Seen on 30 November 2026: it finds none of the last eight, and says that day 100 is the newest.
# It reads the first 10 * k memories in the order of adding, and filters and sorts only these. So
# in a bank that grows, "what did Anna eat yesterday?" finds nothing. A larger k finds them. No
# warning.
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
from datetime import date, timedelta
from types import ModuleType, SimpleNamespace

import numpy as np


class Embedder:
    def __init__(self, *args, **kwargs):
        pass

    def encode(self, texts, **kwargs):
        return np.ones((len(texts), 4), dtype=np.float32)


for name, values in (("sentence_transformers", {"SentenceTransformer": Embedder}),
                     ("transformers", {"AutoModel": None, "AutoTokenizer": None}),
                     ("litellm", {"completion": None})):
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(values)

from agentic_memory.memory_system import AgenticMemorySystem

memory = AgenticMemorySystem(llm_backend="sglang", storage_path="bank")
reply = json.dumps({"should_evolve": False})
memory.llm_controller = SimpleNamespace(
    llm=SimpleNamespace(get_completion=lambda *args, **kwargs: reply))
for day in range(1, 121):
    time = date(2022, 12, 31) + timedelta(days=day)
    memory.add_note(f"Anna ate dish {day}", time=f"{time:%Y%m%d}1200", keywords=["dish"],
                    context=f"day {day}", tags=["food"])
seen = {}
for start, k in (("202304230000", 10), ("202304230000", 12), ("202301010000", 10)):
    found = memory.search_by_time(time_from=start, k=k)
    days = seen[start, k] = [int(result["context"].split()[1]) for result in found]
    print(f"a-mem 0.2.6, {memory.retriever.count()} memories, since {start}, k={k}: days {days}")
sys.exit(seen != {("202304230000", 10): [], ("202304230000", 12): [*range(120, 112, -1)],
                  ("202301010000", 10): [*range(100, 90, -1)]})
PYTHON
