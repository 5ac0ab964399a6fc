#!/usr/bin/env bash
# What: rerankers 0.10.0, Reranker("rankgpt"), which lets a language model rank found memories.
#
# The README calls it "A lightweight unified API for various reranking models": each ranker is used
# as ranker.rank(query=..., docs=...). Of RankGPT it says: "using LLMs to rerank documents". Three
# memories are ranked for a question. The model's part is played by a function that answers as a
# perfect model does: with the passages that it was sent, those about the question first.
#
# Expected: the model is sent the three memories, and the one about the flute comes first.
# Seen on 1 December 2026: the model is sent none of them. The prompt says "I will provide you with
# 0 passages", and the list comes back in the order in which it was given, whatever the model
# answers. rank has rank_start=0 and rank_end=0, and cuts the list to docs[0:0]. The call to the
# model is made and paid for. No warning. With rank_end=3 the order is right. So a memory agent with
# this reranker has none, and a study of it would find that reranking does not help.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    rerankers==0.10.0 litellm==1.110.2 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import importlib.metadata
import re
import sys

from rerankers import Reranker

MEMORIES = ["Anna has a dog", "Anna drinks tea", "Anna plays the flute"]
prompts = []


def answer(messages):
    """Ranks the passages of the prompt as a perfect model does."""
    prompts.append(messages)
    passages = [re.match(r"\[(\d+)\] (.*)", message["content"]) for message in messages]
    passages = [passage.groups() for passage in passages if passage]
    passages.sort(key=lambda passage: "flute" not in passage[1])
    return " > ".join(f"[{number}]" for number, text in passages)


ranker = Reranker("rankgpt", api_key="none", verbose=0)
ranker._query_llm = answer
seen = []
for arguments in ({}, {"rank_end": 3}):
    found = ranker.rank("Which instrument does Anna play?", MEMORIES, **arguments)
    texts = [result.text for result in found.results]
    first_line = prompts[-1][1]["content"].splitlines()[0]
    n_sent = sum(memory in message["content"] for message in prompts[-1] for memory in MEMORIES)
    print(f"rerankers {importlib.metadata.version('rerankers')}, rank with {arguments}: "
          f"{first_line!r}, {n_sent} of 3 memories sent, order: {', '.join(texts)}")
    seen.append((n_sent, texts[0]))
sys.exit(seen != [(0, "Anna has a dog"), (3, "Anna plays the flute")])
PYTHON
