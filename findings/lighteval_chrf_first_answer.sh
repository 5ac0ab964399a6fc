#!/usr/bin/env bash
# What: lighteval 0.13.0, Metrics.chrf, Metrics.chrf_plus and Metrics.ter over several questions.
#
# The docstring of CorpusLevelTranslationMetric.compute_corpus says: "Computes the metric score over
# all the corpus generated items, by using the sacrebleu implementation." An agent answers four
# questions about four people. Each question has one gold answer.
#
# Expected: the score of all four answers beside their own gold answers, as sacrebleu gives it.
# Seen on 30 November 2026: the first answer alone is scored, beside the gold answers of all
# questions, of which the best counts. If it is right and the others say "I do not know", chrF and
# chrF++ are 100 and TER is 0, the best there is. If it is the one wrong answer of four, chrF is 6,
# where sacrebleu gives 73. If each answer is that of another question, chrF is 100, where sacrebleu
# gives 7. sacrebleu wants one list with the gold answers of all questions, and gets a list per
# question. Metrics.bleu counts all four. No warning. Issue 1112 of lighteval reported it on 6
# January 2026, and is open.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    lighteval==0.13.0 torch==2.13.0 transformers==5.24.0 sacrebleu==2.6.0 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

import sacrebleu
from lighteval.metrics.metrics import Metrics
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.requests import Doc

GOLD = ["Anna lives in Oslo", "Ben is a nurse", "Cleo has a dog", "Dan plays the flute"]
UNKNOWN = "I do not know"
OWN = {"chrf": sacrebleu.CHRF(), "chrf++": sacrebleu.CHRF(word_order=2), "ter": sacrebleu.TER()}
seen = []
for title, answers in (("only the first is right", [GOLD[0]] + [UNKNOWN] * 3),
                       ("only the first is wrong", [UNKNOWN] + GOLD[1:]),
                       ("each is that of another question", GOLD[1:] + GOLD[:1])):
    for metric in (Metrics.chrf.value, Metrics.chrf_plus.value, Metrics.ter.value):
        name = metric.metric_name
        items = [metric.compute_sample(doc=Doc(query="Who?", choices=[gold], gold_index=0),
                                       model_response=ModelResponse(text=[answer]))[name]
                 for gold, answer in zip(GOLD, answers, strict=True)]
        score = metric.get_corpus_aggregations()[name](items)
        expected = OWN[name].corpus_score(answers, [GOLD]).score
        print(f"lighteval 0.13.0, {title}: {name} {score:.1f}, sacrebleu {expected:.1f}")
        seen.append((round(score, 1), round(expected, 1)))
sys.exit(seen != [(100, 33), (100, 31), (0, 75), (6.3, 73.5), (4.7, 73.9), (100, 25),
                  (100, 7.3), (100, 6.2), (0, 93.8)])
PYTHON
