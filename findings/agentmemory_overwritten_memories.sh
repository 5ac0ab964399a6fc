#!/usr/bin/env bash
# What: agentmemory 0.4.8, create_memory after a memory was deleted.
#
# The README says of the id of create_memory: "Unique id. Generated incrementally unless set", and
# "Create a new memory in a collection." It says of delete_memory: "Delete a memory by ID." Three
# facts about Anna are stored without ids. The first is deleted, and two new ones are stored.
#
# Expected: four memories, the two old ones that are left, and the two new ones.
# Seen on 1 December 2026: two memories. The id of a new memory is the number of memories that there
# are. After the deletion this is the id of the newest one, which the new one replaces. So the
# number stays the same, and the next one replaces that in turn: the flute and Oslo are lost, and
# the bank never grows again. After two deletions the flute is lost. Without one nothing is. No
# warning. A memory manager that deletes and adds, as that of Memory-R1 does, so loses memories that
# it never touched.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    chromadb==1.5.9 agentlogger==0.1.2 python-dotenv pluggy requests tqdm \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    agentmemory==0.4.8 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export STORAGE_PATH="$folder/memory" ANONYMIZED_TELEMETRY=False
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import importlib.metadata
import sys

from agentmemory import create_memory, delete_memory, get_memories


def contents(category):
    return [memory["document"] for memory in get_memories(category, sort_order="asc")]


def store(category, texts):
    """Stores memories without ids. The embedding saves a model, it is not what matters here."""
    for text in texts:
        create_memory(category, text, metadata={"about": "Anna"}, embedding=[1.0, 0.0])


OLD, NEW = ["dog", "tea", "flute"], ["Oslo", "chess"]
seen = []
for n_deleted in range(3):
    category = f"facts{n_deleted}"
    store(category, OLD)
    for memory in get_memories(category, sort_order="asc")[:n_deleted]:
        delete_memory(category, memory["id"])
    expected = contents(category) + NEW
    store(category, NEW)
    found = contents(category)
    lost = [text for text in expected if text not in found]
    print(f"agentmemory {importlib.metadata.version('agentmemory')}, {n_deleted} deleted: expected "
          f"{', '.join(expected)}; stored {', '.join(found)}; lost {', '.join(lost) or 'none'}")
    seen.append(lost)
sys.exit(seen != [[], ["flute", "Oslo"], ["flute"]])
PYTHON
