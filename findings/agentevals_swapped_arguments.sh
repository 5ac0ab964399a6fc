#!/usr/bin/env bash
# What: agentevals 0.0.9, create_trajectory_match_evaluator with tool_args_match_mode.
#
# The evaluator compares an agent's tool calls with those of a reference. The README says of the
# option: "Treating a tool call as equivalent if it contain as subset/superset of args compared to a
# reference tool call of the same name". Of trajectory_match_mode it says that "unordered" "ensures
# that they contain the same tool calls in any order", and that "subset" is there "to ensure that
# the agent did not call any tools beyond the expected ones". The reference has one search, with a
# query. The agent makes that search, with a limit of its own too.
#
# Expected: with "superset" the two calls are equivalent, with "subset" they are not, in each
# trajectory mode. The agent has called what the reference calls, and nothing else.
# Seen on 1 December 2026: so it is with "strict" and "superset". With "subset" the result is the
# opposite in both cases: a call with more arguments than the reference fails as a superset and
# passes as a subset. With "unordered" both fail, so each asks for equal arguments. For these modes
# the lists are handed on swapped, and with them the two sides of the match. A matcher function gets
# the reference's arguments as the output's too. No warning. A study of an agent's tool calls counts
# right ones as wrong, or the other way round.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    agentevals==0.0.9 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export LANGSMITH_TRACING=false
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import importlib.metadata
import json
import sys

from agentevals.trajectory.match import create_trajectory_match_evaluator


def trajectory(arguments):
    """Returns a question and a search with the arguments."""
    call = {"id": "1", "type": "function",
            "function": {"name": "search", "arguments": json.dumps(arguments)}}
    return [{"role": "user", "content": "Where is the flute?"},
            {"role": "assistant", "content": "", "tool_calls": [call]}]


QUERY, QUERY_AND_LIMIT = {"query": "flute"}, {"query": "flute", "limit": 3}
received = []


def matcher(output, reference):
    """Says that the calls are equivalent, and notes which arguments came as the output's."""
    received.append(output)
    return True


seen = {}
for mode in ("strict", "superset", "subset", "unordered"):
    results = [create_trajectory_match_evaluator(
                   trajectory_match_mode=mode, tool_args_match_mode=arguments_mode)(
                   outputs=trajectory(QUERY_AND_LIMIT),
                   reference_outputs=trajectory(QUERY))["score"]
               for arguments_mode in ("superset", "subset")]
    received.clear()
    create_trajectory_match_evaluator(
        trajectory_match_mode=mode, tool_args_match_overrides={"search": matcher})(
        outputs=trajectory(QUERY_AND_LIMIT), reference_outputs=trajectory(QUERY))
    n_swapped = sum(arguments == QUERY for arguments in received)
    print(f"agentevals {importlib.metadata.version('agentevals')}, {mode}: arguments as superset "
          f"{results[0]}, as subset {results[1]}, a matcher is called {len(received)} times, "
          f"{n_swapped} of them with the two sides swapped")
    seen[mode] = (*results, n_swapped)
sys.exit(seen != {"strict": (True, False, 0), "superset": (True, False, 0),
                  "subset": (False, True, 1), "unordered": (False, False, 1)})
PYTHON
