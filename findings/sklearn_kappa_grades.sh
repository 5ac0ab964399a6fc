#!/usr/bin/env bash
# What: scikit-learn 1.9.1, cohen_kappa_score with weights, for the grades of a model that judges.
#
# The docstring says of weights only: '"linear" means linear weighting; "quadratic" means quadratic
# weighting'. In a weighted kappa, a disagreement counts the more, the further the two grades are
# apart. A person graded twelve answers on a scale from 1 to 10, and used 1, 9 and 10. Judge A mixes
# up one 9 and one 10. Judge B mixes up one 1 and one 9.
#
# Expected: judge A, whose grades are off by 1, gets a clearly higher kappa than B, off by 8.
# Seen on 30 November 2026: both get 0.81 with linear weights, and 0.88 with quadratic ones. The
# distance is not that of the grades, but of their places in the sorted list of those that occur: 1
# is one step from 9, and so is 9 from 10. With labels=range(1, 11) A gets 0.96 and 0.995, and B
# 0.67. So the agreement on the same twelve answers depends on whether somebody gave a 5 elsewhere.
# Words are sorted by the alphabet: "high", "low", "medium". A judge that mixes up "low" and "high"
# gets the same kappa as one that mixes up "low" and "medium". No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    scikit-learn==1.9.1 numpy==2.4.6 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export OMP_NUM_THREADS=1
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

import sklearn
from sklearn.metrics import cohen_kappa_score

NUMBERS, WORDS = (1, 9, 10), ("low", "medium", "high")


def mixed_up(grades, one, other):
    """Returns each grade four times, with one of each of the two given as the other."""
    found = [grade for grade in grades for _ in range(4)]
    first, second = found.index(one), found.index(other)
    found[first], found[second] = found[second], found[first]
    return found


seen = []
for grades, near, far, labels in ((NUMBERS, (9, 10), (1, 9), range(1, 11)),
                                  (WORDS, ("low", "medium"), ("low", "high"), WORDS)):
    person = [grade for grade in grades for _ in range(4)]
    for weights in ("linear", "quadratic"):
        for given in (None, labels):
            row = [round(float(cohen_kappa_score(person, mixed_up(grades, *pair),
                                                 labels=given, weights=weights)), 3)
                   for pair in (near, far)]
            print(f"scikit-learn {sklearn.__version__}, {weights}, "
                  f"{'no labels' if given is None else f'labels={given}'}: kappa {row[0]} with "
                  f"{near[0]} and {near[1]} mixed up, {row[1]} with {far[0]} and {far[1]}")
            seen.append(row)
sys.exit(seen != [[0.812, 0.812], [0.958, 0.667], [0.875, 0.875], [0.995, 0.671],
                  [0.812, 0.812], [0.812, 0.625], [0.875, 0.875], [0.875, 0.5]])
PYTHON
