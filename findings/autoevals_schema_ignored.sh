#!/usr/bin/env bash
# What: autoevals 0.4.1, ValidJSON with a schema, which scores whether a reply has the right form.
#
# The docstring of ValidJSON says of schema: "Optional JSON Schema to validate against", and of the
# score: "1 if valid JSON (and matches schema if provided), 0 otherwise". Its example is
# validator = ValidJSON(schema=schema), and then validator.eval_async(output=...). A memory manager
# has to write an operation, which is ADD, UPDATE or DELETE, and a text.
#
# Expected: 1 for a reply with both, and 0 for one with an unknown operation, without a text, or
# with neither, with the schema given as in the docstring.
# Seen on 1 December 2026: 1 for all of them. The schema is stored and never read, so any object or
# list is valid. Only the schema of ValidJSON.partial counts, which the docstring does not name. No
# warning. As a format reward this one is 1 for every JSON, and as a test it finds no fault.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    autoevals==0.4.1 jsonschema==4.26.0 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import asyncio
import importlib.metadata
import json
import sys

import jsonschema
from autoevals import ValidJSON

SCHEMA = {"type": "object", "required": ["op", "text"],
          "properties": {"op": {"enum": ["ADD", "UPDATE", "DELETE"]}, "text": {"type": "string"}}}
REPLIES = ('{"op": "ADD", "text": "Anna plays the flute"}', '{"op": "FORGET", "text": "all"}',
           '{"op": "ADD"}', "{}", "[1, 2]")
seen = []
for reply in REPLIES:
    validator = ValidJSON(schema=SCHEMA)
    scores = (validator.eval(output=reply).score,
              asyncio.run(validator.eval_async(output=reply)).score,
              ValidJSON.partial(schema=SCHEMA)().eval(output=reply).score)
    expected = int(jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(reply)))
    print(f"autoevals {importlib.metadata.version('autoevals')}, {reply}: ValidJSON(schema=...) "
          f"{scores[0]}, eval_async {scores[1]}, ValidJSON.partial(schema=...) {scores[2]}, "
          f"jsonschema {expected}")
    seen.append((*scores, expected))
sys.exit(seen != [(1, 1, 1, 1)] + [(1, 1, 0, 0)] * 4)
PYTHON
