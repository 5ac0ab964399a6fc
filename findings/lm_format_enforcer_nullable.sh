#!/usr/bin/env bash
# What: lm-format-enforcer 0.11.3, JsonSchemaParser and a field that may be null.
#
# It lets a model write only what fits a JSON schema. A memory agent's call has fields that may be
# empty. JSON schema writes such a field as {"type": ["array", "null"], ...}.
#
# Expected: null, or what the same schema with "type": "array" allows.
# Seen on 29 November 2026: null, or any value of the type. Of a type in a list, only its name is
# read. So ["old"] passes for a list of integers, "Forget it" for a string of at most three letters
# or with the pattern of a date, and {} for an object that must have a key. No warning. With "anyOf"
# of the array and null, the same values are refused.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check lm-format-enforcer==0.11.3 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys
from importlib.metadata import version

from lmformatenforcer import JsonSchemaParser


def allowed(field, value):
    parser = JsonSchemaParser({
        "type": "object", "properties": {"memory": field}, "required": ["memory"],
        "additionalProperties": False})
    for letter in f'{{"memory": {value}}}':
        if letter not in parser.get_allowed_characters():
            return False
        parser = parser.add_character(letter)
    return parser.can_end()


seen = []
for field, right, wrong in (
        ({"type": "array", "items": {"type": "integer"}}, "[3]", '["old"]'),
        ({"type": "string", "maxLength": 3}, '"Ann"', '"Forget it"'),
        ({"type": "string", "pattern": "[0-9]{4}-[0-9]{2}-[0-9]{2}"}, '"2023-05-08"',
         '"Forget it"'),
        ({"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
         '{"id": 3}', "{}")):
    fields = (field, {**field, "type": [field["type"], "null"]},
              {"anyOf": [field, {"type": "null"}]})
    found = [[allowed(one, value) for value in (right, "null", wrong)] for one in fields]
    print(f"lm-format-enforcer {version('lm-format-enforcer')}, {field}: {right}, null and {wrong} "
          f"allowed {found[0]}, with null in the list of types {found[1]}, with anyOf {found[2]}")
    seen.append(found)
sys.exit(seen != [[[True, False, False], [True] * 3, [True, True, False]]] * 4)
PYTHON
