#!/usr/bin/env bash
# What: datasets 5.2.0, Dataset.map with a function of a module that is edited between two runs.
#
# The documentation says of load_from_cache_file: "If a cache file storing the current computation
# from `function` can be identified, use it instead of recomputing." A script builds its prompts
# from a file of questions with map(prompts.build).
#
# Expected: after prompts.py is edited, the next run builds new prompts. So it does if the
# function stands in the script itself and is edited there.
# Seen on 29 November 2026: the next run gets the prompts of the old prompts.py. No warning. The
# cache knows a function of a module by its name alone. The same holds if a function of the script
# calls it. load_from_cache_file=False builds the new ones. Issue 3297 of datasets has reported it
# since 2021. Its documentation of the cache does not say so.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
cd "$folder"
echo '{"question": "Where is Anna?"}' > questions.jsonl
seen=""
for version in OLD NEW; do
    cat > prompts.py <<PY
def build(row):
    return {"prompt": "$version prompt: " + row["question"]}
PY
    cat > run.py <<PY
import prompts
from datasets import load_dataset


def build_here(row):
    return {"prompt": "$version prompt: " + row["question"]}


def call(row):
    return prompts.build(row)


questions = load_dataset("json", data_files="questions.jsonl", split="train")
for build, use_cache in (
        (build_here, True), (prompts.build, True), (call, True), (prompts.build, False)):
    [row] = questions.map(build, load_from_cache_file=use_cache)
    print(row["prompt"].split()[0], end=" ")
PY
    prompts=$("$folder/venv/bin/python" run.py 2> log) || { tail -3 log; exit 1; }
    echo "datasets 5.2.0, both functions $version; prompts by that of the script, by that of the" \
        "module, by a call of it, without cache: $prompts"
    seen+=$prompts
done
[ "$seen" = "OLD OLD OLD OLD NEW OLD OLD NEW " ]
