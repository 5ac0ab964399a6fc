#!/usr/bin/env bash
# What: semantic-kernel 1.45.0, InMemoryCollection.search with a list of filters.
#
# The docstring of VectorSearchOptions says: "When multiple filters are used, they are combined with
# an AND operator." A collection holds a fact and a plan each of 2025 and of 2026.
#
# Expected: the filters "of 2026" and "is a fact" find one memory, the fact of 2026, as the single
# filter does that joins both by "and".
# Seen on 30 November 2026: three memories, among them the fact of 2025 and the plan of 2026. A
# record stays if any of the filters lets it through, so the list is an OR. Each further filter lets
# more through. This holds for filters given as strings and as functions, and for the total count.
# No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    semantic-kernel==1.45.0 numpy==2.4.6 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import asyncio
import sys
from dataclasses import dataclass
from typing import Annotated

from semantic_kernel.connectors.in_memory import InMemoryCollection
from semantic_kernel.data.vector import VectorStoreField, vectorstoremodel


@vectorstoremodel(collection_name="memories")
@dataclass
class Memory:
    id: Annotated[str, VectorStoreField("key")]
    year: Annotated[int, VectorStoreField("data")]
    kind: Annotated[str, VectorStoreField("data")]
    text: Annotated[str, VectorStoreField("data")]
    vector: Annotated[list[float] | None, VectorStoreField("vector", dimensions=2)] = None


async def main():
    bank = InMemoryCollection(record_type=Memory)
    await bank.ensure_collection_exists()
    await bank.upsert([
        Memory("1", 2026, "fact", "Anna lives in Oslo", [1.0, 0.0]),
        Memory("2", 2026, "plan", "Anna will visit Rome", [1.0, 0.1]),
        Memory("3", 2025, "fact", "Anna lives in Bergen", [1.0, 0.2]),
        Memory("4", 2025, "plan", "Anna will sell her car", [1.0, 0.3])])
    seen = []
    for name, filters in (
            ("one filter with 'and'", "lambda x: x.year == 2026 and x.kind == 'fact'"),
            ("list of strings", ["lambda x: x.year == 2026", "lambda x: x.kind == 'fact'"]),
            ("list of functions", [lambda x: x.year == 2026, lambda x: x.kind == "fact"])):
        found = await bank.search(vector=[1.0, 0.0], top=10, filter=filters,
                                  include_total_count=True)
        texts = [result.record.text async for result in found.results]
        print(f"semantic-kernel 1.45.0, {name}: {found.total_count} found, {texts}")
        seen.append((found.total_count, texts))
    both = ["Anna lives in Oslo", "Anna will visit Rome", "Anna lives in Bergen"]
    return seen != [(1, both[:1]), (3, both), (3, both)]


sys.exit(asyncio.run(main()))
PYTHON
