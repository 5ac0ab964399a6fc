#!/usr/bin/env bash
# What: outlines-core 0.2.14, build_regex_from_schema and a pattern with alternatives.
#
# It lets a model write only what fits a JSON schema. A memory manager's call names an operation, so
# the field "op" has the pattern "ADD|UPDATE|DELETE".
#
# Expected: the model can write {"op":"ADD"}, {"op":"UPDATE"} and {"op":"DELETE"}.
# Seen on 30 November 2026: it can write none of them. It can write {"op":"ADD}, {"op":UPDATE} and
# {"op":DELETE"}, which are not JSON. The pattern is put between two quotes without parentheses
# around it, so the quotes belong to the first and the last alternative. No error, no warning. The
# format reward is 0 for each rollout, so no group has an advantage. "^(ADD|UPDATE|DELETE)$" and an
# "enum" work. Issue 267 of outlines-core reported it on 11 August 2026, and is open.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check outlines-core==0.2.14 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import json
import sys
from importlib.metadata import version

from outlines_core import Guide, Index, Vocabulary
from outlines_core.json_schema import build_regex_from_schema

LETTERS = sorted(set('{}":$^opADUPTELN'))
EOS = len(LETTERS)
VOCABULARY = Vocabulary(EOS, {letter: [i] for i, letter in enumerate(LETTERS)})


def texts(index, begun=()):
    """All that a model can write, letter by letter, under the guide."""
    guide = Guide(index)
    for token in begun:
        guide.advance(token)
    for token in guide.get_tokens():
        if token == EOS:
            yield "".join(LETTERS[i] for i in begun)
        else:
            yield from texts(index, (*begun, token))


def reads(text):
    try:
        return json.loads(text)["op"] in ("ADD", "UPDATE", "DELETE")
    except ValueError:
        return False


seen = []
for op in ({"pattern": "ADD|UPDATE|DELETE"}, {"pattern": "^(ADD|UPDATE|DELETE)$"},
           {"enum": ["ADD", "UPDATE", "DELETE"]}):
    schema = {"type": "object", "properties": {"op": {"type": "string", **op}}, "required": ["op"]}
    regex = build_regex_from_schema(json.dumps(schema), whitespace_pattern="")
    written = sorted(texts(Index(regex, VOCABULARY)), key=len)
    n_read = sum(map(reads, written))
    print(f"outlines-core {version('outlines-core')}, {json.dumps(op)}: {n_read} of {len(written)} "
          f"are right: {'   '.join(written)}")
    seen.append(n_read)
sys.exit(seen != [0, 3, 3])
PYTHON
