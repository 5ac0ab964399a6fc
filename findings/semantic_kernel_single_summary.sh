#!/usr/bin/env bash
# What: semantic-kernel 1.45.0, ChatHistorySummarizationReducer with use_single_summary=False in a
# chat with a system message.
#
# The class replaces old messages by a summary. The docstring says: "use_single_summary: Whether to
# use a single summary message, default is True." With False each summary stays, and the next one is
# made from the messages that came after it. The first turn says where Anna lives. The summarizer of
# this script shortens: it keeps the last user message that it reads.
#
# Expected: after three reductions there are three summaries, and the first still names Oslo, with
# a system message as without one.
# Seen on 30 November 2026: so it is without a system message. With one there is one summary after
# each reduction. The second is made from the first, and the third from the second, as if
# use_single_summary were True. The earlier summaries are looked for from the first message on, and
# the system message, which each reduction puts there, ends the search. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    semantic-kernel==1.45.0 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import asyncio
import sys

from semantic_kernel.connectors.ai.chat_completion_client_base import ChatCompletionClientBase
from semantic_kernel.contents import ChatHistorySummarizationReducer, ChatMessageContent

USER = ["I am Anna and I live in Oslo", "It rains", "I am tired", "I read a book", "It snows",
        "I am hungry"]
SYSTEM = "Be brief"
read = []


class Model(ChatCompletionClientBase):
    """Keeps what it reads, and answers with the last user message in it."""

    async def _inner_get_chat_message_contents(self, chat_history, settings):
        *messages, _ = chat_history.messages  # the last are the instructions
        read.append(any(message.content.startswith("Summary") for message in messages))
        said = [message.content for message in messages if message.role == "user"]
        return [ChatMessageContent(role="assistant", content=f"Summary: {said[-1]}")]


async def run(**options):
    """Reduce after every second turn. Return the summaries in the chat and what each read."""
    read.clear()
    chat = ChatHistorySummarizationReducer(service=Model(ai_model_id="none"), target_count=2,
                                           **options)
    for number, text in enumerate(USER):
        chat.add_user_message(text)
        chat.add_assistant_message("I see")
        if number % 2:
            await chat.reduce()
    texts = [message.content for message in chat.messages]
    return [text for text in texts if text.startswith("Summary")], any("Oslo" in t for t in texts)


seen = []
for name, options in (("no system message", {}), ("a system message", {"system_message": SYSTEM})):
    summaries, oslo = asyncio.run(run(use_single_summary=False, **options))
    print(f"semantic-kernel 1.45.0, use_single_summary=False, {name}: {summaries}, "
          f"Oslo is in the chat: {oslo}, each was made from a summary: {read}")
    seen.append((len(summaries), oslo, list(read)))
sys.exit(seen != [(3, True, [False, False, False]), (1, False, [False, True, True])])
PYTHON
