#!/usr/bin/env bash
# What: datasets 5.2.0, load_dataset("json") of answers that are dates, with features that say
# string.
#
# Questions about a dialogue often ask "when?", and gold answers are written like "2023-05-08". In
# JSON these are strings.
#
# Expected: the strings of the file, above all with features=Features(answer=Value("string")).
# Seen on 29 November 2026: if every answer of the file is such a date, the column holds times.
# The features make strings of them again, but other ones. "2023-05-08" comes back as "2023-05-08
# 00:00:00", so its exact match with the file's answer is 0. 13:56+02:00 comes back as 11:56. No
# warning. With one more row, "in May", each answer stays as written. pyarrow, which reads the
# file, documents that it infers times. Dataset.from_list of the parsed rows keeps the strings.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - "$folder" 2> "$folder/log" <<'PYTHON' \
    || { tail -3 "$folder/log"; exit 1; }
import json
import sys
from pathlib import Path

import datasets
from datasets import Dataset, Features, Value, load_dataset

DATES = ["2023-05-08", "2023-05-08T13:56:00+02:00"]
STRINGS = Features(answer=Value("string"))
seen = []
for name, answers, features in (
        ("dates", DATES, None), ("strings", DATES, STRINGS), ("mixed", [*DATES, "in May"], None)):
    path = Path(sys.argv[1], f"{name}.jsonl")
    path.write_text("".join(json.dumps({"answer": answer}) + "\n" for answer in answers))
    rows = load_dataset("json", data_files=str(path), split="train", features=features)
    parsed = Dataset.from_list([json.loads(line) for line in path.read_text().splitlines()])
    read, kept = ([str(row["answer"]) for row in dataset] for dataset in (rows, parsed))
    print(f"datasets {datasets.__version__}, features {features}: {answers} is read as {read}, "
          f"type {rows.features['answer'].dtype}")
    seen.append((read, kept == answers))
changed = ["2023-05-08 00:00:00", "2023-05-08 11:56:00"]
sys.exit(seen != [(changed, True), (changed, True), ([*DATES, "in May"], True)])
PYTHON
