#!/usr/bin/env bash
# What: datasets 5.2.0, Dataset.map and from_generator with a key that only some new rows have.
#
# Some questions about a dialogue have evidence, and some have none. The function that prepares the
# questions, or the generator, so gives the key "evidence" only where there is some.
#
# Expected: a column "evidence", with None for the questions that have none, or an error.
# Seen on 30 November 2026: if the first question has none, the column is lost for all 1000
# questions. No error, no warning. map with features=, which name the column, makes the column and
# puts None into all its rows; from_generator with features= keeps the values. If the first question
# has evidence and a later one has none, there is an error. So it depends on the order of the rows.
# from_list loses the column too, and its documentation says that "the keys of the first entry will
# be used to determine the dataset columns". That of map and of from_generator does not.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

import datasets
from datasets import Dataset, Features, Value

datasets.disable_progress_bars()
FEATURES = Features(id=Value("int64"), question=Value("string"), evidence=Value("string"))
seen = []


def mapped(ids, features):
    return Dataset.from_dict({"id": ids}).map(prepare, features=features)


def generated(ids, features):
    return Dataset.from_generator(
        lambda ids: ({"id": i} | prepare({"id": i}) for i in ids), features=features,
        gen_kwargs={"ids": ids})


def prepare(row):
    question = {"question": f"Question {row['id']}?"}
    return question | {"evidence": f"Turn {row['id']}"} if row["id"] % 2 else question


for case, ids in (("the first has none", list(range(1000))),
                  ("the first has some", list(range(1, 1001)))):
    for make in (mapped, generated):
        for features in (None, FEATURES):
            try:
                made = make(ids, features)
                result = "no column" if "evidence" not in made.column_names else sum(
                    value is not None for value in made["evidence"])
            except (KeyError, datasets.exceptions.DatasetGenerationError) as error:
                result = type(error).__name__
            seen.append(result)
            print(f"datasets {datasets.__version__}, {case}, {make.__name__} "
                  f"{'with' if features else 'without'} features: rows with evidence: {result}")
sys.exit(seen[:4] != ["no column", 0, "no column", 500] or not all(
    isinstance(result, str) for result in (seen[4], seen[6])))
PYTHON
