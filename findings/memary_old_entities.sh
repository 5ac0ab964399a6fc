#!/usr/bin/env bash
# What: memary 0.1.3, EntityKnowledgeStore.remove_old_memory and clear_memory.
#
# The docstring of remove_old_memory says: "Removes memory items older than a specified number of
# days." ChatAgent.clearMemory, which calls clear_memory, says: "Clears Neo4j database and memory
# stream/entity knowledge store." A store knows an entity of 400 days ago and one of today.
#
# Expected: after remove_old_memory(30) the store has the entity of today alone, and after
# clear_memory none. A MemoryStream, which has the same two methods, does so.
# Seen on 30 November 2026: the store keeps both entities through both calls. The log says "Old
# memory removed successfully." and "Memory cleared and saved". clear_memory does empty the file.
# The next save_memory writes the old entities into it again, beside the new one. Both methods
# empty the list self.memory, and this store keeps its entities in self.knowledge_memory.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# The stores of memary need none of its dependencies.
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    --ignore-requires-python memary==0.1.3 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - "$folder" 2> "$folder/log" <<'PYTHON' \
    || { tail -3 "$folder/log"; exit 1; }
import json
import sys
from datetime import datetime, timedelta

from memary.memory import EntityKnowledgeStore, MemoryStream
from memary.memory.types import KnowledgeMemoryItem, MemoryItem

TODAY = datetime.now()
LONG_AGO = TODAY - timedelta(days=400)
KINDS = {
    MemoryStream: [MemoryItem("Oslo", LONG_AGO), MemoryItem("flute", TODAY)],
    EntityKnowledgeStore: [KnowledgeMemoryItem("Oslo", 1, LONG_AGO),
                           KnowledgeMemoryItem("flute", 1, TODAY)],
}
seen = []
for kind, items in KINDS.items():
    path = f"{sys.argv[1]}/{kind.__name__}.json"
    with open(path, "w") as file:
        json.dump([item.to_dict() for item in items], file)
    store = kind(path)
    states = []
    for act in (None, lambda: store.remove_old_memory(30), store.clear_memory):
        if act:
            act()
        states.append(sorted(item.entity for item in store.get_memory()))
    store.add_memory(["tea"] if kind is MemoryStream else [MemoryItem("tea", TODAY)])
    store.save_memory()
    with open(path) as file:
        states.append(sorted(item["entity"] for item in json.load(file)))
    print(f"memary 0.1.3, {kind.__name__}: {states[0]}, after remove_old_memory(30) {states[1]},",
          f"after clear_memory {states[2]}, in the file after a new entity {states[3]}")
    seen.append(states)
both = ["Oslo", "flute"]
sys.exit(seen != [[both, ["flute"], [], ["tea"]], [both, both, both, [*both, "tea"]]])
PYTHON
