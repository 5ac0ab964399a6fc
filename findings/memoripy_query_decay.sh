#!/usr/bin/env bash
# What: memoripy 0.1.2, MemoryStore.retrieve, whose memories decay with their age.
#
# The README says: "Older memories decay over time, while frequently accessed memories are
# reinforced", and that decay increases on unused memories. In the code an hour leaves a factor of
# exp(-0.0001 * 3600) = 0.70, and each question that does not use a memory one of 0.9.
# A memory is one hour old, and a question has just its embedding. Before it, 0 to 5 questions on
# something else are asked, all within the same second.
#
# Expected: its factor is 0.70 * 0.9 ** n after n other questions: 0.70, 0.63, 0.57, 0.51, 0.46 and
# 0.41. After one of them it is still found, with a score of 44 and the threshold of 40.
# Seen on 30 November 2026: 0.70, 0.44, 0.28, 0.17, 0.11 and 0.07. The factor of each question is
# stored and multiplied by that of the next, which counts the same hour again. So one question on
# something else is enough, and the memory is not found any more. An agent that asks more forgets
# faster, at the same age. A new memory has 0.59 after five. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    memoripy==0.1.2 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export OMP_NUM_THREADS=1
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import contextlib
import importlib.metadata
import io
import sys
import time

import numpy
from memoripy.memory_store import MemoryStore

FLUTE, OTHER = numpy.array([[1.0, 0.0]]), numpy.array([[0.0, 1.0]])


def ask(age, n_others):
    """Returns how many memories are found, and the factor of the only one."""
    with contextlib.redirect_stdout(io.StringIO()):
        store = MemoryStore(dimension=2)
        store.add_interaction({"id": "1", "prompt": "I play the flute", "output": "Nice!",
                               "embedding": FLUTE, "timestamp": time.time() - age})
        for _ in range(n_others):
            store.retrieve(OTHER, [])
        found = store.retrieve(FLUTE, [])
    # A memory that is found gets a factor of 1.1 then, one that is not found 0.9.
    factor = store.short_term_memory[0]["decay_factor"] / (1.1 if found else 0.9)
    return len(found), round(float(factor), 2)


seen = []
for age in (3600, 0):
    for n_others in range(6):
        found, factor = ask(age, n_others)
        expected = numpy.exp(-0.0001 * age) * 0.9 ** n_others
        print(f"memoripy {importlib.metadata.version('memoripy')}, memory of {age} seconds, "
              f"{n_others} other questions before: factor {factor}, expected {expected:.2f}, "
              f"{'found' if found else 'not found'}")
        seen.append((factor, found))
sys.exit(seen != [(0.70, 1), (0.44, 0), (0.28, 0), (0.17, 0), (0.11, 0), (0.07, 0),
                  (1.0, 1), (0.9, 1), (0.81, 1), (0.73, 1), (0.66, 1), (0.59, 1)])
PYTHON
