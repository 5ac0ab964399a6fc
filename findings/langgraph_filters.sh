#!/usr/bin/env bash
# What: langgraph 1.2.24 and langgraph-checkpoint-sqlite 3.1.2, the filters of store.search in
# InMemoryStore and in SqliteStore.
#
# The docstring of SearchOp, which both stores take, lists the operators: "$eq: Equal to (same as
# direct value comparison)", "$ne: Not equal to", "$gt: Greater than". Three memories: one is done,
# one is open, and one has no status.
#
# Expected: both stores find the same memories. "status" not equal to "done" finds the open one and
# the one without a status. "tags" equal to a list finds the memory with these tags, with $eq as
# well as with the list itself.
# Seen on 30 November 2026: SqliteStore does not find the one without a status. Its SQL compares
# the missing value with !=, which gives NULL, not true. It finds no list with $eq: the list is
# handed to SQL as bytes, which equal no text. With $ne and this list it finds even the memory that
# has it. No warning. $gt compares numbers in InMemoryStore, so "10" is greater than "9", and text
# in SqliteStore, where it is not. A date as text is an error in the one and works in the other.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    langgraph==1.2.24 langgraph-checkpoint==4.3.2 langgraph-checkpoint-sqlite==3.1.2 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

MEMORIES = {
    "rent": {"status": "done", "tags": ["home"], "version": "10", "day": "2024-03-05"},
    "flute": {"status": "open", "tags": ["music"], "version": "8", "day": "2024-01-10"},
    "tea": {"tags": [], "version": "1", "day": "2024-01-11"},
}
FILTERS = [{"status": {"$ne": "done"}}, {"tags": ["home"]}, {"tags": {"$eq": ["home"]}},
           {"tags": {"$ne": ["home"]}}, {"version": {"$gt": "9"}}, {"day": {"$gt": "2024-02-01"}}]


def search(store, condition):
    try:
        return [item.key for item in store.search(("memories",), filter=condition)]
    except ValueError as error:
        return type(error).__name__


seen = []
with SqliteStore.from_conn_string(":memory:") as sqlite:
    sqlite.setup()
    stores = {"InMemoryStore": InMemoryStore(), "SqliteStore": sqlite}
    for store in stores.values():
        for key, value in MEMORIES.items():
            store.put(("memories",), key, value)
    for condition in FILTERS:
        found = {name: search(store, condition) for name, store in stores.items()}
        print(f"{condition}:", ", ".join(f"{name} {keys}" for name, keys in found.items()))
        seen.append([sorted(keys) if isinstance(keys, list) else keys for keys in found.values()])
sys.exit(seen != [[["flute", "tea"], ["flute"]], [["rent"], ["rent"]], [["rent"], []],
                  [["flute", "tea"], ["flute", "rent", "tea"]], [["rent"], []],
                  ["ValueError", ["rent"]]])
PYTHON
