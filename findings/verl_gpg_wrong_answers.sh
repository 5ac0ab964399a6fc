#!/usr/bin/env bash
# What: verl 0.9.1, the advantage estimator "gpg" (GPG).
#
# Its documentation names the paper, arXiv 2504.02546, whose "accurate gradient estimation" makes up
# for questions that teach nothing, because all answers to them got the same reward: the advantages
# are multiplied by the number of answers divided by that of the answers to the other questions. Two
# questions have four answers each.
#
# Expected: a factor of 1 if both questions have right and wrong answers, and 2 if one has answers
# of one kind only. Whether a wrong answer is worth 0 or -1, or a right one 1 or 2, does not say
# which questions teach something, so the factor is the same.
# Seen on 30 November 2026: the factor is the number of answers divided by that of rewards that are
# not 0. With one right answer of four it is 4, with three of four 1.33. So the rarer right answers
# are, the larger is the step, and the factor does not depend on whether a question taught anything:
# it is 1.6 where one has only right answers, and 8 where it has only wrong ones. With -1 for a
# wrong answer, or 0.1 for a wrong one in the right format, it is 1. The argument alpha, "(float)"
# in the docstring, is overwritten. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 tensordict==0.10.0 transformers==5.10.2 ray==2.50.0 pandas omegaconf \
    hydra-core codetiming 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps verl==0.9.1 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export OMP_NUM_THREADS=1
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

import numpy
import torch
import verl
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

seen = []
for questions, expected in (([[1, 0, 0, 0], [1, 0, 0, 0]], 1), ([[1, 1, 1, 0], [1, 1, 1, 0]], 1),
                            ([[1, -1, -1, -1], [1, -1, -1, -1]], 1),
                            ([[1, 0.1, 0.1, 0.1], [1, 0.1, 0.1, 0.1]], 1),
                            ([[1, 1, 1, 1], [1, 0, 0, 0]], 2), ([[0, 0, 0, 0], [1, 0, 0, 0]], 2)):
    rewards = torch.tensor(questions, dtype=torch.float32)
    token_rewards = torch.zeros(rewards.numel(), 3)
    token_rewards[:, -1] = rewards.flatten()
    advantages, _ = get_adv_estimator_fn("gpg")(
        token_level_rewards=token_rewards, response_mask=torch.ones_like(token_rewards),
        index=numpy.repeat(["first", "second"], 4))
    second = advantages[4:, 0]
    factor = round((second[0] / (rewards[1] - rewards[1].mean())[0]).item(), 2)
    print(f"verl {verl.__version__}, rewards {questions}: advantages of the second question "
          f"{[round(value, 2) for value in second.tolist()]}, factor {factor:g}, "
          f"expected {expected}")
    seen.append(factor)
sys.exit(seen != [4, 1.33, 1, 1, 1.6, 8])
PYTHON
