#!/usr/bin/env bash
# What: langchain 1.5.2, SummarizationMiddleware when a conversation is summarized a second time.
#
# The class replaces old messages by a summary. Its docstring says "maintaining context continuity".
# Of trim_tokens_to_summarize, 4000 by default, it says: "Maximum tokens to keep when preparing
# messages for the summarization call." The summary becomes the first message. Here one is made at
# 8000 tokens, and four messages are kept. The first turn says where Anna lives, turn 20 what Ben
# plays. The summarizer of this script keeps each of these facts that it reads.
#
# Expected: a summary replaces the one before it, so it is made from that one and what came since.
# Both facts stay.
# Seen on 30 November 2026: only the last 4000 tokens before the cut are read, 29 of 57 messages.
# The first summary is the oldest message. So the second one is made without it, and replaces it.
# Anna's city is lost with the first summary, and Ben's flute with the second. No warning. With
# trim_tokens_to_summarize=None both facts stay. For a neighbouring case, where nothing is left to
# summarize, see https://github.com/langchain-ai/langchain/issues/39261
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    langchain==1.5.2 langchain-core==1.8.3 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

FACTS = {0: "Anna lives in Oslo", 20: "Ben plays flute"}


def run(**options):
    """Talk for 70 turns. For each summary return what it replaces, was made from and holds."""
    summaries = []

    def summarize(messages):  # keeps each fact that it reads
        text = " ".join(message.content for message in messages)
        facts = [fact for fact in FACTS.values() if fact in text]
        summaries.append((len(messages), "summary" in text, facts))
        return f"Facts: {', '.join(facts)}"

    model = GenericFakeChatModel(messages=(AIMessage("I see. " * 100) for _ in range(1000)))
    agent = create_agent(model, checkpointer=InMemorySaver(), middleware=[SummarizationMiddleware(
        model, trigger=("tokens", 8000), keep=("messages", 4), summarizer=summarize, **options)])
    sizes = []
    for turn in range(70):
        text = f"{FACTS.get(turn, 'Well')}. " + "The weather is fine today. " * 12
        before = len(summaries)
        out = agent.invoke({"messages": [HumanMessage(text)]}, {"configurable": {"thread_id": "1"}})
        if len(summaries) > before:
            sizes.append(size + 1 - 4)
        size = len(out["messages"])
    return [(replaced, *summary) for replaced, summary in zip(sizes, summaries, strict=True)]


seen = {}
for name, options in (("default", {}), ("None", {"trim_tokens_to_summarize": None})):
    seen[name] = run(**options)
    for number, (replaced, read, has_summary, facts) in enumerate(seen[name], 1):
        print(f"langchain 1.5.2, trim_tokens_to_summarize {name}, summary {number}: replaces "
              f"{replaced} messages, reads {read}, reads a summary: {has_summary}, holds {facts}")
sys.exit(seen != {
    "default": [(57, 29, False, ["Ben plays flute"]), (57, 29, False, [])],
    "None": [(57, 57, False, [*FACTS.values()]), (57, 57, True, [*FACTS.values()])]})
PYTHON
