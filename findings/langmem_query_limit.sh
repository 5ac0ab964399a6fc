#!/usr/bin/env bash
# What: langmem 0.0.30, create_memory_store_manager with query_limit=3.
#
# The docstring says of query_limit: "Maximum number of relevant memories to retrieve for each
# conversation", with 5 by default. A store holds one memory, and a conversation is about it.
#
# Expected: the manager searches the store, and its model reads the memory, for any limit from 1 on.
# Seen: with 5 and 4 it does. With 3, 2 and 1 the store is never searched, without a warning. The
# model reads no memory, so it can update none. The reason stands in extraction.py: at most
# `query_limit // 4` queries are made of the conversation.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    langmem==0.0.30 langchain-core==1.8.3 langgraph==1.2.24 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.store.memory import InMemoryStore
from langmem import create_memory_store_manager

prompts = []


class Model(GenericFakeChatModel):
    """Keeps what it reads, and calls no tool."""

    def bind_tools(self, tools, **kwargs):
        return self

    def _generate(self, messages, *args, **kwargs):
        prompts.append(str(messages))
        return super()._generate(messages, *args, **kwargs)


class Store(InMemoryStore):
    """Counts its searches."""

    n_searches = 0

    def search(self, *args, **kwargs):
        self.n_searches += 1
        return super().search(*args, **kwargs)


seen = {}
for query_limit in (5, 4, 3, 2, 1):
    store = Store()
    store.put(("sarah",), "0", {"kind": "Memory", "content": {"content": "Sarah plays flute"}})
    manager = create_memory_store_manager(
        Model(messages=iter([AIMessage("nothing to store")] * 9)),
        namespace=("sarah",), store=store, query_limit=query_limit)
    prompts.clear()
    manager.invoke({"messages": [{"role": "user", "content": "I still play the flute."}]})
    reads = any("Sarah plays flute" in prompt for prompt in prompts)
    seen[query_limit] = (store.n_searches > 0, reads)
    print(f"langmem 0.0.30, query_limit={query_limit}: {store.n_searches} searches, "
          f"the model reads the memory: {reads}")
sys.exit(seen != {limit: (limit >= 4, limit >= 4) for limit in (5, 4, 3, 2, 1)})
PYTHON
