#!/usr/bin/env bash
# What: verl 0.9.1, the policy loss "geo_mean" (GMPO), when a batch is cut into micro-batches.
#
# ppo_micro_batch_size_per_gpu says how many sequences fit into memory at a time. The docstring of
# agg_loss, by which the other policy losses end, says: "Aggregate the loss across global batch to
# ensure the loss is invariant to fsdp/megatron parallelism." It also says: "FSDP: the loss is
# directly used for backward." A batch has eight sequences of the same length.
#
# Expected: the same gradient, whether the eight are computed at once or one at a time.
# Seen on 30 November 2026: so it is with "vanilla", "gspo" and "cispo". With "geo_mean" the
# gradient is 2, 4 and 8 times as large for micro-batches of 4, 2 and 1. It takes the mean over the
# micro-batch, and the sum over these means is what is learned from. The KL loss and the entropy
# that are added to it stay the same, so they count for less. Clipping of the gradient hides most of
# it. With dynamic batch sizes a sequence counts for more, the fewer others share its micro-batch.
# The logged loss grows likewise. No warning. Issue 7913 of verl, open, says so.
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

import torch
import verl
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config import ActorConfig

N, LENGTH = 8, 4
ADVANTAGES = torch.tensor([1.0, -1.0] * (N // 2)).unsqueeze(-1).expand(N, LENGTH)
seen = []
for name in ("vanilla", "gspo", "cispo", "geo_mean"):
    norms = []
    for size in (8, 4, 2, 1):
        config = ActorConfig(strategy="fsdp", rollout_n=N, ppo_micro_batch_size_per_gpu=size,
                             loss_agg_mode="seq-mean-token-mean")
        # What verl.workers.utils.losses.ppo_loss says of the whole batch before each micro-batch.
        config.global_batch_info.update(dp_size=1, batch_num_tokens=N * LENGTH,
                                        global_batch_size=N, loss_scale_factor=None)
        log_prob = torch.full((N, LENGTH), -1.0, requires_grad=True)
        for begin in range(0, N, size):
            rows = slice(begin, begin + size)
            loss, _ = get_policy_loss_fn(name)(
                old_log_prob=log_prob[rows].detach(), log_prob=log_prob[rows],
                advantages=ADVANTAGES[rows], response_mask=torch.ones(size, LENGTH),
                loss_agg_mode=config.loss_agg_mode, config=config)
            loss.backward()
        norms.append(log_prob.grad.norm().item())
    times = [round(norm / norms[0], 3) for norm in norms]
    print(f"verl {verl.__version__}, {name}: gradient for micro-batches of 8, 4, 2 and 1: "
          + ", ".join(f"{norm:.4f} ({time:g} times)" for norm, time in zip(norms, times)))
    seen.append(times)
sys.exit(seen != [[1, 1, 1, 1]] * 3 + [[1, 2, 4, 8]])
PYTHON
