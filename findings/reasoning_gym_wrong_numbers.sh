#!/usr/bin/env bash
# What: reasoning-gym 0.1.25, the reward of score_answer for a wrong number.
#
# The title of its paper names "Reinforcement Learning with Verifiable Rewards". Many tasks use the
# score_answer of ProceduralDataset: 1 for the answer itself, and less for a longer text with it.
#
# Expected: "The answer is 2" gets less than "2", and a wrong number gets 0.
# Seen on 29 November 2026: 12 for 2 gets 0.5, because "2" is in "12". So does 30 for 3 and, in
# chain_sum, -5 for 5. On 200 tasks of greatest common divisors, to write 12 each time gets 0.30 on
# average and is right in one task. To write 1, the most frequent answer, is right in 48 and gets
# 0.24. So a policy that cannot do the task is driven to the wrong 12. In a group of wrong answers
# these ones get the positive advantage.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check reasoning-gym==0.1.25 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys
from importlib.metadata import version

import reasoning_gym

name = f"reasoning-gym {version('reasoning-gym')}"
seen = []
for task, wrong, right in (("gcd", "12", "2"), ("gcd", "30", "3"), ("chain_sum", "-5", "5")):
    dataset = reasoning_gym.create_dataset(task, size=1, seed=0)
    seen.append(dataset.score_answer(wrong, {**dataset[0], "answer": right}))
    print(f"{name}, {task}: {wrong} for {right} gets {seen[-1]}")
dataset = reasoning_gym.create_dataset("gcd", size=200, seed=0)
for always in ("1", "12"):
    n_right = sum(entry["answer"] == always for entry in dataset)
    mean = sum(dataset.score_answer(always, entry) for entry in dataset) / len(dataset)
    print(f"{name}, gcd: always {always} is right in {n_right} of {len(dataset)} and gets a mean "
          f"reward of {mean:.4f}")
    seen.append((n_right, round(mean, 4)))
sys.exit(seen != [0.5, 0.5, 0.5, (48, 0.24), (1, 0.2975)])
PYTHON
