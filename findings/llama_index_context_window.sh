#!/usr/bin/env bash
# What: llama-index-core 0.14.25, VectorMemoryBlock with retrieval_context_window=1.
#
# The field retrieval_context_window is described so: "Maximum number of messages to include for
# context when retrieving." The messages that it leaves are made into the query of the search. A
# conversation has four messages: three of Oslo, and last the question where the dog is.
#
# Expected: with a window of 1 the query is the last message, the question, as it is the last two
# with 2 and the last three with 3.
# Seen on 30 November 2026: with a window of 1 the query is made of all four messages. The code
# cuts the list if the window is greater than 1, and takes it whole otherwise. Its own comment says
# "Use the last message or a context window of messages for the query". In a long conversation, an
# agent that asks for the least context gets the most, and embeds the whole of it. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-index-core==0.14.25 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import asyncio
import sys

from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import VectorMemoryBlock
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQueryResult

TEXTS = ["We go to Oslo.", "Oslo is fine.", "It is cold in Oslo.", "Where is the dog?"]
queries = []


class Store(BasePydanticVectorStore):
    """A store that finds nothing, and notes the query."""

    stores_text: bool = True

    @property
    def client(self):
        return None

    def add(self, nodes, **options):
        return []

    def delete(self, ref_doc_id, **options):
        pass

    def query(self, query, **options):
        queries.append(query.query_str)
        return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])


messages = [ChatMessage(role=role, content=text)
            for role, text in zip(["assistant", "user"] * 2, TEXTS, strict=True)]
for window in (1, 2, 3):
    block = VectorMemoryBlock(vector_store=Store(), embed_model=MockEmbedding(embed_dim=2),
                              retrieval_context_window=window)
    asyncio.run(block.aget(messages))
    print(f"llama-index-core 0.14.25, window of {window}: the query is {queries[-1]!r}")
sys.exit(queries != [" ".join(texts) for texts in (TEXTS, TEXTS[-2:], TEXTS[-3:])])
PYTHON
