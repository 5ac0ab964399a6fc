#!/usr/bin/env bash
# What: llama-index-core 0.14.25, a VectorMemoryBlock that the Memory of two sessions share.
#
# The docstring says: "This block stores conversation history in a vector store and retrieves
# relevant information based on the most recent messages." Each stored piece has the session_id of
# its Memory, and each search gets the session_id of its own, by which it is filtered. A user's
# conversations on work and on the garden have a Memory each, with an id of its own, and one block
# with one store.
#
# Expected: the prompt of each session has what was said in this session.
# Seen on 30 November 2026: the session that asks first gets its own memories. All others get those
# of the first one too, and never their own: the garden's has what was said of work. If the garden
# asks first, it is the other way round. The filter of the first search is kept in the block's
# query_kwargs, and a later search, which finds a filter on session_id there, adds none of its own.
# With a block for each session, on the same store, all is as expected. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-index-core==0.14.25 \
    llama-index-vector-stores-qdrant==0.10.4 qdrant-client==1.20.0 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import asyncio
import sys

from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import Memory, VectorMemoryBlock
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import AsyncQdrantClient, QdrantClient

SAID = {"work": "My report is on bees.", "garden": "I plant beans."}
LATER = [ChatMessage(role=role, content="And so on, and so on.") for role in ("user", "assistant")]


async def ask(order, shared):
    """Tell each session its sentence. Ask them in this order. Return whose sentence each reads."""
    store = QdrantVectorStore("memories", client=QdrantClient(":memory:"),
                              aclient=AsyncQdrantClient(":memory:"))
    blocks = [VectorMemoryBlock(vector_store=store, embed_model=MockEmbedding(embed_dim=2))
              for _ in SAID]
    memories = {}
    for number, (session, text) in enumerate(SAID.items()):
        memories[session] = Memory.from_defaults(
            session_id=session, memory_blocks=[blocks[0 if shared else number]], token_limit=40,
            chat_history_token_ratio=0.3, token_flush_size=5, tokenizer_fn=str.split)
        await memories[session].aput_messages(
            [ChatMessage(role="user", content=text), ChatMessage(role="assistant", content="Oh!"),
             *LATER])
    found = {}
    for session in order:
        messages = await memories[session].aget(input="What did I tell you?")
        prompt = "\n".join(str(message.content) for message in messages)
        found[session] = [name for name, text in SAID.items() if text in prompt]
    return found


seen = []
for shared in (True, False):
    for order in (["work", "garden"], ["garden", "work"]):
        found = asyncio.run(ask(order, shared))
        print(f"llama-index-core 0.14.25, {'one block' if shared else 'a block each'}:",
              ", ".join(f"{name} reads what was said of {' and '.join(whose)}"
                        for name, whose in found.items()))
        seen.append(found)
sys.exit(seen != [{"work": ["work"], "garden": ["work"]},
                  {"garden": ["garden"], "work": ["garden"]},
                  *[{"work": ["work"], "garden": ["garden"]}] * 2])
PYTHON
