#!/usr/bin/env bash
# What: autogen-agentchat 0.7.5, AssistantAgent with a ListMemory whose memories are replaced.
#
# Before each answer the agent asks its memory for update_context: "Update the provided model
# context using relevant memory content." ListMemory writes all its memories to a system message,
# under the line "Relevant memory content (in chronological order)". Memory.clear is there to "Clear
# all entries from memory." Here Anna moves: between two turns the memory of Oslo is cleared, and
# one of Bergen added. After that all is cleared.
#
# Expected: each time the model reads what the memory holds: Oslo, then Bergen, then neither.
# Seen on 30 November 2026: it reads Oslo, then Oslo and Bergen, then still both. The system message
# of each turn is added to the context of the agent for good, so no memory can be replaced or
# deleted, and one that stays is read once more per turn: after ten turns ten times. This also fills
# a BufferedChatCompletionContext: of a buffer of four messages two are copies of the memories.
# No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    autogen-agentchat==0.7.5 autogen-core==0.7.5 autogen-ext==0.7.5 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import asyncio
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_core.memory import ListMemory, MemoryContent
from autogen_core.model_context import BufferedChatCompletionContext
from autogen_ext.models.replay import ReplayChatCompletionClient

prompts = []


class Model(ReplayChatCompletionClient):
    async def create(self, messages, **options):
        prompts.append([str(message.content) for message in messages])
        return await super().create(messages, **options)


async def talk(turns, **options):
    """Set the memories before each turn. Return the prompts."""
    prompts.clear()
    memory = ListMemory()
    agent = AssistantAgent("agent", Model(["I see"] * len(turns)), memory=[memory],
                           system_message="Be brief", **options)
    for texts in turns:
        await memory.clear()
        for text in texts:
            await memory.add(MemoryContent(content=text, mime_type="text/plain"))
        await agent.run(task="Where does Anna live?")
    return list(prompts)


oslo, bergen = ["Anna lives in Oslo"], ["Anna lives in Bergen"]
seen = [[city for city in ("Oslo", "Bergen") if city in " ".join(prompt)]
        for prompt in asyncio.run(talk([oslo, bergen, []]))]
for held, cities in zip((oslo, bergen, []), seen, strict=True):
    print(f"autogen-agentchat 0.7.5: the memory holds {held}, the model reads {cities}")
copies = "".join(asyncio.run(talk([oslo] * 10))[-1]).count("Oslo")
print(f"One memory, turn 10: the model reads it {copies} times")
buffered = asyncio.run(talk([oslo] * 10, model_context=BufferedChatCompletionContext(4)))[-1]
filled = sum("Oslo" in message for message in buffered)
print(f"The same with a buffer of 4 messages: {filled} of them are memories")
sys.exit((seen, copies, filled) != ([["Oslo"], ["Oslo", "Bergen"], ["Oslo", "Bergen"]], 10, 2))
PYTHON
