#!/usr/bin/env bash
# What: litellm 1.110.2, trim_messages when the last message is a tool's result.
#
# Its documentation says: "ensures tokens(messages) < max_tokens", the docstring that it trims
# messages "to fit within a model's token limit". An agent has a system message and four short
# messages, searches its memories with a tool, and gets a long result: 904 tokens in all. It trims
# before it goes on.
#
# Expected: what is returned has at most max_tokens tokens.
# Seen on 30 November 2026: with max_tokens 300 and 500 all 904 come back, nothing is trimmed. With
# 150 it is 851. Tool results at the end are taken out before the tokens are counted, and are put
# back untouched. So the limit holds for what stands before them only. With one more message of the
# user after the result, each limit holds. Asked how many tokens are left (return_response_tokens),
# it says -37 where 7 are: the system message is subtracted twice. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    litellm==1.110.2 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export LITELLM_LOCAL_MODEL_COST_MAP=True  # no look-up of prices
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import importlib.metadata
import sys

from litellm.utils import token_counter, trim_messages

VERSION, MODEL = importlib.metadata.version("litellm"), "gpt-4o"
SYSTEM = {"role": "system", "content": "You are a helpful assistant with a memory. " * 4}
CALL = {"id": "1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
SEARCH = [{"role": "assistant", "content": None, "tool_calls": [CALL]},
          {"role": "tool", "tool_call_id": "1", "content": "found a memory of the dog. " * 100}]


def chat(n_messages):
    text = "we talked about the garden and the dog. " * 3
    return [{"role": ("user", "assistant")[i % 2], "content": f"Message number {i}: {text}"}
            for i in range(n_messages)]


def count(messages):
    return token_counter(model=MODEL, messages=messages)


seen = []
for name, messages in (("ends with a tool's result", [SYSTEM, *chat(4), *SEARCH]),
                       ("goes on after it", [SYSTEM, *chat(4), *SEARCH, *chat(1)])):
    for limit in (150, 300, 500):
        trimmed = count(trim_messages(messages, model=MODEL, max_tokens=limit))
        print(f"litellm {VERSION}, chat that {name}, max_tokens {limit}: {trimmed} tokens of "
              f"{count(messages)} are kept")
        seen.append((trimmed <= limit, trimmed == count(messages)))
messages, left = trim_messages([SYSTEM, *chat(8)], model=MODEL, max_tokens=150,
                               return_response_tokens=True)
print(f"without tools, max_tokens 150: {count(messages)} tokens are kept, {left} said to be left")
sys.exit(seen != [(False, False)] + [(False, True)] * 2 + [(True, False)] * 3
         or left != 150 - count(messages) - count([SYSTEM]))
PYTHON
