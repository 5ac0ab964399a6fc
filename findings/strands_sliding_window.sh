#!/usr/bin/env bash
# What: strands-agents 1.62.0, SlidingWindowConversationManager after a turn with many tool calls.
#
# The docstring says of window_size: "Maximum number of messages to keep in the agent's history."
# It is 40 by default. An agent searches 19 times to answer a question. With the question, the
# calls, their results and the answer these are 40 messages. Then the user asks "And Ben?".
#
# Expected: the agent keeps about the last 40 messages, without a result whose call is cut off.
# Seen on 30 November 2026: after the answer to "And Ben?" it has two messages, that question and
# its answer. All 19 results are gone, and the model reads three messages in the next turn. A
# window may begin only at a message that the user wrote, or at a tool call if there is none. Of
# the 40 messages that fit, the question "And Ben?" is the only such one. So one more message than
# fits costs 40. No warning. After 18 searches nothing is lost in that turn.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check strands-agents==1.62.0 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from strands import Agent, tool
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.models import Model


class Scripted(Model):
    """Calls search n_searches times, then answers, and answers each later question at once."""

    def __init__(self, n_searches):
        self.n_left = n_searches
        self.n_read = 0

    def update_config(self, **config):
        pass

    def get_config(self):
        return {}

    def structured_output(self, *args, **kwargs):
        raise NotImplementedError

    async def stream(self, messages, *args, **kwargs):
        self.n_read = len(messages)
        call = {"toolUse": {"toolUseId": f"call{self.n_left}", "name": "search"}}
        reason = "tool_use" if self.n_left else "end_turn"
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockStart": {"start": call if self.n_left else {}}}
        yield {"contentBlockDelta": {"delta": {"toolUse": {"input": '{"query": "Anna"}'}}
                                     if self.n_left else {"text": "In Oslo."}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": reason}}
        self.n_left -= self.n_left > 0


@tool
def search(query: str) -> str:
    """Search the memories."""
    return "Anna lives in Oslo"


seen = {}
for n_searches in (18, 19):
    model = Scripted(n_searches)
    agent = Agent(model=model, tools=[search], callback_handler=None,
                  conversation_manager=SlidingWindowConversationManager(window_size=40))
    agent("Where does Anna live?")
    before = len(agent.messages)
    agent("And Ben?")
    after = len(agent.messages)
    agent("Thank you.")
    seen[n_searches] = (before, after, model.n_read)
    print(f"strands-agents 1.62.0, window_size=40, {n_searches} searches: {before} messages, after "
          f"the second question {after}; in the third turn the model reads {model.n_read}")
sys.exit(seen != {18: (38, 40, 41), 19: (40, 2, 3)})
PYTHON
