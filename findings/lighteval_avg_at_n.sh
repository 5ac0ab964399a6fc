#!/usr/bin/env bash
# What: lighteval 0.13.0, Metrics.avg_at_n beside Metrics.pass_at_k, on the same answers.
#
# avg@n is the mean score of n answers to a question. pass@1 of n answers is the same number. Both
# metrics are made with strip_strings=True. The docstring of AvgAtN.compute says: "It applies
# normalisation (if needed) to model prediction and gold".
#
# Expected: the same score from both, and white space around an answer changes nothing.
# Seen on 30 November 2026: of four answers " Oslo", "Oslo\n", "Oslo" and "Rome", pass@1 counts
# three as right (0.75) and avg@4 counts one (0.25). With normalize=helm_normalizer, "oslo." is
# right for pass@1 and maj@4, and wrong for avg@4. AvgAtN never calls preprocess, so strip_strings
# and normalize do nothing. No warning. Models that start with a space or end with a line break get
# about 0. Issue 1384 of lighteval reported it on 10 September 2026, and is open.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    lighteval==0.13.0 torch==2.13.0 transformers==5.24.0 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys
from importlib.metadata import version

from lighteval.metrics.metrics import Metrics
from lighteval.metrics.metrics_sample import AvgAtN, MajAtN, PassAtK
from lighteval.metrics.normalizations import helm_normalizer
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.requests import Doc

DOC = Doc(query="Where does Anna live?", choices=["Oslo"], gold_index=0)
seen = {}


def score(title, metric, answers):
    seen[title] = float(metric.compute(DOC, ModelResponse(text=answers)))
    print(f"lighteval {version('lighteval')}, {title}: {answers} get {seen[title]}")


answers = [" Oslo", "Oslo\n", "Oslo", "Rome"]
score("Metrics.avg_at_n(n=4)", Metrics.avg_at_n(sample_params={"n": 4}).sample_level_fn, answers)
score("Metrics.pass_at_k(k=1, n=4)",
      Metrics.pass_at_k(sample_params={"k": 1, "n": 4}).sample_level_fn, answers)
answers = ["oslo.", "oslo.", "Oslo!", "Rome"]
for metric in (AvgAtN(n=4, normalize=helm_normalizer), PassAtK(k=1, n=4, normalize=helm_normalizer),
               MajAtN(n=4, normalize=helm_normalizer)):
    score(f"{type(metric).__name__} with helm_normalizer", metric, answers)
sys.exit([round(value, 6) for value in seen.values()] != [0.25, 0.75, 0, 0.75, 1])
PYTHON
