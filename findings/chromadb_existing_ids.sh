#!/usr/bin/env bash
# What: chromadb 1.5.9, Collection.add with an id that exists, and delete with one that does not.
#
# The docstring of add says under Raises: "ValueError: If an ID already exists." That of delete says
# under Returns: "DeleteResult: A dict containing the number of records deleted."
#
# Expected: an error for the id "0", which is there, and 0 for the id "7", which never was.
# Seen: add stores nothing for "0" and says nothing; the old memory stays. A new id in the same call
# is stored. delete counts the ids that it was given: {'deleted': 1} for "7".
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check chromadb==1.5.9 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import chromadb

client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))
memories = client.create_collection("memories", embedding_function=None)
memories.add(ids=["0"], embeddings=[[1, 0]], documents=["Anna lives in Oslo"])
memories.add(ids=["0", "1"], embeddings=[[0, 1], [0, 1]],
             documents=["Anna lives in Bergen", "Anna plays flute"])
stored = dict(zip(memories.get()["ids"], memories.get()["documents"], strict=True))
deleted = memories.delete(ids=["7"])
print(f"chromadb {chromadb.__version__}: after adding '0' twice {stored}")
print(f"chromadb {chromadb.__version__}: delete of '7' returns {deleted}, "
      f"{memories.count()} memories remain")
sys.exit((stored, deleted, memories.count()) != (
    {"0": "Anna lives in Oslo", "1": "Anna plays flute"}, {"deleted": 1}, 2))
PYTHON
