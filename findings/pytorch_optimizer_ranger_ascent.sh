#!/usr/bin/env bash
# What: pytorch-optimizer 4.1.0, Ranger (RAdam with Lookahead) with its defaults, the first steps.
#
# The docstring says of degenerated_to_sgd, False by default: "Use an SGD update before the moving
# average reaches the rectification threshold", and of maximize, also False: "Maximize the objective
# instead of minimizing it". The threshold is reached in step 6. The loss is x * x, and x starts at
# 1.
#
# Expected: in the first five steps either an SGD update, or none, as RAdam of the same package does
# with the same defaults. In no case does the loss rise.
# Seen on 30 November 2026: it rises in each of the five, from 1 to 4.94 with a learning rate of
# 0.1. Only with maximize=True does it fall. The step size is -1 times the learning rate there: for
# RAdam a sign to skip the step, for Ranger a factor. Who makes a new optimizer for each few batches
# only ever climbs. With degenerated_to_sgd=True the loss falls. No warning. Issue 232 reported an
# inverted sign. It is closed: no difference from the original was seen.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 pytorch-optimizer==4.1.0 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
export OMP_NUM_THREADS=1
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import importlib.metadata
import sys

import torch
from pytorch_optimizer import RAdam, Ranger

VERSION = importlib.metadata.version("pytorch-optimizer")
seen = []
for kind, arguments in ((Ranger, {}), (Ranger, {"degenerated_to_sgd": True}),
                        (Ranger, {"maximize": True}), (RAdam, {}),
                        (RAdam, {"degenerated_to_sgd": True})):
    x = torch.nn.Parameter(torch.ones(1))
    optimizer = kind([x], lr=0.1, **arguments)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = (x * x).sum()
        losses.append(round(loss.item(), 2))
        loss.backward()
        optimizer.step()
    print(f"pytorch-optimizer {VERSION}, {kind.__name__} with {arguments or 'its defaults'}: loss "
          f"before each of six steps {losses}")
    seen.append("rises" if losses == sorted(set(losses)) else
                "falls" if losses == sorted(set(losses), reverse=True) else
                "stays" if len(set(losses)) == 1 else "other")
sys.exit(seen != ["rises", "falls", "falls", "stays", "falls"])
PYTHON
