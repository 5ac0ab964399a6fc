#!/usr/bin/env bash
# What: agno 3.1.10, SessionSummaryManager with a conversation_limit.
#
# The comment on conversation_limit says: "Maximum number of messages to include in the summary
# conversation. None means no limit." get_messages, to which it is handed, says of its limit: "The
# number of messages to return, counting from the latest." An agent talks with Anna for two turns,
# and a summary is made after each.
#
# Expected: with a limit of 1 the summary is made of the last message, with 2 of the last question
# and its answer, with 4 of both turns.
# Seen on 30 November 2026: with a limit of 1 the model is asked to summarize nothing, with 2 the
# last answer alone, with 4 all but what Anna said first. The system message of the agent takes
# one of the places, and is then left out of the conversation, with or without instructions. What
# the model answers replaces the summary of the session in any case. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check agno==3.1.10 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import re
import sys
from dataclasses import dataclass

from agno.agent import Agent
from agno.db.in_memory import InMemoryDb
from agno.models.base import Model
from agno.models.response import ModelResponse
from agno.session.summary import SessionSummaryManager

TURNS = ["I am Anna.", "I have a dog."]
prompts = []


@dataclass
class Answers(Model):
    """A model that always answers the same, and notes what it reads."""

    id: str = "answers"
    answer: str = "Nice!"

    def invoke(self, messages, **options):
        prompts.append(messages[0].content)
        return ModelResponse(role="assistant", content=self.answer)

    async def ainvoke(self, messages, **options):
        return self.invoke(messages)

    def invoke_stream(self, messages, **options):
        yield self.invoke(messages)

    async def ainvoke_stream(self, messages, **options):
        yield self.invoke(messages)

    def _parse_provider_response(self, response, **options):
        return response

    def _parse_provider_response_delta(self, response):
        return response


seen = []
for limit in (1, 2, 4, 5, None):
    manager = SessionSummaryManager(model=Answers(answer='{"summary": "A talk."}'),
                                    conversation_limit=limit)
    agent = Agent(model=Answers(), db=InMemoryDb(), session_summary_manager=manager,
                  enable_session_summaries=True, instructions="Be brief.", telemetry=False)
    for text in TURNS:
        agent.run(text, session_id="anna")
    conversation = re.search("<conversation>(.*)</conversation>", prompts[-1], re.DOTALL)[1]
    lines = [line for line in conversation.splitlines() if line]
    print(f"agno 3.1.10, conversation_limit {limit}: the summary is made of {lines}")
    seen.append(lines)
both = ["User: I am Anna.", "Assistant: Nice!", "User: I have a dog.", "Assistant: Nice!"]
sys.exit(seen != [[], both[3:], both[1:], both, both])
PYTHON
