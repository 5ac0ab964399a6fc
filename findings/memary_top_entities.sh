#!/usr/bin/env bash
# What: memary 0.1.3, the entities that ChatAgent shows to the model, and their counts.
#
# The README says of the knowledge store: "An entity frequently mentioned (high count) and
# referenced recently is likely of high importance", and that the store is there to "Compress/
# summarize the top N ranked entities in the entity knowledge store and pass to the LLM's finite
# context window". N is 20. A user talks of the flute 30 times, and then once of 20 other things.
#
# Expected: the flute, with a count of 30, is among the 20 entities that the model reads, and each
# other thing that it reads has a count of 1.
# Seen on 30 November 2026: the flute is the one that the model does not read. The counts are
# sorted upwards, and the first 20 taken: those of the lowest count. Nor are they counts of what
# was said: each add_chat counts the whole memory stream once more. So the flute, said 30 times,
# has a count of more than 1000, and of the things said once the first has 20 and the last 1. No
# warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# The agent's clients of Neo4j, of language models and of maps are replaced by empty ones, so their
# packages are not installed.
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    --ignore-requires-python memary==0.1.3 numpy==2.4.6 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
cd "$folder"
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import ast
import sys
from pathlib import Path
from unittest.mock import MagicMock

for name in ("ansistrip", "dotenv", "geocoder", "googlemaps", "requests", "llama_index",
             *(f"llama_index.{part}" for part in (
                 "core", "core.agent", "core.llms", "core.query_engine", "core.retrievers",
                 "core.tools", "graph_stores", "graph_stores.neo4j", "llms", "llms.ollama",
                 "llms.openai", "llms.perplexity", "multi_modal_llms", "multi_modal_llms.ollama",
                 "multi_modal_llms.openai")), "memary.synonym_expand.synonym"):
    sys.modules[name] = MagicMock()

from memary.agent import base_agent
from memary.agent.chat_agent import ChatAgent

OTHERS = [f"thing {number}" for number in range(1, 21)]
prompts = []


def answer(messages, model):
    """Note what the model would read, and answer."""
    prompts.append(messages)
    return {"message": {"content": "Nice!"}}


base_agent.ollama_chat_completions_request = answer
for name in ("system.txt", "user.txt"):
    Path(name).write_text("A person.")
agent = ChatAgent("agent", "stream.json", "store.json", "system.txt", "user.txt", "chat.json")
for entity in ["flute"] * 30 + OTHERS:
    agent.add_chat("user", f"I talk of the {entity}.", [entity])
agent.get_response()

counts = {item.entity: item.count for item in agent.entity_knowledge_store.get_memory()}
read = ast.literal_eval(prompts[0][0]["content"].removeprefix("Knowledge Entity Store:"))
names = [item["entity"] for item in read]
print(f"memary 0.1.3: the model reads {len(names)} of {len(counts)} entities, not",
      [entity for entity in counts if entity not in names])
print(f"Said 30 times, the flute has a count of {counts['flute']}.",
      "Said once each, the things have the counts", [counts[entity] for entity in OTHERS])
sys.exit((sorted(names) != sorted(OTHERS), counts["flute"] < 1000,
          [counts[entity] for entity in OTHERS] != list(range(20, 0, -1))) != (False,) * 3)
PYTHON
