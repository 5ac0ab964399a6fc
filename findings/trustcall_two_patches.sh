#!/usr/bin/env bash
# What: trustcall 0.0.39, create_extractor and a reply that patches one memory in two calls.
#
# The model updates memories by PatchDoc calls, each with the id of a memory and its changes. The
# README takes memory management as its example, and promises "Updating existing schemas without
# information loss". It also has replies with several calls at once, and loops over the responses
# with their "json_doc_id". A model learns that Anna moved and has a cat. It makes a call for each.
#
# Expected: the memory has both changes, as when one call holds both.
# Seen on 30 November 2026: two responses for the same memory. One has the new city and no cat, the
# other the cat and the old city. Each call is applied to the memory as it was before the reply, and
# no step joins the two. Who stores the responses under their ids, in order, keeps the cat and loses
# the move. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    trustcall==0.0.39 langgraph==1.2.24 langchain-core==1.8.3 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from pydantic import BaseModel
from trustcall import create_extractor


class Person(BaseModel):
    """What is known of a person."""

    name: str
    city: str
    pets: list[str]


class Model(GenericFakeChatModel):
    def bind_tools(self, tools, **options):
        return self


def call(number, *patches):
    return {"name": "PatchDoc", "id": f"call{number}", "args": {
        "json_doc_id": "7", "planned_edits": "see patches", "patches": list(patches)}}


move = {"op": "replace", "path": "/city", "value": "Bergen"}
cat = {"op": "add", "path": "/pets/-", "value": "cat"}
seen = []
for name, calls in (("one call", [call(1, move, cat)]),
                    ("two calls", [call(1, move), call(2, cat)])):
    store = {"7": {"name": "Anna", "city": "Oslo", "pets": []}}
    model = Model(messages=iter([AIMessage("", tool_calls=calls)]))
    result = create_extractor(model, tools=[Person], enable_inserts=True).invoke({
        "messages": [("user", "I live in Bergen now, and have a cat.")],
        "existing": [(key, "Person", value) for key, value in store.items()]})
    for response, about in zip(result["responses"], result["response_metadata"], strict=True):
        store[about["json_doc_id"]] = response.model_dump()
        print(f"trustcall 0.0.39, {name}, response for memory {about['json_doc_id']}: {response}")
    print(f"Stored: {store['7']}")
    seen.append((len(result["responses"]), store["7"]["city"], store["7"]["pets"]))
sys.exit(seen != [(1, "Bergen", ["cat"]), (2, "Oslo", ["cat"])])
PYTHON
