#!/usr/bin/env bash
# What: torchtune 0.6.1, rlhf.estimate_advantages and rlhf.whiten, which its PPO recipe uses.
#
# A comment in estimate_advantages says: "normalize advantages across the batch of trajectories to
# reduce variance". It calls whiten, whose docstring says that it normalises values, and that it was
# taken from TRL. Four answers get the rewards 9, 10, 10 and 11, and the values are all 0.
#
# Expected: advantages with mean 0 and standard deviation 1, as TRL's: -1.35, 0, 0 and 1.35. The
# worst answer becomes less likely, the best one more likely.
# Seen on 30 November 2026: 8.65, 10, 10 and 11.35. The mean is subtracted, the rest divided by the
# standard deviation, and then the mean is added again. So all four become more likely, at almost
# the same rate, and rewards of -9, -10, -10 and -11 make all four less likely. TRL adds the mean if
# shift_mean is False, torchtune if it is True, which is the default in both. With shift_mean=False
# whiten gives mean 0, but estimate_advantages has no such argument. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps torchtune==0.6.1 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export OMP_NUM_THREADS=1
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import importlib.metadata
import importlib.util
import sys

import torch

# This file of torchtune needs torch alone.
path = importlib.metadata.distribution("torchtune").locate_file("torchtune/rlhf/rewards.py")
spec = importlib.util.spec_from_file_location("rewards", path)
rewards_module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rewards_module)
estimate_advantages, whiten = rewards_module.estimate_advantages, rewards_module.whiten

VERSION = importlib.metadata.version("torchtune")
seen = []
for answers in ([9, 10, 10, 11], [-9, -10, -10, -11]):
    rewards = torch.zeros(4, 3)
    rewards[:, -1] = torch.tensor(answers)
    advantages, _ = estimate_advantages(torch.zeros(4, 3), rewards, gamma=1, lmbda=1,
                                        masks=torch.ones(4, 3, dtype=torch.bool))
    last = [round(value, 2) for value in advantages[:, -1].tolist()]
    print(f"torchtune {VERSION}, rewards {answers}: advantages {last}, mean "
          f"{advantages.mean().item():.2f}, standard deviation {advantages.std().item():.2f}")
    seen.append(last)
for arguments in ({}, {"shift_mean": True}, {"shift_mean": False}):
    mean = whiten(torch.tensor([9.0, 10.0, 10.0, 11.0]), **arguments).mean().item()
    print(f"whiten of 9, 10, 10 and 11 with {arguments or 'no argument'}: mean {mean:.2f}")
    seen.append(round(mean, 2) + 0)
sys.exit(seen != [[8.65, 10, 10, 11.35], [-8.65, -10, -10, -11.35], 10, 10, 0])
PYTHON
