#!/usr/bin/env bash
# What: graphiti-core 0.31.2, its MMR reranking of facts of which one is stored twice.
#
# MMR (Carbonell and Goldstein 1998) takes the best candidate, then the best of those that differ
# from what is taken. Of two equal facts the first keeps its place, and the second comes late. A
# graph of a conversation can hold a fact twice, because two episodes told it.
#
# Expected: the fact closest to the query stays first when it is stored a second time.
# Seen on 29 November 2026: it falls from the first place to the last ones, with its copy. Each
# candidate is compared with all others, taken or not. So the two copies push each other down.
# With a limit of 2 the answer to the query is not among the results.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    graphiti-core==0.31.2 openai==3.57.0 httpx==0.28.1 numpy==2.4.6 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
export GRAPHITI_TELEMETRY_ENABLED=false
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys
from importlib.metadata import version

from graphiti_core.search.search_utils import maximal_marginal_relevance

query = [1.0, 0.0, 0.0, 0.0]
facts = {  # vectors of length 1; the first number is the cosine with the query
    "Anna lives in Oslo": [0.8, 0.6, 0.0, 0.0],
    "Ben lives in Bergen": [0.28, 0.0, 0.96, 0.0],
    "Cleo has a house": [0.28, 0.0, 0.0, 0.96],
}
copy = {"Anna lives in Oslo (again)": facts["Anna lives in Oslo"]}
seen = []
for candidates in (facts, {**facts, **copy}):
    order, scores = maximal_marginal_relevance(query, candidates)
    print(f"graphiti-core {version('graphiti-core')}, 'Where does Anna live?', mmr_lambda 0.5:",
          ", ".join(f"{fact} {score:.2f}" for fact, score in zip(order, scores, strict=True)))
    seen.append([fact[:4] for fact in order])
sys.exit(seen != [["Anna", "Ben ", "Cleo"], ["Ben ", "Cleo", "Anna", "Anna"]])
PYTHON
