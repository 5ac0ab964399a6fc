#!/usr/bin/env bash
# What: camel-ai 0.2.90, LongtermAgentMemory, which joins the chat history and a vector store.
#
# The docstring says that the class is for "augmenting ChatHistoryMemory with VectorDBMemory", and
# of retrieve_limit: "The maximum number of messages to be added into the context." It is 3 by
# default. The vector store also has "Anna has a flat in Oslo.", from a session before.
#
# Expected: "Where does Anna live?" brings memories that the chat does not show, so this one.
# Seen on 30 November 2026: it does not. Instead the model reads all three messages of the chat
# twice, the question among them. Each message is written to both stores before anything is
# retrieved, so the first hit is always the question itself. The other places go to messages of
# the chat too, and the memory is the fourth hit. retrieve() gives the whole chat anyway, so such
# hits add nothing but tokens. With retrieve_limit=1 nothing else is ever added. No warning. The
# newer MemantoMemory of camel leaves out what the chat has (its pull request 4175). Issue 1578,
# closed, is about what retrieve() returns.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    camel-ai==0.2.90 qdrant-client==1.20.0 numpy==2.4.6 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys
from collections import Counter

from camel.embeddings import BaseEmbedding
from camel.memories import (ChatHistoryBlock, LongtermAgentMemory, MemoryRecord,
                            ScoreBasedContextCreator, VectorDBBlock)
from camel.messages import BaseMessage
from camel.storages import QdrantStorage
from camel.types import OpenAIBackendRole

WORDS = ["anna", "ben", "live", "oslo", "where", "flute", "dog"]


class WordCounts(BaseEmbedding):
    def embed_list(self, objs, **kwargs):
        return [[float(text.lower().count(word)) for word in WORDS] for text in objs]

    def get_output_dim(self):
        return len(WORDS)


class Words:
    def count_tokens_from_messages(self, messages):
        return sum(len(message["content"].split()) for message in messages)


def record(text):
    return MemoryRecord(message=BaseMessage.make_user_message("Anna", text),
                        role_at_backend=OpenAIBackendRole.USER)


BEFORE = "Anna has a flat in Oslo."
CHAT = ["Where is Anna?", "Anna lives with Ben.", "Where does Anna live?"]
store = QdrantStorage(vector_dim=len(WORDS), collection_name="memories")
vectors = VectorDBBlock(storage=store, embedding=WordCounts())
vectors.write_records([record(BEFORE)])
memory = LongtermAgentMemory(ScoreBasedContextCreator(Words(), 1000), ChatHistoryBlock(), vectors)
for text in CHAT:
    memory.write_record(record(text))
hits = [hit.memory_record.message.content for hit in vectors.retrieve(CHAT[-1], limit=4)]
read = Counter(message["content"] for message in memory.get_context()[0])
print(f"camel-ai 0.2.90: the hits are, best first, {hits}")
print(f"camel-ai 0.2.90: the model reads, with a limit of 3 hits, {dict(read)}")
sys.exit((hits, read) != ([CHAT[2], CHAT[0], CHAT[1], BEFORE], Counter(CHAT * 2)))
PYTHON
