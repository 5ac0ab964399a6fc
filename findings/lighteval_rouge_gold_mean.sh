#!/usr/bin/env bash
# What: lighteval 0.13.0, Metrics.rouge1 and Metrics.rougeL of a question with several gold answers.
#
# The docstring of ROUGE says of aggregation_function: "How to aggregate the item results. Defaults
# to max. Used if there are several golds or predictions on which scores were computed." The
# docstrings of ExactMatches and F1_score say the same of theirs. A question has two or three gold
# answers, and the agent's answer is one of them, word for word.
#
# Expected: 1, as exact match and F1 give it, and as with this gold answer alone.
# Seen on 30 November 2026: the mean over the gold answers. "in 2019" gets 0.5 beside "in 2019" and
# "two years ago", and 0.33 beside a third one. So each further way to say the right answer lowers
# the score of an answer that says it in one way, and "in 2019, two years" gets more than "in 2019".
# The default is numpy.mean. With aggregation_function=max, or multiple_golds=True, the score is 1.
# No warning.
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

from lighteval.metrics.metrics import Metrics
from lighteval.metrics.metrics_sample import ROUGE
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.requests import Doc

GOLD = ["in 2019", "two years ago", "before Ben was born"]
METRICS = {"rouge1": Metrics.rouge1.value.sample_level_fn,
           "rougeL": Metrics.rougeL.value.sample_level_fn,
           "rouge1 with max": ROUGE("rouge1", aggregation_function=max),
           "rouge1 with multiple_golds": ROUGE("rouge1", multiple_golds=True),
           "f1": Metrics.f1_score.value.sample_level_fn,
           "em": Metrics.exact_match.value.sample_level_fn}
seen = []
for answer, n_gold in (("in 2019", 1), ("in 2019", 2), ("in 2019", 3), ("in 2019, two years", 2)):
    doc = Doc(query="When did Anna move?", choices=GOLD[:n_gold], gold_index=list(range(n_gold)))
    scores = {name: round(float(metric.compute(doc, ModelResponse(text=[answer]))), 2)
              for name, metric in METRICS.items()}
    print(f"lighteval 0.13.0, {answer!r} beside {GOLD[:n_gold]}:",
          ", ".join(f"{name} {score}" for name, score in scores.items()))
    seen.append(list(scores.values()))
sys.exit(seen != [[1] * 6, [0.5, 0.5, 1, 1, 1, 1], [0.33, 0.33, 1, 1, 1, 1],
                  [0.62, 0.62, 0.67, 0.67, 0.57, 0]])
PYTHON
