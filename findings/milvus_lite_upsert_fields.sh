#!/usr/bin/env bash
# What: milvus-lite 3.2.2 with pymilvus 3.0.2, upsert of a memory that has fewer fields than before.
#
# Milvus's documentation ("Upsert Entities") says that upsert replaces the whole entity unless
# partial_update=True is given. Without it, a nullable field that the new entity lacks becomes null,
# and the fields outside the schema are overwritten by those in the request, as a whole.
# A memory has a mood, a nullable field of the schema, and expires on day 7, a field outside it. Its
# new version has neither. With create_collection("bank", dimension=2) all metadata is outside it.
#
# Expected: the new version has no mood and does not expire, unless partial_update=True is given.
# Seen on 30 November 2026: the mood is gone, but the memory still expires on day 7. Filters find it
# by that, so what deletes expired memories deletes the new version. Only delete and insert remove
# such a field. milvus-lite reads the old entity and fills in what the new one lacks, whatever
# partial_update is. It is not among the limits that its documentation names, which lists "upsert"
# and "partial update" as two features. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    milvus-lite==3.2.2 pymilvus==3.0.2 numpy==2.4.6 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - "$folder/bank.db" 2> "$folder/log" <<'PYTHON' \
    || { tail -3 "$folder/log"; exit 1; }
import importlib.metadata
import sys

from pymilvus import DataType, MilvusClient

VERSION = importlib.metadata.version("milvus-lite")
client = MilvusClient(sys.argv[1])
schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
schema.add_field("id", DataType.INT64, is_primary=True)
schema.add_field("text", DataType.VARCHAR, max_length=99)
schema.add_field("mood", DataType.VARCHAR, max_length=99, nullable=True)
schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
index = client.prepare_index_params()
index.add_index("vector", index_type="FLAT", metric_type="COSINE")
client.create_collection("bank", schema=schema, index_params=index)
OLD = {"id": 1, "text": "Anna has a cold", "vector": [1.0, 0.0], "mood": "sad", "expires": 7}
NEW = {"id": 1, "text": "Anna is a doctor", "vector": [0.0, 1.0]}

seen = {}
for way in ("upsert", "upsert with partial_update=True", "delete and insert"):
    client.delete("bank", ids=[1])
    client.insert("bank", OLD)
    if way == "delete and insert":
        client.delete("bank", ids=[1])
        client.insert("bank", NEW)
    else:
        client.upsert("bank", NEW, **({"partial_update": True} if "partial" in way else {}))
    memory = client.get("bank", ids=[1], output_fields=["text", "mood", "expires"])[0]
    expiring = client.query("bank", filter="expires <= 7", output_fields=["text"])
    seen[way] = (memory["text"], memory.get("mood"), memory.get("expires"), len(expiring))
    print(f"milvus-lite {VERSION}, {way}: text {memory['text']!r}, mood {memory.get('mood')}, "
          f"expires {memory.get('expires')}; expires <= 7 finds {len(expiring)}")
sys.exit(seen != {"upsert": (NEW["text"], None, 7, 1),
                  "upsert with partial_update=True": (NEW["text"], "sad", 7, 1),
                  "delete and insert": (NEW["text"], None, None, 0)})
PYTHON
