#!/usr/bin/env bash
# What: pytrec-eval-terrier 0.5.11 and ir_measures 0.4.3, scores that are close to each other, such
# as times.
#
# A run gives each document a score, a Python float, and a higher score means a better place. A
# memory bank that finds its newest memories first has the time of each memory as its score.
#
# Expected: memory "a", written a minute after "b", has place 1. So its reciprocal rank (RR), RR@10
# and precision at 1 are all 1. With a time of 1700000060 and 1700000000 seconds no score is a tie.
# Seen on 30 November 2026: RR is 0.5 and precision at 1 is 0. The scores are stored with 32 bits,
# where both times are equal. The tie is then broken by the ids: the last one comes first. With the
# ids swapped, all are 1. 32 bits tell two times of today apart only if they lie some two minutes
# apart. ir_measures asks pytrec-eval for RR and P@1, and MS MARCO's code, which keeps 64 bits, for
# RR@10. So it reports RR 0.5, RR@10 1.0 and P@1 0.0 of the same run in the same call. Times counted
# from the first memory (60 and 0 seconds) get 1 in all. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    pytrec-eval-terrier==0.5.11 ir_measures==0.4.3 numpy==2.4.6 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import ir_measures
import pytrec_eval
from ir_measures import RR, P

START = 1_700_000_000.0
seen = []
for name, run, gold in (
        ("times, newer memory 'a'", {"a": START + 60, "b": START}, "a"),
        ("times, newer memory 'b'", {"a": START, "b": START + 60}, "b"),
        ("times three minutes apart", {"a": START + 180, "b": START}, "a"),
        ("seconds since the first", {"a": 60.0, "b": 0.0}, "a")):
    assert max(run, key=run.get) == gold
    qrels = {"q": {gold: 1}}
    direct = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate({"q": run})
    means = ir_measures.calc_aggregate([RR, RR @ 10, P @ 1], qrels, {"q": run})
    row = (direct["q"]["recip_rank"], means[RR], means[RR @ 10], means[P @ 1])
    print(f"{name}: pytrec_eval recip_rank {row[0]}; ir_measures RR {row[1]}, RR@10 {row[2]}, "
          f"P@1 {row[3]}")
    seen.append(row)
sys.exit(seen != [(0.5, 0.5, 1, 0)] + [(1, 1, 1, 1)] * 3)
PYTHON
