#!/usr/bin/env bash
# What: json-repair 0.64.6, loads of a reply with several tool calls, one after another.
#
# The README says: "the mistakes LLMs make are simple enough to be fixed without destroying the
# content." A memory manager writes a call for each change: one a line, or each in a pair of tags
# "<tool_call>" and "</tool_call>", as Qwen's template asks for.
#
# Expected: a list of all calls. So it is if they have different arguments or commas between them.
# Seen on 30 November 2026: of calls with the same keys only the last is left. Of three facts to add
# two are lost. A call with the same keys as the one before it, and values of the same types, counts
# as its update; a comment in the code says so. The same goes for lists of the same length. No
# warning, and repair_json(..., logging=True) does not name it. Issue 157 of json_repair reported
# it, and is closed. Issue 196 reported it for calls with commas, which are kept since.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check json-repair==0.64.6 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import json
import sys
from importlib.metadata import version

import json_repair


def add(text):
    return {"name": "add", "arguments": {"text": text}}


def tagged(calls):
    return "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls)


def lines(calls):
    return "\n".join(map(json.dumps, calls))


ANNA, BEN = add("Anna lives in Oslo"), add("Ben lives in Rome")
DELETE = {"name": "delete", "arguments": {"id": 7}}
seen = []
for name, calls, write in (
        ("add, add, add, one a line", [ANNA, BEN, add("Cleo has a dog")], lines),
        ("add, add, with tags", [ANNA, BEN], tagged),
        ("add, delete, with tags", [ANNA, DELETE], tagged),
        ("add, add, with commas", [ANNA, BEN], lambda calls: ",\n".join(map(json.dumps, calls))),
        ("list of two, list of two, one a line", [["Anna", "Oslo"], ["Ben", "Rome"]], lines)):
    found = json_repair.loads(write(calls))
    print(f"json-repair {version('json-repair')}, {name}: {json.dumps(found)}")
    seen.append("all" if found == calls else "last" if found == calls[-1] else found)
_, log = json_repair.repair_json(lines([ANNA, BEN]), return_objects=True, logging=True)
named = [entry["text"] for entry in log if "update" in entry["text"] or "repeat" in entry["text"]]
print(f"json-repair {version('json-repair')}: {len(named)} of {len(log)} lines of the log name it")
sys.exit(seen != ["last", "last", "all", "all", "last"] or bool(named))
PYTHON
