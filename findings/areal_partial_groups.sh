#!/usr/bin/env bash
# What: areal 1.0.4, reward_norm with mean_level="group", after a rollout that was rejected.
#
# The docstring of arun_episode says: "Returning `None` implies that this trajectory is rejected and
# will not be used for training." For a group with such a rollout GroupedRolloutWorkflow logs
# "using remaining results". Of Normalization the docstring says: '"group": normalize within
# fixed-size groups'. Two questions have four rollouts each. The second rollout of the first
# question fails, because its tool did. No answer to the first question is right, and two of four
# to the second are.
#
# Expected: each reward is compared with those of the same question. So the three rollouts of the
# first question get 0, and those of the second about 0.87 and -0.87, as without the failure.
# Seen on 30 November 2026: the three wrong rollouts of the first question get -0.5, because a right
# one of the second question is compared with them. It gets 1.5. Of the other three the right one
# gets 100000, which is its reward divided by eps, and the two wrong ones 0. Groups are cut every
# group_size rows, whatever question the rows belong to, and rows that are left at the end keep the
# mean 0 and the deviation 0. One failure shifts all groups after it. The one warning is that of the
# remaining results. The change in pull request 1454 of AReaL is not in this version.
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
import asyncio
import logging
import sys

import torch
from areal.api import RolloutWorkflow
from areal.api.cli_args import NormConfig, PPOActorConfig
from areal.infra.remote_inf_engine import GroupedRolloutWorkflow
from areal.trainer.ppo.actor import PPOActor

N_PROMPT, N_WRITTEN, GROUP_SIZE = 3, 4, 4


class Memory(RolloutWorkflow):
    """Its rollouts of a question get the rewards that the question says, in that order."""

    async def arun_episode(self, engine, data):
        reward = next(data["rewards"])
        if reward is None:
            return None
        n_tokens = N_PROMPT + N_WRITTEN
        return {"input_ids": torch.ones(1, n_tokens, dtype=torch.long),
                "attention_mask": torch.ones(1, n_tokens, dtype=torch.bool),
                "loss_mask": torch.tensor([[0] * N_PROMPT + [1] * N_WRITTEN]),
                "logprobs": torch.zeros(1, n_tokens), "rewards": torch.tensor([reward])}


async def roll_out(questions):
    workflow = GroupedRolloutWorkflow(Memory(), GROUP_SIZE, logging.getLogger("rollouts"))
    return [await workflow.arun_episode(None, {"rewards": iter(rewards)}) for rewards in questions]


seen = []
for failed in (0.0, None):
    questions = [[0.0, failed, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]]
    batch = asyncio.run(roll_out(questions))
    actor = PPOActor(PPOActorConfig(
        experiment_name="memory", trial_name="0", kl_ctl=0.0, adv_norm=None,
        reward_norm=NormConfig(mean_level="group", std_level="group", group_size=GROUP_SIZE),
        reward_scaling=1.0, reward_bias=0.0, use_decoupled_loss=False, recompute_logprob=False,
        max_new_tokens=1024), None)
    seen.append([[round(row, 2) for row in item["advantages"][:, N_PROMPT].tolist()]
                 for item in actor.compute_advantages(batch)])
    for rewards, advantages in zip(questions, seen[-1], strict=True):
        print(f"areal 1.0.4, rewards {rewards}: advantages {advantages}")
sys.exit(seen != [[[0] * 4, [0.87, -0.87] * 2], [[-0.5] * 3, [1.5, 0, 100000, 0]]])
PYTHON
