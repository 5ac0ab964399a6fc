#!/usr/bin/env bash
# What: mem0ai 2.2.1, the filter "AND" in Memory.search, with a local qdrant.
#
# The docstring of search lists the filters, among them '{"AND": [filter1, filter2]} - logical AND'
# and '{"key": {"ne": "value"}} - not equals'. A store holds a memory of Anna, Ben and Cleo each.
#
# Expected: "AND" of "not of Anna" and "not of Ben" finds Cleo's memory alone, in search as in
# get_all.
# Seen: get_all does so. search with the same filter finds Anna's memory too, without a warning: of
# two conditions in an "AND" that share a key and an operator, it keeps the last. Two "OR"s or two
# "NOT"s in an "AND" go the same way.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    mem0ai==2.2.1 qdrant-client==1.20.0 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
export MEM0_TELEMETRY=False MEM0_DIR="$folder/mem0" OPENAI_API_KEY=none
"$folder/venv/bin/python" - "$folder" 2> "$folder/log" <<'PYTHON' \
    || { tail -3 "$folder/log"; exit 1; }
import sys
from importlib.metadata import version

from mem0 import Memory


class Embedder:
    def embed(self, text, action=None):
        return [1.0, 0.0]


memory = Memory.from_config({
    "vector_store": {"provider": "qdrant",
                     "config": {"path": sys.argv[1] + "/vectors", "embedding_model_dims": 2}},
    "history_db_path": sys.argv[1] + "/history.db"})
memory.embedding_model = Embedder()
for speaker, text in (("anna", "Anna plays flute"), ("ben", "Ben is a nurse"),
                      ("cleo", "Cleo is a baker")):
    memory.add(text, user_id="all", infer=False, metadata={"speaker": speaker})

different = []
for name, both in (
        ("ne and ne", [{"speaker": {"ne": "anna"}}, {"speaker": {"ne": "ben"}}]),
        ("OR and OR", [{"OR": [{"speaker": "anna"}, {"speaker": "cleo"}]},
                       {"OR": [{"speaker": "ben"}, {"speaker": "cleo"}]}]),
        ("NOT and NOT", [{"NOT": [{"speaker": "anna"}]}, {"NOT": [{"speaker": "ben"}]}])):
    filters = {"user_id": "all", "AND": both}
    found = sorted(row["memory"] for row in memory.search("Who?", filters=filters)["results"])
    listed = sorted(row["memory"] for row in memory.get_all(filters=filters)["results"])
    print(f"mem0ai {version('mem0ai')}, {name}: search {found}, get_all {listed}")
    different.append((listed == ["Cleo is a baker"], "Cleo is a baker" in found, len(found)))
memory.vector_store.client.close()
sys.exit(different != [(True, True, 2)] * 3)
PYTHON
