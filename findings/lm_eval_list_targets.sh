#!/usr/bin/env bash
# What: lm-eval 0.4.13, a task with a metric between 0 and 1 and a list of accepted answers.
#
# A question about a dialogue often has several accepted answers, so `doc_to_target` names a list.
# F1 over the words is the usual metric. A task of lm-eval takes a function of one's own as metric.
#
# Expected: the best F1 over the accepted answers. A list of one gives what its answer gives as a
# string.
# Seen on 29 November 2026: a long answer with the right word in it gets 0.14 for the string "Oslo"
# and 1 for ["Oslo"]. Each value above 0 counts as 1; a comment in api/task.py says that this "may
# break" for metrics that are not 0 or 1. So a model that writes many words gets full marks. No
# warning. exact_match is not affected.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    lm-eval==0.4.13 datasets==5.2.0 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - "$folder" 2> "$folder/log" <<'PYTHON' \
    || { tail -3 "$folder/log"; exit 1; }
import json
import sys
from importlib.metadata import version
from pathlib import Path

import lm_eval
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask

ANSWER = "I am not sure but I think that she may live in Oslo"


def f1(references, predictions):
    gold, answer = references[0].split(), predictions[0].split()
    return 2 * len(set(gold) & set(answer)) / (len(gold) + len(answer))


class Model(LM):
    def generate_until(self, requests):
        return [ANSWER for _ in requests]

    def loglikelihood(self, requests):
        raise NotImplementedError

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


seen = []
for i, gold in enumerate(("Oslo", ["Oslo"], ["Oslo", "in Oslo", "Norway"], ["Bergen", "Tromso"])):
    path = Path(sys.argv[1], f"{i}.jsonl")
    path.write_text(json.dumps({"question": "Where does Anna live?", "answer": gold}) + "\n")
    task = ConfigurableTask(config={
        "task": "memory", "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}}, "test_split": "test",
        "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "answer",
        "metric_list": [
            {"metric": f1, "aggregation": "mean", "higher_is_better": True},
            {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]})
    results = lm_eval.evaluate(Model(), {"memory": task}, bootstrap_iters=0)["results"]["memory"]
    print(f"lm-eval {version('lm-eval')}: accepted {gold}, f1 {results['f1,none']:.2f}, "
          f"exact_match {results['exact_match,none']:.2f}")
    seen.append((round(results["f1,none"], 2), results["exact_match,none"]))
sys.exit(seen != [(0.14, 0), (1, 0), (1, 0), (0, 0)])
PYTHON
