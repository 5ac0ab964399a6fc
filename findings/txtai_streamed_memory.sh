#!/usr/bin/env bash
# What: txtai 9.14.0, the memory of an Agent whose answers are streamed.
#
# The docstring of Agent says of memory: 'number of prior outputs to keep as "memory"', and that of
# a call: "stream: stream response if True". Anna talks with an agent that keeps five answers, in
# two turns of a session.
#
# Expected: in the second turn the agent reads what it was asked and what it answered in the first,
# streamed or not.
# Seen on 30 November 2026: with stream=True it reads what it was asked, and as its own answer
# "<generator object MultiStepAgent._run_stream at 0x...>". The generator is kept in place of the
# answer that it gives, and nothing replaces it once the stream is at its end. What the agent said
# in a turn that was streamed is lost. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "txtai[agent]==9.14.0" smolagents==1.26.0 torch==2.13.0 transformers==5.24.0 numpy==2.4.6 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' | grep "^txtai" \
    || { tail -3 "$folder/log"; exit 1; }
import json
import sys
from importlib.metadata import version
from types import SimpleNamespace

from txtai import LLM, Agent

ANSWERS = ["Your dog is called Rex.", "He is called Rex."]


class Answers(LLM):
    """A model that gives the answers one after the other, and notes what it reads."""

    def __init__(self):
        self.generator = SimpleNamespace(path="answers")
        self.answers = iter(ANSWERS)
        self.read = []

    def isvision(self):
        return False

    def __call__(self, messages, **options):
        self.read.append(messages[-1]["content"])
        return "Action:\n" + json.dumps({"name": "final_answer",
                                         "arguments": {"answer": next(self.answers)}})


seen = []
for stream in (False, True):
    model = Answers()
    agent = Agent(model=model, tools=[], memory=5)
    for text in ("What is my dog called?", "What was his name again?"):
        output = agent(text, stream=stream, session="anna")
        if stream:
            *_, last = output
            output = last.output
        assert output in ANSWERS
    lines = [line for line in model.read[-1].splitlines() if line.startswith(("User", "Assistant"))]
    print(f"txtai {version('txtai')}, stream={stream}: in the second turn it reads {lines}")
    seen.append(lines)
question = "User: What is my dog called?"
sys.exit(seen[0] != [question, f"Assistant: {ANSWERS[0]}"] or seen[1][0] != question
         or not seen[1][1].startswith("Assistant: <generator object"))
PYTHON
