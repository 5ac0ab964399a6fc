#!/usr/bin/env bash
# What: areal 1.0.4, PPOActor with mask_no_eos_with_zero=True, and the longest rollout of a batch.
#
# The help of the option says: "Mask truncated generations (no EOS token) and exclude from
# training". Three rollouts of a question are given to compute_advantages. All of them ended by
# themselves, far below the limit of new tokens. The first two answers are right and get 1.
#
# Expected: the option changes nothing, because no rollout is truncated.
# Seen on 30 November 2026: the longest rollout, which is right, has the advantage 0 instead of 1,
# as if its reward were 0. The code takes a rollout for truncated if it is as long as the batch is
# wide. But a batch is padded to its longest rollout, so the longest one always counts as
# truncated. No token and no limit is looked at. No warning. Long right answers, like those after
# several searches, are the ones that lose their reward.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.10.0 numpy==2.4.6 aiofiles==25.1.0 aiohttp==3.14.5 colorlog==6.12.0 datasets==5.2.0 \
    einops==0.8.2 Flask==3.1.3 httpx==0.28.1 hydra-core==1.4.0.dev1 lark==1.3.1 msgspec==0.23.0 \
    networkx==3.3 numba==0.68.1 nvidia-ml-py==13.615.71 omegaconf==2.4.0.dev2 openai==3.57.0 \
    orjson==3.13.0 pillow==12.3.0 psutil==7.2.2 pybase64==1.5.1 pyzmq==27.3.0 ray==2.60.0 \
    requests==2.34.2 rich==15.0.0 setproctitle==1.3.8 swanlab==0.10.3 tabulate==0.10.0 \
    tenacity==9.2.1 tensorboardX==2.6.5 torchdata==0.11.0 trackio==0.43.0 transformers==5.3.0 \
    uvloop==0.23.0 wandb==0.31.0 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps areal==1.0.4 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export OMP_NUM_THREADS=1
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' | grep "^areal" \
    || { tail -3 "$folder/log"; exit 1; }
import sys

import torch
from areal.api.cli_args import PPOActorConfig
from areal.trainer.ppo.actor import PPOActor


def rollout(n_prompt, n_written, reward):
    n_tokens = n_prompt + n_written
    return {"input_ids": torch.ones(1, n_tokens, dtype=torch.long),
            "attention_mask": torch.ones(1, n_tokens, dtype=torch.bool),
            "loss_mask": torch.tensor([[0] * n_prompt + [1] * n_written]),
            "logprobs": torch.zeros(1, n_tokens), "rewards": torch.tensor([reward])}


seen = []
for mask in (False, True):
    actor = PPOActor(PPOActorConfig(
        experiment_name="memory", trial_name="0", mask_no_eos_with_zero=mask, kl_ctl=0.0,
        reward_norm=None, adv_norm=None, use_decoupled_loss=False, recompute_logprob=False,
        max_new_tokens=1024), None)
    batch = actor.compute_advantages([rollout(3, 4, 1.0), rollout(3, 6, 1.0), rollout(3, 2, 0.0)])
    seen.append([item["advantages"][0, 3].item() for item in batch])
    print(f"areal 1.0.4, mask_no_eos_with_zero={mask}: rollouts of 4, 6 and 2 tokens with rewards "
          f"1, 1 and 0 have the advantages {seen[-1]}")
sys.exit(seen != [[1, 1, 0], [1, 0, 0]])
PYTHON
