#!/usr/bin/env bash
# What: trustcall 0.0.39, create_extractor with a SystemMessage that is made once and used for
# every call.
#
# The extractor is called with "messages" and with "existing", the memories that may be updated. It
# writes these into the system message of its prompt. Its docstring says of the input: "Existing
# schemas. Key is the schema name, value is the schema instance." A program keeps its instructions
# as a SystemMessage, and calls the extractor for Anna, for Ben and for Cleo.
#
# Expected: each prompt shows the memory that was given with this call.
# Seen on 30 November 2026: Ben's prompt shows the memories of Anna and of Ben, and Cleo's those of
# all three. The text is appended to the caller's own message object, which is not copied before,
# so it stays there for the next call. For one user whose memory changes, the model reads all its
# older states too: after ten calls ten of them. With ("system", text) in place of the object each
# prompt is as expected, because a new message is made of it in each call. No warning.
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
from langchain_core.messages import AIMessage, SystemMessage
from pydantic import BaseModel
from trustcall import create_extractor

prompts = []


class Person(BaseModel):
    """What is known of a person."""

    name: str
    age: int


class Model(GenericFakeChatModel):
    def bind_tools(self, tools, **options):
        return self

    def _generate(self, messages, *arguments, **options):
        prompts.append(messages[0].content)
        return super()._generate(messages, *arguments, **options)


def read(system, people):
    """Call the extractor for each person. Return what the prompts show."""
    prompts.clear()
    patch = {"json_doc_id": "Person", "planned_edits": "one year older",
             "patches": [{"op": "replace", "path": "/age", "value": 60}]}
    reply = AIMessage("", tool_calls=[{"name": "PatchDoc", "id": "call", "args": patch}])
    extractor = create_extractor(Model(messages=iter([reply] * len(people))), tools=[Person])
    for person in people:
        extractor.invoke({"messages": [system, ("user", "It is my birthday.")],
                          "existing": {"Person": person}})
    return list(prompts)


people = [{"name": name, "age": 30} for name in ("Anna", "Ben", "Cleo")]
seen = []
for kind, system in (("SystemMessage", SystemMessage("Be brief")),
                     ("tuple", ("system", "Be brief"))):
    for person, prompt in zip(people, read(system, people), strict=True):
        shown = [one["name"] for one in people if one["name"] in prompt]
        print(f"trustcall 0.0.39, {kind}: called for {person['name']}, the model reads {shown}")
        seen.append(shown)
system = SystemMessage("Be brief")
last = read(system, [{"name": "Anna", "age": 30 + year} for year in range(10)])[-1]
ages = [age for age in range(30, 40) if f"'age': {age}" in last]
print(f"Ten calls for Anna, the last prompt has her age as {ages}")
print(f"Her program's own message had 8 letters, and now has {len(system.content)}")
alone = [["Anna"], ["Ben"], ["Cleo"]]
sys.exit((seen, ages) != ([["Anna"], ["Anna", "Ben"], ["Anna", "Ben", "Cleo"], *alone],
                          list(range(30, 40))))
PYTHON
