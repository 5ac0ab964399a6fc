#!/usr/bin/env bash
# What: llama-index-core 0.14.25, TimeWeightedPostprocessor on memories and their last reads.
#
# It reranks memories by their score plus a recency that falls with the hours since the last read.
# Generative Agents (Park et al. 2023) do so with a factor of 0.995 for each hour. The field
# time_decay is 0.99 by default.
#
# Expected: a recency of 0.99 after an hour, 0.79 after a day and 0.18 after a week. Of two memories
# with the same recency, the one with the higher score comes first.
# Seen on 29 November 2026: 0.01 after an hour, and 0 after a day. The recency is (1 - time_decay)
# to the power of the hours. So nothing but the last hour counts: a memory of this morning and one
# of last year are equally old. And a score of 0 is read as 1. A memory that has nothing in common
# with the query comes before one with 0.9. Scores that are scaled to [0, 1] give the worst memory
# exactly 0. No warning. Pull request 22389 of llama_index, open, is about the score.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-index-core==0.14.25 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys
from importlib.metadata import version

from llama_index.core.postprocessor import TimeWeightedPostprocessor
from llama_index.core.schema import NodeWithScore, TextNode

NOW = 1_700_000_000.0


def memory(text, score, hours):
    node = TextNode(text=text, metadata={"__last_accessed__": NOW - 3600 * hours})
    return NodeWithScore(node=node, score=score)


def rerank(*memories):
    postprocessor = TimeWeightedPostprocessor(top_k=9, now=NOW, time_access_refresh=False)
    return postprocessor.postprocess_nodes(list(memories))


name = f"llama-index-core {version('llama-index-core')}"
recencies = []
for hours in (0, 1, 24, 24 * 7):
    [node] = rerank(memory("Anna lives in Oslo", 0.5, hours))
    recencies.append(round(node.score - 0.5, 2))
    print(f"{name}: recency after {hours} hours is {recencies[-1]}, 0.99 to the power of {hours} "
          f"is {0.99 ** hours:.2f}")
order = rerank(memory("Anna lives in Oslo", 0.9, 24), memory("Ben plays flute", 0.0, 24))
print(f"{name}, scores 0.9 and 0.0, both read a day ago:",
      [(node.node.text, round(node.score, 2)) for node in order])
sys.exit((recencies, [node.node.text for node in order]) != (
    [1, 0.01, 0, 0], ["Ben plays flute", "Anna lives in Oslo"]))
PYTHON
